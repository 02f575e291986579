"""Reconstruction: error and explained variance at the SAE and at every later block."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots.style import (
    INK,
    grid_of,
    layers_in,
    legend,
    objectives_in,
    plain_numbers,
    style_of,
)


def _by_block(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """Mean over seeds at every block, bars from the smallest to the largest seed."""
    for name in objectives_in(table):
        by_block = table[table["objective"] == name].groupby("block")[column]
        mean, low, high = by_block.mean(), by_block.min(), by_block.max()
        error = np.clip([mean - low, high - mean], 0, None)
        axes.errorbar(mean.index, mean, yerr=error, capsize=3, **style_of(name))
    places = sorted(table["block"].unique())
    axes.set_xticks(places, [*map(str, places[:-1]), "end"])
    axes.set_xlabel("residual stream before block")


def mse_by_block(blocks: pd.DataFrame, column: str = "mse", log: bool = True) -> Figure:
    """Figs 2 and 6: reconstruction MSE at the SAE and at every later block, a panel a layer."""
    layers = layers_in(blocks)
    figure, grid = grid_of(1, len(layers), 3.6, sharey=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        _by_block(axes, blocks[blocks["layer"] == layer], column)
        axes.set_title(f"SAE at layer {layer}")
        if log:
            axes.set_yscale("log")
            plain_numbers(axes)
    after = ",\nafter the first token" if column == "mse_after_first" else ""
    grid[0, 0].set_ylabel(f"MSE to the clean activation{after}")
    legend(figure, grid[0, 0], objectives_in(blocks))
    return figure


def explained_variance_by_block(blocks: pd.DataFrame) -> Figure:
    """Fig 12: explained variance, (a) and (b) as the paper computes it, (c) as a ratio of sums."""
    panels = {
        "explained_variance_paper": "(a) as the paper",
        "explained_variance_layernorm": "(b) layer-normalised",
        "explained_variance": "(c) ratio of sums",
    }
    figure, grid = grid_of(1, 3, 3.6)
    for axes, (column, title) in zip(grid[0], panels.items(), strict=True):
        _by_block(axes, blocks, column)
        axes.set_title(title)
        if blocks[column].min() < -1.5:
            axes.set_yscale("symlog", linthresh=1)  # linear down to -1, then a decade a step
            plain_numbers(axes)
        axes.axhline(1, color=INK, linewidth=1, linestyle=":")
    grid[0, 0].set_ylabel("explained variance")
    legend(figure, grid[0, 0], objectives_in(blocks))
    return figure
