"""What speaks for features: interpretability, true latents, faithfulness, and the claims ledger."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style

MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}
SHIFT = {"local": -0.27, "e2e": 0.0, "e2e_ds": 0.27}
ALWAYS = ("one synonym", "decoy", "none")  # kinds that are shown however rare they are
KIND_NAMES = {
    "position_in_sentence": "position in\nsentence",
    "one synonym": "one\nsynonym",
    "decoy": "either\nsynonym",
    "next": "next word",
    "previous": "previous\nword",
    "seen": "seen\nbefore",
}
TASKS = {
    "simple": "simple",
    "nounpp": "across a PP",
    "rc": "across an RC",
    "within_rc": "within an RC",
}
TASK_SHIFT = {"local": -0.24, "e2e": 0.0, "e2e_ds": 0.24}
MEASURES = {  # name on the axis, and whether it is logarithmic
    "carried_function": ("carried\nfunction S", False),
    "selectivity": ("selectivity", False),
    "pathway": ("pathway", False),
    "spurious_response": ("spurious\nresponse R (nats)", True),
    "waste_l0": ("waste\n(share of L0)", False),
    "necessity": ("necessity N80\n(latents)", False),
}
ENOUGH = 0.8
VERDICTS = {"holds": ("#2b7a3d", "o"), "refuted": ("#b5352a", "X")}  # else grey diamonds
TICKS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000, 2000)


def plot_interpretability_scores(scores: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Fig 9: distribution of the scores per layer and objective, a row a match.

    scores: one row a feature, columns match, layer, objective, score. means: mean and 95 %
    interval, columns match, layer, objective, value, low, high.
    """
    matches = [match for match in MATCHES if match in set(scores["match"])]
    figure, grid = style.grid_of(len(matches), 1, 0.6 + 2.5 * len(matches), sharex=True)
    for axes, match in zip(grid[:, 0], matches, strict=True):
        own, marks = (table[table["match"] == match] for table in (scores, means))
        _violins(axes, own, marks, "score", style.layers_in(scores))
        axes.set(title=f"SAEs of {MATCHES[match]}", ylabel="correlation of\nsimulated and true")
    style.legend(figure, grid[0, 0], style.objectives_in(scores))
    return figure


def _violins(
    axes: Axes, table: pd.DataFrame, means: pd.DataFrame, column: str, layers: list[int]
) -> None:
    """At every layer a violin an objective, with the mean and its interval.

    The axis ends where the values can: of few seeds, an interval beyond 1 is cut off.
    """
    for name in style.objectives_in(table):
        for place, layer in enumerate(layers):
            chosen = (table["objective"] == name) & (table["layer"] == layer)
            values = table.loc[chosen, column].dropna()
            if values.nunique() > 2:  # a density needs a spread
                where = [place + SHIFT[name]]
                parts: Any = axes.violinplot(values, where, widths=0.25, showextrema=False)
                for body in parts["bodies"]:
                    body.set(
                        facecolor=style.COLOURS[name], alpha=0.35, edgecolor=style.COLOURS[name]
                    )
        part = means[means["objective"] == name]
        x = np.array([layers.index(layer) for layer in part["layer"]]) + SHIFT[name]
        look = {"linestyle": "", "capsize": 3, **style.of(name)}
        axes.errorbar(x, part["value"], yerr=style.error_of(part), **look)
    axes.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    axes.set_xlim(-0.5, len(layers) - 0.5)
    lowest = float(min(table[column].min(), means["value"].min()))
    margin = 0.04 * (1 - lowest) or 0.04  # of scores that are all 1
    axes.set_ylim(lowest - margin, 1 + margin)


def plot_true_latents(
    matches: pd.DataFrame, means: dict[str, pd.DataFrame], shares: pd.DataFrame
) -> Figure:
    """How well features stand for true latents (top), and for which kinds (bottom).

    matches: one row a feature, columns layer, objective, f1, auroc. means: for "f1" and "auroc",
    mean and interval per layer and objective. shares: columns objective, kind, value, low, high.
    """
    style.use_house_style()
    figure, panels = plt.subplot_mosaic(
        [["f1", "auroc"], ["kinds", "kinds"]], figsize=(style.WIDTH, 6.4), height_ratios=[1, 1.05]
    )
    for column, title in (("f1", "F1"), ("auroc", "AUROC")):
        axes = panels[column]
        _violins(axes, matches, means[column], column, style.layers_in(matches))
        axes.set(title=f"{title} of the best-matching latent", ylabel=title)
    panels["auroc"].axhline(0.5, color=style.INK, linewidth=1, linestyle=":")
    _bars(panels["kinds"], shares)
    style.legend(figure, panels["f1"], style.objectives_in(matches))
    return figure


