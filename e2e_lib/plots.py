"""The house style and one function per figure: tidy table in, matplotlib figure out.

Colours and markers are the paper's; together with different markers and a fixed order (local,
e2e, e2e+ds) they stay apart for colour-blind readers and in grey. On performance plots the y axis
is inverted, as in the paper, so better is up and to the left.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from e2e_lib.matching import OBJECTIVES
from e2e_lib.runs import write_json

LABELS = {"local": "local", "e2e": "e2e", "e2e_ds": "e2e+ds"}
COLOURS = {"local": "#f0a70a", "e2e": "#518c31", "e2e_ds": "#6b6ecf"}
MARKERS = {"local": "^", "e2e": "o", "e2e_ds": "X"}
SIZES = {"local": 8.0, "e2e": 7.0, "e2e_ds": 8.5}  # so that all three look equally large
WIDTH, DPI = 9.0, 150  # inches; 1350 pixels wide, sharp at the 900 that a reader sees
INK = "#3c4254"
AXIS = {
    "l0": "L0 (active elements a token)",
    "alive": "alive dictionary elements",
    "ce_increase": "CE loss increase (nats a token)",
}


def use_house_style() -> None:
    """Seaborn's darkgrid on the paper's light face, type that is legible at 900 pixels."""
    sns.set_theme(
        style="darkgrid",
        rc={
            "axes.facecolor": "#f5f6fc", "grid.color": "#dde1ef", "grid.linewidth": 0.8,
            "figure.dpi": DPI, "savefig.dpi": DPI, "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": 0.08, "figure.constrained_layout.h_pad": 0.06,
            "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "legend.fontsize": 10,
            "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
            "axes.titleweight": "bold", "lines.linewidth": 1.8, "lines.markersize": 7,
        },
    )  # fmt: skip


def _grid(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    use_house_style()
    # One panel alone at full width would be a letterbox.
    width = WIDTH if rows * columns > 1 else 0.72 * WIDTH
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def _legend(figure: Figure, axes: Axes, objectives: Sequence[str]) -> None:
    """One legend above all panels, in the fixed order."""
    for name in (o for o in OBJECTIVES if o in objectives):
        axes.plot(
            [], [], color=COLOURS[name], marker=MARKERS[name], mec="white", label=LABELS[name]
        )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _style(objective: str) -> dict[str, Any]:
    return {
        "color": COLOURS[objective], "marker": MARKERS[objective], "markersize": SIZES[objective],
        "markeredgecolor": "white", "markeredgewidth": 0.7,
    }  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    """0.1 and 10 instead of powers of ten on a logarithmic y axis."""
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def _objectives(table: pd.DataFrame) -> list[str]:
    present = set(table["objective"])
    return [name for name in OBJECTIVES if name in present]


def _layers(table: pd.DataFrame) -> list[int]:
    return [int(layer) for layer in sorted(table["layer"].unique())]


def pareto(runs: pd.DataFrame, y_limit: float = 0.0) -> Figure:
    """Figs 1 (bottom) and 4: CE increase against L0 and against alive elements, a row a layer.

    Faint points are single SAEs (one per λ and seed); the line joins the means over seeds in
    order of CE increase. y_limit cuts the axis there; 0 shows everything.
    """
    layers = _layers(runs)
    figure, grid = _grid(len(layers), 2, 0.5 + 2.9 * len(layers), sharey="row")
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, x in zip(row, ("l0", "alive"), strict=True):
            for name in _objectives(own):
                curve = own[own["objective"] == name]
                means = curve.groupby("sparsity_coeff")[[x, "ce_increase"]].mean()
                means = means.sort_values("ce_increase")
                several = len(curve["seed"].unique()) > 1
                axes.plot(means[x], means["ce_increase"], **_style(name))
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
            axes.set_xlim(left=0)
        row[0].set_ylabel(AXIS["ce_increase"])
        lowest = min(0.0, float(own["ce_increase"].min()) * 1.05)
        top = y_limit or float(own["ce_increase"].max()) * 1.05
        row[0].set_ylim(top, lowest - 0.02 * (top - lowest))
        row[1].tick_params(labelright=True)
    _legend(figure, grid[0, 0], _objectives(runs))
    return figure


def summary_ratio(ratios: pd.DataFrame) -> Figure:
    """The interpolated summary ratio with its interval, a panel a quantity, a row a layer."""
    shown = ratios.dropna(subset=["value"])
    quantities = list(shown["quantity"].unique())
    layers = _layers(shown)
    figure, grid = _grid(1, len(quantities), 1.3 + 0.55 * len(layers), sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        own = shown[shown["quantity"] == quantity]
        for name, shift in (("e2e", -0.13), ("e2e_ds", 0.13)):
            part = own[own["compared"] == name]
            y = [layers.index(layer) + shift for layer in part["layer"]]
            error = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
            style = _style(name)
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
    _legend(figure, grid[0, 0], ["e2e", "e2e_ds"])
    return figure


def _by_block(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """Mean over seeds at every block, bars from the smallest to the largest seed."""
    for name in _objectives(table):
        by_block = table[table["objective"] == name].groupby("block")[column]
        mean, low, high = by_block.mean(), by_block.min(), by_block.max()
        error = np.clip([mean - low, high - mean], 0, None)
        axes.errorbar(mean.index, mean, yerr=error, capsize=3, **_style(name))
    places = sorted(table["block"].unique())
    axes.set_xticks(places, [*map(str, places[:-1]), "end"])
    axes.set_xlabel("residual stream before block")


def mse_by_block(blocks: pd.DataFrame, column: str = "mse", log: bool = True) -> Figure:
    """Figs 2 and 6: reconstruction MSE at the SAE and at every later block, a panel a layer."""
    layers = _layers(blocks)
    figure, grid = _grid(1, len(layers), 3.6, sharey=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        _by_block(axes, blocks[blocks["layer"] == layer], column)
        axes.set_title(f"SAE at layer {layer}")
        if log:
            axes.set_yscale("log")
            _plain_numbers(axes)
    after = ", after the first token" if column == "mse_after_first" else ""
    grid[0, 0].set_ylabel(f"MSE to the clean activation{after}")
    _legend(figure, grid[0, 0], _objectives(blocks))
    return figure


def explained_variance_by_block(blocks: pd.DataFrame) -> Figure:
    """Fig 12: explained variance, (a) and (b) as the paper computes it, (c) as a ratio of sums."""
    panels = {
        "explained_variance_paper": "(a) as the paper",
        "explained_variance_layernorm": "(b) layer-normalised",
        "explained_variance": "(c) ratio of sums",
    }
    figure, grid = _grid(1, 3, 3.6)
    for axes, (column, title) in zip(grid[0], panels.items(), strict=True):
        _by_block(axes, blocks, column)
        axes.set_title(title)
        if blocks[column].min() < -1.5:
            axes.set_yscale("symlog", linthresh=1)  # linear down to -1, then a decade a step
            _plain_numbers(axes)
        axes.axhline(1, color=INK, linewidth=1, linestyle=":")
    grid[0, 0].set_ylabel("explained variance")
    _legend(figure, grid[0, 0], _objectives(blocks))
    return figure


def similarity_histograms(table: pd.DataFrame, xlabel: str) -> Figure:
    """Figs 3 and 8: density of alive elements' largest cosines, dashed mean, a panel a layer."""
    layers = _layers(table)
    low = max(-1.0, float(table["max_cosine"].min()))
    bins = np.linspace(low, 1, 51)  # 50 bins, as the paper
    figure, grid = _grid(1, len(layers), 3.3, sharex=True)
    for axes, layer in zip(grid[0], layers, strict=True):
        own = table[table["layer"] == layer]
        for name in _objectives(own):
            values = own.loc[own["objective"] == name, "max_cosine"]
            fill: dict[str, Any] = {"bins": bins, "density": True, "color": COLOURS[name]}
            axes.hist(values, histtype="stepfilled", alpha=0.3, linewidth=0, **fill)
            axes.hist(values, histtype="step", linewidth=1.4, **fill)
            axes.axvline(values.mean(), color=COLOURS[name], linestyle="--", linewidth=1.6)
        axes.set(title=f"layer {layer}", xlabel=xlabel)
    grid[0, 0].set_ylabel("density")
    _legend(figure, grid[0, 0], _objectives(table))
    return figure


