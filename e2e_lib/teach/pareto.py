"""W3, the price of sparsity: a search for λ, a comparison at equal L0."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.observed import Observed, changed, frozen, number, written

HALVE = "(with one λ on either side: math.sqrt(low * high))"
FEW, MOST = 20, 60  # trainings that a good search needs at most, and that the check allows
LEAST, LARGEST = 1e-6, 1e6  # λ that anybody would try


def find_lambda(l0_of: Callable[[float], float], target: float, tolerance: float = 1.0) -> float:
    """A λ with an L0 of target ± tolerance: larger and smaller ones in turn, then in between.

    l0_of: trains an SAE with this λ and returns its L0, which falls as λ rises. Each call is dear.
    """
    tried, dense, sparse = 1.0, 0.0, math.inf  # the largest λ that is too dense, and so on
    while abs((l0 := l0_of(tried)) - target) > tolerance:
        dense, sparse = (tried, sparse) if l0 > target else (dense, tried)
        if dense and sparse < math.inf:
            tried = math.sqrt(dense * sparse)
        else:
            tried = 4 * tried if l0 > target else tried / 4
    return tried


def _l0(scale: float, coeff: float) -> float:
    """An L0 that falls with λ, as a trained SAE's does."""
    return 300 / (1 + (min(max(float(coeff), LEAST), LARGEST) / scale) ** 0.8)


class _Enough(Exception):
    """So many trainings nobody waits for."""


def _searched(answer: Callable[..., Any], case: Case) -> Observed:
    """Whether it finds λ, how often it trains for that, and which way it goes."""
    scale, target, tolerance = case
    tried: list[float] = []
    found: list[float] = []

    def l0_of(coeff: float) -> float:
        if len(tried) == MOST:
            raise _Enough
        tried.append(float(coeff))
        found.append(_l0(scale, coeff))
        return found[-1]

    result = math.nan
    with suppress(_Enough):
        answered = answer(l0_of, target, tolerance)
        if (own := number(answered)) != number(result):
            return own
        result = float(answered)
    moves = [
        (after > before) == (l0 > target)
        for before, after, l0 in zip(tried, tried[1:], found, strict=False)
        if abs(l0 - target) > tolerance and after != before
    ]
    many, new = len(tried) > FEW, len(set(tried)) == len(tried)
    there = [abs(l0 - target) <= tolerance for l0 in found[:-1]]
    apart = abs(_l0(scale, result) - target)
    return number(result) | {
        "whether it goes to a larger λ from an L0 that is too large": all(moves[:1]),
        f"whether every λ that it tries is a new one {HALVE}": new or not many,
        "whether it stops when L0 is within the tolerance": not (many and any(there)),
        f"whether it needs at most {FEW} trainings": not many,
        "whether it returns λ, not an L0": result not in found or result in tried,
        f"whether the L0 of its λ is within {tolerance:g} of the target": apart <= tolerance,
    }


def _wrong_way(l0_of: Any, target: float, tolerance: float) -> float:
    coeff = 1.0
    while abs((l0 := l0_of(coeff)) - target) > tolerance:
        coeff *= 0.7 if l0 > target else 1.4
    return coeff


def _by_small_steps(l0_of: Any, target: float, tolerance: float) -> float:
    coeff = 1.0
    while abs((l0 := l0_of(coeff)) - target) > tolerance:
        coeff = max(coeff + (0.1 if l0 > target else -0.1), 0.001)
    return coeff


def _past_it(l0_of: Any, target: float, tolerance: float) -> float:
    coeff = 0.001
    while l0_of(coeff) > target:
        coeff *= 4
    return coeff


FIND_LAMBDA = Exercise(
    "find_lambda",
    find_lambda,
    lambda: [(3.0, 10.0, 1.0), (0.02, 25.0, 1.0), (60.0, 120.0, 0.2)],
    (
        Mistake(
            "you go the wrong way: a larger λ makes codes sparser, so L0 falls. If L0 is too "
            "large, λ must rise.",
            _wrong_way,
        ),
        Mistake(
            "it trains too often: nobody knows whether λ is 0.01 or 100, so multiply it instead of "
            "adding to it, and halve the distance once you have one on either side.",
            _by_small_steps,
        ),
        Mistake(
            "with a tolerance below 1 the L0 of your λ is beyond it: is `tolerance` what you stop "
            "at, and is the λ that you return the one that reached it?",
            lambda l0_of, target, tolerance: find_lambda(l0_of, target),
        ),
        Mistake(
            "you returned the L0 that was reached; λ is wanted.",
            lambda l0_of, target, tolerance: l0_of(find_lambda(l0_of, target, tolerance)),
        ),
        Mistake(
            "the L0 of your λ is beyond the target by more than the tolerance: go on between the "
            "last two until it is within. (And return λ, not its logarithm.)",
            _past_it,
        ),
    ),
    observe=_searched,
)


