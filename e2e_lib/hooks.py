"""How SAEs are spliced into a frozen model, and what the two passes share.

`clean_pass` runs the model as it is, without gradient, and keeps the activations asked for.
`spliced_pass` runs it again with the SAEs' outputs in place. Everything before the first SAE is
the same in both passes, so the spliced pass starts from the residual stream that the clean pass
saw there: earlier blocks hand it on untouched. (`start_at_layer` of TransformerLens 4.3 runs every
block all the same.)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from e2e_lib.errors import ModelError, closest, require
from e2e_lib.sae import SAE


@dataclass
class CleanPass:
    """What the untouched model computed. Nothing here carries a gradient."""

    tokens: Int[Tensor, "batch pos"]
    activations: dict[str, Float[Tensor, "batch ..."]]  # (batch, pos, width) at most hooks
    logits: Float[Tensor, "batch pos vocab"] | None  # None when the pass stopped early


@dataclass
class SplicedPass:
    """What the model computed with SAEs in place; dictionaries are by hook name."""

    inputs: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)
    outputs: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)
    codes: dict[str, Float[Tensor, "batch pos d_sae"]] = field(default_factory=dict)
    activations: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)
    logits: Float[Tensor, "batch pos vocab"] | None = None


def layer_of(hook_name: str) -> int:
    """The block a hook belongs to; 0 for hooks before the first block."""
    parts = hook_name.split(".")
    return int(parts[1]) if parts[0] == "blocks" else 0


def resid_pre(layer: int) -> str:
    """Hook name of the residual stream before block `layer`."""
    return f"blocks.{layer}.hook_resid_pre"


def later_blocks(model: TransformerBridge, hook_names: Sequence[str]) -> tuple[str, ...]:
    """resid_pre of every block after the last of `hook_names`: what `e2e_ds` compares."""
    # After an SAE at hook_resid_post, the next resid_pre is its own output: compare from there on.
    first = max(layer_of(h) + h.endswith("hook_resid_post") for h in hook_names) + 1
    return tuple(resid_pre(k) for k in range(first, model.cfg.n_layers))


def check_hook(model: TransformerBridge, hook_name: str) -> None:
    """Raise ModelError naming the nearest hooks if the model has no `hook_name`."""
    known = model.hook_dict
    if hook_name not in known:
        n = model.cfg.n_layers
        raise ModelError(
            f"hook is {hook_name!r}, but the model has no such hook: it has blocks 0 to {n - 1} "
            f"with names like {closest(hook_name, known)}."
        )


def hook_width(model: TransformerBridge, hook_name: str) -> int:
    """Width of the activation at a hook, found by running one token."""
    check_hook(model, hook_name)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device)
    activation = clean_pass(model, token, [hook_name], logits=False).activations[hook_name]
    require(activation.ndim == 3, "hook", hook_name, "one of shape (batch, position, width)")
    return activation.shape[-1]


def activation_scale(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
) -> dict[str, float]:
    """Typical size of an element at each hook: root of the median over tokens of the mean square.

    A median, because some models' first position is a hundred times larger than all others.
    """
    for name in hook_names:
        check_hook(model, name)
    kept = clean_pass(model, tokens, hook_names, logits=False).activations
    return {h: float(a.float().square().mean(-1).median().sqrt()) for h, a in kept.items()}


@torch.no_grad()
def clean_pass(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hook_names: Sequence[str] = (),
    *,
    logits: bool = True,
) -> CleanPass:
    """Run the untouched model; without `logits`, stop as soon as the last hook has been seen."""
    kept: dict[str, Tensor] = {}
    readers = [(name, _reader(kept, name)) for name in dict.fromkeys(hook_names)]
    stop = None if logits else _stop_layer(hook_names)
    if stop is not None and stop >= model.cfg.n_layers:
        stop = None
    with model.hooks(fwd_hooks=readers):
        output = _forward(model, tokens, stop)
    return CleanPass(tokens, kept, output if logits else None)


def spliced_pass(
    model: TransformerBridge,
    clean: CleanPass,
    saes: Mapping[str, SAE],
    record: Sequence[str] = (),
    *,
    logits: bool = True,
) -> SplicedPass:
    """Run the model with each SAE's output in place of the activation at its hook.

    An SAE after another reads what the earlier one changed (paper section 2.2). If `clean` holds
    the residual stream before the first SAE's block, the blocks before it are not run again.

    Args:
        clean: the clean pass over the same tokens.
        saes: autoencoders by hook name.
        record: further hooks whose spliced activations are wanted.
        logits: whether the logits are wanted; if not, stop after the last hook.
    """
    result = SplicedPass()
    hooks: list[tuple[str, Any]] = [(name, _splicer(result, name, saes[name])) for name in saes]
    hooks += [(name, _reader(result.activations, name)) for name in record if name not in saes]
    first = min(map(layer_of, saes))
    start = clean.activations.get(resid_pre(first)) if first > 0 else None
    stop = None if logits else _stop_layer([*saes, *record])
    if stop is not None and stop >= model.cfg.n_layers:
        stop = None
    with _skip_blocks(model, first, start), model.hooks(fwd_hooks=hooks):
        output = _forward(model, clean.tokens, stop)
    result.logits = output if logits else None
    for name in set(record) & set(saes):
        result.activations[name] = result.outputs[name]
    return result


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
    with (
        _skip_blocks(model, layer, start),
        model.hooks(fwd_hooks=[(hook_name, lambda value, hook: activation)]),
    ):
        return _forward(model, tokens, None)


def apply_saes(clean: CleanPass, saes: Mapping[str, SAE]) -> SplicedPass:
    """Each SAE on its own clean activation, the rest of the model unseen: `local` training."""
    result = SplicedPass()
    for name, sae in saes.items():
        result.inputs[name] = clean.activations[name]
        result.outputs[name], result.codes[name] = sae(clean.activations[name])
    return result


def hooks_to_keep(model: TransformerBridge, saes: Mapping[str, SAE]) -> list[str]:
    """Hooks that a clean pass must keep for the SAEs' inputs and for a spliced pass to start."""
    return list(dict.fromkeys([*saes, resid_pre(min(map(layer_of, saes)))]))