def similarity_trends(means: pd.DataFrame) -> Figure:
    """Fig 7: a run's mean max cosine against its L0, CE increase and alive elements."""
    layers = _layers(means)
    figure, grid = _grid(len(layers), 3, 0.5 + 2.4 * len(layers), sharey="row", sharex="col")
    for row, layer in zip(grid, layers, strict=True):
        own = means[means["layer"] == layer]
        for axes, x in zip(row, ("l0", "ce_increase", "alive"), strict=True):
            for name in _objectives(own):
                part = own[own["objective"] == name]
                axes.plot(part[x], part["mean_max_cosine"], linestyle="", **_style(name))
            if layer == layers[-1]:
                axes.set_xlabel(AXIS[x])
        row[0].set_ylabel(f"layer {layer}\nmean max cosine")
    _legend(figure, grid[0, 0], _objectives(means))
    return figure


def claims_forest(table: pd.DataFrame) -> Figure:
    """A strip a claim, each with its own scale: value, interval, and shaded where the claim holds.

    table: columns id, short, value, low, high, holds, and the claim's bounds above and below
    (NaN for none).
    """
    shown = table.dropna(subset=["value"])
    use_house_style()
    figure, grid = plt.subplots(
        len(shown), 1, figsize=(WIDTH, 0.3 + 0.44 * len(shown)), squeeze=False
    )
    for axes, row in zip(grid[:, 0], shown.itertuples(), strict=True):
        points = [row.value, row.low, row.high, row.above, row.below]
        known = [float(x) for x in points if pd.notna(x)]
        margin = 0.12 * (max(known) - min(known)) or 0.5
        left, right = min(known) - margin, max(known) + margin
        above = left if pd.isna(row.above) else row.above
        axes.axvspan(above, right if pd.isna(row.below) else row.below, color="#cfe6d4", zorder=0)
        axes.axvspan(left, left, color="none")
        colour, marker = ("#2b7a3d", "o") if row.holds else ("#b5352a", "X")
        if pd.notna(row.low):
            axes.plot([row.low, row.high], [0, 0], color=colour, linewidth=2.4)
        axes.plot(row.value, 0, color=colour, marker=marker, markersize=9, mec="white")
        axes.set(xlim=(left, right), ylim=(-1, 1), yticks=[0])
        axes.set_yticklabels([f"{row.id}  {row.short}"], fontsize=9.5)
        axes.tick_params(axis="x", labelsize=8.5, pad=0)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    return figure


