"""From preferences of single prompts to faithfulness with intervals: pandas and numpy only.

Source: the paper's Table 7 and Fig 24; the two definitions of faithfulness stand in
`faithfulness`. Prompts are resampled, the same for the clean, the empty and every spliced model;
where there are several seeds, intervals are over them and the prompts that they share.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from e2e_lib.analysis.statistics import (
    RESAMPLES,
    Array,
    Interval,
    mean_and_resamples,
    mean_interval,
    over_seeds,
)
from e2e_lib.names import OBJECTIVES

ENOUGH = 0.8  # faithfulness that counts as enough


def agreement_table(clean: dict[str, Sequence[float]], seed: int = 0) -> pd.DataFrame:
    """Does the untouched model agree? One row a task.

    clean: per task the preferences of its prompts. Columns: task, n_prompts, accuracy (share of
    prompts with a preference above 0; chance is 0.5), low, high, m (mean preference), m_low,
    m_high.
    """
    rows = []
    for task, values in clean.items():
        preferences = np.asarray(values, dtype=float)
        accuracy, m = (mean_interval(x, seed=seed) for x in (preferences > 0, preferences))
        rows.append((task, len(preferences), *accuracy, *m))
    columns = ["task", "n_prompts", "accuracy", "low", "high", "m", "m_low", "m_high"]
    return pd.DataFrame(rows, columns=columns)


def faithfulness_table(prompts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Table 7: one row a match, layer, objective and task.

    prompts: as `faithfulness.spliced_table` returns it. Columns: match, layer, objective, task,
    n_seeds, n_prompts, m_clean, m_empty, m_spliced, faithfulness, low, high, faithfulness_paper,
    low_paper, high_paper. Per seed the ratio of means over prompts; then the mean over seeds.
    """
    keys = ["match", "layer", "objective", "task"]
    rows = []
    for labels, own in prompts.groupby(keys, sort=False):
        means = own[["clean", "empty", "spliced"]].mean()
        rows.append(
            dict(zip(keys, labels, strict=True))
            | {"n_seeds": own["seed"].nunique(), "n_prompts": own["prompt"].nunique()}
            | {f"m_{name}": value for name, value in means.items()}
            | _faithfulness(own, seed)
        )
    return pd.DataFrame(rows)


def difference_table(prompts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Which of two objectives stays closer to the clean model? One row a match, layer, task, pair.

    The value is how much farther the second's m(SAE) / m(clean) is from 1 than the first's, so
    above 0 the first is more faithful; mean over the seeds that have both. The task "all" is the
    mean over tasks, whose prompts are not the same and are resampled apart. Columns: match, layer,
    task, first, second, value, low, high, n_seeds.
    """
    rows = []
    for (match, layer), own in prompts.groupby(["match", "layer"], sort=False):
        for first, second in combinations(OBJECTIVES, 2):
            both = [set(own.loc[own["objective"] == name, "seed"]) for name in (first, second)]
            common = own[own["seed"].isin(both[0] & both[1])]
            if common.empty:
                continue
            gaps = {}
            for number, (task, part) in enumerate(common.groupby("task", sort=False)):
                far = [
                    np.abs(_ratios(part[part["objective"] == name], seed + number)[1] - 1)
                    for name in (first, second)
                ]
                gaps[str(task)] = far[1] - far[0]
            gaps["all"] = np.mean([*gaps.values()], axis=0)
            for task, samples in gaps.items():
                labels = (match, layer, task, first, second)
                rows.append((*labels, *over_seeds(samples), samples.shape[1]))
    columns = ["match", "layer", "task", "first", "second", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def kept_curve(prompts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Fig 24: faithfulness against the number of kept features.

    prompts: as `faithfulness.kept_table` returns it. Columns: layer, objective, task, active, kept,
    faithfulness, low, high, faithfulness_paper, low_paper, high_paper.
    """
    keys = ["layer", "objective", "task", "active", "kept"]
    groups = prompts.groupby(keys, sort=False)
    return pd.DataFrame(
        dict(zip(keys, labels, strict=True)) | _faithfulness(own, seed) for labels, own in groups
    )


def needed_table(prompts: pd.DataFrame, seed: int = 0, enough: float = ENOUGH) -> pd.DataFrame:
    """The smallest number of kept features with which faithfulness reaches `enough`.

    prompts: as `faithfulness.kept_table` returns it. Columns: layer, objective, task, active,
    needed, low, high by the printed definition, and needed_paper, low_paper, high_paper by the
    authors'. NaN: not reached even with all features. The ranking is not resampled.
    """
    rows = []
    keys = ["layer", "objective", "task", "active"]
    for values, own in prompts.groupby(keys, sort=False):
        curves = [_ratios(part, seed) for _, part in own.groupby("kept")]
        counts = np.sort(own["kept"].unique()).astype(float)
        row = dict(zip(keys, values, strict=True))
        for which, suffix in ((0, ""), (1, "_paper")):
            curve = np.stack([ratios[which][0] for ratios in curves])
            samples = np.stack([ratios[which][1:] for ratios in curves])
            [value] = _first(counts, curve, enough)  # each SAE has one seed
            spread = _first(counts, samples, enough).ravel()
            low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
            found = Interval(*(np.nan if np.isinf(x) else float(x) for x in (value, low, high)))
            row |= _columns("needed", found, suffix)
        rows.append(row)
    return pd.DataFrame(rows)


def _faithfulness(own: pd.DataFrame, seed: int) -> dict[str, float]:
    """Both definitions with their intervals."""
    plain, paper = (over_seeds(samples) for samples in _ratios(own, seed))
    return _columns("faithfulness", plain) | _columns("faithfulness", paper, "_paper")


def _first(counts: Array, curves: Array, enough: float) -> Array:
    """The first of `counts` at which each curve (first axis) is enough; infinity: none is."""
    reached = curves >= enough
    return np.where(reached.any(axis=0), counts[reached.argmax(axis=0)], np.inf)


def _ratios(own: pd.DataFrame, seed: int) -> tuple[Array, Array]:
    """Both definitions: (1 + resamples, seeds), the values and those of resampled prompts.

    own: one row a seed and prompt. Every call with as many prompts and this seed draws the same.
    """
    spliced = own.pivot_table(index="prompt", columns="seed", values="spliced").to_numpy()
    per_prompt = own.drop_duplicates("prompt").sort_values("prompt")
    clean, empty = per_prompt["clean"].to_numpy()[:, None], per_prompt["empty"].to_numpy()[:, None]
    weights = mean_and_resamples(len(spliced), RESAMPLES, np.random.default_rng(seed))
    m, m_clean, m_empty = weights @ spliced, weights @ clean, weights @ empty
    return (m - m_empty) / (m_clean - m_empty), m / m_clean


def _columns(name: str, interval: Interval, end: str = "") -> dict[str, float]:
    return {column + end: x for column, x in zip((name, "low", "high"), interval, strict=True)}
