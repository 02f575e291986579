"""What a pass tells of a model: its hooks, how wide and large they are, what its output hears."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.engine.logits import fisher_sketch, means_over_tokens
from e2e_lib.engine.model.forward import run_hooked
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.engine.model.null_channel import NULL_WIDTH
from e2e_lib.errors import ModelError, closest, require
from e2e_lib.names import PAIR, TransformerBridge, ends, layer_of, null_channel, resid_pre


@torch.no_grad()
def activations(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, Float[Tensor, "batch ..."]]:
    """What passes by at these hooks, by name; a pass ends where all have been seen."""
    seen: dict[str, Tensor] = {}
    hooks = {end: partial(seen.__setitem__, end) for name in hook_names for end in ends(name)}
    run_hooked(runner(model, list(hooks)), tokens, hooks, whole=False)
    return seen


def replaced_pass(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hook_name: str,
    activation: Float[Tensor, "batch pos d"],
    start: Float[Tensor, "batch pos d_model"] | None = None,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of the model with `activation` in place of its own at `hook_name`.

    start: the residual stream before the hook's block, if known: the blocks before it then need
    not run. At that very hook the activation itself will do.
    """
    layer = layer_of(hook_name)
    start = activation if hook_name == resid_pre(layer) else start
    run = runner(model, [hook_name])
    hooks = {hook_name: lambda value: activation}
    hidden = run_hooked(run, tokens, hooks, whole=True, first=layer, start=start)
    assert hidden is not None
    return run.head(hidden)


def check_hook(model: TransformerBridge, hook_name: str) -> None:
    """Raise ModelError naming the nearest hooks if the model has no `hook_name`, or it is no pair.

    A pair is two different hooks.
    """
    known, own = model.hook_dict, ends(hook_name)
    for end in own:
        if null_channel(end)[0] not in known:
            n = model.cfg.n_layers
            raise ModelError(
                f"hook is {end!r}, but the model has no such hook: it has blocks 0 to {n - 1} "
                f"with names like {closest(end, known)}."
            )
    if len(own) > 2 or len(set(own)) < len(own):
        raise ModelError(f"hook is {hook_name!r}, but must be one hook or two different ones.")


@torch.no_grad()
def hook_widths(model: TransformerBridge, hook_name: str) -> tuple[int, int]:
    """Widths of what is read at a hook and of what is made there, found by running one token.

    They are one activation's, but of a pair of hooks.
    """
    check_hook(model, hook_name)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device)
    own = [null_channel(end) for end in ends(hook_name)]
    plain, seen = PAIR.join(name for name, _ in own), list[Tensor]()
    hooks = {plain: lambda *values: seen.extend(values)}
    run_hooked(runner(model, [plain]), token, hooks, whole=False)
    if not seen:
        raise ModelError(f"hook is {hook_name!r}, but no pass of this model reaches it.")
    allowed = "one of shape (batch, position, width)"
    require(all(value.ndim == 3 for value in seen), "hook", hook_name, allowed)
    widths = [
        value.shape[-1] + (NULL_WIDTH if scale else 0)
        for value, (_, scale) in zip(seen, own, strict=True)
    ]
    return widths[0], widths[-1]


def hook_width(model: TransformerBridge, hook_name: str) -> int:
    """Width of the activation that is read at a hook."""
    return hook_widths(model, hook_name)[0]


class Typical(NamedTuple):
    """What activations are like, by medians: some first positions are a hundred times as large."""

    scale: float  # of an element: root of the median over tokens of the mean square
    middle: Float[Tensor, " d"]  # the median over tokens of each element


def typical_activations(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, Typical]:
    """What the activations of these tokens are like, by hook."""
    for name in hook_names:
        check_hook(model, name)
    found = {}
    for hook, x in activations(model, tokens, hook_names).items():
        x = x.float().flatten(0, -2)
        found[hook] = Typical(float(x.square().mean(-1).median().sqrt()), x.median(0).values)
    return found


def activation_scale(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, float]:
    """Their scale alone, by hook."""
    return {h: own.scale for h, own in typical_activations(model, tokens, hook_names).items()}


def output_scores(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hidden: Float[Tensor, "batch pos d_model"],
    hook_names: Sequence[str],
    draw: int,
    start: Float[Tensor, "batch pos d_model"] | None = None,
) -> dict[str, Float[Tensor, "batch pos d"]]:
    """Gradients g of the output with respect to the clean activations, in a direction drawn anew.

    By the name of the hook; of a pair, with respect to the second one's activation.

    The mean of g gᵀ over draws is the Fisher information of a row's outputs about the activation,
    so that ½ (g · e)² is the KL of a small error e there, in expectation.

    Args:
        tokens, hidden: of a clean pass: what it read, and its states after the last norm.
        draw: the direction's seed.
        start: the residual stream before the first hook's block, if known.
    """
    generator = torch.Generator(hidden.device).manual_seed(draw)
    drawn = partial(fisher_sketch, generator)
    first = min(map(layer_of, hook_names))
    scores = {}
    for name in hook_names:  # each alone: behind another's leaf it would see no gradient
        leaf: list[Tensor] = []
        made = ends(name)[-1]
        run = runner(model, [made])
        with torch.enable_grad():
            hooks = {made: partial(_as_leaf, leaf)}
            changed = run_hooked(run, tokens, hooks, whole=True, first=first, start=start)
            assert changed is not None
            [mean] = means_over_tokens(drawn, run.head, hidden, [changed])
            (gradient,) = torch.autograd.grad(mean, leaf)
        scores[name] = gradient.float() * -tokens.numel()
    return scores


def _as_leaf(leaf: list[Tensor], activation: Tensor) -> Tensor:
    leaf.append(activation.detach().requires_grad_())
    return leaf[0]
