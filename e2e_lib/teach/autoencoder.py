"""W1, the autoencoder: its pass, its sparsity, another sparsifier."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from e2e_lib.core.losses import sparsity_loss
from e2e_lib.core.sae import SAE
from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.observed import Observed, called

D_IN, D_SAE = 3, 5


def autoencode(
    x: Float[Tensor, "... d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_in"],
    b_dec: Float[Tensor, " d_in"],
) -> tuple[Float[Tensor, "... d_in"], Float[Tensor, "... d_sae"]]:
    """Output and codes of an SAE with these weights."""
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    output, codes = functional_call(_of_shape(*W_enc.shape), weights, (x,))
    return output, codes


@cache
def _of_shape(d_in: int, d_sae: int) -> SAE:
    """An SAE whose own weights nobody asks for."""
    with torch.random.fork_rng(devices=[]):
        return SAE(d_in, d_sae)


def seeded(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def seeded_weights() -> tuple[Tensor, ...]:
    sizes = ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,))
    return tuple(seeded(*size, seed=i).requires_grad_() for i, size in enumerate(sizes, 1))


def _codes_by(encode: Callable[..., Tensor], decode: Callable[..., Tensor]) -> Callable[..., Any]:
    def answer(x: Any, W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any) -> Any:
        codes = encode(x, W_enc, b_enc, b_dec)
        return decode(codes, W_dec, b_dec), codes

    return answer


def _encode(x: Any, W: Any, b: Any, _: Any) -> Any:
    return torch.relu(x @ W + b)


def _decode(codes: Any, W: Any, b: Any) -> Any:
    return codes @ F.normalize(W, dim=-1) + b


def _codes_first(answer: Callable[..., Any], case: Case) -> Observed:
    """Wrong codes make the output wrong too, so they are looked at first."""
    seen = called(answer, case)
    first = {"the number of things returned": seen.pop("the number of things returned")}
    for i, what in ((2, "the codes"), (1, "the output")):
        if (name := f"thing {i} of the result") in seen:
            first[f"{name} ({what})"] = seen.pop(name)
    return first | seen


AUTOENCODE = Exercise(
    "autoencode",
    autoencode,
    lambda: [(seeded(2, 4, D_IN), *seeded_weights()), (seeded(6, D_IN, seed=9), *seeded_weights())],
    (
        Mistake(
            "the rows of W_dec must have length 1 when you decode: F.normalize(W_dec, dim=-1). "
            "Otherwise the codes can be made small for free.",
            _codes_by(_encode, lambda c, W, b: c @ W + b),
        ),
        Mistake(
            "you scaled the columns of W_dec to length 1. A dictionary element is a row: dim=-1.",
            _codes_by(_encode, lambda c, W, b: c @ F.normalize(W, dim=0) + b),
        ),
        Mistake(
            "you divided by the norm of the whole matrix; each row has its own.",
            _codes_by(_encode, lambda c, W, b: c @ (W / W.norm()) + b),
        ),
        Mistake(
            "you scaled W_enc. The encoder is used as it is; only the rows of W_dec have length 1.",
            _codes_by(lambda x, W, b, _: torch.relu(x @ F.normalize(W, dim=-1) + b), _decode),
        ),
        Mistake(
            "the codes that you return lack the ReLU, though the output was made of those with it.",
            lambda x, W, b, *others: (autoencode(x, W, b, *others)[0], x @ W + b),
        ),
        Mistake(
            "the codes need a ReLU: without it almost none is 0, and nothing is sparse.",
            _codes_by(lambda x, W, b, _: x @ W + b, _decode),
        ),
        Mistake("the output lacks b_dec.", _codes_by(_encode, lambda c, W, _: _decode(c, W, 0))),
        Mistake("the codes lack b_enc.", _codes_by(lambda x, W, *_: torch.relu(x @ W), _decode)),
        Mistake(
            "both biases are missing: + b_enc inside the ReLU, + b_dec at the end.",
            _codes_by(lambda x, W, *_: torch.relu(x @ W), lambda c, W, _: _decode(c, W, 0)),
        ),
        Mistake(
            "b_enc belongs inside the ReLU; added after it, no code is 0.",
            _codes_by(lambda x, W, b, _: torch.relu(x @ W) + b, _decode),
        ),
        Mistake(
            "you subtracted b_dec from the input. Some SAEs do; this paper's do not.",
            _codes_by(lambda x, W, b, out: torch.relu((x - out) @ W + b), _decode),
        ),
        Mistake(
            "you applied a ReLU to the output too; an activation may be negative.",
            _codes_by(_encode, lambda c, W, b: torch.relu(_decode(c, W, b))),
        ),
        Mistake(
            "return the output first, then the codes.",
            lambda *case: autoencode(*case)[::-1],
        ),
    ),
    observe=_codes_first,
    large=lambda: (seeded(16, 16, D_IN), *seeded_weights()),
)


def sparsity(codes: Float[Tensor, "... d_sae"], d_in: int) -> Float[Tensor, ""]:
    """Mean over tokens of ‖codes‖₁ / d_in."""
    return sparsity_loss(codes.sum(-1), d_in)


def _codes(*sizes: int) -> Tensor:
    """None of them 0, where sum and absolute value have different slopes and both are right."""
    return seeded(*sizes).abs().add(0.1).requires_grad_()


SPARSITY = Exercise(
    "sparsity",
    sparsity,
    lambda: [(_codes(2, 4, 7), 3), (_codes(5, 6), 4)],
    (
        Mistake(
            "you summed over the tokens; take their mean, or longer texts weigh more.",
            lambda codes, d_in: codes.sum() / d_in,
        ),
        Mistake(
            "you summed along axis 1; count axes from the end, the latents are -1.",
            lambda codes, d_in: codes.sum(1).mean() / d_in,
        ),
        Mistake(
            "you summed along axis 0; count axes from the end, the latents are -1.",
            lambda codes, d_in: codes.sum(0).mean() / d_in,
        ),
        Mistake(
            "you divided by the number of rows only; take the mean over all tokens.",
            lambda codes, d_in: codes.sum() / len(codes) / d_in,
        ),
        Mistake(
            "you multiplied by the width d_in; divide by it.",
            lambda codes, d_in: codes.sum(-1).mean() * d_in,
        ),
        Mistake(
            "you counted the active codes (L0). A count has no gradient, so it cannot be trained "
            "on: sum the codes themselves (L1).",
            lambda codes, d_in: (codes > 0).float().sum(-1).mean() / d_in,
        ),
        Mistake("you did not divide by the width d_in.", lambda codes, d_in: codes.sum(-1).mean()),
        Mistake(
            "you averaged over the latents too. Sum over them, and divide by the width d_in.",
            lambda codes, d_in: codes.mean(),
        ),
        Mistake(
            "you averaged over the latents and then divided by d_in as well.",
            lambda codes, d_in: codes.mean() / d_in,
        ),
        Mistake(
            "you took the L2 norm of the codes. L1, their sum, is what pushes codes to exactly 0.",
            lambda codes, d_in: codes.norm(dim=-1).mean() / d_in,
        ),
        Mistake(
            "you squared the codes. L1 is their plain sum; squares leave small codes alone.",
            lambda codes, d_in: codes.square().sum(-1).mean() / d_in,
        ),
    ),
    large=lambda: (_codes(32, 16, 7), 3),
)


def topk(pre_activations: Float[Tensor, "... d_sae"], k: int) -> Float[Tensor, "... d_sae"]:
    """The k largest pre-activations of each token, after a ReLU; 0 elsewhere."""
    values, places = pre_activations.topk(k, dim=-1)
    return torch.zeros_like(pre_activations).scatter(-1, places, values.relu())


def _kept(pre: Any, places: Any) -> Any:
    return torch.zeros_like(pre).scatter(-1, places, 1.0)


def _of_the_batch(pre: Any, k: int) -> Any:
    flat = pre.flatten()
    least = flat.topk(k * (flat.numel() // pre.shape[-1])).values[-1]
    return torch.where(pre >= least, pre, 0).relu()


TOPK = Exercise(
    "topk",
    topk,
    lambda: [
        (seeded(2, 4, 7).requires_grad_(), 3),
        (seeded(5, 6, seed=3).sub(0.9).requires_grad_(), 4),  # fewer than k are above 0
        (seeded(4, 8, seed=5).requires_grad_(), 2),
    ],
    (
        Mistake(
            "k are to be kept on every token. You kept k a token on average over the whole batch: "
            "that is another sparsifier, BatchTopK.",
            _of_the_batch,
        ),
        Mistake(
            "you chose by size without the sign. Negative values are no candidates: topk of the "
            "values, not of abs().",
            lambda pre, k: (pre * _kept(pre, pre.abs().topk(k).indices)).relu(),
        ),
        Mistake(
            "a code is never negative: apply a ReLU to what you keep.",
            lambda pre, k: pre * _kept(pre, pre.topk(k).indices),
        ),
        Mistake(
            "you returned which latents are kept; their values are wanted (multiply).",
            lambda pre, k: _kept(pre, pre.topk(k).indices),
        ),
        Mistake(
            "all codes are 0. scatter returns a new tensor and leaves the old as it is: keep what "
            "it returns.",
            lambda pre, k: torch.zeros_like(pre),
        ),
        Mistake(
            "you kept one too few: the k-th largest is not above itself (>=, not >).",
            lambda pre, k: (pre * _kept(pre, pre.topk(k - 1).indices)).relu(),
        ),
        Mistake(
            "you kept one too many.",
            lambda pre, k: (pre * _kept(pre, pre.topk(k + 1).indices)).relu(),
        ),
        Mistake(
            "you chose along axis 1; count axes from the end, the latents are -1.",
            lambda pre, k: torch.zeros_like(pre).scatter(
                1, pre.topk(k, dim=1).indices, pre.topk(k, dim=1).values.relu()
            ),
        ),
        Mistake(
            "you returned the places of the k largest; their values are wanted, at those places.",
            lambda pre, k: pre.topk(k).indices,
        ),
        Mistake(
            "topk gives two things, values and places: put the values at their places (scatter).",
            lambda pre, k: pre.topk(k),
        ),
        Mistake(
            "you kept the k smallest.",
            lambda pre, k: (pre * _kept(pre, (-pre).topk(k).indices)).relu(),
        ),
        Mistake(
            "you returned only the k values. The codes keep their places among d_sae, most at 0.",
            lambda pre, k: pre.topk(k).values.relu(),
        ),
        Mistake(
            "you chose along the tokens; choose among the latents of each token: dim=-1.",
            lambda pre, k: torch.zeros_like(pre).scatter(
                -2, pre.topk(k, dim=-2).indices, pre.topk(k, dim=-2).values.relu()
            ),
        ),
    ),
    large=lambda: (seeded(32, 16, 7).requires_grad_(), 3),
)
