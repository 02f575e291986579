"""The frozen model as every pass runs it: Hugging Face's own modules, without hook points.

TransformerBridge gives each intermediate value a hook point and therefore computes attention step
by step. No pass here looks at most of these values, so `runner` rebuilds the same Hugging Face
model around the bridge's weights (shared, not copied), with fused attention, and finds in it the
place of each hook by name. Weights that the bridge has processed (LayerNorm folded, centred) are
taken as they are. The rebuilt model's logits are compared with the bridge's once; where they
differ, or where a hook lies inside a part that only the bridge has, the bridge's modules run.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from e2e_lib.names import ModelOutput, PreTrainedModel, TransformerBridge, null_channel

WRAPPED = "._original_component"  # what the bridge puts between the names of Hugging Face
PROBE_TOKENS = 16  # of the one comparison with the bridge
SAME = 1e-4  # largest difference of a logit, as a share of the logits' spread


class Site(NamedTuple):
    """Where in the running model a hook's value passes by."""

    module: nn.Module
    before: bool  # its input, else its output
    scale: float = 1.0  # the model multiplies what passes there by it: Granite's residual branches


@dataclass
class Runner:
    """A model to run: all its parts by the bridge's names.

    Attributes:
        model: with a language-modelling head, in Hugging Face layout.
        blocks: its transformer blocks, in order.
        sites: the place of every hook that can be reached, by name.
        body: the part of it that ends in the last norm, as its head calls it.
        block_output: what a block returned once: a tensor (GPT-2) or a tuple (GPT-Neo).
        body_output: what the body returned then.
    """

    model: PreTrainedModel
    blocks: list[nn.Module]
    sites: dict[str, Site]
    body: nn.Module | None = None
    block_output: Any = None
    body_output: ModelOutput | None = None

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads: the residual stream after the last norm."""
        assert self.body is not None
        last: Tensor = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        return last

    def head(self, hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits of these hidden states, with whatever the architecture does to its logits."""
        body = self.body
        given = copy.copy(self.body_output)
        assert given is not None
        given.last_hidden_state = hidden
        object.__setattr__(body, "forward", lambda *args, **kwargs: given)  # shadows the method
        try:
            logits: Tensor = self.model(use_cache=False).logits
        finally:
            object.__delattr__(body, "forward")
        return logits


def runner(model: TransformerBridge, hook_names: Collection[str]) -> Runner:
    """What runs `model` for a pass that touches these hooks; built once, then remembered."""
    kept: list[Runner] | None = model.__dict__.get("_e2e_runners")
    if kept is None:
        hooked = _hooked(model)
        try:
            kept = [_bare(model), hooked]
        except _Different as reason:
            print(f"This model runs as TransformerBridge wraps it, which is slower: {reason}.")
            kept = [hooked]
        object.__setattr__(model, "_e2e_runners", kept)
    return next(
        (r for r in kept if all(null_channel(h)[0] in r.sites for h in hook_names)), kept[-1]
    )


class _Different(Exception):
    """The model cannot be rebuilt, or computes something else then."""


def _hooked(model: TransformerBridge) -> Runner:
    """The bridge's own modules; every hook point is a place."""
    sites = {name: Site(point, before=False) for name, point in model.hook_dict.items()}
    ends = {id(point): Site(part, False, by) for point, part, by in _scaled(model)}
    sites |= {name: ends[id(p)] for name, p in model.hook_dict.items() if id(p) in ends}
    original: Any = model.original_model
    return _seen_once(Runner(original, list(model.blocks), sites), model)


def _scaled(model: TransformerBridge) -> Iterator[tuple[nn.Module, nn.Module, float]]:
    """Hook points of branches that a block scales before it adds them: point, branch, factor.

    The bridge calls these points only when it knows of a hook, and it knows of none here.
    """
    for block in model.blocks:
        for part, hook in (("attn", "hook_attn_out"), ("mlp", "hook_mlp_out")):
            name = getattr(block, f"scaled_{part}_submodule", None)
            if name and hasattr(block, hook):
                branch = block.submodules[name]
                yield getattr(block, hook), branch, float(block.residual_contribution_scale)