def ce_at_l0(l0: ArrayLike, ce_increase: ArrayLike, target: float) -> float:
    """A curve's CE increase at an L0 of `target`, on straight lines between its SAEs.

    NaN where the curve has no SAE on one of the sides. The SAEs may come in any order.
    """
    x, y = np.asarray(l0, dtype=float), np.asarray(ce_increase, dtype=float)
    order = x.argsort()
    return float(np.interp(target, x[order], y[order], left=np.nan, right=np.nan))


# In the order of a sweep: λ rises, L0 falls; and a curve of shuffled order.
_SWEEP = ((40.0, 22.0, 12.0, 5.0), (0.02, 0.05, 0.11, 0.4))
_SHUFFLED = ((9.0, 31.0, 3.0, 17.0), (0.3, 0.04, 0.9, 0.12))


def _at(answer: Callable[..., Any], case: Case) -> Observed:
    before, (l0, _, target) = frozen(case), case
    where = f"at L0 {target:g}, of SAEs at L0 {', '.join(f'{own:g}' for own in l0)},"
    return {f"the CE increase {where}": written(answer(*case))} | changed(case, before)


def _beyond(l0: Any, ce: Any, target: float) -> float:
    """The line through the two SAEs of the end, on and on."""
    if not np.isnan(within := ce_at_l0(l0, ce, target)):
        return within
    order = np.argsort(l0)
    ends = order[:2] if target < l0.min() else order[-2:]
    return float(np.polyval(np.polyfit(l0[ends], ce[ends], 1), target))


CE_AT_L0 = Exercise(
    "ce_at_l0",
    ce_at_l0,
    lambda: [
        (np.array(l0), np.array(ce), target)
        for target, (l0, ce) in zip((10.0, 20.0, 2.0, 60.0), 2 * (_SWEEP, _SHUFFLED), strict=True)
    ],
    (
        Mistake(
            "you took the SAE that is nearest: then two curves are compared at different L0. Go "
            "along the straight line between its neighbours.",
            lambda l0, ce, target: ce[np.abs(l0 - target).argmin()],
        ),
        Mistake(
            "np.interp wants its x rising and does not say so: sort both by L0 first, with "
            "order = np.argsort(l0) as l0[order] and ce_increase[order].",
            lambda l0, ce, target: np.interp(target, l0, ce, left=np.nan, right=np.nan),
        ),
        Mistake(
            "sort both by L0 first, for np.interp wants its x rising; and beyond its last SAE a "
            "curve says nothing: left=nan, right=nan.",
            lambda l0, ce, target: np.interp(target, l0, ce),
        ),
        Mistake(
            "beyond its last SAE a curve says nothing, but np.interp repeats the end: left=nan, "
            "right=nan.",
            lambda l0, ce, target: np.interp(target, np.sort(l0), ce[np.argsort(l0)]),
        ),
        Mistake(
            "beyond its last SAE a curve says nothing, which is nan here, not None.",
            lambda *case: None if np.isnan(ce_at_l0(*case)) else ce_at_l0(*case),
        ),
        Mistake(
            "you went on beyond the last SAE; there a curve says nothing: nan.",
            _beyond,
        ),
        Mistake(
            "you sorted L0 but left the CE increases in their old order: they belong together.",
            lambda l0, ce, target: np.interp(target, np.sort(l0), ce, left=np.nan, right=np.nan),
        ),
        Mistake(
            "you sorted each by itself, so they are no pairs any more: order = np.argsort(l0).",
            lambda l0, ce, target: np.interp(target, np.sort(l0), np.sort(ce), np.nan, np.nan),
        ),
        Mistake(
            "you read the curve the other way, as the L0 at a CE increase.",
            lambda l0, ce, target: np.interp(target, np.sort(ce), l0[np.argsort(ce)]),
        ),
        Mistake(
            "you averaged over the whole curve; only the place at the target counts.",
            lambda l0, ce, target: ce.mean(),
        ),
    ),
    observe=_at,
)
