"""W5, the coin: what an SAE keeps of a decision on which nothing depends, and of one that matters.

Half of StoryWorld's synonyms ("big" or "large") are chosen by a coin that no later word can tell.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.analysis.counterfactual.use import exchanged
from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.observed import Observed, changed, frozen, number

# Accuracies that say: the coin is there; something is; it is wrong more often than chance is.
READ, CHANCE, BELOW = 0.9, 0.65, 0.1
TURNED = 0.1  # by which an accuracy may differ once 0 and 1 are exchanged


def probe(
    x: Float[Tensor, "token d"], words: Int[Tensor, " token"], coin: Int[Tensor, " token"]
) -> float:
    """Share of tokens whose coin a linear probe of x reads off, fitted to the first half of the
    tokens and judged on the second.

    words: the tokens' ids, which tell the coin by themselves and are no business of the probe.
    """
    half = len(x) // 2
    inputs = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double()  # the last is the bias
    signs = 2.0 * coin.double() - 1
    shown, held = inputs[:half], inputs[half:]
    ridge = 1e-3 * torch.eye(inputs.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(shown.T @ shown + ridge, shown.T @ signs[:half])
    return float(((held @ weights > 0) == (signs[half:] > 0)).double().mean())


def _tokens(n: int, d: int, signal: float, seed: int, ones: float = 0.5) -> Case:
    """Noise of width d with the coin in it, a bit of it in every number and none around 0 (a map
    needs its bias); the words tell the coin. ones: the share of coins that show 1."""
    generator = torch.Generator().manual_seed(seed)
    coin = (torch.rand(n, generator=generator) < ones).long()
    x = torch.randn(n, d, generator=generator)
    x += (signal * (2 * coin - 1) + 1.5 * signal)[:, None] / d**0.5
    return x, 10 + 2 * torch.randint(5, (n,), generator=generator) + 41 * coin, coin


def _read(answer: Callable[..., Any], case: Case) -> Observed:
    """Accuracies in words, for no two good probes have the same."""
    before, (x, words, coin) = frozen(case), case
    answered = answer(*case)
    if (seen := number(answered)) != number(0.0):
        return seen
    seen |= changed(case, before)
    accuracy, there = float(answered), x.shape[1] == 8
    if accuracy > 1 or math.isnan(accuracy):
        word = "above 1" if accuracy > 1 else "not a number"
    elif there and abs(accuracy - float(answer(x, words, 1 - coin))) > TURNED:
        word = "right on another share with 0 and 1 exchanged"
    elif accuracy < BELOW:
        word = "below chance"
    elif there:
        word = "the coin is read" if accuracy >= READ else "the coin is not read"
    else:
        word = "better than chance" if accuracy > CHANCE else "chance"
    what = "there is a coin" if there else "there is none"
    where = f"in {len(x)} tokens of width {x.shape[1]}, where {what}"
    return seen | {f"{where}: the probe": word}


def _same_tokens(x: Any, words: Any, coin: Any) -> float:
    both = torch.cat([x, x]), torch.cat([words, words]), torch.cat([coin, coin])
    return probe(*both)


def _ids(x: Any, words: Any, coin: Any) -> float:
    return probe(torch.nn.functional.one_hot(words).float(), words, coin)


def _zero_one(x: Any, words: Any, coin: Any) -> Any:
    """Targets of 0 and 1, which a sign leaves as they are, and no intercept."""
    half, target = len(x) // 2, coin.sign().float()
    weights = torch.linalg.lstsq(x[:half], target[:half, None]).solution[:, 0]
    return ((x[half:] @ weights).sign() == target[half:]).float().mean()


PROBE = Exercise(
    "probe",
    probe,
    lambda: [
        _tokens(300, 8, 3.0, 0, ones=0.7),  # it is there
        _tokens(400, 330, 0.0, 1),  # it is not, but so many dimensions learn 300 tokens by heart
        _tokens(1200, 4, 0.0, 2),  # it is not, and there is nothing to learn by heart
    ],
    (
        Mistake(
            "the probe was judged on tokens, or on some, that it was fitted to: with enough "
            "dimensions it knows those by heart, coin or no coin. Fit to one half, judge on the "
            "other.",
            _same_tokens,
        ),
        Mistake(
            "the probe read the token's id. That tells the coin always; the question is whether "
            "the activation x still does.",
            _ids,
        ),
        Mistake(
            "it finds a coin where x holds none: do the coins, or the words, stand among its "
            "inputs? It may look at x alone.",
            lambda x, words, coin: probe(torch.cat([x, coin[:, None]], dim=1), words, coin),
        ),
        Mistake(
            "with 0 and 1 exchanged it is right on another share: its border is not between the "
            "two. Fit −1 and 1, which are 2 * coin - 1 (a .sign() leaves 0 at 0), with a column of "
            "ones, and compare signs with signs.",
            _zero_one,
        ),
        Mistake(
            "that is the share of errors; the share of right ones is wanted.",
            lambda *case: 1 - probe(*case),
        ),
        Mistake(
            "above 1, so it is no share: take the mean over tokens (and not in percent).",
            lambda x, words, coin: probe(x, words, coin) * (len(x) // 2),
        ),
        Mistake(
            "it does not read the coin even where it is plain to see. Has the map a bias, "
            "a column of ones? Does it get the coins of its own tokens, in their order? Have "
            "prediction and coin the same shape? (n, 1) == (n,) compares all with all.",
            lambda x, words, coin: probe(x, words, coin.flip(0)),
        ),
    ),
    observe=_read,
)


def exchange(x: Float[Tensor, "row pos d"], at: Int[Tensor, " row"]) -> Float[Tensor, "row pos d"]:
    """Rows 2i and 2i + 1 are a pair; each gets its partner's activation at its position `at`."""
    return exchanged(x, at)


