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
