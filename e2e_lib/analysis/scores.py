"""Statistics of interpretability scores: means with intervals, differences with p-values.

Source: Figure 9 and Table 4. The outer level of every interval is the training seed, the inner one
the feature.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from e2e_lib.analysis.statistics import (
    Array,
    Interval,
    difference_interval,
    over_groups,
    percentiles,
    resampled_means,
)

RESAMPLES = 10_000  # of differences; the authors take 100,000


def score_differences(
    scores: pd.DataFrame,
    first: str = "e2e_ds",
    second: str = "local",
    resamples: int = RESAMPLES,
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
        groups = {k: v["score"].to_numpy() for k, v in own.groupby(["objective", "seed"])}
        seeds = [s for s in sorted(own["seed"].unique())
                 if (first, s) in groups and (second, s) in groups]  # fmt: skip
        if not seeds:
            continue
        a, b = ([groups[name, s] for s in seeds] for name in (first, second))
        rows.append(
            {"match": match, "layer": layer, "difference": f"{first} - {second}"}
            | difference_interval(a, b, resamples, seed)._asdict()
            | {"p": pooled_p(a, b, resamples, seed), "n_seeds": len(seeds)}
            | {"n_first": sum(map(len, a)), "n_second": sum(map(len, b))}
        )
    columns = ["match", "layer", "difference", "value", "low", "high", "p"]
    return pd.DataFrame(rows, columns=[*columns, "n_first", "n_second", "n_seeds"])


def pooled_p(
    first: Sequence[Array], second: Sequence[Array], resamples: int = RESAMPLES, seed: int = 0
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
        interval = Interval(value, *percentiles(over_groups(np.stack(means, axis=1), rng)))
        rows.append(dict(zip(by, key, strict=True)) | interval._asdict() | {"n": len(own)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])
