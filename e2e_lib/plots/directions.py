"""Principal directions: elements along one, projections on it, what SAEs keep, what matters.

Also which decisions of the embedded world matter.
"""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style

BACKGROUND = "#dde1ef"
# Kinds of token in drawing order: the many first. Colours are no objective's.
KINDS = {"other": "#767c92", "end of text, later": "#0f8b8d", "position 0": "#c8372d"}
KIND_LINES = {"other": "-", "end of text, later": "--", "position 0": ":"}
BINS = 40  # as the paper
VERDICTS: dict[str, dict[str, Any]] = {
    "used": {"color": "#0f8b8d", "marker": "o"},
    "undecided": {"color": "#767c92", "marker": "D"},
    "unused": {"color": "#c8372d", "marker": "s", "markerfacecolor": "none"},
}
LEAST = 1e-5  # nats, and shares of twice the variance: no axis begins below


def plot_cosine_map(points: pd.DataFrame) -> Figure:
    """Fig 21: a map of all dictionaries, a panel an objective, its elements coloured by their
    cosine with direction 0 (from −0.5 to 0.5, as the paper), the other dictionaries' in grey.

    points: columns objective, x, y, cosine.
    """
    names = style.objectives_in(points)
    figure, grid = style.grid_of(1, len(names), 3.6)
    size = min(26.0, max(1.5, 24000 / len(points)))
    for axes, name in zip(grid[0], names, strict=True):
        rest = points[points["objective"] != name]
        own = points[points["objective"] == name]
        own = own.loc[own["cosine"].abs().sort_values().index]  # the strongest on top
        axes.scatter(rest["x"], rest["y"], s=0.3 * size, color=BACKGROUND, linewidths=0)
        shown = axes.scatter(
            own["x"], own["y"], c=own["cosine"], s=size, marker=style.MARKERS[name],
            cmap="RdBu_r", vmin=-0.5, vmax=0.5, linewidths=0.35, edgecolors=style.INK,
        )  # fmt: skip
        axes.set(title=style.LABELS[name], xlabel="UMAP 1", xticks=[], yticks=[])
    grid[0, 0].set_ylabel("UMAP 2")
    figure.colorbar(
        shown,
        ax=grid[0].tolist(),
        label="cosine with direction 0",
        pad=0.02,
        extend="both",
    )
    return figure


def plot_projection_histogram(table: pd.DataFrame) -> Figure:
    """Fig 22: density of the projections on direction 0 by kind of token (each kind's area is 1).

    Where position 0 lies farther from the rest than all of them are wide, the axis is broken.

    table: columns kind and projection, as `pca_direction.projection_table` returns it.
    """
    first = table["kind"] == "position 0"
    parts = [table.loc[~first, "projection"], table.loc[first, "projection"]]
    spans = sorted((float(part.min()), float(part.max())) for part in parts if len(part))
    gap = spans[-1][0] - spans[0][1]
    if gap <= sum(high - low for low, high in spans):
        spans = [(min(low for low, _ in spans), max(high for _, high in spans))]
    figure, grid = style.grid_of(1, len(spans), 3.6, sharey=True)
    for axes, (low, high) in zip(grid[0], spans, strict=True):
        margin = 0.04 * (high - low) or 0.5
        bins = np.linspace(low - margin, high + margin, BINS + 1)
        for kind, colour in KINDS.items():
            values = table.loc[table["kind"] == kind, "projection"]
            _density(axes, values, bins, colour, KIND_LINES[kind])
        axes.set(xlim=(bins[0], bins[-1]), xlabel="projection on direction 0")
    grid[0, 0].set_ylabel("density")
    for kind, colour in KINDS.items():
        if (table["kind"] == kind).any():
            grid[0, 0].plot([], [], color=colour, linestyle=KIND_LINES[kind], label=kind)
    style.legend_above(figure, [grid[0, 0]])
    return figure


def _density(axes: Axes, values: pd.Series, bins: np.ndarray, colour: str, line: str) -> None:
    """Shares of all `values`, also of those outside the bins, a unit of the axis."""
    if values.empty:
        return
    counts, _ = np.histogram(values, bins)
    density = counts / len(values) / np.diff(bins)
    axes.stairs(density, bins, fill=True, color=colour, alpha=0.3)
    axes.stairs(density, bins, color=colour, linewidth=1.6, linestyle=line)


def plot_correlation_by_direction(table: pd.DataFrame) -> Figure:
    """Fig 23a: r of SAE input and output along each direction, bars: 95 % intervals.

    The axis is as long as the means need; of few seeds an interval may be cut off by it.
    """
    figure, grid = style.grid_of(1, 1, 3.8)
    axes = grid[0, 0]
    names = style.objectives_in(table)
    for name, shift in zip(names, (-0.15, 0.0, 0.15), strict=False):
        own = table[table["objective"] == name]
        look = style.of(name) | {"markersize": 6, "linewidth": 0.8, "elinewidth": 1.2}
        axes.errorbar(own["direction"] + shift, own["value"], yerr=style.error_of(own), **look)
    low, high = float(table["value"].min()), max(1.0, float(table["value"].max()))
    spare = (high - low) or 0.1
    axes.set_ylim(low - 0.3 * spare, high + 0.1 * spare)
    axes.set(xlabel="PCA direction", ylabel="correlation of input and output")
    style.legend(figure, axes, names)
    return figure


