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
from collections.abc import Collection, Mapping
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


@dataclass
class Runner:
    """A model to run: all its parts by the bridge's names.

    Attributes:
        model: with a language-modelling head, in Hugging Face layout.
        blocks: its transformer blocks, in order.
        sites: the place of every hook that can be reached, by name.
        block_output: what a block returned once: a tensor (GPT-2) or a tuple (GPT-Neo).
        body_output: what the blocks and the last norm returned then.
    """

    model: PreTrainedModel
    blocks: list[nn.Module]
    sites: dict[str, Site]
    block_output: Any = None
    body_output: ModelOutput | None = None

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads: the residual stream after the last norm."""
        output = self.model.base_model(input_ids=tokens, use_cache=False)
        last: Tensor = output.last_hidden_state
        return last

    def head(self, hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos vocab"]:
        """Logits of these hidden states, with whatever the architecture does to its logits."""
        body = self.model.base_model
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
    original: Any = model.original_model
    return _seen_once(Runner(original, list(model.blocks), sites), model)


def _bare(model: TransformerBridge) -> Runner:
    """The model rebuilt without the bridge. Raises _Different."""
    try:
        rebuilt = _rebuilt(model)
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
    return {name: ends[id(p)] for name, p in model.hook_dict.items() if id(p) in ends}


def _rebuilt(model: TransformerBridge) -> PreTrainedModel:
    """Hugging Face's model of the bridge's class and weights, with fused attention."""
    original: Any = model.original_model
    config = copy.deepcopy(original.config)
    # Weights that nobody keeps are drawn at random first: not from the caller's generator.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        warnings.simplefilter("ignore")  # about options of classes that no caller can act on
        try:
            rebuilt = type(original)._from_config(config, attn_implementation="sdpa")
        except ValueError:  # this class has no fused attention
            rebuilt = type(original)._from_config(config, attn_implementation="eager")
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
    """Weights of joint query-key-value projections, put together from the bridge's three.

    The bridge splits them by a rule of each architecture, and processes the parts. Splitting the
    numbers 0, 1, 2, … by the same rule says where each element came from.
    """
    fused = {}
    parts = {id(module): name for name, module in _parts(model) if _has(rebuilt, name)}
    attention: Any
    for attention in model.modules():
        if not hasattr(attention, "split_qkv_matrix"):
            continue
        joint = attention.qkv.original_component
        whole = dict(joint.named_parameters())
        kept = {name: parameter.data for name, parameter in whole.items()}
        try:
            for parameter in whole.values():
                count = torch.arange(parameter.numel(), dtype=torch.float64)
                parameter.data = count.view(parameter.shape).to(parameter.device)
            origins = attention.split_qkv_matrix(attention.original_component)
        finally:
            for name, parameter in whole.items():
                parameter.data = kept[name]
        for name, tensor in kept.items():
            values = tensor.clone().flatten()
            for part, origin in zip((attention.q, attention.k, attention.v), origins, strict=True):
                own = getattr(part.original_component, name)
                values[getattr(origin, name).long().flatten()] = own.detach().flatten()
            place = f"{parts[id(joint)]}.{name}"
            fused[place] = nn.Parameter(values.view(tensor.shape), requires_grad=False)
    return fused


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
    """`made` with what its first block and its body return, from a pass over one token."""
    seen: list[Any] = []
    handle = made.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out))
    token = torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device)
    try:
        with torch.no_grad():
            made.body_output = made.model.base_model(input_ids=token, use_cache=False)
    finally:
        handle.remove()
    made.block_output = seen[0]
    return made
