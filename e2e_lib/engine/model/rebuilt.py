"""Hugging Face's model made again around the weights that TransformerBridge has taken apart.

The bridge gives each part of the model a wrapper, splits joint projections, and may fold norms into
what follows them. Here these weights (shared, not copied) stand in a model of the same class once
more, with fused attention.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from e2e_lib.names import PreTrainedModel, TransformerBridge

WRAPPED = "._original_component"  # what the bridge puts between the names of Hugging Face


class Different(Exception):
    """The model cannot be rebuilt, or computes something else then."""


def rebuilt_model(model: TransformerBridge, attention: str) -> PreTrainedModel:
    """Hugging Face's model of the bridge's class and weights; `sdpa` is fused attention."""
    original: Any = model.original_model
    config = copy.deepcopy(original.config)
    config.output_attentions = False  # Falcon, asked for them, forgets its mask
    # Weights that nobody keeps are drawn at random first: not from the caller's generator.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        warnings.simplefilter("ignore")  # about options of classes that no caller can act on
        rebuilt = type(original)._from_config(config, attn_implementation=attention)
    found = {
        name.replace(WRAPPED, ""): tensor
        for tensors in (original.named_parameters, original.named_buffers)
        for name, tensor in tensors(remove_duplicate=False)
    }
    found |= _fused_again(model, rebuilt)
    wanted = dict(rebuilt.named_parameters(remove_duplicate=False))
    for name, tensor in [*wanted.items(), *rebuilt.named_buffers(remove_duplicate=False)]:
        owner, _, leaf = name.rpartition(".")
        here = found[name]
        if here.shape != tensor.shape:
            raise Different(f"{name} has shape {tuple(here.shape)}, not {tuple(tensor.shape)}")
        setattr(rebuilt.get_submodule(owner), leaf, here)
    for name, value in vars(original).items():  # Cohere's factor of its logits may be folded in
        if isinstance(value, int | float):
            setattr(rebuilt, name, value)
    for name, module in rebuilt.named_modules():
        bias = found.get(f"{name}.bias")  # folding a norm may give one to a map that had none
        if bias is not None and getattr(module, "bias", bias) is None and bool(bias.any()):
            module.bias = nn.Parameter(bias, requires_grad=False)
        if type(module).__name__ == "GPTNeoSelfAttention":
            object.__setattr__(module, "_attn", _GPTNeoAttention(module))
        for child_name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":  # the same formula in eight steps
                setattr(module, child_name, nn.GELU(approximate="tanh"))
    return rebuilt.eval()


def _fused_again(model: TransformerBridge, rebuilt: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of joint projections, put together from the bridge's parts of them.

    The bridge splits them by a rule of each architecture, and processes the parts. Splitting the
    numbers 0, 1, 2, … by the same rule says where each element came from.
    """
    fused = {}
    names = {id(module): name for name, module in named_parts(model) if has_part(rebuilt, name)}
    for joint, owner, split, parts in _joint_projections(model):
        place, weight = names[id(joint)], joint.weight
        found = {"weight": weight.clone().flatten()}
        if getattr(joint, "bias", None) is not None:
            found["bias"] = joint.bias.clone()
        elif any(getattr(part, "bias", None) is not None for part in parts):
            found["bias"] = weight.new_zeros(len(weight))  # a norm was folded into it
        origins = _origins(joint, owner, split)
        for part, origin in zip(parts, origins, strict=True):
            where = origin.weight.long()
            found["weight"][where.flatten()] = part.weight.detach().flatten()
            if getattr(part, "bias", None) is not None:
                has = getattr(origin, "bias", None) is not None
                rows = origin.bias.long() if has else where[:, 0] // weight.shape[1]
                found["bias"][rows] = part.bias.detach().flatten()
        found["weight"] = found["weight"].view(weight.shape)
        for leaf, values in found.items():
            fused[f"{place}.{leaf}"] = nn.Parameter(values, requires_grad=False)
    return fused


def _joint_projections(model: TransformerBridge) -> Iterator[tuple[Any, Any, Any, list[Any]]]:
    """Hugging Face's joint projections: the module, its owner, the rule that splits it, the parts.

    They are queries, keys and values in one, or gate and input of an MLP.
    """
    component: Any
    for component in model.modules():
        owner = getattr(component, "original_component", None)
        if hasattr(component, "split_qkv_matrix"):
            parts = [component.q, component.k, component.v]
            joint, split = component.qkv.original_component, component.split_qkv_matrix
        elif hasattr(component, "split_gate_up_matrix"):
            parts = [component.gate, getattr(component, "in")]
            joint, split = getattr(owner, component.fused_attr), component.split_gate_up_matrix
        else:
            continue
        yield joint, owner, split, [part.original_component for part in parts]


def _origins(joint: nn.Module, owner: nn.Module, split: Callable[[Any], Any]) -> Any:
    """The parts of `joint` that `split` makes, holding where in it each element stands."""
    kept = {name: parameter.data for name, parameter in joint.named_parameters()}
    try:
        for parameter in joint.parameters():
            count = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.data = count.view(parameter.shape).to(parameter.device)
        return split(owner)
    finally:
        for name, parameter in joint.named_parameters():
            parameter.data = kept[name]


class _GPTNeoAttention:
    """Fused attention for GPT-Neo, whose class in Hugging Face has none: no scaling, and a window
    in every second block."""

    def __init__(self, module: Any) -> None:
        self.allowed = module.bias  # (1, 1, n_ctx, n_ctx), true where a token may look
        self.window = int(self.allowed[0, 0, -1].sum())  # tokens that the last one sees

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        length = query.shape[-2]
        causal = length <= self.window  # faster than the same as a mask
        allowed = None if causal else self.allowed[:, :, :length, :length].to(query.device)
        attend = F.scaled_dot_product_attention
        return attend(query, key, value, allowed, is_causal=causal, scale=1.0), None


def named_parts(model: TransformerBridge) -> list[tuple[str, nn.Module]]:
    """Every module inside the bridge by its name in Hugging Face's model."""
    modules = model.original_model.named_modules(remove_duplicate=False)
    return [(name.replace(WRAPPED, ""), module) for name, module in modules]


def has_part(rebuilt: nn.Module, name: str) -> bool:
    try:
        rebuilt.get_submodule(name)
    except AttributeError:
        return False
    return True
