"""The house style, and what all figures share.

Markers are the paper's, and so are colours, but for local's, which is darker: every series has a
contrast of at least 3 to white, and a second channel beside its colour: a marker, or where there
are no points a line of its own. With a fixed order (local, e2e, e2e+ds) they stay apart for
colour-blind readers and in grey. On performance plots the y axis is inverted, as in the paper, so
better is up and to the left.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.names import EVERY_OBJECTIVE

# After the paper's three those that it does not have.
LABELS = {"local": "local", "e2e": "e2e", "e2e_ds": "e2e+ds"}
LABELS |= {"finetune": "fine-tuned", "finetune_ds": "fine-tuned+ds", "gradmse": "gradmse"}
COLOURS = {"local": "#bf7a00", "e2e": "#518c31", "e2e_ds": "#6b6ecf"}
COLOURS |= {"finetune": "#222b45", "finetune_ds": "#7a8299", "gradmse": "#b5352a"}
MARKERS = {"local": "^", "e2e": "o", "e2e_ds": "X", "finetune": "D", "finetune_ds": "P"}
MARKERS |= {"gradmse": "v"}
LINES = {"local": "-", "e2e": "--", "e2e_ds": ":"}  # of outlines, which have no markers
SIZES = {"local": 8.0, "e2e": 7.0, "e2e_ds": 8.5}  # so that all look equally large
SIZES |= {"finetune": 6.0, "finetune_ds": 8.0, "gradmse": 8.0}
SPARSIFIERS = {"relu": "ReLU", "topk": "TopK", "batchtopk": "BatchTopK"}
SPARSIFIERS |= {"matryoshka": "Matryoshka", "jumprelu": "JumpReLU"}
WIDTH, DPI = 9.0, 150  # inches; 1350 pixels wide, sharp at the 900 that a reader sees
INK = "#3c4254"
MARGIN = 1.3  # of a logarithmic axis: marks at its ends are whole
AXIS = {
    "l0": "L0 (active elements a token)",
    "alive": "alive dictionary elements",
    "ce_increase": "CE loss increase (nats a token)",
}


def use_house_style() -> None:
    """Seaborn's darkgrid on the paper's light face, type that is legible at 900 pixels."""
    import seaborn as sns  # here: it takes a second, and who reads runs draws none

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


def grid_of(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    use_house_style()
    # One panel alone at full width would be a letterbox.
    width = WIDTH if rows * columns > 1 else 0.72 * WIDTH
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def legend(figure: Figure, axes: Axes, objectives: Sequence[str]) -> None:
    """One legend above all panels, in the fixed order."""
    for name in (o for o in EVERY_OBJECTIVE if o in objectives):
        axes.plot([], [], label=LABELS[name], **of(name))
    legend_above(figure, [axes])


def laid_over(axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, **options: Any) -> None:
    """Runs of another folder over what is drawn: hollow squares, with the folder's name.

    table: a row a point, columns objective, `x` and `y`. options: as for `Axes.plot`.
    """
    label = label.rstrip("/").rsplit("/", 1)[-1]
    for name, own in by_objective(table):
        look: dict[str, Any] = {"marker": "s", "markersize": 9, "markerfacecolor": "none"}
        look |= {"markeredgecolor": COLOURS[name], "color": COLOURS[name], "markeredgewidth": 1.8}
        look |= {"linestyle": "", "zorder": 6, "label": f"{LABELS[name]}, {label}"} | options
        axes.plot(own[x], own[y], **look)


def outlines_legend(figure: Figure, axes: Axes, objectives: Sequence[str]) -> None:
    """The same for outlines with a mark at their mean."""
    for name in (o for o in LINES if o in objectives):
        axes.plot([], [], label=LABELS[name], linestyle=LINES[name], **of(name))
    legend_above(figure, [axes])


def mark_mean(axes: Axes, value: float, color: Any, marker: str, linestyle: Any = "-") -> None:
    """A line at a mean, thin, with a marker near its top."""
    axes.axvline(value, color=color, linestyle=linestyle, linewidth=1.2)
    look: dict[str, Any] = {"color": color, "mec": "white", "mew": 0.7, "markersize": 8}
    axes.plot(value, 0.94, marker=marker, transform=axes.get_xaxis_transform(), **look)


def harm_axis(axes: Axes, values: pd.Series, log: bool = True, limit: float = 0.0) -> None:
    """CE increase upside down, better is up: `wide_axis`, or linear; a `limit` cuts it.

    Values that are not finite take no part; where there is no other the axis stays as it is.
    """
    values = values[np.isfinite(values)]
    if values.empty:
        return
    lowest, highest = float(values.min()), float(values.max())
    if log and highest > max(0.0, lowest) and not 0 < limit <= lowest:
        wide_axis(axes, values)
        bottom, top = axes.get_ylim()
        axes.set_ylim(limit or top, bottom)
    else:
        top, lowest = limit or max(0.0, highest * 1.05), min(0.0, lowest * 1.05)
        top = top if top > lowest else 1e-3  # all of them are 0
        axes.set_ylim(top, lowest - 0.03 * (top - lowest))


def wide_axis(axes: Axes, values: pd.Series, which: str = "y") -> None:
    """A logarithmic axis with plain numbers; where not all values are above 0, so that it cannot
    be, one that is linear around 0 (shaded, with a line at 0) and logarithmic beyond.

    Values that are not finite take no part, as in `harm_axis`.
    """
    values = values[np.isfinite(values)]
    if values.empty:
        return
    lowest, highest = float(values.min()), float(values.max())
    up: Any = (axes.set_yscale, axes.set_ylim, axes.axhspan, axes.axhline)
    across: Any = (axes.set_xscale, axes.set_xlim, axes.axvspan, axes.axvline)
    scale, limits, span, line = up if which == "y" else across
    if lowest > 0:
        scale("log")
        limits(lowest / MARGIN, highest * MARGIN)
    else:
        near = linear_up_to(values)
        scale("symlog", linthresh=near, linscale=0.5)
        span(-near, near, color=INK, alpha=0.06, linewidth=0, zorder=0)
        line(0, color=INK, linewidth=0.8, linestyle=":", zorder=1)
        limits(lowest * MARGIN - 0.3 * near, max(highest * MARGIN, 0.3 * near))
    plain_numbers(axes, which)


def linear_up_to(values: pd.Series) -> float:
    """Where an axis that has to show 0 becomes logarithmic: a power of ten.

    It is the one above the most negative value, which says how small a number may be chance: an
    SAE does not make a model better. One to three decades are left for what lies beyond.
    """
    largest = float(values.abs().max()) or 1.0
    least, most = 1e-3 * largest, 0.1 * largest
    near = min(-10 * float(values.min()), most)
    return float(10 ** np.floor(np.log10(max(near, least))))


def axis_in_words(values: pd.Series, log: bool = True) -> str:
    """What `harm_axis` makes of values, for a picture's texts.

    >>> axis_in_words(pd.Series([0.01, 1.0])), axis_in_words(pd.Series([0.01, 1.0]), log=False)
    ('logarithmic', 'linear')
    """
    if not log:
        return "linear"
    band = ", and linear in a shaded band around 0 where not all SAEs lie above it"
    return "logarithmic" + band * bool(values.min() <= 0)


def shades(n: int) -> Any:
    """n colours from light to dark, the lightest still dark enough on white."""
    return mpl.colormaps["viridis_r"](np.linspace(0.42, 0.9, n))


def legend_above(figure: Figure, panels: Sequence[Axes], most: int = 9, **options: Any) -> None:
    """One legend above all panels, each label once; more than `most` in two rows."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    columns = len(found) if len(found) <= most else -(-len(found) // 2)
    where: dict[str, Any] = {"loc": "outside upper center", "frameon": False, "ncols": columns}
    figure.legend(list(found.values()), list(found), **where | options)


