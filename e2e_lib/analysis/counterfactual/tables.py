"""From the numbers of single pairs to measures with intervals: pandas and numpy only.

| measure | definition | over |
|---|---|---|
| carried_function (S) | 1 − Σ KL(target ‖ swapped) / Σ KL(target ‖ clean) | used kinds |
| spurious_response (R) | mean KL(spliced ‖ swapped), nats | unused kinds |
| retention | Σ⟨Δx̂, Δx⟩ / Σ‖Δx‖² | every kind |
| selectivity | retention of used over that of unused kinds, at equal ‖Δx‖ | all |
| necessity (N80) | latents whose swap makes 80 % of the full one's effect | used kinds |
| necessity_random | share of the full swap that as many random latents make | used kinds |
| side_effect | share of the full swaps of other kinds that these latents make | used kinds |
| waste_l0 | share of the latents on at t that an unused decision turns off | unused kinds |
| waste_alive | alive latents that only unused decisions toggle | all |
| dedicated_l0, dedicated_alive | of latents that stand for a value of unused kinds alone | all |
| pathway | correlation of the changes of later activations, mean over blocks | used kinds |

Sums are over a kind's pairs; the row "all" is the mean over kinds, each counting the same. A change
has a natural zero, so its correlation is not centred: Σ⟨a, b⟩ / √(Σ‖a‖² Σ‖b‖²). Intervals are 95 %
bootstrap over pairs within each kind, of "all" over kinds too, the same draws for every dictionary.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from e2e_lib.analysis.statistics import RESAMPLES, Array, mean_and_resamples

ENOUGH = 0.8  # of the full swap's effect
FEWEST = 5  # pairs of either side in a class of ‖Δx‖ that is compared


class PairNumbers(NamedTuple):
    """One dictionary on one kind's pairs; each a mean over the pair's two members."""

    missed: Array  # KL(target ‖ swapped), (pair,)
    effect: Array  # KL(target ‖ clean), (pair,)
    response: Array  # KL(spliced ‖ swapped), (pair,)
    kept: Array  # ⟨Δx̂, Δx⟩, (pair,)
    energy: Array  # ‖Δx‖², (pair,)
    toggled: Array  # latents on at t in one member alone, (pair,)
    on: Array  # latents on at t, (pair,)
    pathway: Array  # (pair, block, 3): ⟨change, clean change⟩, and both squared norms


class Kept(NamedTuple):
    """Of `PairNumbers` what retention takes, which the activations at t alone decide."""

    kept: Array
    energy: Array


class Necessity(NamedTuple):
    """One kind; KL by pair of the half that measures, a mean over the pair's two members."""

    counts: Array  # of latents swapped, rising, 0 first; the last: all that change on these pairs
    missed: Array  # (count, pair): KL(swapped ‖ so many swapped)
    random: Array  # (pair,): the same for as many as are needed, drawn from those that change
    side: float  # share of the full swaps of all other kinds that the needed latents make


# By measure and kind: the value, and behind it what resampling the pairs makes of it, (1 + n,).
Samples: TypeAlias = dict[tuple[str, str], Array]


def samples(
    numbers: Mapping[str, PairNumbers],
    used: Collection[str],
    unused: Collection[str],
    needed: Mapping[str, Necessity] | None = None,
    seed: int = 0,
) -> Samples:
    """Every measure of one dictionary that pairs alone decide; see the module's table.

    numbers: by kind; used, unused: which of the kinds the network uses, and which not.
    """
    weights = _weights(numbers, seed)
    found: Samples = {}
    for kind, own in numbers.items():
        of = weights[kind]
        found["retention", kind] = _ratio(of @ own.kept, of @ own.energy)
        if kind in used:
            found["carried_function", kind] = 1 - _ratio(of @ own.missed, of @ own.effect)
            found["pathway", kind] = _pathway(own.pathway, of)
        if kind in unused:
            found["spurious_response", kind] = of @ own.response
            found["waste_l0", kind] = _ratio(of @ own.toggled, of @ own.on)
    for kind, curve in (needed or {}).items():
        of = mean_and_resamples(len(curve.random), RESAMPLES, np.random.default_rng(seed))
        found["necessity", kind] = needed_latents(curve.counts, of @ curve.missed.T)
        found["necessity_random", kind] = 1 - _ratio(of @ curve.random, of @ curve.missed[0])
        found["side_effect", kind] = np.array([curve.side])
    for measure in dict.fromkeys(measure for measure, _ in found):
        of_kinds = [own for (name, _), own in found.items() if name == measure]
        drawn = _times(len(of_kinds), np.random.default_rng((seed, 1)))  # apart from the pairs'
        found[measure, "all"] = _mean(of_kinds, drawn)
    found["selectivity", "all"] = selectivity_samples(numbers, used, unused, seed)
    return found


