"""Faithfulness on subject-verb agreement: per task, and against the number of kept features."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots.style import COLOURS, INK, grid_of, layers_in, legend, objectives_in, style_of

TASKS = {
    "simple": "simple",
    "nounpp": "across a PP",
    "rc": "across an RC",
    "within_rc": "within an RC",
}
MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}
SHIFT = {"local": -0.24, "e2e": 0.0, "e2e_ds": 0.24}
ENOUGH = 0.8
TICKS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000, 2000)


def faithfulness_by_task(table: pd.DataFrame) -> Figure:
    """Table 7 as dots with 95 % intervals: a row a match, a panel a layer; hollow: the paper's.

    table: columns match, layer, objective, task, faithfulness_paper, low_paper, high_paper and
    paper (NaN for no printed value).
    """
    matches, layers = [m for m in MATCHES if m in set(table["match"])], layers_in(table)
    tasks = [task for task in TASKS if task in set(table["task"])]
    height = 0.9 + len(matches) * (0.75 + 0.48 * len(tasks))
    figure, grid = grid_of(len(matches), len(layers), height, sharey=True, sharex=True)
    for row, match in zip(grid, matches, strict=True):
        for axes, layer in zip(row, layers, strict=True):
            _dots(axes, table[(table["match"] == match) & (table["layer"] == layer)], tasks)
            axes.set_title(f"layer {layer}, {MATCHES[match]}")
    for axes in grid[-1]:
        axes.set_xlabel("m(SAE) / m(clean)")
    grid[0, 0].set_yticks(range(len(tasks)), [TASKS[task] for task in tasks])
    grid[0, 0].set_ylim(len(tasks) - 0.5, -0.5)
    if table["paper"].notna().any():
        hollow = {"marker": "D", "mfc": "none", "mec": INK, "markersize": 6, "linestyle": ""}
        grid[0, 0].plot([], [], label="paper (GPT-2 small)", **hollow)
    legend(figure, grid[0, 0], objectives_in(table))
    return figure


def _dots(axes: Axes, own: pd.DataFrame, tasks: list[str]) -> None:
    axes.axvline(1, color=INK, linewidth=1)
    for name in objectives_in(own):
        part = own[own["objective"] == name]
        y = np.array([tasks.index(task) for task in part["task"]]) + SHIFT[name]
        x = part["faithfulness_paper"]
        error = np.clip([x - part["low_paper"], part["high_paper"] - x], 0, None)
        hollow = style_of(name) | {"markerfacecolor": "none", "markeredgecolor": COLOURS[name]}
        axes.plot(part["paper"], y, linestyle="", **hollow | {"markeredgewidth": 1.1})
        axes.errorbar(x, y, xerr=error, linestyle="", capsize=2, **style_of(name))


def features_kept(curve: pd.DataFrame) -> Figure:
    """Fig 24: m(SAE with all but k features mean-ablated) / m(clean) against k, a panel a task.

    curve: columns objective, task, kept, faithfulness_paper, low_paper, high_paper; shaded: 95 %
    intervals.
    """
    tasks = [task for task in TASKS if task in set(curve["task"])]
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, grid = grid_of(rows, columns, 0.7 + 2.6 * rows, sharex=True, sharey=True)
    for axes, task in zip(grid.ravel(), tasks, strict=False):
        own = curve[curve["task"] == task]
        for level, line in ((1.0, "-"), (ENOUGH, ":")):
            axes.axhline(level, color=INK, linewidth=1, linestyle=line)
        for name in objectives_in(own):
            part = own[own["objective"] == name].sort_values("kept")
            band = [part["low_paper"], part["high_paper"]]
            axes.fill_between(part["kept"], *band, color=COLOURS[name], alpha=0.2, linewidth=0)
            style = style_of(name) | {"markersize": 4, "markeredgewidth": 0.3}
            axes.plot(part["kept"], part["faithfulness_paper"], **style)
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
    legend(figure, grid[0, 0], objectives_in(curve))
    return figure