def _bare(model: TransformerBridge) -> Runner:
    """The model rebuilt without the bridge. Raises _Different."""
    try:
        return _compared(model, "sdpa")
    except _Different:  # no fused attention, or another one: Falcon with ALiBi
        return _compared(model, "eager")


def _compared(model: TransformerBridge, attention: str) -> Runner:
    """The model rebuilt with this attention, if it computes the same. Raises _Different."""
    try:
        rebuilt = _rebuilt(model, attention)
        names = {id(module): name for name, module in _parts(model) if _has(rebuilt, name)}
        blocks = [rebuilt.get_submodule(names[id(b.original_component)]) for b in model.blocks]
        made = _seen_once(Runner(rebuilt, blocks, _sites(model, rebuilt, names)), model)
        tokens = torch.arange(min(PROBE_TOKENS, model.cfg.n_ctx), device=model.cfg.device)[None]
        tokens = tokens % model.cfg.d_vocab
        with torch.no_grad():
            found, expected = made.head(made.hidden(tokens)), model(tokens, return_type="logits")
    except Exception as error:  # an architecture that nobody here has seen may fail in any way
        raise _Different(f"{type(error).__name__}: {error}") from error
    difference = float((found - expected).abs().max() / expected.std())
    if not difference < SAME:
        raise _Different(f"rebuilt, its logits differ by {difference:.1e} of their spread")
    return made


def _parts(model: TransformerBridge) -> list[tuple[str, nn.Module]]:
    """Every module inside the bridge by its name in Hugging Face's model."""
    modules = model.original_model.named_modules(remove_duplicate=False)
    return [(name.replace(WRAPPED, ""), module) for name, module in modules]


def _has(rebuilt: nn.Module, name: str) -> bool:
    try:
        rebuilt.get_submodule(name)
    except AttributeError:
        return False
    return True


def _sites(
    model: TransformerBridge, rebuilt: nn.Module, names: Mapping[int, str]
) -> dict[str, Site]:
    """Hooks at the input or output of a module that the rebuilt model has too."""
    ends = {}
    for component in model.modules():
        original = getattr(component, "original_component", None)
        if original is not None and id(original) in names:
            for attribute in ("hook_in", "hook_out"):
                point = getattr(component, attribute, None)
                if point is not None:
                    module = rebuilt.get_submodule(names[id(original)])
                    ends[id(point)] = Site(module, before=attribute == "hook_in")
    for point, branch, by in _scaled(model):
        original = getattr(branch, "original_component", None)
        if id(original) in names:
            ends[id(point)] = Site(rebuilt.get_submodule(names[id(original)]), False, by)
    return {name: ends[id(p)] for name, p in model.hook_dict.items() if id(p) in ends}


def _rebuilt(model: TransformerBridge, attention: str) -> PreTrainedModel:
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
            raise _Different(f"{name} has shape {tuple(here.shape)}, not {tuple(tensor.shape)}")
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
    names = {id(module): name for name, module in _parts(model) if _has(rebuilt, name)}
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


def _seen_once(made: Runner, model: TransformerBridge) -> Runner:
    """`made` with its body, and what that and the first block return, from a pass over one token.

    The body is what the model calls first: in OPT that is not its `base_model`.
    """
    seen: dict[nn.Module, Any] = {}
    order: list[nn.Module] = []
    handles = [
        part.register_forward_pre_hook(lambda module, args: order.append(module))
        for part in made.model.modules()
    ]
    token = torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device)
    try:
        with torch.no_grad():
            made.model(input_ids=token, use_cache=False)
            made.body = order[1]
            for part in (made.body, made.blocks[0]):
                handles.append(
                    part.register_forward_hook(lambda m, args, out: seen.update({m: out}))
                )
            made.hidden(token)
    finally:
        for handle in handles:
            handle.remove()
    made.body_output, made.block_output = seen[made.body], seen[made.blocks[0]]
    return made