def plot_ablation_by_direction(table: pd.DataFrame) -> Figure:
    """Fig 23b: mean KL after resampling each direction; beside it, against how much the
    activations vary along it after position 0, direction 0 marked. The axis is logarithmic.

    table: columns direction, kl and kl_paper with their intervals, and spread.
    """
    figure, grid = style.grid_of(1, 2, 3.8, sharey=True, width_ratios=[1.6, 1])
    left, right = grid[0]
    error = style.error_of(table, "kl", "kl_{}")
    look = {"color": style.INK, "linestyle": "", "capsize": 2, "elinewidth": 1.2}
    clean = left.errorbar(
        table["direction"], table["kl"], yerr=error, marker="o", markersize=5,
        label="KL(clean ‖ ablated)", **look,
    )  # fmt: skip
    (paper,) = left.plot(
        table["direction"], table["kl_paper"], marker="s", markersize=7, linestyle="",
        markerfacecolor="none", markeredgecolor="#b0722e", label="KL(ablated ‖ clean)",
    )  # fmt: skip
    left.set(xlabel="PCA direction", ylabel="KL after resampling (nats a token)")
    right.errorbar(table["spread"], table["kl"], yerr=error, marker="o", markersize=5, **look)
    zero = table[table["direction"] == 0]
    (first,) = right.plot(
        zero["spread"], zero["kl"], marker="o", markersize=12, linestyle="",
        markerfacecolor="none", markeredgecolor="#c8372d", label="direction 0",
    )  # fmt: skip
    right.set_xlabel("spread after position 0")
    ends = table["kl_low"][table["kl_low"] > 0]
    style.wide_axis(left, pd.concat([table["kl"], table["kl_paper"], ends]))
    right.set_xlim(0, 1.1 * float(table["spread"].max()))
    entries = [clean, paper, first]
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries), frameon=False)
    return figure


def plot_use(table: pd.DataFrame) -> Figure:
    """Per kind of decision, at one layer: how much the network uses it, how much of it is there.

    table: a layer of `counterfactual.use.use_table`; the kinds from top to bottom by use. The line
    is the threshold of the verdict. What is below an axis (`beginning`) is drawn at its beginning.
    """
    table = table.sort_values("use", ascending=False, ignore_index=True)
    figure, grid = style.grid_of(1, 2, 1.2 + 0.2 * len(table), sharey=True)
    for axes, column in zip(grid[0], ("use", "presence"), strict=True):
        axes.set_xscale("log")
        least = beginning(table[column])
        for verdict, look in VERDICTS.items():
            own = table[table["verdict"] == verdict]
            value, low, high = (
                own[column + end].clip(lower=least) for end in ("", "_low", "_high")
            )
            axes.errorbar(
                value, own.index, xerr=[value - low, high - value], linestyle="", markersize=6,
                elinewidth=1.2, capsize=2, label=verdict if len(own) else None, **look,
            )  # fmt: skip
        axes.set_xlim(left=least / 1.5)
        axes.xaxis.set_major_locator(mpl.ticker.LogLocator(numticks=9))
    left, right = grid[0]
    left.axvline(float(table["threshold"].iloc[0]), color=style.INK, linewidth=1, linestyle=":")
    left.set_yticks(table.index, table["kind"], fontsize=8.5)
    left.set_ylim(len(table) - 0.4, -0.6)
    left.set(title="use", xlabel="KL of later predictions (nats)")
    right.set(title="presence", xlabel="‖Δx‖² / twice the variance")
    style.legend_above(figure, [left])
    return figure


def beginning(values: pd.Series) -> float:
    """Of an axis of use or presence: the power of ten below the smallest mean, at least `LEAST`."""
    return float(10 ** np.floor(np.log10(max(LEAST, float(values.min())) * (1 + 1e-9))))


def plot_use_by_layer(table: pd.DataFrame) -> Figure:
    """The same at every layer, as colours; a dot where a kind is used."""
    layers = sorted(table["layer"].unique())
    first = table.groupby("kind")["use"].max().sort_values(ascending=False)
    figure, grid = style.grid_of(1, 2, 1.2 + 0.2 * len(first), sharey=True)
    shown = table.assign(used=table["verdict"] == "used")
    names = {"use": "nats", "presence": "share of twice the variance"}
    for axes, (column, unit) in zip(grid[0], names.items(), strict=True):
        values, used = (
            shown.pivot_table(index="kind", columns="layer", values=name, dropna=False)
            .loc[first.index, layers]
            .to_numpy(dtype=float)
            for name in (column, "used")
        )
        least = beginning(table[column])
        norm = mpl.colors.LogNorm(least, max(float(np.nanmax(values)), 10 * least), clip=True)
        image = axes.imshow(values, norm=norm, cmap="viridis", aspect="auto")
        where = np.nonzero(used)[::-1]
        axes.scatter(*where, s=9, color="white", edgecolors=style.INK, linewidths=0.5)
        axes.grid(visible=False)
        axes.set(title=column, xlabel="residual stream before block")
        axes.set_xticks(range(len(layers)), layers)
        figure.colorbar(image, ax=axes, label=unit, pad=0.02)
    grid[0, 0].set_yticks(range(len(first)), first.index, fontsize=8.5)
    return figure