def save_figure(
    figure: Figure, table: pd.DataFrame, results: Path, name: str,
    *, title: str, alt: str, caption: str, paper: str,
) -> Figure:  # fmt: skip
    """Write figures/NAME.png, NAME.csv (the plotted data) and NAME.json (the four texts).

    alt: what is to be seen, for who cannot see it. paper: what the paper shows in its place.
    Returns the figure, closed, so that as the last expression of a cell it is shown once.
    """
    folder = Path(results) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"name": name, "title": title, "alt": alt, "caption": caption, "paper": paper}
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    # 256 colours are enough for a plot, and keep the committed pictures small.
    Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        folder / f"{name}.png", optimize=True, dpi=(DPI, DPI)
    )
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    write_json(folder / f"{name}.json", texts)
    (Path(results) / "skipped" / f"{name}.json").unlink(missing_ok=True)
    plt.close(figure)
    return figure


def save_table(
    table: pd.DataFrame, results: Path, name: str, *, title: str, caption: str, paper: str
) -> pd.DataFrame:
    """Write tables/NAME.csv and tables/NAME.json (the three texts); returns the table."""
    folder = Path(results) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"name": name, "title": title, "caption": caption, "paper": paper}
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    write_json(folder / f"{name}.json", texts)
    (Path(results) / "skipped" / f"{name}.json").unlink(missing_ok=True)
    return table
