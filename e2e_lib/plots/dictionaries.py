"""Dictionaries compared and mapped, and what SAEs do to activations' norms and directions."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
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
    """The maps that have a region, grey except for it, which has the colour of the objective that
    is over-represented there, and lines from its middle to its members. The `numbered` largest of
    each panel carry their numbers.

    regions: as `umap_regions.region_table` returns them.
    """
    figure, panels = _panels(points.merge(regions[["layer", "pair"]].drop_duplicates()))
    for axes, own in panels:
        _scatter(axes, own[own["region"] == 0], 0.7, color=GREY, marker="o", alpha=0.5)
        layer, pair = own["layer"].iloc[0], own["pair"].iloc[0]
        found = regions[(regions["layer"] == layer) & (regions["pair"] == pair)]
        for row in found.itertuples():
            members = own[own["region"] == row.region]
            look = {"color": style.COLOURS[row.objective], "marker": style.MARKERS[row.objective]}
            _spokes(axes, members, look["color"])
            _scatter(axes, members, 1.7, edgecolors="white", linewidths=0.4, zorder=3, **look)
            if row.region <= numbered:
                _number(axes, members, str(row.region))
    style.legend(figure, figure.axes[0], style.objectives_in(regions))
    return figure


def _panels(points: pd.DataFrame) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Every map, a row a pair and a column a layer where each pair has them all."""
    layers = style.layers_in(points)
    places = [(pair, layer) for pair in points["pair"].unique() for layer in layers]
    maps = [points[(points["pair"] == pair) & (points["layer"] == k)] for pair, k in places]
    maps = [own for own in maps if len(own)]
    columns = min(len(layers), len(maps))
    rows = -(-len(maps) // columns)
    figure, grid = style.grid_of(rows, columns, 0.5 + 3.0 * rows)
    panels = list(zip(grid.flat, maps, strict=False))
    for axes, own in panels:
        shown = " and ".join(style.LABELS[name] for name in own["pair"].iloc[0].split(" - "))
        axes.set(title=f"layer {own['layer'].iloc[0]}: {shown}", xlabel="UMAP 1")
        axes.set(xticks=[], yticks=[])  # its coordinates have no unit
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel("UMAP 2")
    return figure, panels


def _scatter(axes: Axes, points: pd.DataFrame, larger: float = 1.0, **look: Any) -> None:
    size = larger * min(14.0, max(1.0, 9000 / max(1, len(points))))
    axes.scatter(points["x"], points["y"], s=size, **{"linewidths": 0} | look)


def _middle(members: pd.DataFrame) -> Any:
    """The member nearest to the middle: the middle of a bent region may lie outside it."""
    offset = members[["x", "y"]] - members[["x", "y"]].median()
    return members.loc[offset.pow(2).sum(axis=1).idxmin(), ["x", "y"]].astype(float)


def _spokes(axes: Axes, members: pd.DataFrame, colour: str) -> None:
    """From the middle of a region to each member: which belong together, near or far."""
    hub = _middle(members)
    ends: Any = [[tuple(hub), place] for place in members[["x", "y"]].itertuples(index=False)]
    axes.add_collection(LineCollection(ends, colors=colour, linewidths=0.5, alpha=0.35, zorder=2))


def _number(axes: Axes, members: pd.DataFrame, text: str) -> None:
    box = {
        "boxstyle": "circle,pad=0.2",
        "facecolor": "white",
        "edgecolor": style.INK,
        "linewidth": 0.8,
    }
    axes.annotate(
        text, _middle(members).to_list(), xytext=(9, 9), textcoords="offset points",
        fontsize=9, ha="center", va="center", bbox=box,
    )  # fmt: skip


DIAGONAL: dict[str, Any] = {"color": style.INK, "linewidth": 1, "linestyle": ":"}


def _norm_points(axes: Axes, own: pd.DataFrame, name: str, limit: float) -> None:
    """One point a token, those at position 0 as rings, and the diagonal of equal norms."""
    first = own["position"] == 0
    later, at_start = own[~first], own[first]
    axes.plot([0, limit], [0, limit], zorder=1, **DIAGONAL)
    axes.scatter(
        later["input_norm"], later["output_norm"],
        s=7, alpha=0.3, linewidths=0, color=style.COLOURS[name], zorder=2,
    )  # fmt: skip
    axes.scatter(
        at_start["input_norm"], at_start["output_norm"],
        s=16, alpha=0.8, linewidths=0.9, facecolors="none", edgecolors=style.INK, zorder=3,
    )  # fmt: skip
    axes.set(xlim=(0, limit), ylim=(0, limit), box_aspect=1)


def plot_activation_norms(tokens: pd.DataFrame) -> Figure:
    """Fig 10: norm of the SAE's output against that of its input, a panel an objective.

    tokens: columns objective, position, input_norm, output_norm. An inset shows the bulk (99 % of
    the tokens after the first position) where it fills less than half of the axes.
    """
    names = style.objectives_in(tokens)
    norms = tokens[["input_norm", "output_norm"]].max(axis=1)
    limit = 1.06 * float(norms.max())
    bulk = 1.06 * float(norms[tokens["position"] > 0].quantile(0.99))
    figure, grid = style.grid_of(1, len(names), 3.7, sharex=True, sharey=True)
    for axes, name in zip(grid[0], names, strict=True):
        own = tokens[tokens["objective"] == name]
        _norm_points(axes, own, name, limit)
        axes.set(title=style.LABELS[name], xlabel="norm of the input")
        axes.locator_params(nbins=4)  # numbers of five digits touch otherwise
        if bulk < limit / 2:
            inset = axes.inset_axes((0.1, 0.54, 0.42, 0.42))
            _norm_points(inset, own, name, bulk)
            inset.tick_params(labelsize=8, pad=0)
            inset.locator_params(nbins=3)
            for side in inset.spines.values():
                side.set(visible=True, color=style.INK, linewidth=0.8)
    axes = grid[0, 0]
    axes.set_ylabel("norm of the output")
    ring: dict[str, Any] = {"marker": "o", "mfc": "none", "mec": style.INK, "linestyle": ""}
    axes.plot([], [], label="first position", **ring)
    axes.plot([], [], label="equal norms", **DIAGONAL)
    style.legend_above(figure, [axes])
    return figure


def plot_cosine_histograms(histogram: pd.DataFrame) -> Figure:
    """Fig 11: density of the cosine between an SAE's input and output, a panel a layer.

    histogram: columns layer, objective, low, high, density, mean (which is marked).
    """
    layers = style.layers_in(histogram)
    figure, grid = style.grid_of(1, len(layers), 3.3, sharex=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        for name in style.objectives_in(histogram[histogram["layer"] == layer]):
            own = histogram.query("layer == @layer and objective == @name")
            edges = [*own["low"], own["high"].iloc[-1]]
            axes.stairs(own["density"], edges, fill=True, alpha=0.3, color=style.COLOURS[name])
            line = {"color": style.COLOURS[name], "linestyle": style.LINES[name]}
            axes.stairs(own["density"], edges, linewidth=1.6, **line)
            look = (style.COLOURS[name], style.MARKERS[name], style.LINES[name])
            style.mark_mean(axes, float(own["mean"].iloc[0]), *look)
        axes.set(title=f"layer {layer}", xlabel="cosine of output with input")
    grid[0, 0].set_ylabel("density")
    style.outlines_legend(figure, grid[0, 0], style.objectives_in(histogram))
    return figure


def _by_position(axes: Axes, table: pd.DataFrame, marked: list[int]) -> None:
    """A line and its interval for the clean activation and for each objective's output."""
    for source in ["clean", *style.objectives_in(table.rename(columns={"source": "objective"}))]:
        own = table[table["source"] == source]
        look = {"color": style.INK} if source == "clean" else style.of(source) | {"markersize": 5.5}
        axes.plot(own["position"], own["value"], linewidth=1.4, markevery=marked, **look)
        band: dict[str, Any] = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
        axes.fill_between(own["position"], own["low"], own["high"], **band)


def _source_legend(figure: Figure, axes: Axes, table: pd.DataFrame) -> None:
    axes.plot([], [], color=style.INK, label="clean activation")
    style.legend(figure, axes, list(table["source"].unique()))


def plot_norm_by_position(table: pd.DataFrame) -> Figure:
    """Mean norm of the clean activation and of each SAE's output by position, a panel a layer.

    table: columns layer, source ("clean" or an objective), position, value, low, high.
    """
    layers, last = style.layers_in(table), int(table["position"].max())
    marked = [0] + [2**k for k in range(12) if 2**k <= last]  # evenly spaced in the picture
    figure, grid = style.grid_of(1, len(layers), 3.4, sharey=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        _by_position(axes, table[table["layer"] == layer], marked)
        axes.set(title=f"layer {layer}", xlabel="position in the row", yscale="log")
        # Linear up to 1 and then logarithmic: the first positions are seen, 0 included.
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.15, last + 1)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        style.plain_numbers(axes)
    grid[0, 0].set_ylabel("mean norm")
    _source_legend(figure, grid[0, 0], table)
    return figure


def plot_direction_by_position(table: pd.DataFrame) -> Figure:
    """Mean projection on principal directions by position, a row a layer, a column a
    direction.

    table: columns as for `plot_norm_by_position`, and direction.
    """
    layers, directions = style.layers_in(table), sorted(table["direction"].unique())
    last = int(table["position"].max())
    marked = sorted({round(k * last / 6) for k in range(7)})
    height = 0.8 + 2.1 * len(layers)
    figure, grid = style.grid_of(len(layers), len(directions), height, sharex=True)
    for row, layer in zip(grid, layers, strict=True):
        for axes, direction in zip(row, directions, strict=True):
            own = table[(table["layer"] == layer) & (table["direction"] == direction)]
            _by_position(axes, own, marked)
            axes.set_title(f"layer {layer}, direction {direction}")
            if layer == layers[-1]:
                axes.set_xlabel("position in the row")
        row[0].set_ylabel("mean projection")
    _source_legend(figure, grid[0, 0], table)
    figure.draw_without_rendering()  # tick labels widen after the first layout
    return figure