def selectivity_samples(
    numbers: Mapping[str, PairNumbers | Kept],
    used: Collection[str],
    unused: Collection[str],
    seed: int = 0,
) -> Array:
    """`selectivity`, and behind it what resampling kinds and their pairs makes of it, (1 + n,)."""
    sides = [{k: numbers[k] for k in numbers if k in kinds} for kinds in (used, unused)]
    drawn = _kinds_drawn(_weights(numbers, seed), sides, seed)
    return selectivity(sides[0], sides[1], drawn)


def _weights(numbers: Mapping[str, PairNumbers | Kept], seed: int) -> dict[str, Array]:
    """By kind, of its pairs: (1 + resamples, pair)."""
    return {
        kind: mean_and_resamples(len(own.energy), RESAMPLES, np.random.default_rng(seed))
        for kind, own in numbers.items()
    }


def _ratio(above: Array, below: Array) -> Array:
    """NaN where there is nothing to compare with."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _mean(values: list[Array], times: Array | None = None) -> Array:
    """Over kinds, or blocks, those without a value left out; NaN where none has one.

    times: (1 + n, kind): how often each counts, see `_times`; once without it.
    """
    every = np.stack(np.broadcast_arrays(*values))
    counts = ~np.isnan(every) * (1.0 if times is None else times.T)
    return _ratio((np.where(counts > 0, every, 0) * counts).sum(0), counts.sum(0))


def _times(kinds: int, rng: np.random.Generator) -> Array:
    """How often each kind is drawn, (1 + n, kind); first, for the value, each of them once."""
    drawn = rng.multinomial(kinds, np.full(kinds, 1 / kinds), RESAMPLES)
    return np.concatenate([np.ones((1, kinds)), drawn])


def _pathway(sums: Array, weights: Array) -> Array:
    """Correlation at each block from its three sums, then the mean over blocks."""
    both, own, clean = np.einsum("rp,pbs->srb", weights, sums)
    return _mean(list(_ratio(both, np.sqrt(own * clean)).T))


def _kinds_drawn(
    weights: Mapping[str, Array], sides: Sequence[Mapping[str, PairNumbers | Kept]], seed: int
) -> dict[str, Array]:
    """The weights with the kinds of either side drawn anew too, but for the first, the value's."""
    rng, found = np.random.default_rng(seed), {}
    for side in filter(None, sides):
        times = _times(len(side), rng)
        for i, kind in enumerate(side):
            found[kind] = weights[kind] * times[:, i, None]
    return found


def selectivity(
    used: Mapping[str, PairNumbers | Kept],
    unused: Mapping[str, PairNumbers | Kept],
    weights: Mapping[str, Array],
) -> Array:
    """Retention of used kinds over that of unused ones, as if both changed the activation as much.

    Pairs are put into classes of ‖Δx‖, each √2 wide; retention is a ratio of sums within a class,
    and the mean over classes weighs both sides by how many unused pairs lie in each. Classes with
    fewer than `FEWEST` pairs of either side are left out. Infinite where nothing of the unused
    kinds is kept; NaN without a common class, or where the used kinds' retention is not above 0.

    weights: by kind (resamples, pairs).
    """
    if not used or not unused:
        return np.array([np.nan])
    (first, kept, energy, of), (second, *other) = (_joined(x, weights) for x in (used, unused))
    above, below = np.zeros(len(of)), np.zeros(len(of))
    for one in np.unique(second):
        own, same = first == one, second == one
        if min(own.sum(), same.sum()) >= FEWEST:
            share = other[2][:, same].sum(1)
            above += share * _ratio(of[:, own] @ kept[own], of[:, own] @ energy[own])
            below += share * _ratio(*(other[2][:, same] @ x[same] for x in other[:2]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above > 0, above / np.maximum(below, 0), np.nan)


def _joined(
    numbers: Mapping[str, PairNumbers | Kept], weights: Mapping[str, Array]
) -> tuple[Array, Array, Array, Array]:
    """Classes of ‖Δx‖, kept, energy and weights of the pairs of several kinds in a row."""
    kept = np.concatenate([own.kept for own in numbers.values()])
    energy = np.concatenate([own.energy for own in numbers.values()])
    classes = np.floor(np.log2(np.maximum(energy, 1e-30)))
    return classes, kept, energy, np.concatenate([weights[kind] for kind in numbers], axis=1)


def needed_latents(counts: Array, missed: Array, enough: float = ENOUGH) -> Array:
    """The count at which the share of the full swap reaches `enough`, linear between counts.

    missed: (…, count): mean KL missed at each of `counts`. NaN where the full swap has no effect.
    """
    share = 1 - _ratio(missed, missed[:, :1])
    after = np.maximum((share >= enough).argmax(axis=1), 1)
    rows = np.arange(len(share))
    low, high = share[rows, after - 1], share[rows, after]
    part = (enough - low) / (high - low)
    return counts[after - 1] + part * (counts[after] - counts[after - 1])
