"""The interpolated summary ratio: one number for how far apart two L0-CE curves lie.

Source: the paper's Fig 1 and its layer-6 summary. For each seed, both objectives' curves are
interpolated linearly (`np.interp`, as the authors do) at evenly spaced values of x, and
y_objective / y_reference is averaged over those points; then over seeds. The authors' windows
on GPT-2 are L0 50-300 and alive 23k-35k; the default here is the range that all curves share.
Straight lines between few λ lie above a convex curve, for every objective alike.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from e2e_lib.analysis.statistics import RESAMPLES, Array, over_groups, percentiles, resample_weights
from e2e_lib.names import OBJECTIVES

MIN_RUNS = 3  # fewer λ than this do not make a curve
POINTS = 20  # as the authors


def curve_seeds(runs: pd.DataFrame, min_runs: int = MIN_RUNS) -> list[int]:
    """Seeds with at least `min_runs` runs of every objective; runs: those of one layer."""
    counts = pd.crosstab(runs["seed"], runs["objective"])
    counts = counts.reindex(columns=list(OBJECTIVES), fill_value=0)
    return [int(seed) for seed in counts.index[(counts >= min_runs).all(axis=1)]]


def shared_window(runs: pd.DataFrame, x: str, seeds: list[int]) -> tuple[float, float] | None:
    """The range of x that the curves of all objectives and seeds share; None if there is none."""
    ranges = runs[runs["seed"].isin(seeds)].groupby(["seed", "objective"])[x].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    return (low, high) if low < high else None


def resampled_metric(
    runs: pd.DataFrame, rows: pd.DataFrame, metric: str, weights: Array, row_ids: pd.Index
) -> Array:
    """(1 + resamples, runs): first the metric itself, then its mean over resampled rows of text.

    The same rows are drawn for every run, because all runs are evaluated on the same text.
    Metrics that are no mean over rows (alive elements) stay fixed, as do runs without rows.
    """
    point = runs[metric].to_numpy(dtype=float)
    samples = np.tile(point, (1 + len(weights), 1))
    if metric in rows.columns and len(row_ids):
        per_row = rows.pivot_table(index="row", columns="run", values=metric).reindex(row_ids)
        for k, run in enumerate(runs["run"]):
            if run in per_row.columns and per_row[run].notna().all():
                samples[1:, k] = weights @ per_row[run].to_numpy(dtype=float)
    return samples


def interpolate(grid: Array, x: Array, y: Array) -> Array:
    """y at the grid's x values, for each of many curves: x, y (curves, points) → (curves, grid).

    Points are sorted by x; outside a curve's range its end value is used.
    """
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    return np.stack([np.interp(grid, a, b) for a, b in zip(x, y, strict=True)])


def ratio_of_curves(
    pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    rows: pd.DataFrame,
    *,
    x: str = "l0",
    y: str = "ce_increase",
    window: tuple[float, float] | None = None,
    points: int = POINTS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean over `points` values of x, then over the pairs, of y_first / y_second at equal x.

    pairs: for each training seed, the runs of the one curve and those of the other. rows:
    `row_table`, per held-out row of text. window: of x; by default what all the curves share.
    Interval: 95 %, pairs resampled, and rows within pairs (the window stays fixed). Points where
    the second curve is ≤ 0 are left out.

    Returns value, low, high, window_low, window_high, n_seeds, n_rows, n_runs, note; NaN with
    the reason in `note` where the curves do not allow a comparison.
    """
    curves = [runs for pair in pairs for runs in pair]
    left, right = max(runs[x].min() for runs in curves), min(runs[x].max() for runs in curves)
    span = window or (float(left), float(right))
    if span[0] >= span[1]:
        return nothing(f"the curves share no range of {x}", len(pairs))

    together = pd.concat(curves, ignore_index=True)
    own = rows[rows["run"].isin(together["run"])]
    row_ids = pd.Index(sorted(own["row"].unique()))
    rng = np.random.default_rng(seed)
    weights = resample_weights(max(len(row_ids), 1), resamples, rng)
    xs, ys = (resampled_metric(together, own, column, weights, row_ids) for column in (x, y))

    grid = np.linspace(*span, points)
    ends = np.cumsum([len(runs) for runs in curves])
    parts = [slice(end - len(runs), end) for end, runs in zip(ends, curves, strict=True)]
    heights = [interpolate(grid, xs[:, part], ys[:, part]) for part in parts]
    ratios = np.empty((1 + resamples, len(pairs)))
    for k, (first, second) in enumerate(zip(heights[::2], heights[1::2], strict=True)):
        usable = second > 0
        ratio = first / np.where(usable, second, 1)
        ratios[:, k] = (ratio * usable).sum(axis=1) / np.maximum(usable.sum(axis=1), 1)
    low, high = percentiles(over_groups(ratios[1:], rng))
    return {
        "value": float(ratios[0].mean()), "low": low, "high": high,
        "window_low": span[0], "window_high": span[1],
        "n_seeds": len(pairs), "n_rows": len(row_ids), "n_runs": len(together), "note": "",
    }  # fmt: skip


def nothing(reason: str, n_seeds: int) -> dict[str, Any]:
    """What `ratio_of_curves` returns where the curves cannot be compared."""
    numbers = ("value", "low", "high", "window_low", "window_high")
    counts = {"n_seeds": n_seeds, "n_rows": 0, "n_runs": 0}
    return dict.fromkeys(numbers, np.nan) | counts | {"note": reason}


def interpolated_ratio(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    objective: str,
    *,
    reference: str = "local",
    x: str = "l0",
    y: str = "ce_increase",
    window: tuple[float, float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`ratio_of_curves` of two objectives at one layer, in every seed that has both and the third.

    runs: all objectives of one layer (`metrics_table`, through `matched.main_runs`). The window
    is by default the range that the curves of all three objectives share. options: points,
    resamples and seed of `ratio_of_curves`.

    Returns objective, reference, x, y and what `ratio_of_curves` does.
    """
    named = {"objective": objective, "reference": reference, "x": x, "y": y}
    seeds = curve_seeds(runs)
    span = window or (shared_window(runs, x, seeds) if seeds else None)
    if not seeds:
        return named | nothing(f"no seed has {MIN_RUNS} runs of every objective at this layer", 0)
    if span is None:
        return named | nothing(f"the curves share no range of {x}", len(seeds))
    curves = dict(iter(runs.groupby(["seed", "objective"])))
    pairs = [(curves[one, objective], curves[one, reference]) for one in seeds]
    return named | ratio_of_curves(pairs, rows, x=x, y=y, window=span, **options)


def summary_ratios(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    l0_window: tuple[float, float] | None = None,
    alive_window: tuple[float, float] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Per layer: CE increase of e2e and e2e+ds over local's at equal L0 and at equal alive
    elements, and local's L0 over theirs at equal CE increase. options: resamples and seed of
    `ratio_of_curves`. Columns: layer, quantity, and those of `interpolated_ratio`.
    """
    table = []
    for (layer, group), compared in product(runs.groupby("layer"), OBJECTIVES[1:]):
        for quantity, first, second, x, y, window in (
            ("CE increase at equal L0", compared, "local", "l0", "ce_increase", l0_window),
            ("CE increase at equal alive", compared, "local", "alive", "ce_increase", alive_window),
            ("L0 at equal CE increase", "local", compared, "ce_increase", "l0", None),
        ):
            labels = {"layer": layer, "compared": compared, "quantity": quantity}
            axes: dict[str, Any] = {"reference": second, "x": x, "y": y, "window": window}
            table.append(labels | interpolated_ratio(group, rows, first, **axes, **options))
    return pd.DataFrame(table)
