"""Similarity of dictionary elements, and maps of two dictionaries with their regions."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style


def plot_similarity_histograms(table: pd.DataFrame, xlabel: str) -> Figure:
    """Figs 3 and 8: density of alive elements' largest cosines, mean marked, a panel a layer."""
    layers = style.layers_in(table)
    low = max(-1.0, float(table["max_cosine"].min()))
    bins = np.linspace(low, 1, 51)  # 50 bins, as the paper
    figure, grid = style.grid_of(1, len(layers), 3.3, sharex=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        own = table[table["layer"] == layer]
        for name in style.objectives_in(own):
            values = own.loc[own["objective"] == name, "max_cosine"]
            fill: dict[str, Any] = {"bins": bins, "density": True, "color": style.COLOURS[name]}
            axes.hist(values, histtype="stepfilled", alpha=0.3, linewidth=0, **fill)
            axes.hist(values, histtype="step", linewidth=1.6, linestyle=style.LINES[name], **fill)
            look = (style.COLOURS[name], style.MARKERS[name], style.LINES[name])
            style.mark_mean(axes, float(values.mean()), *look)
        axes.set(title=f"layer {layer}", xlabel=xlabel)
    grid[0, 0].set_ylabel("density")
    style.outlines_legend(figure, grid[0, 0], style.objectives_in(table))
    return figure


def plot_similarity_trends(
    means: pd.DataFrame, over: pd.DataFrame | None = None, label: str = ""
) -> Figure:
    """Fig 7: a run's mean max cosine against its L0, CE increase and alive elements.

    over: the same of further runs, hollow, named `label`.
    """
    layers = style.layers_in(means)
    figure, grid = style.grid_of(
        len(layers), 3, 0.5 + 2.4 * len(layers), sharey="row", sharex="col"
    )
    for row, layer in zip(grid, layers, strict=True):
        own = means[means["layer"] == layer]
        for axes, x in zip(row, ("l0", "ce_increase", "alive"), strict=True):
            for name, part in style.by_objective(own):
                axes.plot(part[x], part["mean_max_cosine"], linestyle="", **style.of(name))
            if over is not None and len(over):
                others = over[over["layer"] == layer]
                style.laid_over(axes, others, x, "mean_max_cosine", label)
            if layer == layers[-1]:
                axes.set_xlabel(style.AXIS[x])
        row[0].set_ylabel(f"layer {layer}\nmean max cosine")
    style.legend(figure, grid[0, 0], style.objectives_in(means))
    return figure


GREY = "#c9cddc"


def plot_dictionary_maps(points: pd.DataFrame) -> Figure:
    """Figs 19 and 20: the elements of both dictionaries, a row a pair, a column a layer."""
    figure, panels = _panels(points)
    for axes, own in panels:
        for name, part in style.by_objective(own):
            _scatter(axes, part, color=style.COLOURS[name], marker=style.MARKERS[name], alpha=0.75)
    style.legend(figure, figure.axes[0], style.objectives_in(points))
    return figure


def plot_region_maps(points: pd.DataFrame, regions: pd.DataFrame, numbered: int = 6) -> Figure:
    """The same maps, grey except for the regions, which have the colour of the objective that is
    over-represented there. The `numbered` largest of each panel carry their numbers.

    regions: as `umap_regions.region_table` returns them.
    """
    figure, panels = _panels(points)
    for axes, own in panels:
        _scatter(axes, own[own["region"] == 0], color=GREY, marker="o", alpha=0.6)
        layer, pair = own["layer"].iloc[0], own["pair"].iloc[0]
        found = regions[(regions["layer"] == layer) & (regions["pair"] == pair)]
        if found.empty:
            axes.text(0.98, 0.02, "no region", transform=axes.transAxes, ha="right", va="bottom")
        for row in found.itertuples():
            members = own[own["region"] == row.region]
            look = {"color": style.COLOURS[row.objective], "marker": style.MARKERS[row.objective]}
            _scatter(axes, members, **look)
            if row.region <= numbered:
                _number(axes, members, str(row.region))
    style.legend(figure, figure.axes[0], style.objectives_in(regions))
    return figure


def _panels(points: pd.DataFrame) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A row a pair, a column a layer; panels without a map are switched off."""
    pairs, layers = list(points["pair"].unique()), style.layers_in(points)
    figure, grid = style.grid_of(len(pairs), len(layers), 0.5 + 3.0 * len(pairs))
    panels = []
    for row, pair in zip(grid, pairs, strict=True):
        shown = " and ".join(style.LABELS[name] for name in pair.split(" - "))
        for axes, layer in zip(row, layers, strict=True):
            own = points[(points["pair"] == pair) & (points["layer"] == layer)]
            if own.empty:
                axes.set_axis_off()
                continue
            axes.set(title=f"layer {layer}: {shown}", xlabel="UMAP 1")
            axes.set(xticks=[], yticks=[])  # its coordinates have no unit
            panels.append((axes, own))
        row[0].set_ylabel("UMAP 2")
    return figure, panels


def _scatter(axes: Axes, points: pd.DataFrame, **look: Any) -> None:
    size = min(14.0, max(1.0, 9000 / max(1, len(points))))
    axes.scatter(points["x"], points["y"], s=size, linewidths=0, **look)


def _number(axes: Axes, members: pd.DataFrame, text: str) -> None:
    """At the member nearest to the middle: the middle of a bent region may lie outside it."""
    offset = members[["x", "y"]] - members[["x", "y"]].median()
    place = members.loc[offset.pow(2).sum(axis=1).idxmin(), ["x", "y"]]
    box = {
        "boxstyle": "circle,pad=0.2",
        "facecolor": "white",
        "edgecolor": style.INK,
        "linewidth": 0.8,
    }
    axes.annotate(
        text, place.astype(float).to_list(), xytext=(9, 9), textcoords="offset points",
        fontsize=9, ha="center", va="center", bbox=box,
    )  # fmt: skip