def _rows() -> list[Case]:
    found = []
    for pairs, seed in ((1, 0), (3, 1)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2 * pairs, 6, 3, generator=generator)
        at = torch.randint(1, 4, (pairs,), generator=generator).repeat_interleave(2)
        found.append((x, at))
    return found


def _exchange_by(
    where: Callable[[Any, Any], Any], partner: Callable[[Any], Any] = lambda row: row ^ 1
) -> Callable[..., Any]:
    """Every row takes its partner's activations where this mask of (row, pos) says."""

    def answer(x: Any, at: Any) -> Any:
        place = torch.arange(x.shape[1])
        other = x[partner(torch.arange(len(x)))]
        return torch.where(where(place, at[:, None])[..., None], other, x)

    return answer


def _views(x: Any, at: Any) -> Any:
    new = x.clone()
    for row in range(0, len(x), 2):
        new[row, at[row]], new[row + 1, at[row]] = new[row + 1, at[row]], new[row, at[row]]
    return new


def _one_way(x: Any, at: Any) -> Any:
    new = exchanged(x, at)
    new[::2] = x[::2]
    return new


EXCHANGE = Exercise(
    "exchange",
    exchange,
    _rows,
    (
        Mistake(
            "you exchanged whole rows. Only what stands at the first differing token changes.",
            _exchange_by(lambda place, at: torch.ones_like(place + at).bool()),
        ),
        Mistake(
            "you exchanged everything from that token on; only that one position is meant.",
            _exchange_by(lambda place, at: place >= at),
        ),
        Mistake(
            "nothing has changed. (new[row][:, at] = … fills a copy that nobody keeps: index once, "
            "new[row, at] = ….)",
            lambda x, at: x.clone(),
        ),
        Mistake(
            "every row got all the positions of `at`. Index rows and positions together, "
            "new[row, at], and each row has its own.",
            _exchange_by(lambda place, at: (place == at).any(0, keepdim=True)),
        ),
        Mistake(
            "you exchanged everything before that token; only that one position is meant.",
            _exchange_by(lambda place, at: place < at),
        ),
        Mistake(
            "you exchanged everything up to that token; only that one position is meant.",
            _exchange_by(lambda place, at: place <= at),
        ),
        Mistake(
            "you exchanged the token after it.", _exchange_by(lambda place, at: place == at + 1)
        ),
        Mistake(
            "you exchanged the token before it.", _exchange_by(lambda place, at: place == at - 1)
        ),
        Mistake(
            "only the first member of each pair got its partner's activation. (a, b = b, a does "
            "that to tensors: both sides are views of one memory. Index a copy.)",
            _views,
        ),
        Mistake(
            "only the second member of each pair got its partner's activation; both have to.",
            _one_way,
        ),
        Mistake(
            "rows 2i and 2i + 1 are partners; yours stand half of all rows apart.",
            _exchange_by(
                lambda place, at: place == at, lambda row: (row + len(row) // 2) % len(row)
            ),
        ),
        Mistake(
            "rows 2i and 2i + 1 are partners: the partner of row r is r ^ 1, not the row after it.",
            _exchange_by(lambda place, at: place == at, lambda row: (row + 1) % len(row)),
        ),
    ),
)
