"""Performance: what an SAE of each objective costs the model, and how far apart the curves lie."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from e2e_lib.plots.style import (
    AXIS,
    COLOURS,
    INK,
    MARKERS,
    grid_of,
    layers_in,
    legend,
    objectives_in,
    style_of,
)


def pareto(runs: pd.DataFrame, y_limit: float = 0.0) -> Figure:
    """Figs 1 (bottom) and 4: CE increase against L0 and against alive elements, a row a layer.

    Faint points are single SAEs (one per λ and seed); the line joins the means over seeds in
    order of CE increase. y_limit cuts the axis there; 0 shows everything.
    """
    layers = layers_in(runs)
    figure, grid = grid_of(len(layers), 2, 0.5 + 2.9 * len(layers), sharey="row")
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, x in zip(row, ("l0", "alive"), strict=True):
            for name in objectives_in(own):
                curve = own[own["objective"] == name]
                means = curve.groupby("sparsity_coeff")[[x, "ce_increase"]].mean()
                means = means.sort_values("ce_increase")
                several = len(curve["seed"].unique()) > 1
                axes.plot(means[x], means["ce_increase"], **style_of(name))
                if several:
                    axes.scatter(
                        curve[x],
                        curve["ce_increase"],
                        s=22,
                        alpha=0.45,
                        linewidths=0,
                        color=COLOURS[name],
                        marker=MARKERS[name],
                    )
            axes.set(xlabel=AXIS[x], title=f"layer {layer}")
            axes.set_xlim(0, 1.06 * float(own[x].max()))
        row[0].set_ylabel(AXIS["ce_increase"])
        lowest = min(0.0, float(own["ce_increase"].min()) * 1.05)
        top = y_limit or float(own["ce_increase"].max()) * 1.05
        row[0].set_ylim(top, lowest - 0.02 * (top - lowest))
        row[1].tick_params(labelright=True)
    legend(figure, grid[0, 0], objectives_in(runs))
    return figure


def summary_ratio(ratios: pd.DataFrame) -> Figure:
    """The interpolated summary ratio with its interval, a panel a quantity, a row a layer."""
    shown = ratios.dropna(subset=["value"])
    quantities = list(shown["quantity"].unique())
    layers = layers_in(shown)
    figure, grid = grid_of(1, len(quantities), 1.3 + 0.55 * len(layers), sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        own = shown[shown["quantity"] == quantity]
        for name, shift in (("e2e", -0.13), ("e2e_ds", 0.13)):
            part = own[own["compared"] == name]
            y = [layers.index(layer) + shift for layer in part["layer"]]
            error = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
            style = style_of(name)
            axes.errorbar(part["value"], y, xerr=error, linestyle="", **style)
        target = 2.0 if quantity.startswith("L0") else 0.45
        axes.axvline(1, color=INK, linewidth=1)
        if not quantity.endswith("alive"):
            axes.axvline(target, color=INK, linewidth=1, linestyle=":")
        over = "local / e2e types" if quantity.startswith("L0") else "e2e types / local"
        axes.set(title=quantity, xlabel=f"ratio, {over}")
        axes.set_xlim(0, 1.08 * max(1, float(own[["value", "high"]].max().max())))
    grid[0, 0].set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    grid[0, 0].set_ylim(len(layers) - 0.5, -0.5)
    legend(figure, grid[0, 0], ["e2e", "e2e_ds"])
    return figure
