"""What an SAE of each objective costs the model, at the output and on the way there."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style


def plot_pareto(runs: pd.DataFrame, y_limit: float = 0.0) -> Figure:
    """Figs 1 (bottom) and 4: CE increase against L0 and against alive elements, a row a layer.

    Faint points are single SAEs (one per λ and seed); the line joins the means over seeds in
    order of CE increase. y_limit cuts the axis there; 0 shows everything.
    """
    layers = style.layers_in(runs)
    figure, grid = style.grid_of(len(layers), 2, 0.5 + 2.9 * len(layers), sharey="row")
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, x in zip(row, ("l0", "alive"), strict=True):
            for name, curve in style.by_objective(own):
                means = curve.groupby("sparsity_coeff")[[x, "ce_increase"]].mean()
                means = means.sort_values("ce_increase")
                several = len(curve["seed"].unique()) > 1
                axes.plot(means[x], means["ce_increase"], **style.of(name))
                if several:
                    axes.scatter(
                        curve[x],
                        curve["ce_increase"],
                        s=22,
                        alpha=0.45,
                        linewidths=0,
                        color=style.COLOURS[name],
                        marker=style.MARKERS[name],
                    )
            axes.set(xlabel=style.AXIS[x], title=f"layer {layer}")
            axes.set_xlim(0, 1.06 * float(own[x].max()))
        row[0].set_ylabel(style.AXIS["ce_increase"])
        lowest = min(0.0, float(own["ce_increase"].min()) * 1.05)
        top = y_limit or float(own["ce_increase"].max()) * 1.05
        row[0].set_ylim(top, lowest - 0.02 * (top - lowest))
        row[1].tick_params(labelright=True)
    style.legend(figure, grid[0, 0], style.objectives_in(runs))
    return figure


def plot_summary_ratio(ratios: pd.DataFrame) -> Figure:
    """The interpolated summary ratio with its interval, a panel a quantity, a row a layer."""
    shown = ratios.dropna(subset=["value"])
    quantities = list(shown["quantity"].unique())
    layers = style.layers_in(shown)
    figure, grid = style.grid_of(1, len(quantities), 1.3 + 0.55 * len(layers), sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        own = shown[shown["quantity"] == quantity]
        for name, shift in (("e2e", -0.13), ("e2e_ds", 0.13)):
            part = own[own["compared"] == name]
            y = [layers.index(layer) + shift for layer in part["layer"]]
            error = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
            look = style.of(name)
            axes.errorbar(part["value"], y, xerr=error, linestyle="", **look)
        target = 2.0 if quantity.startswith("L0") else 0.45
        axes.axvline(1, color=style.INK, linewidth=1)
        if not quantity.endswith("alive"):
            axes.axvline(target, color=style.INK, linewidth=1, linestyle=":")
        over = "local / e2e types" if quantity.startswith("L0") else "e2e types / local"
        axes.set(title=quantity, xlabel=f"ratio, {over}")
        axes.set_xlim(0, 1.08 * max(1, float(own[["value", "high"]].max().max())))
    grid[0, 0].set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    grid[0, 0].set_ylim(len(layers) - 0.5, -0.5)
    style.legend(figure, grid[0, 0], ["e2e", "e2e_ds"])
    return figure


def _by_block(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """Mean over seeds at every block, bars from the smallest to the largest seed."""
    for name in style.objectives_in(table):
        by_block = table[table["objective"] == name].groupby("block")[column]
        mean, low, high = by_block.mean(), by_block.min(), by_block.max()
        error = np.clip([mean - low, high - mean], 0, None)
        axes.errorbar(mean.index, mean, yerr=error, capsize=3, **style.of(name))
    places = sorted(table["block"].unique())
    axes.set_xticks(places, [*map(str, places[:-1]), "end"])
    axes.set_xlabel("residual stream before block")


def plot_mse_by_block(blocks: pd.DataFrame, column: str = "mse", log: bool = True) -> Figure:
    """Figs 2 and 6: reconstruction MSE at the SAE and at every later block, a panel a layer."""
    layers = style.layers_in(blocks)
    figure, grid = style.grid_of(1, len(layers), 3.6, sharey=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        _by_block(axes, blocks[blocks["layer"] == layer], column)
        axes.set_title(f"SAE at layer {layer}")
        if log:
            axes.set_yscale("log")
            style.plain_numbers(axes)
    after = ",\nafter the first token" if column == "mse_after_first" else ""
    grid[0, 0].set_ylabel(f"MSE to the clean activation{after}")
    style.legend(figure, grid[0, 0], style.objectives_in(blocks))
    return figure


def plot_explained_variance_by_block(blocks: pd.DataFrame) -> Figure:
    """Fig 12: explained variance, (a) and (b) as the paper computes it, (c) as a ratio of sums."""
    panels = {
        "explained_variance_paper": "(a) as the paper",
        "explained_variance_layernorm": "(b) layer-normalised",
        "explained_variance": "(c) ratio of sums",
    }
    figure, grid = style.grid_of(1, 3, 3.6)
    for axes, (column, title) in zip(grid[0], panels.items(), strict=True):
        _by_block(axes, blocks, column)
        axes.set_title(title)
        if blocks[column].min() < -1.5:
            axes.set_yscale("symlog", linthresh=1)  # linear down to -1, then a decade a step
            style.plain_numbers(axes)
        axes.axhline(1, color=style.INK, linewidth=1, linestyle=":")
    grid[0, 0].set_ylabel("explained variance")
    style.legend(figure, grid[0, 0], style.objectives_in(blocks))
    return figure
