"""W2, the two losses that look behind the splice."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.core.losses import downstream_loss, token_kl
from e2e_lib.names import resid_pre
from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.toy_model import VOCABULARY, WIDTH


def kl_loss(
    clean_logits: Float[Tensor, "... vocab"], spliced_logits: Float[Tensor, "... vocab"]
) -> Float[Tensor, ""]:
    """Mean over tokens of KL(clean ‖ spliced), in nats."""
    return token_kl(clean_logits, spliced_logits).mean()


def _logits(*sizes: int) -> Case:
    generator = torch.Generator().manual_seed(len(sizes))
    clean, own = (2 * torch.randn(*sizes, generator=generator) for _ in range(2))
    return clean, own.requires_grad_()


def _logs(clean: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    return clean.log_softmax(-1), own.log_softmax(-1)


def _by_logs(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p - q)).sum(-1).mean()


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL of every token, from logarithms."""
    return (p.exp() * (p - q)).sum(-1)


KL_LOSS = Exercise(
    "kl_loss",
    kl_loss,
    lambda: [_logits(2, 5, VOCABULARY), _logits(3, VOCABULARY)],
    (
        Mistake(
            "it is the other way round: KL(clean ‖ spliced) weighs by the clean model's "
            "probabilities. (F.kl_div takes the spliced log-probabilities first.)",
            lambda clean, own: _kl(*_logs(clean, own)[::-1]).mean(),
        ),
        Mistake(
            "you weighted by log p; the weight is p itself: log_softmax(-1).exp().",
            lambda clean, own: _by_logs(*_logs(clean, own)),
        ),
        Mistake(
            "the weights are missing: every log p - log q counts p times, p.exp() * (p - q) where "
            "p and q are the logarithms.",
            lambda clean, own: (clean.log_softmax(-1) - own.log_softmax(-1)).sum(-1).mean(),
        ),
        Mistake(
            "you subtracted probabilities; subtract their logarithms (log_softmax).",
            lambda clean, own: (
                (clean.softmax(-1) * (clean.softmax(-1) - own.softmax(-1))).sum(-1).mean()
            ),
        ),
        Mistake(
            "you subtracted the logits as they are. They are no logarithms of probabilities before "
            "log_softmax.",
            lambda clean, own: (clean.softmax(-1) * (clean - own)).sum(-1).mean(),
        ),
        Mistake(
            "F.kl_div wants the logarithm of the spliced model's probabilities, log_softmax.",
            lambda clean, own: (
                F.kl_div(own.softmax(-1), clean.softmax(-1), reduction="none").sum(-1).mean()
            ),
        ),
        Mistake(
            "no absolute value: single terms may be negative, their sum never is.",
            lambda clean, own: (
                (clean.softmax(-1) * (clean.log_softmax(-1) - own.log_softmax(-1)).abs())
                .sum(-1)
                .mean()
            ),
        ),
        Mistake(
            "you averaged over the vocabulary; KL sums over it and averages over tokens.",
            lambda clean, own: _kl(*_logs(clean, own)).mean() / clean.shape[-1],
        ),
        Mistake(
            "you summed over the tokens; take their mean, so that λ means the same for any batch.",
            lambda clean, own: _kl(*_logs(clean, own)).sum(),
        ),
        Mistake(
            "you divided by the number of rows only ('batchmean' does); divide by all tokens.",
            lambda clean, own: _kl(*_logs(clean, own)).sum() / len(clean),
        ),
        Mistake(
            "that is the squared error of logits. Logits shifted by a constant mean the same "
            "prediction: compare log_softmax, weighted by probabilities.",
            lambda clean, own: F.mse_loss(own, clean),
        ),
        Mistake(
            "that is the cross-entropy with the clean probabilities. It has the same gradient, but "
            "its least value is the clean entropy and not 0: subtract log q from log p.",
            lambda clean, own: -(clean.softmax(-1) * own.log_softmax(-1)).sum(-1).mean(),
        ),
        Mistake(
            "the softmax went along the tokens; the vocabulary is the last axis, -1.",
            lambda clean, own: _kl(clean.log_softmax(-2), own.log_softmax(-2)).mean(),
        ),
        Mistake(
            "the softmax went along axis 1; count axes from the end, the vocabulary is -1.",
            lambda clean, own: _kl(clean.log_softmax(1), own.log_softmax(1)).mean(),
        ),
        Mistake(
            "the logarithm has base 2, so that is in bits. Nats have the natural one.",
            lambda clean, own: _kl(*_logs(clean, own)).mean() / math.log(2),
        ),
        Mistake(
            "the sign is wrong: log p - log q, weighted by p; it is never below 0.",
            lambda clean, own: -_kl(*_logs(clean, own)).mean(),
        ),
        Mistake(
            "the weights are the spliced model's probabilities; they are the clean model's.",
            lambda clean, own: -_kl(*_logs(clean, own)[::-1]).mean(),
        ),
        Mistake(
            "the spliced logits were detached: no gradient flows back to the SAE.",
            lambda clean, own: _kl(*_logs(clean, own.detach())).mean(),
        ),
    ),
    large=lambda: _logits(16, 32, VOCABULARY),
)