def _bars(axes: Axes, shares: pd.DataFrame) -> None:
    largest = shares.groupby("kind", sort=False)["value"].max()
    kinds = [kind for kind in largest.index if largest[kind] >= 0.01 or kind in ALWAYS]
    for name in style.objectives_in(shares):
        part = shares[(shares["objective"] == name) & shares["kind"].isin(kinds)]
        x = np.array([kinds.index(kind) for kind in part["kind"]]) + SHIFT[name]
        axes.bar(x, part["value"], 0.25, color=style.COLOURS[name], alpha=0.55, linewidth=0)
        axes.errorbar(x, part["value"], yerr=style.error_of(part), linestyle="", **style.of(name))
    axes.set_xticks(range(len(kinds)), [KIND_NAMES.get(kind, kind) for kind in kinds])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set(title="What is found with F1 of at least 0.5", ylabel="share of features")
    axes.set_ylim(bottom=-0.02)  # marks at 0 are whole


def plot_faithfulness_by_task(table: pd.DataFrame) -> Figure:
    """Table 7 as dots with 95 % intervals: a row a match, a panel a layer; hollow: the paper's.

    table: columns match, layer, objective, task, faithfulness_paper, low_paper, high_paper and
    paper (NaN for no printed value).
    """
    matches, layers = [m for m in MATCHES if m in set(table["match"])], style.layers_in(table)
    tasks = [task for task in TASKS if task in set(table["task"])]
    height = 0.9 + len(matches) * (0.75 + 0.48 * len(tasks))
    figure, grid = style.grid_of(len(matches), len(layers), height, sharey=True, sharex=True)
    for row, match in zip(grid, matches, strict=True):
        for axes, layer in zip(row, layers, strict=True):
            _dots(axes, table[(table["match"] == match) & (table["layer"] == layer)], tasks)
            axes.set_title(f"layer {layer}, {MATCHES[match]}")
    for axes in grid[-1]:
        axes.set_xlabel("m(SAE) / m(clean)")
    grid[0, 0].set_yticks(range(len(tasks)), [TASKS[task] for task in tasks])
    grid[0, 0].set_ylim(len(tasks) - 0.5, -0.5)
    if table["paper"].notna().any():
        hollow = {"marker": "D", "mfc": "none", "mec": style.INK, "markersize": 6, "linestyle": ""}
        grid[0, 0].plot([], [], label="paper (GPT-2 small)", **hollow)
    style.legend(figure, grid[0, 0], style.objectives_in(table))
    return figure


def _dots(axes: Axes, own: pd.DataFrame, tasks: list[str]) -> None:
    axes.axvline(1, color=style.INK, linewidth=1)
    for name, part in style.by_objective(own):
        y = np.array([tasks.index(task) for task in part["task"]]) + TASK_SHIFT[name]
        x = part["faithfulness_paper"]
        error = style.error_of(part, "faithfulness_paper", "{}_paper")
        hollow = style.of(name) | {
            "markerfacecolor": "none",
            "markeredgecolor": style.COLOURS[name],
        }
        axes.plot(part["paper"], y, linestyle="", **hollow | {"markeredgewidth": 1.1})
        axes.errorbar(x, y, xerr=error, linestyle="", capsize=2, **style.of(name))


