"""Intervals: over training seeds, over what was sampled within one, and of differences of means.

Source of the differences: the paper's Fig 3a, Fig 9, Table 4. Numpy and scipy only.

Two levels matter here. The outer level is what a repetition of the experiment would change, the
training seed; the inner level is what was sampled within one (rows of held-out text, dictionary
elements, features explained).

- Several seeds: Student's t over one value a seed. What each seed sampled for itself (elements,
  features) is in their spread already; what all share (rows of text, prompts) is not, so that its
  resampled variance is added, with degrees of freedom as `seed_interval` says. In simulations
  (their test) such intervals of 3 and 5 seeds hold the truth in 94 to 96 % of cases, of 2 seeds in
  91 to 96 %, percentiles of resampled seeds in 73 %.
- Numbers of pairs of seeds: the same over the jackknife's pseudo-values, a seed left out at a time.
  Where pairs differ beyond what their two seeds explain, such intervals are too wide (see
  `pseudo_values`): they hold the truth in 95 to 97 % of cases, in 99 % if nothing else varies.
- One seed: percentiles of the resampled inner level alone; it says nothing of another training.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 1000  # as the authors for the differences of Fig 3a
SCORE_RESAMPLES = 10_000  # of differences of scores; the authors take 100,000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value with its interval, numbers or arrays of them; NaN where nothing varies."""

    value: Any
    low: Any
    high: Any


def percentiles(samples: ArrayLike, level: float = LEVEL) -> tuple[Any, Any]:
    """The central `level` of the resampled values (first axis), NaN left out."""
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of all NaN, whose ends are NaN
        low, high = np.nanpercentile(np.asarray(samples, dtype=float), [tail, 100 - tail], axis=0)
    return low[()], high[()]


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


def seed_interval(values: ArrayLike, shared: float | Array = 0.0, level: float = LEVEL) -> Interval:
    """Mean over seeds (first axis of `values`) with its t interval; NaN ends for one seed.

    shared: variance of that mean that no spread between seeds shows, because all of them were
    measured on the same sample. Degrees of freedom grow as the seeds' own share of the variance
    falls, by its inverse. Satterthwaite's, its inverse squared, suit a share that is known: where
    three seeds' spread came out small by chance so does their share, and the interval was too
    narrow already, so that 92 % of such intervals hold the truth.
    """
    x = np.asarray(values, dtype=float)
    mean = np.asarray(x.mean(axis=0) if len(x) else np.nan)
    if len(x) < 2:
        nothing = np.full_like(mean, np.nan)[()]
        return Interval(mean[()], nothing, nothing)
    own = np.asarray(x.var(axis=0, ddof=1) / len(x))
    total = own + shared
    share = np.divide(total, own, out=np.full_like(own, np.inf), where=own > 0)
    half = stats.t.ppf((1 + level) / 2, (len(x) - 1) * share) * np.sqrt(total)
    return Interval(mean[()], (mean - half)[()], (mean + half)[()])