@torch.no_grad()
def generate(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    saes: Mapping[str, SAE] | None = None,
    *,
    max_new_tokens: int = 40,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "batch new_pos"]:
    """Continue `tokens` with the SAEs spliced in (none: the model itself); temperature 0 = greedy.

    Returns prompt and continuation. Sampling is seeded and leaves the global generator alone.
    """
    unused = SplicedPass()
    hooks: list[tuple[str, Any]] = [
        (name, _splicer(unused, name, sae)) for name, sae in (saes or {}).items()
    ]
    require(temperature >= 0, "temperature", temperature, "at least 0")
    require(top_k is None or top_k >= 1, "top_k", top_k, "None or at least 1")
    generator = torch.Generator(tokens.device).manual_seed(seed)
    with model.hooks(fwd_hooks=hooks):
        for _ in range(max_new_tokens):  # no cache: SAEs may sit anywhere, and texts are short
            window = tokens[:, -model.cfg.n_ctx :]
            scores = model(window, return_type="logits")[:, -1]
            if temperature == 0:
                new = scores.argmax(-1, keepdim=True)
            else:
                if top_k is not None:
                    kth = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[:, -1:]
                    scores = scores.masked_fill(scores < kth, -torch.inf)
                probabilities = (scores / temperature).softmax(-1)
                new = torch.multinomial(probabilities, 1, generator=generator)
            tokens = torch.cat([tokens, new], dim=1)
    return tokens


def _reader(kept: dict[str, Tensor], name: str) -> Any:
    def read(activation: Tensor, hook: object) -> None:
        kept[name] = activation

    return read


def _splicer(result: SplicedPass, name: str, sae: SAE) -> Any:
    def splice(activation: Tensor, hook: object) -> Tensor:
        result.inputs[name] = activation
        result.outputs[name], result.codes[name] = sae(activation)
        return result.outputs[name]

    return splice


def _stop_layer(hook_names: Sequence[str]) -> int | None:
    """First block that need not run: TransformerLens reads its resid_pre before stopping there.

    None for hooks after the blocks, for which everything has to run.
    """
    if any(h.startswith(("ln_final.", "unembed.", "hook_unembed")) for h in hook_names):
        return None
    return max(layer_of(h) + (not h.endswith("hook_resid_pre")) for h in hook_names)


def _forward(model: TransformerBridge, tokens: Tensor, stop: int | None) -> Tensor:
    # run_with_hooks drops hooks on the stopping block; hooks() keeps them, and its exception is
    # what ends such a pass.
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    try:
        return model(tokens, return_type="logits", stop_at_layer=stop)
    except StopAtLayerException as stopped:
        return stopped.layer_output


@contextmanager
def _skip_blocks(model: TransformerBridge, first: int, start: Tensor | None) -> Iterator[None]:
    """Blocks before `first` hand on `start` instead of computing; with no `start`, all run."""
    skipped = [] if start is None else list(model.blocks[:first])
    extras = _extra_block_outputs(model) if skipped else None

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        return start if extras is None else (start, *[None] * extras)

    for block in skipped:
        object.__setattr__(block, "forward", hand_on)  # shadows the class's method
    try:
        yield
    finally:
        for block in skipped:
            object.__delattr__(block, "forward")


def _extra_block_outputs(model: TransformerBridge) -> int | None:
    """What blocks return: None = a bare tensor (GPT-2), n = a tuple with n more (GPT-Neo)."""
    if "_e2e_extra_block_outputs" not in model.__dict__:
        seen: list[int | None] = []
        handle = model.blocks[0].register_forward_hook(
            lambda module, args, output: seen.append(
                None if isinstance(output, Tensor) else len(output) - 1
            )
        )
        try:
            with torch.no_grad():
                model(torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device))
        finally:
            handle.remove()
        object.__setattr__(model, "_e2e_extra_block_outputs", seen[0])
    extras: int | None = model.__dict__["_e2e_extra_block_outputs"]
    return extras
