"""The interpolated summary ratio: one number for how far apart two L0-CE curves lie.

Source: the paper's Fig 1 and its layer-6 summary. For each seed, both objectives' curves are
interpolated linearly (`np.interp`, as the authors do) at evenly spaced values of x, and
y_objective / y_reference is averaged over those points; then over seeds. The authors' windows
on GPT-2 are L0 50-300 and alive 23k-35k; the default here is the range that all curves share.
Straight lines between few λ lie above a convex curve, for every objective alike: how much hangs on
the λ that were chosen, `grid_low` and `grid_high` say. They are no part of the interval, for a grid
is not drawn at random; a verdict asks for both (`claims.verdicts`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from e2e_lib.analysis.statistics import RESAMPLES, Array, over_seeds, resample_weights
from e2e_lib.names import OBJECTIVES

MIN_RUNS = 3  # fewer λ than this do not make a curve
POINTS = 20  # as the authors
BEYOND: dict[tuple[str, str], tuple[str, Callable[[Array], NDArray[np.bool_]]]] = {
    # what the paper says of y at equal x, of e2e over local or (L0) of local over e2e
    ("l0", "ce_increase"): ("below 0.45", lambda ratio: ratio < 0.45),
    ("alive", "ce_increase"): ("below 1", lambda ratio: ratio < 1),
    ("ce_increase", "l0"): ("above 2", lambda ratio: ratio > 2),
    ("ce_increase", "alive"): ("below 1", lambda ratio: ratio < 1),
}


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
    of_means: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean over `points` values of x, then over the pairs, of y_first / y_second at equal x.

    pairs: for each training seed, the runs of the one curve and those of the other. rows:
    `row_table`, per held-out row of text. window: of x; by default what all the curves share.
    Interval: 95 %, over seeds and the rows of text that they share (`statistics.over_seeds`); the
    window stays fixed. Points where the second curve is ≤ 0 are left out: the curve to divide by
    should be the larger of the two. of_means: where both are small, the means over the points are
    divided instead, of which noise moves none to 0.

    Returns value, low, high, grid_low and grid_high (the least and the largest value with one inner
    run of either curve left out, in every pair the same in the order of x; NaN where there is
    none), window_low, window_high, at_low and at_high (the ratio at the window's ends), beyond (the
    share of its points at which the ratio is beyond the paper's, `BEYOND`), left_out (the share of
    points, over all pairs, without a ratio), n_seeds, n_rows, n_runs, note; NaN with the reason in
    `note` where the curves do not allow a comparison.
    """
    curves = [runs.sort_values(x, kind="stable") for pair in pairs for runs in pair]
    left, right = max(runs[x].min() for runs in curves), min(runs[x].max() for runs in curves)
    span = window or (float(left), float(right))
    if span[0] >= span[1]:
        return nothing(f"the curves share no range of {x}", len(pairs))

    together = pd.concat(curves, ignore_index=True)
    own = rows[rows["run"].isin(together["run"])]
    row_ids = pd.Index(sorted(own["row"].unique()))
    weights = resample_weights(max(len(row_ids), 1), resamples, np.random.default_rng(seed))
    xs, ys = (resampled_metric(together, own, column, weights, row_ids) for column in (x, y))

    grid = np.linspace(*span, points)
    ends = np.cumsum([len(runs) for runs in curves])
    parts = [np.arange(end - len(runs), end) for end, runs in zip(ends, curves, strict=True)]
    ratios = _ratios(grid, xs, ys, parts)
    taken = _ratios(grid, xs, ys, parts, of_means)
    value, low, high = over_seeds(_mean(taken))
    without = [
        _mean(_ratios(grid, xs[:1], ys[:1], kept, of_means)).mean()
        for kept in _one_inner_left_out(parts)
    ] or [np.nan]
    curve = ratios[0].mean(axis=0)
    beyond, known = BEYOND[x, y][1](curve), np.isfinite(curve)
    return {
        "value": float(value), "low": float(low), "high": float(high),
        "grid_low": float(min(without)), "grid_high": float(max(without)),
        "window_low": span[0], "window_high": span[1],
        "at_low": float(curve[0]), "at_high": float(curve[-1]),
        "beyond": float(beyond[known].mean()) if known.any() else np.nan,
        "left_out": float(np.isnan(taken[0]).mean()),
        "n_seeds": len(pairs), "n_rows": len(row_ids), "n_runs": len(together), "note": "",
    }  # fmt: skip


def _ratios(
    grid: Array,
    xs: Array,
    ys: Array,
    parts: Sequence[NDArray[np.intp]],
    of_means: bool = False,
) -> Array:
    """First curve over second at the grid's x, (samples, pairs, points); NaN where second is ≤ 0.
    of_means: their means over the grid, (samples, pairs, 1).

    xs, ys: (samples, runs); parts: which runs make the first curve of the first pair, its second,
    the first of the second pair, …
    """
    heights = np.stack([interpolate(grid, xs[:, part], ys[:, part]) for part in parts], axis=1)
    heights = heights.mean(axis=-1, keepdims=True) if of_means else heights
    first, second = heights[:, ::2], heights[:, 1::2]
    return np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)


