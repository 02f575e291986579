"""The frozen model as every pass runs it: Hugging Face's own modules, without hook points.

TransformerBridge gives each intermediate value a hook point and therefore computes attention step
by step. No pass here looks at most of these values, so `runner` rebuilds the same Hugging Face
model around the bridge's weights (shared, not copied), with fused attention, and finds in it the
place of each hook by name. Weights that the bridge has processed (LayerNorm folded, centred) are
taken as they are. The rebuilt model's logits are compared with the bridge's once; where they
differ, or where a hook lies inside a part that only the bridge has, the bridge's modules run.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from e2e_lib.engine.model.rebuilt import Different, has_part, named_parts, rebuilt_model
from e2e_lib.names import ModelOutput, PreTrainedModel, TransformerBridge, ends, null_channel

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
        except Different as reason:
            print(f"This model runs as TransformerBridge wraps it, which is slower: {reason}.")
            kept = [hooked]
        object.__setattr__(model, "_e2e_runners", kept)
    wanted = {null_channel(end)[0] for name in hook_names for end in ends(name)}
    return next((one for one in kept if wanted <= one.sites.keys()), kept[-1])


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
    """The model rebuilt without the bridge. Raises Different."""
    try:
        return _compared(model, "sdpa")
    except Different:  # no fused attention, or another one: Falcon with ALiBi
        return _compared(model, "eager")


def _compared(model: TransformerBridge, attention: str) -> Runner:
    """The model rebuilt with this attention, if it computes the same. Raises Different."""
    try:
        rebuilt = rebuilt_model(model, attention)
        names = {id(module): name for name, module in named_parts(model) if has_part(rebuilt, name)}
        blocks = [rebuilt.get_submodule(names[id(b.original_component)]) for b in model.blocks]
        made = _seen_once(Runner(rebuilt, blocks, _sites(model, rebuilt, names)), model)
        tokens = torch.arange(min(PROBE_TOKENS, model.cfg.n_ctx), device=model.cfg.device)[None]
        tokens = tokens % model.cfg.d_vocab
        with torch.no_grad():
            found, expected = made.head(made.hidden(tokens)), model(tokens, return_type="logits")
    except Exception as error:  # an architecture that nobody here has seen may fail in any way
        raise Different(f"{type(error).__name__}: {error}") from error
    difference, spread = float((found - expected).abs().max()), float(expected.std())
    if not difference <= SAME * spread:
        raise Different(
            f"rebuilt, its logits differ by {difference:.1e} at a spread of {spread:.1e}"
        )
    return made


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