def downstream(
    spliced_states: Sequence[Float[Tensor, "... d"]],
    clean_states: Sequence[Float[Tensor, "... d"]],
    layer: int,
) -> Float[Tensor, ""]:
    """Mean over the blocks after `layer` of the mean squared difference of their inputs.

    states[k] is the residual stream before block k; the last entry stands behind the final norm.
    """
    hooks = tuple(resid_pre(k) for k in range(layer + 1, len(clean_states) - 1))
    ours, theirs = (
        {resid_pre(k): states[k] for k in range(len(states))}
        for states in (spliced_states, clean_states)
    )
    return downstream_loss(ours, theirs, hooks)


def _states(layer: int, *sizes: int) -> Case:
    generator = torch.Generator().manual_seed(layer)
    both = [
        tuple(torch.randn(*sizes, generator=generator).requires_grad_() for _ in range(6))
        for _ in range(2)
    ]
    return *both, layer


def _compared(first: int, last: int | None, total: Any = torch.mean) -> Callable[..., Tensor]:
    """Of the errors at every state, a total of those from layer + first to before the last."""

    def answer(ours: Any, theirs: Any, layer: int) -> Tensor:
        errors = [F.mse_loss(a, b.detach()) for a, b in zip(ours, theirs, strict=True)]
        return total(torch.stack(errors[max(0, layer + first) : last]))

    return answer


DOWNSTREAM = Exercise(
    "downstream",
    downstream,
    lambda: [_states(2, 2, 3, WIDTH), _states(1, 5, WIDTH)],
    (
        Mistake(
            "you included the SAE's own layer. There its output is compared already by local "
            "training; this loss looks at the later blocks only: layer + 1.",
            _compared(0, -1),
        ),
        Mistake(
            "you included the last state, which stands behind the final norm: stop before it.",
            _compared(1, None),
        ),
        Mistake(
            "you compared the SAE's own layer and the state behind the final norm as well: "
            "neither is the input of a later block.",
            _compared(0, None),
        ),
        Mistake(
            "one state too few: the last block's input is left out. `[:-1]` and "
            "range(…, len(states) - 1) end before the last state already.",
            _compared(1, -2),
        ),
        Mistake(
            "one state too few: the first block behind the SAE, `layer` itself, reads the SAE's "
            "output; what comes out of it is states[layer + 1]. Begin there.",
            _compared(2, -1),
        ),
        Mistake(
            "all are one state too early: states[k] stands before block k, so that the later ones "
            "begin at layer + 1 and end just before the last.",
            _compared(0, -2),
        ),
        Mistake(
            "all are one state too late: states[k] stands before block k, so that the later ones "
            "begin at layer + 1 and end just before the last.",
            _compared(2, None),
        ),
        Mistake(
            "you compared the next block only, but all later ones count. Does a return stand "
            "inside the loop?",
            _compared(1, -1, lambda errors: errors[0]),
        ),
        Mistake(
            "the mean is over the blocks compared: divide by their number, not by that of all "
            "states.",
            lambda ours, theirs, layer: (
                _compared(1, -1, torch.sum)(ours, theirs, layer) / len(theirs)
            ),
        ),
        Mistake(
            "you divided by one block too many: from layer + 1 to before the last state there are "
            "len(states) - layer - 2.",
            lambda ours, theirs, layer: (
                _compared(1, -1, torch.sum)(ours, theirs, layer) / (len(theirs) - layer - 1)
            ),
        ),
        Mistake(
            "the states are not those of the same place: compare spliced_states[k] with "
            "clean_states[k].",
            lambda ours, theirs, layer: torch.stack(
                [
                    F.mse_loss(a, b.detach())
                    for a, b in zip(ours[layer + 1 : -1], theirs[layer:-1], strict=False)
                ]
            ).mean(),
        ),
        Mistake(
            "the clean states were not detached. They are the target: no gradient belongs there.",
            lambda ours, theirs, layer: torch.stack(
                [F.mse_loss(a, b) for a, b in zip(ours, theirs, strict=True)][layer + 1 : -1]
            ).mean(),
        ),
        Mistake(
            "you summed over the blocks; take their mean, or β would mean another thing at every "
            "layer.",
            _compared(1, -1, torch.sum),
        ),
        Mistake(
            "you summed over the width; the mean squared error averages over it too.",
            _compared(1, -1, lambda errors: errors.mean() * WIDTH),
        ),
        Mistake(
            "you compared all blocks. Before the SAE nothing has changed, so that those only "
            "dilute the mean: from layer + 1 on.",
            _compared(-9, -1),
        ),
        Mistake(
            "you detached the spliced states: the gradient has to flow through them to the SAE.",
            lambda ours, *others: downstream([b.detach() for b in ours], *others),
        ),
    ),
    large=lambda: _states(2, 16, 16, WIDTH),
)