def _mean(ratios: Array) -> Array:
    """Over the points that are known; NaN where none is."""
    known = np.isfinite(ratios)
    counts = known.sum(axis=-1)
    sums = np.where(known, ratios, 0).sum(axis=-1)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _one_inner_left_out(parts: Sequence[NDArray[np.intp]]) -> Iterator[list[NDArray[np.intp]]]:
    """The parts with the k-th run of every first, or of every second, curve left out; no end."""
    for side, k in product((0, 1), range(1, max(map(len, parts)) - 1)):
        kept = [
            np.delete(part, k) if i % 2 == side and k < len(part) - 1 else part
            for i, part in enumerate(parts)
        ]
        if sum(map(len, kept)) < sum(map(len, parts)):
            yield kept


def nothing(reason: str, n_seeds: int) -> dict[str, Any]:
    """What `ratio_of_curves` returns where the curves cannot be compared."""
    numbers = ("value", "low", "high", "grid_low", "grid_high", "window_low", "window_high")
    counts = {"n_seeds": n_seeds, "n_rows": 0, "n_runs": 0}
    known = dict.fromkeys((*numbers, "at_low", "at_high", "beyond", "left_out"), np.nan)
    return known | counts | {"note": reason}


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
    elements, and local's L0 over theirs at equal CE increase; then CE increase of e2e over e2e+ds's
    at equal L0, a ratio of means, for both may be hardly above 0. options: resamples and seed of
    `ratio_of_curves`. Columns: layer, compared, quantity, and those of `interpolated_ratio`.
    """
    at_l0, at_alive = ("l0", "ce_increase", l0_window), ("alive", "ce_increase", alive_window)
    compared = [
        row
        for name in OBJECTIVES[1:]
        for row in (
            ("CE increase at equal L0", name, name, "local", *at_l0),
            ("CE increase at equal alive", name, name, "local", *at_alive),
            ("L0 at equal CE increase", name, "local", name, "ce_increase", "l0", None),
        )
    ]
    compared += [("CE increase at equal L0", "e2e_ds", "e2e", "e2e_ds", *at_l0)]
    table = []
    for layer, group in runs.groupby("layer"):
        for quantity, name, first, second, x, y, window in compared:
            labels = {"layer": layer, "compared": name, "quantity": quantity}
            axes: dict[str, Any] = {"reference": second, "x": x, "y": y, "window": window}
            axes["of_means"] = "local" not in (first, second)
            table.append(labels | interpolated_ratio(group, rows, first, **axes, **options))
    return pd.DataFrame(table)


def beside_full_training(
    tuned: pd.DataFrame, runs: pd.DataFrame, reference: str = "e2e"
) -> pd.DataFrame:
    """Fine-tuned SAEs beside SAEs that were trained by `reference` from the start, at equal L0.

    tuned: a row a fine-tuned SAE: run, the local run that it was; objective, l0, ce_increase,
        train_tokens and train_seconds of the fine-tuning alone. runs: `matched.main_runs`.

    The reference's CE increase is interpolated linearly between its λ of the same layer and seed.
    Columns: run, layer, seed, objective, l0, ce_increase; l0_before, ce_before (of `run`);
    ce_full (the reference's), ratio (ce_increase over it), tokens_share (of the reference's),
    seconds_ratio (local's and the fine-tuning's over local's), full_seconds_ratio (the reference's
    over local's), note (why there is no ratio).
    """
    table = []
    before = runs.set_index("run")
    for row in tuned.to_dict("records"):
        start = before.loc[row["run"]]
        same = (runs["layer"] == start["layer"]) & (runs["seed"] == start["seed"])
        full = runs[same & (runs["objective"] == reference)].sort_values("l0")
        names = ("run", "objective", "l0", "ce_increase")
        own = {name: row[name] for name in names} | {"layer": start["layer"], "seed": start["seed"]}
        own |= {"l0_before": start["l0"], "ce_before": start["ce_increase"], "note": ""}
        if len(full) < 2:
            own["note"] = f"fewer than 2 λ of {reference}"
        elif not full["l0"].iloc[0] <= row["l0"] <= full["l0"].iloc[-1]:
            own["note"] = f"no λ of {reference} has as small or as large an L0"
        else:
            x, y = (full[[name]].to_numpy(dtype=float).T for name in ("l0", "ce_increase"))
            own["ce_full"] = float(interpolate(np.array([row["l0"]]), x, y)[0, 0])
            own["ratio"] = row["ce_increase"] / own["ce_full"] if own["ce_full"] > 0 else np.nan
        if len(full):
            own["tokens_share"] = row["train_tokens"] / full["train_tokens"].mean()
            own["full_seconds_ratio"] = full["train_seconds"].mean() / start["train_seconds"]
        own["seconds_ratio"] = 1 + row["train_seconds"] / start["train_seconds"]
        table.append(own)
    columns = ["run", "layer", "seed", "objective", "l0", "ce_increase", "l0_before", "ce_before"]
    columns += ["ce_full", "ratio", "tokens_share", "seconds_ratio", "full_seconds_ratio", "note"]
    return pd.DataFrame(table).reindex(columns=columns)
