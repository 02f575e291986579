"""What an SAE of each objective, and of each sparsifier, costs the model."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style

BLOCKS_NAMED = 8  # of a deeper model every second block has a tick, or fewer
MATRIX = {  # of objective × sparsifier: name on the axis, and whether it is logarithmic
    "ce_increase": ("CE increase\n(nats)", True),
    "kl": ("KL\n(nats)", True),
    "alive": ("alive\nelements", False),
    "carried_function": ("carried\nfunction S", False),
    "spurious_response": ("spurious\nresponse R (nats)", True),
    "selectivity": ("selectivity", False),
    "waste_l0": ("waste\n(share of L0)", False),
}


def plot_pareto(
    runs: pd.DataFrame,
    y_limit: float = 0.0,
    log: bool = True,
    over: pd.DataFrame | None = None,
    label: str = "",
) -> Figure:
    """Figs 1 (bottom) and 4: CE increase against L0 and against alive elements, a row a layer.

    Faint points are single SAEs (one per λ and seed); the line joins the means over seeds in
    order of λ. y_limit cuts the axis there; 0 shows everything. log: of the y axis, on which
    equal ratios are equally far apart; the paper's is linear. over: further runs, hollow,
    named `label` (`matched.laid_over`).
    """
    layers = style.layers_in(runs)
    figure, grid = style.grid_of(len(layers), 2, 0.5 + 2.9 * len(layers), sharey="row")
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, x in zip(row, ("l0", "alive"), strict=True):
            for name, curve in style.by_objective(own):
                means = curve.groupby("sparsity_coeff")[[x, "ce_increase"]].mean()
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
            shown = own
            if over is not None and len(over):
                others = over[over["layer"] == layer]
                style.laid_over(axes, others, x, "ce_increase", label)
                shown = pd.concat([own, others])
            axes.set(xlabel=style.AXIS[x], title=f"layer {layer}")
            axes.set_xlim(0, 1.06 * float(shown[x].max()))
            style.harm_axis(axes, shown["ce_increase"], log, y_limit)
        row[0].set_ylabel(style.AXIS["ce_increase"])
        row[1].tick_params(labelright=True)
    style.legend(figure, grid[0, 0], style.objectives_in(runs))
    return figure


def plot_summary_ratio(ratios: pd.DataFrame) -> Figure:
    """The interpolated summary ratio with its interval, a panel a quantity, a row a layer.

    Ratios are logarithmic; one that is not above 0 stands at the left edge and says so. Intervals
    may leave the frame.
    """
    shown = ratios.dropna(subset=["value"])
    quantities = list(shown["quantity"].unique())
    layers = style.layers_in(shown)
    figure, grid = style.grid_of(1, len(quantities), 1.3 + 0.55 * len(layers), sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        own = shown[shown["quantity"] == quantity]
        target = 2.0 if quantity.startswith("L0") else 0.45
        marks = [target, 1.0, *own["value"][own["value"] > 0]]
        ends = min(marks) / 2.5, max(marks) * 2.5
        for name, shift in (("e2e", -0.13), ("e2e_ds", 0.13)):
            part = own[own["compared"] == name]
            y = [layers.index(layer) + shift for layer in part["layer"]]
            value = part["value"].where(part["value"] > 0, ends[0])
            error = np.clip([value - part["low"].clip(ends[0] / 2), part["high"] - value], 0, None)
            axes.errorbar(value, y, xerr=error, linestyle="", **style.of(name))
            for place in np.array(y)[(part["value"] <= 0).to_numpy()]:
                axes.annotate("≤ 0", (ends[0], place), (7, 0), textcoords="offset points")
        axes.axvline(1, color=style.INK, linewidth=1)
        if not quantity.endswith("alive"):
            axes.axvline(target, color=style.INK, linewidth=1, linestyle=":")
        over = "local / e2e types" if quantity.startswith("L0") else "e2e types / local"
        axes.set(title=quantity, xlabel=f"ratio, {over}")
        axes.set(xscale="log", xlim=(0.9 * ends[0], ends[1]))
        style.plain_numbers(axes, "x")
    grid[0, 0].set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    grid[0, 0].set_ylim(len(layers) - 0.5, -0.5)
    style.legend(figure, grid[0, 0], ["e2e", "e2e_ds"])
    return figure


def _by_block(
    axes: Axes, table: pd.DataFrame, column: str, over: pd.DataFrame | None = None, label: str = ""
) -> None:
    """Mean over seeds at every block, bars from the smallest to the largest seed."""
    for name in style.objectives_in(table):
        by_block = table[table["objective"] == name].groupby("block")[column]
        mean, low, high = by_block.mean(), by_block.min(), by_block.max()
        error = np.clip([mean - low, high - mean], 0, None)
        axes.errorbar(mean.index, mean, yerr=error, capsize=3, **style.of(name))
    if over is not None and len(over):
        style.laid_over(axes, over, "block", column, label, linestyle=":", linewidth=1.2)
    places = sorted(table["block"].unique())
    step = -(-len(places) // BLOCKS_NAMED)
    shown = places[:-step:step]
    axes.set_xticks([*shown, places[-1]], [*map(str, shown), "end"])
    axes.set_xlabel("residual stream before block")


def plot_mse_by_block(
    blocks: pd.DataFrame,
    column: str = "mse",
    log: bool = True,
    over: pd.DataFrame | None = None,
    label: str = "",
) -> Figure:
    """Figs 2 and 6: reconstruction MSE at the SAE and at every later block, a panel a layer.

    over: blocks of further runs, one an objective and layer, hollow and dotted, named `label`.
    """
    layers = style.layers_in(blocks)
    figure, grid = style.grid_of(1, len(layers), 3.6, sharey=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        others = None if over is None else over[over["layer"] == layer]
        _by_block(axes, blocks[blocks["layer"] == layer], column, others, label)
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


def plot_matrix(table: pd.DataFrame) -> Figure:
    """Objective × sparsifier: a row a quantity, a column an L0, sparsifiers side by side.

    table: columns at (the L0), sparsifier, objective, quantity, value, low, high, of one layer;
    infinite values are left out. Intervals of few seeds may be cut off by the axis, which is as
    long as the values need.
    """
    known = table[np.isfinite(table["value"])]
    names = [name for name in MATRIX if name in set(known["quantity"])]
    columns, present = sorted(known["at"].unique()), style.objectives_in(known)
    kinds = [name for name in style.SPARSIFIERS if name in set(known["sparsifier"])]
    height = 0.7 + 1.75 * len(names)
    figure, grid = style.grid_of(len(names), len(columns), height, sharey="row", sharex=True)
    shift = np.linspace(-0.3, 0.3, len(present)) if len(present) > 1 else [0.0]
    for row, name in zip(grid, names, strict=True):
        label, log = MATRIX[name]
        own = known[known["quantity"] == name]
        for axes, at in zip(row, columns, strict=True):
            for place, objective in zip(shift, present, strict=True):
                part = own[(own["at"] == at) & (own["objective"] == objective)]
                x = np.array([kinds.index(kind) for kind in part["sparsifier"]]) + place
                look = {"linestyle": "", "capsize": 2, **style.of(objective)}
                axes.errorbar(x, part["value"], yerr=style.error_of(part), **look)
        positive = log and bool((own["value"] > 0).all())
        row[0].set(ylabel=label, yscale="log" if positive else "linear")
        low, high = own["value"].min(), own["value"].max()
        spare = (high - low) / 3 or abs(high) / 3 or 0.5
        row[0].set_ylim(*((low / 1.6, high * 1.6) if positive else (low - spare, high + spare)))
        style.plain_numbers(row[0])
    for axes, at in zip(grid[0], columns, strict=True):
        axes.set_title(f"L0 = {at:g}")
    for axes in grid[-1]:
        axes.set_xticks(range(len(kinds)), [style.SPARSIFIERS[kind] for kind in kinds])
        axes.tick_params(axis="x", labelsize=8.5)
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    style.legend(figure, grid[0, 0], present)
    return figure