def plot_features_kept(curve: pd.DataFrame) -> Figure:
    """Fig 24: m(SAE with all but k features mean-ablated) / m(clean) against k, a panel a task.

    curve: columns objective, task, kept, faithfulness_paper, low_paper, high_paper; shaded: 95 %
    intervals.
    """
    tasks = [task for task in TASKS if task in set(curve["task"])]
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, grid = style.grid_of(rows, columns, 0.7 + 2.6 * rows, sharex=True, sharey=True)
    for axes, task in zip(grid.ravel(), tasks, strict=False):
        own = curve[curve["task"] == task]
        for level, line in ((1.0, "-"), (ENOUGH, ":")):
            axes.axhline(level, color=style.INK, linewidth=1, linestyle=line)
        for name, part in style.by_objective(own):
            part = part.sort_values("kept")
            band = [part["low_paper"], part["high_paper"]]
            axes.fill_between(
                part["kept"], *band, color=style.COLOURS[name], alpha=0.2, linewidth=0
            )
            look = style.of(name) | {"markersize": 4, "markeredgewidth": 0.3}
            axes.plot(part["kept"], part["faithfulness_paper"], **look)
        axes.set_title(TASKS[task])
    for axes in grid.ravel()[len(tasks) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        # Linear up to 10, where most happens, then logarithmic.
        axes.set_xscale("symlog", linthresh=10, linscale=1.5)
        axes.set_xticks([k for k in TICKS if k <= curve["kept"].max()])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(-0.5, 1.1 * curve["kept"].max())
        axes.set_xlabel("features kept")
    for axes in grid[:, 0]:
        axes.set_ylabel("m(SAE) / m(clean)")
    style.legend(figure, grid[0, 0], style.objectives_in(curve))
    return figure


def plot_claims_forest(table: pd.DataFrame) -> Figure:
    """A strip a claim, each with its own scale: value, interval, and shaded where the claim holds.

    table: columns id, short, value, low, high, grid_low, grid_high (the range with one λ left out,
    a thin line), verdict, and the claim's bounds above and below (NaN for none).
    """
    shown = table.dropna(subset=["value"])
    style.use_house_style()
    figure, grid = plt.subplots(
        len(shown), 1, figsize=(style.WIDTH, 0.3 + 0.44 * len(shown)), squeeze=False
    )
    for axes, row in zip(grid[:, 0], shown.itertuples(), strict=True):
        points = [row.value, row.low, row.high, row.grid_low, row.grid_high, row.above, row.below]
        known = [float(x) for x in points if pd.notna(x)]
        margin = 0.12 * (max(known) - min(known)) or 0.5
        left, right = min(known) - margin, max(known) + margin
        above = left if pd.isna(row.above) else row.above
        axes.axvspan(above, right if pd.isna(row.below) else row.below, color="#cfe6d4", zorder=0)
        axes.axvspan(left, left, color="none")
        colour, marker = VERDICTS.get(row.verdict, ("#6b6b6b", "D"))
        axes.plot([row.grid_low, row.grid_high], [0, 0], color=colour, linewidth=1)
        if pd.notna(row.low):
            axes.plot([row.low, row.high], [0, 0], color=colour, linewidth=2.4)
        axes.plot(row.value, 0, color=colour, marker=marker, markersize=9, mec="white")
        axes.set(xlim=(left, right), ylim=(-1, 1), yticks=[0])
        axes.set_yticklabels([f"{row.id}  {row.short}"], fontsize=9.5)
        axes.tick_params(axis="x", labelsize=8.5, pad=0)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    return figure


def plot_measures(table: pd.DataFrame, over: pd.DataFrame | None = None, label: str = "") -> Figure:
    """A row a measure, a column a match: values by layer, with the best floor and the oracle.

    table: columns match, layer, objective, measure, value, low, high, floor, oracle; NaN and
    infinite ones are left out. The axis is as long as values, floors and oracles need: of few seeds
    an interval may be many times as long. over: the same of further runs, hollow, named `label`.
    """
    matches = [match for match in MATCHES if match in set(table["match"])]
    known = set(table.loc[table["value"].notna(), "measure"])
    names, layers = [name for name in MEASURES if name in known], style.layers_in(table)
    height = 0.7 + 1.75 * len(names)
    figure, grid = style.grid_of(len(names), len(matches), height, sharey="row")
    for row, measure in zip(grid, names, strict=True):
        label, log = MEASURES[measure]
        for axes, match in zip(row, matches, strict=True):
            own = table[(table["measure"] == measure) & (table["match"] == match)]
            _between(axes, own.replace([np.inf, -np.inf], np.nan), layers)
            if over is not None and len(over):
                of_match = (over["measure"] == measure) & (over["match"] == match)
                others = over[of_match & over["layer"].isin(layers)]
                where = others["layer"].map(layers.index) + others["objective"].map(SHIFT)
                style.laid_over(axes, others.assign(x=where + 0.09), "x", "value", label)
            axes.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
            axes.set_xlim(-0.5, len(layers) - 0.5)
        row[0].set_ylabel(label)
        row[0].set_yscale("log" if log else "linear")
        row[0].set_ylim(*_room(table[table["measure"] == measure], log))
        style.plain_numbers(row[0])
    for axes, match in zip(grid[0], matches, strict=True):
        axes.set_title(f"SAEs of {MATCHES[match]}")
    for label, line in (("best floor", ":"), ("oracle", "--")):
        grid[0, 0].plot([], [], color=style.INK, linewidth=1.4, linestyle=line, label=label)
    style.legend(figure, grid[0, 0], style.objectives_in(table))
    return figure


def _room(own: pd.DataFrame, log: bool) -> tuple[float, float]:
    """Ends of an axis with a third of what it shows to spare on either side."""
    shown = own[["value", "floor", "oracle"]].to_numpy(dtype=float)
    shown = shown[np.isfinite(shown) & ((shown > 0) | (not log))]
    shown = np.log(shown) if log else shown
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    spare = (high - low) / 3 or 0.5
    ends = (low - spare, high + spare)
    return (float(np.exp(ends[0])), float(np.exp(ends[1]))) if log else ends


def _between(axes: Axes, own: pd.DataFrame, layers: list[int]) -> None:
    """Objectives side by side at every layer, each at its floor's line and its oracle's."""
    for name in style.objectives_in(own):
        part = own[own["objective"] == name]
        x = np.array([layers.index(layer) for layer in part["layer"]]) + SHIFT[name]
        for column, line in (("floor", ":"), ("oracle", "--")):
            look: dict[str, Any] = {"color": style.INK, "linewidth": 1.4, "linestyle": line}
            axes.hlines(part[column], x - 0.12, x + 0.12, **look)
        bars = style.error_of(part)
        axes.errorbar(x, part["value"], bars, linestyle="", capsize=3, **style.of(name))
