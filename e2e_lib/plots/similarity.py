"""Similarity of dictionary elements: within an SAE, across seeds and across objectives."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from e2e_lib.plots.style import AXIS, COLOURS, grid_of, layers_in, legend, objectives_in, style_of


def similarity_histograms(table: pd.DataFrame, xlabel: str) -> Figure:
    """Figs 3 and 8: density of alive elements' largest cosines, dashed mean, a panel a layer."""
    layers = layers_in(table)
    low = max(-1.0, float(table["max_cosine"].min()))
    bins = np.linspace(low, 1, 51)  # 50 bins, as the paper
    figure, grid = grid_of(1, len(layers), 3.3, sharex=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        own = table[table["layer"] == layer]
        for name in objectives_in(own):
            values = own.loc[own["objective"] == name, "max_cosine"]
            fill: dict[str, Any] = {"bins": bins, "density": True, "color": COLOURS[name]}
            axes.hist(values, histtype="stepfilled", alpha=0.3, linewidth=0, **fill)
            axes.hist(values, histtype="step", linewidth=1.4, **fill)
            axes.axvline(values.mean(), color=COLOURS[name], linestyle="--", linewidth=1.6)
        axes.set(title=f"layer {layer}", xlabel=xlabel)
    grid[0, 0].set_ylabel("density")
    legend(figure, grid[0, 0], objectives_in(table))
    return figure


def similarity_trends(means: pd.DataFrame) -> Figure:
    """Fig 7: a run's mean max cosine against its L0, CE increase and alive elements."""
    layers = layers_in(means)
    figure, grid = grid_of(len(layers), 3, 0.5 + 2.4 * len(layers), sharey="row", sharex="col")
    for row, layer in zip(grid, layers, strict=True):
        own = means[means["layer"] == layer]
        for axes, x in zip(row, ("l0", "ce_increase", "alive"), strict=True):
            for name in objectives_in(own):
                part = own[own["objective"] == name]
                axes.plot(part[x], part["mean_max_cosine"], linestyle="", **style_of(name))
            if layer == layers[-1]:
                axes.set_xlabel(AXIS[x])
        row[0].set_ylabel(f"layer {layer}\nmean max cosine")
    legend(figure, grid[0, 0], objectives_in(means))
    return figure