def over_seeds(samples: Array) -> Interval:
    """Mean over seeds of what all seeds measured on one sample: rows of text, prompts.

    samples: (1 + resamples, seeds, …): the values, then those of the sample drawn anew, the same
    draws in every seed.
    """
    values, drawn = samples[0], samples[1:]
    if len(values) == 1:
        return Interval(values[0][()], *percentiles(drawn[:, 0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # as in `percentiles`
        shared = np.nanvar(drawn.mean(axis=1), axis=0)
    return seed_interval(values, shared)


def median_interval(values: ArrayLike) -> Interval:
    """Median with its interval by the sign test, which rests on no distribution; ratios of times
    have a few that are far off. NaN ends below six values, of which none has one of 95 %."""
    x = np.asarray(values, dtype=float)
    found = stats.quantile_test(x, p=0.5).confidence_interval(LEVEL)
    return Interval(float(np.median(x)), float(found.low), float(found.high))


def mean_interval(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean with its bootstrap interval over the values of one sample; one value has none (NaN)."""
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return Interval(float(x.mean()) if x.size else np.nan, np.nan, np.nan)
    samples = resampled_means(x, resamples, np.random.default_rng(seed))
    return Interval(float(x.mean()), *percentiles(samples))


def pseudo_values(pairs: pd.Series) -> Array:
    """Jackknife pseudo-values, one a seed, of the mean over pairs of seeds; NaN for one pair.

    pairs: indexed by the two seeds of a pair, once or in both orders. Their mean is that of the
    pairs; k seeds make k values, whereas the k (k − 1) ordered pairs would count each seed often.
    Their variance is right for what a seed brings to all its pairs. What a pair has of its own
    counts 2 (k − 1) / (k − 2) times, 4 times with 3 seeds and 2.7 times with 5: the jackknife is
    never too narrow, and 3 pairs of 3 seeds cannot tell the two apart, so that it is not corrected.
    """
    first, second = (pairs.index.get_level_values(level) for level in (0, 1))
    seeds = sorted({*first, *second})
    without = [pairs[(first != s) & (second != s)].mean() for s in seeds]
    return len(seeds) * pairs.mean() - (len(seeds) - 1) * np.array(without)


def auroc(positive: ArrayLike, negative: ArrayLike) -> Array:
    """How often one of `positive` is above one of `negative`, ties counting half; along the first
    axis, NaN where either is empty.

    >>> auroc([1.0, 3.0], [0.0, 1.0])
    array(0.875)
    """
    own, others = (np.asarray(x, dtype=float) for x in (positive, negative))
    n, m = len(own), len(others)
    if not n or not m:
        return np.full(own.shape[1:], np.nan)
    ranks = stats.rankdata(np.concatenate([own, others]), axis=0)[:n].sum(axis=0)
    return np.asarray((ranks - n * (n + 1) / 2) / (n * m))


class Difference(NamedTuple):
    """A difference of means, first minus second, and what stands behind it."""

    interval: Interval
    means: tuple[float, float]
    samples: tuple[list[Array], list[Array]]  # of either, an array a seed (or pair of seeds)
    n_seeds: int


def difference(
    table: pd.DataFrame,
    column: str,
    pair: tuple[str, str],
    by: str = "objective",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference | None:
    """Difference of the means of two objectives (or kinds of another column), over the seeds that
    both have; None where there is no such seed.

    table: one row an element, columns `by`, seed, `column`; with a column other_seed, a row is
    about a pair of seeds, and seeds are left out one at a time (`pseudo_values`).
    """
    keys = [key for key in ("seed", "other_seed") if key in table]
    samples: dict[Any, list[Array]] = {kind: [] for kind in pair}
    found = []
    for key, own in table[table[by].isin(pair)].groupby(keys):
        groups = {kind: rows.to_numpy(dtype=float) for kind, rows in own.groupby(by)[column]}
        if len(groups) == 2:
            found.append(key)
            for kind in pair:
                samples[kind].append(groups[kind])
    if not found:
        return None
    first, second = (samples[kind] for kind in pair)
    means = np.array([[x.mean() for x in values] for values in (first, second)])
    gaps = pd.Series(means[0] - means[1], pd.MultiIndex.from_tuples(found, names=keys))
    seeds = len({one for key in found for one in key})
    if seeds == 1:
        rng = np.random.default_rng(seed)
        drawn = [resampled_means(x[0], resamples, rng) for x in (first, second)]
        interval = Interval(gaps.iloc[0], *percentiles(drawn[0] - drawn[1]))
    else:
        values = gaps.to_numpy() if len(keys) == 1 else pseudo_values(gaps)
        interval = seed_interval(values)._replace(value=gaps.mean())
    return Difference(interval, (means[0].mean(), means[1].mean()), (first, second), seeds)


def mean_differences(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], seed: int = 0
) -> pd.DataFrame:
    """Per layer and pair of objectives: mean max cosine of the first minus that of the second.

    table: one row an alive element, columns layer, objective, seed, max_cosine, and other_seed
    where it is a cosine with another seed's (`geometry`). Mean over elements, then over seeds that
    have both; 95 % interval over seeds, or with one over its elements. Columns: layer, difference,
    value, low, high, n_seeds.
    """
    rows = []
    for layer, own in table.groupby("layer"):
        for names in pairs:
            found = difference(own, "max_cosine", names, seed=seed)
            if found:
                rows.append((layer, " - ".join(names), *found.interval, found.n_seeds))
    columns = ["layer", "difference", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def score_differences(
    scores: pd.DataFrame,
    pairs: Sequence[tuple[str, str]] = (("e2e_ds", "local"), ("e2e", "local")),
    resamples: int = SCORE_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Table 4: differences of mean scores, first minus second, per match, layer and pair.

    scores: columns match, layer, objective, seed, score; one row a feature, NaN where it failed.
    Means over features, then over the seeds that have both; 95 % interval over seeds, or with one
    over its features. p is two-sided and the authors': how often a difference at least as large
    arises when both samples are drawn from the seed's features of both objectives together. It is
    over features alone, so that with several seeds it is smaller than the interval allows.

    Columns: match, layer, difference, value, low, high, p, n_first, n_second (features), n_seeds.
    """
    rows = []
    for (match, layer), own in scores.dropna(subset=["score"]).groupby(["match", "layer"]):
        for pair in pairs:
            found = difference(own, "score", pair, resamples=resamples, seed=seed)
            if found:
                p = pooled_p(*found.samples, resamples, seed)
                counts = (*(sum(map(len, x)) for x in found.samples), found.n_seeds)
                rows.append((match, layer, " - ".join(pair), *found.interval, p, *counts))
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
    """Mean of a column per group: over features, then over seeds; 95 % interval over seeds, or
    with one over its features.

    table: one row a feature, with a column `seed`; rows without a value are left out. Columns:
    those of `by`, value, low, high, n (features).
    """
    rows = []
    for key, own in table.dropna(subset=[column]).groupby(list(by)):
        per_seed = [group.to_numpy(dtype=float) for _, group in own.groupby("seed")[column]]
        if len(per_seed) == 1:
            interval = mean_interval(per_seed[0], resamples, seed)
        else:
            interval = seed_interval([values.mean() for values in per_seed])
        rows.append((*key, *interval, len(own)))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])