def error_of(table: pd.DataFrame, value: str = "value", ends: str = "{}") -> Any:
    """How far an interval's ends lie below and above its value, as `errorbar` takes them."""
    low, high = table[ends.format("low")], table[ends.format("high")]
    return np.clip([table[value] - low, high - table[value]], 0, None)


def places(table: pd.DataFrame) -> list[tuple[int, str]]:
    """Every layer with every objective there."""
    of_layers = ((k, table[table["layer"] == k]) for k in layers_in(table))
    return [(k, name) for k, own in of_layers for name in objectives_in(own)]


def of(objective: str) -> dict[str, Any]:
    return {
        "color": COLOURS[objective], "marker": MARKERS[objective], "markersize": SIZES[objective],
        "markeredgecolor": "white", "markeredgewidth": 0.7,
    }  # fmt: skip


class _Decades(mpl.ticker.LogLocator):
    """Powers of ten; where that gives fewer than three ticks, 2 and 5 too, or every digit."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        vmin, vmax = sorted((vmin, vmax))  # the axis may be inverted
        for digits in ((1,), (1, 2, 5), range(1, 10)):
            self.set_params(subs=digits)
            ticks = super().tick_values(vmin, vmax)
            if sum(vmin <= tick <= vmax for tick in ticks) >= 3:
                break
        return ticks


class BothWays(mpl.ticker.Locator):
    """0 and powers of ten either way; where that gives fewer than four ticks, 2 and 5 too."""

    def __init__(self, near: float) -> None:
        self.near = near  # below it the axis is linear

    def __call__(self) -> Any:
        axis: Any = self.axis
        return self.tick_values(*axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        vmin, vmax = sorted((vmin, vmax))
        near = self.near
        decades = near * 10.0 ** np.arange(0, 1 + np.ceil(np.log10(max(vmax, -vmin, near) / near)))
        for digits in ((1,), (1, 2, 5)):
            above = np.unique(np.outer(decades, digits))
            ticks = np.concatenate([-above[::-1], [0.0], above])
            if ((vmin <= ticks) & (ticks <= vmax)).sum() >= 4:
                break
        return ticks


def plain_numbers(axes: Axes, which: str = "y") -> None:
    """0.1 and 10 instead of powers of ten on a logarithmic axis, and at least three of them."""
    axis: Any = axes.yaxis if which == "y" else axes.xaxis
    if axis.get_scale() == "log":
        axis.set_major_locator(_Decades())
    elif axis.get_scale() == "symlog":
        axis.set_major_locator(BothWays(float(axis.get_transform().linthresh)))
        axis.set_minor_locator(mpl.ticker.NullLocator())
    plain = mpl.ticker.FuncFormatter(lambda x, _: f"{x:g}" if x >= 0 else f"−{-x:g}")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def objectives_in(table: pd.DataFrame) -> list[str]:
    present = set(table["objective"])
    return [name for name in EVERY_OBJECTIVE if name in present]


def by_objective(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each objective there, in the fixed order, with its rows."""
    for name in objectives_in(table):
        yield name, table[table["objective"] == name]


def layers_in(table: pd.DataFrame) -> list[int]:
    return [int(layer) for layer in sorted(table["layer"].unique())]
