"""How SAEs are spliced into a frozen model, and what the two passes share.

`clean_pass` runs the model as it is, without gradient, and keeps the activations asked for.
`spliced_pass` runs it again with the SAEs' outputs in place; at a pair of hooks (`names.ends`), a
transcoder reads the first and replaces the second's activation. Everything before the first SAE is
the same in both passes, so the spliced pass starts from the residual stream that the clean pass
saw there: earlier blocks hand it on untouched. A pass that wants no output ends at its last hook.
Logits are made from the hidden states only where somebody asks for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.core.sae import SAE
from e2e_lib.engine.logits import Head
from e2e_lib.engine.model.forward import Hook, run_hooked
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.engine.sae_kernel import Coded
from e2e_lib.names import TransformerBridge, block_of, ends, layer_of, resid_pre


@dataclass
class CleanPass:
    """What the untouched model computed. Nothing here carries a gradient."""

    tokens: Int[Tensor, "batch pos"]
    activations: dict[str, Float[Tensor, "batch ..."]]  # (batch, pos, width) at most hooks
    hidden: Float[Tensor, "batch pos d_model"] | None  # after the last norm; None: stopped early
    head: Head  # from `hidden` to logits
    # By hook, what `probes.output_scores` gives, where somebody asked for it.
    scores: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)

    def before(self, hook_names: Iterable[str]) -> Float[Tensor, "batch pos d_model"] | None:
        """The residual stream before the first of these hooks' blocks, if it was kept."""
        first = min(map(layer_of, hook_names))
        return self.activations.get(resid_pre(first)) if first > 0 else None

    @property
    def logits(self) -> Float[Tensor, "batch pos vocab"] | None:
        """The logits of all tokens, made anew at each call."""
        with torch.no_grad():
            return None if self.hidden is None else self.head(self.hidden)


@dataclass
class SplicedPass:
    """What the model computed with SAEs in place; dictionaries are by hook name."""

    inputs: dict[str, Float[Tensor, "batch pos d_in"]] = field(default_factory=dict)
    targets: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)  # what gave way
    coded: dict[str, Coded] = field(default_factory=dict)  # output, sums and counts of its codes
    activations: dict[str, Float[Tensor, "batch pos d"]] = field(default_factory=dict)
    hidden: Float[Tensor, "batch pos d_model"] | None = None  # after the last norm
    head: Head | None = None  # from `hidden` to logits

    @property
    def outputs(self) -> dict[str, Float[Tensor, "batch pos d"]]:
        """What each SAE put in place of its target, which is its input but for a transcoder's."""
        return {name: coded.output for name, coded in self.coded.items()}

    @property
    def logits(self) -> Float[Tensor, "batch pos vocab"] | None:
        """The logits of all tokens, made anew at each call."""
        return None if self.hidden is None or self.head is None else self.head(self.hidden)


def later_blocks(model: TransformerBridge, hook_names: Sequence[str]) -> tuple[str, ...]:
    """resid_pre of every block after the last of `hook_names`: what `e2e_ds` compares."""
    # After an SAE at hook_resid_post, the next resid_pre is its own output: compare from there on.
    first = max(map(block_of, hook_names)) + 1
    last = any(ends(h)[-1].startswith(("ln_final", "unembed")) for h in hook_names)
    first = model.cfg.n_layers if last else first
    return tuple(resid_pre(k) for k in range(first, model.cfg.n_layers))


@torch.no_grad()
def clean_pass(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    hook_names: Sequence[str] = (),
    *,
    logits: bool = True,
) -> CleanPass:
    """Run the untouched model; without `logits`, stop as soon as the last hook has been seen.

    >>> from e2e_lib import load_model
    >>> hook = "blocks.2.hook_resid_pre"
    >>> clean = clean_pass(load_model("storyworld"), torch.zeros(1, 5, dtype=torch.long), [hook])
    >>> clean.activations[hook].shape, clean.logits.shape
    (torch.Size([1, 5, 64]), torch.Size([1, 5, 451]))
    """
    kept: dict[str, Tensor] = {}
    hooks = {end: partial(kept.__setitem__, end) for name in hook_names for end in ends(name)}
    run = runner(model, list(hooks))
    hidden = run_hooked(run, tokens, hooks, whole=logits)
    return CleanPass(tokens, kept, hidden, run.head)


def spliced_pass(
    model: TransformerBridge,
    clean: CleanPass,
    saes: Mapping[str, SAE],
    record: Sequence[str] = (),
    *,
    logits: bool = True,
    p_norm: float = 1.0,
    count: bool = True,
) -> SplicedPass:
    """Run the model with each SAE's output in place of the activation at its hook.

    An SAE after another reads what the earlier one changed (paper section 2.2). If `clean` holds
    the residual stream before the first SAE's block, the blocks before it are not run again.

    Args:
        clean: the clean pass over the same tokens.
        saes: autoencoders by hook name.
        record: further hooks whose spliced activations are wanted.
        logits: whether the output is wanted; if not, stop after the last hook.
        p_norm: of the sparsity term, for `Coded.penalty`.
        count: whether codes are counted, for `Coded.l0` and `Coded.fired`.

    >>> from e2e_lib import load_model
    >>> model, saes = load_model("storyworld"), {"blocks.2.hook_resid_pre": SAE(64, 128)}
    >>> clean = clean_pass(model, torch.zeros(1, 5, dtype=torch.long))
    >>> spliced = spliced_pass(model, clean, saes)
    >>> spliced.outputs["blocks.2.hook_resid_pre"].shape, spliced.logits.shape
    (torch.Size([1, 5, 64]), torch.Size([1, 5, 451]))
    """
    result = SplicedPass()
    others = [name for name in record if name not in saes]
    run = runner(model, [*saes, *others])
    hooks: dict[str, Hook] = {
        name: partial(splice, result, name, sae, p_norm, count) for name, sae in saes.items()
    }
    hooks |= {name: partial(result.activations.__setitem__, name) for name in others}
    first, start = min(map(layer_of, saes)), clean.before(saes)
    result.hidden = run_hooked(run, clean.tokens, hooks, whole=logits, first=first, start=start)
    result.head = run.head
    for name in set(record) & set(saes):
        result.activations[name] = result.coded[name].output
    return result


def apply_saes(
    clean: CleanPass, saes: Mapping[str, SAE], *, p_norm: float = 1.0, count: bool = True
) -> SplicedPass:
    """Each SAE on its own clean activation, the rest of the model unseen: `local` training."""
    result = SplicedPass()
    for name, sae in saes.items():
        splice(result, name, sae, p_norm, count, *(clean.activations[h] for h in ends(name)))
    return result


def hooks_to_keep(model: TransformerBridge, saes: Mapping[str, SAE]) -> list[str]:
    """Hooks that a clean pass must keep for the SAEs' inputs and for a spliced pass to start."""
    return list(dict.fromkeys([*saes, resid_pre(min(map(layer_of, saes)))]))


def splice(
    result: SplicedPass, name: str, sae: SAE, p_norm: float, count: bool, *seen: Tensor
) -> Tensor:
    """The SAE's output, in place of what was seen last; all are noted in `result`."""
    result.inputs[name], result.targets[name] = seen[0], seen[-1]
    result.coded[name] = sae.autoencode(seen[0], p_norm, target=seen[-1], count=count)
    return result.coded[name].output
