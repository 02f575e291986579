"""The one bootstrap behind every interval: seeded, percentile, 95 %, numpy only.

Two levels matter here. The outer level is what a repetition of the experiment would change
(training seeds); the inner level is what was sampled within one run (rows of held-out text,
dictionary elements). `over_groups` puts the outer level on top of inner resamples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000  # as the authors for the differences of Fig 3a
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
    pairs = [
        (np.asarray(a, dtype=float), np.asarray(b, dtype=float))
        for a, b in zip(first, second, strict=True)
    ]
    value = float(np.mean([a.mean() - b.mean() for a, b in pairs]))
    samples = np.stack(
        [resampled_means(a, resamples, rng) - resampled_means(b, resamples, rng) for a, b in pairs],
        axis=1,
    )
    return Interval(value, *percentiles(over_groups(samples, rng)))


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
        groups = {k: v["max_cosine"].to_numpy() for k, v in own.groupby(["objective", "seed"])}
        for first, second in pairs:
            seeds = [
                s
                for s in sorted(own["seed"].unique())
                if (first, s) in groups and (second, s) in groups
            ]
            if seeds:
                interval = difference_interval(
                    [groups[first, s] for s in seeds],
                    [groups[second, s] for s in seeds],
                    seed=seed,
                )
                labels = {"layer": layer, "difference": f"{first} - {second}"}
                rows.append(labels | interval._asdict() | {"n_seeds": len(seeds)})
    columns = ["layer", "difference", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)
