"""Intervals: the one bootstrap behind all of them (seeded, percentile, 95 %), and what it says of
differences of means (Fig 3a, Fig 9, Table 4). Numpy only.

Two levels matter here. The outer level is what a repetition of the experiment would change
(training seeds); the inner level is what was sampled within one run (rows of held-out text,
dictionary elements, features explained). `over_groups` puts the outer level on top of the inner.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000  # as the authors for the differences of Fig 3a
SCORE_RESAMPLES = 10_000  # of differences of scores; the authors take 100,000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with its percentile interval; NaN where there is nothing to resample."""

    value: float
    low: float
    high: float


def percentiles(samples: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The central `level` of the resampled values."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(np.asarray(samples, dtype=float), [tail, 100 - tail])
    return float(low), float(high)


def resample_weights(n: int, resamples: int, rng: np.random.Generator) -> Array:
    """Weights (resamples, n): `weights @ x` is the mean of x over n draws with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n


def mean_and_resamples(n: int, resamples: int, rng: np.random.Generator) -> Array:
    """Weights (1 + resamples, n): first those of the mean itself, then `resample_weights`."""
    return np.concatenate([np.full((1, n), 1 / n), resample_weights(n, resamples, rng)])


def resampled_means(
    values: ArrayLike, resamples: int, rng: np.random.Generator, size: int | None = None
) -> Array:
    """Means of `resamples` samples of `size` (as many as there are values), drawn with replacement;
    (resamples,)."""
    x = np.asarray(values, dtype=float)
    size = size or x.size
    together = max(1, 2_000_000 // size)  # resamples at a time; 16 MB of indices
    parts = [
        x[rng.integers(0, x.size, (min(together, resamples - start), size))].mean(axis=1)
        for start in range(0, resamples, together)
    ]
    return np.concatenate(parts)


def over_groups(samples: Array, rng: np.random.Generator) -> Array:
    """Outer level: per resample, draw the groups with replacement and average them.

    samples: (resamples, groups), already resampled within each group. With one group nothing is
    added, and the interval speaks of the inner level only.
    """
    resamples, groups = samples.shape
    chosen = rng.integers(0, groups, size=(resamples, groups))
    return np.take_along_axis(samples, chosen, axis=1).mean(axis=1)


def mean_interval(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean with its interval over the values; one value has no interval (NaN)."""
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return Interval(float(x.mean()) if x.size else np.nan, np.nan, np.nan)
    samples = resampled_means(x, resamples, np.random.default_rng(seed))
    return Interval(float(x.mean()), *percentiles(samples))


def difference_interval(
    first: Sequence[ArrayLike],
    second: Sequence[ArrayLike],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Difference of means, mean(first) − mean(second), as for Fig 3a but over seeds too.

    first, second: one array of values per group (seed), paired by position. Within each group
    the values of both are resampled independently; then the groups.
    """
    rng = np.random.default_rng(seed)
    arrays = [[np.asarray(x, dtype=float) for x in values] for values in (first, second)]
    pairs = list(zip(*arrays, strict=True))
    value = float(np.mean([a.mean() - b.mean() for a, b in pairs]))
    samples = np.stack(
        [resampled_means(a, resamples, rng) - resampled_means(b, resamples, rng) for a, b in pairs],
        axis=1,
    )
    return Interval(value, *percentiles(over_groups(samples, rng)))


def by_seed(
    table: pd.DataFrame, column: str, pair: tuple[str, str], by: str = "objective"
) -> tuple[list[Array], list[Array]]:
    """The values of two objectives (or kinds of another column), an array for each seed that both
    have, as `difference_interval` takes them."""
    groups = {key: own.to_numpy(dtype=float) for key, own in table.groupby([by, "seed"])[column]}
    shared = [s for s in sorted(table["seed"].unique()) if all((k, s) in groups for k in pair)]
    first, second = ([groups[kind, s] for s in shared] for kind in pair)
    return first, second


def mean_differences(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], seed: int = 0
) -> pd.DataFrame:
    """Per layer and pair of objectives: mean max cosine of the first minus that of the second.

    table: one row an alive element, columns layer, objective, seed, max_cosine (`geometry`).
    Mean over elements, then over seeds that have both; 95 % bootstrap over seeds and, within
    them, over elements. Columns: layer, difference, value, low, high, n_seeds.
    """
    rows = []
    for layer, own in table.groupby("layer"):
        for names in pairs:
            first, second = by_seed(own, "max_cosine", names)
            if first:
                interval = difference_interval(first, second, seed=seed)
                rows.append((layer, " - ".join(names), *interval, len(first)))
    columns = ["layer", "difference", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def score_differences(
    scores: pd.DataFrame,
    first: str = "e2e_ds",
    second: str = "local",
    resamples: int = SCORE_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Table 4: difference of mean scores, `first` minus `second`, per match and layer.

    scores: columns match, layer, objective, seed, score; one row a feature, NaN where it failed.
    Means over features, then over the seeds that have both. The 95 % interval resamples seeds and,
    within them, features; p is two-sided: how often a difference at least as large arises when both
    samples are drawn from the seed's features of both objectives together, as the authors do it
    (with 100,000 resamples, one SAE of each kind, and a BCa interval).

    Columns: match, layer, difference, value, low, high, p, n_first, n_second (features), n_seeds.
    """
    rows = []
    for (match, layer), own in scores.dropna(subset=["score"]).groupby(["match", "layer"]):
        a, b = by_seed(own, "score", (first, second))
        if not a:
            continue
        interval = difference_interval(a, b, resamples, seed)
        p = pooled_p(a, b, resamples, seed)
        counts = (sum(map(len, a)), sum(map(len, b)), len(a))
        rows.append((match, layer, f"{first} - {second}", *interval, p, *counts))
    columns = ["match", "layer", "difference", "value", "low", "high", "p"]
    return pd.DataFrame(rows, columns=[*columns, "n_first", "n_second", "n_seeds"])


def pooled_p(
    first: Sequence[Array], second: Sequence[Array], resamples: int = SCORE_RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p of a difference of means: both samples drawn anew from what they hold together.

    first, second: one array of scores per seed, paired by position.
    """
    rng = np.random.default_rng(seed)
    observed = np.mean([a.mean() - b.mean() for a, b in zip(first, second, strict=True)])
    null = np.zeros(resamples)
    for a, b in zip(first, second, strict=True):
        together = np.concatenate([a, b])
        for sign, n in ((1, len(a)), (-1, len(b))):
            null += sign * resampled_means(together, resamples, rng, size=n)
    return float(np.mean(np.abs(null / len(first)) >= abs(observed)))


def grouped_means(
    table: pd.DataFrame, column: str, by: Sequence[str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Mean of a column per group: over features, then over seeds; 95 % bootstrap over both.

    table: one row a feature, with a column `seed`; rows without a value are left out. Columns:
    those of `by`, value, low, high, n (features).
    """
    rows = []
    for key, own in table.dropna(subset=[column]).groupby(list(by)):
        rng = np.random.default_rng(seed)
        per_seed = [group.to_numpy(dtype=float) for _, group in own.groupby("seed")[column]]
        means = [resampled_means(values, resamples, rng) for values in per_seed]
        value = float(np.mean([values.mean() for values in per_seed]))
        interval = percentiles(over_groups(np.stack(means, axis=1), rng))
        rows.append((*key, value, *interval, len(own)))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])
