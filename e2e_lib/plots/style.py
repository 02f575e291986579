"""The house style, what all figures share, and the page on which a notebook shows and saves them.

Markers are the paper's, and so are colours, but for local's, which is darker: every series has a
contrast of at least 3 to white, and a second channel beside its colour: a marker, or where there
are no points a line of its own. With a fixed order (local, e2e, e2e+ds) they stay apart for
colour-blind readers and in grey. On performance plots the y axis is inverted, as in the paper, so
better is up and to the left.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from e2e_lib.files import write_json
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
AXIS = {
    "l0": "L0 (active elements a token)",
    "alive": "alive dictionary elements",
    "ce_increase": "CE loss increase (nats a token)",
}


Data: TypeAlias = pd.DataFrame | Callable[[], pd.DataFrame]  # a table, or what would make it
Finding: TypeAlias = str | Callable[[pd.DataFrame], str]  # a sentence, or what makes it of the data


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
    """CE increase upside down, better is up; logarithmic if all are above 0; a `limit` cuts it."""
    lowest, highest = float(values.min()), float(values.max())
    top = limit or highest * (1.15 if log and lowest > 0 else 1.05)
    if log and 0 < lowest < top:
        axes.set_yscale("log")
        axes.set_ylim(top, lowest / 1.15)
        plain_numbers(axes)
    else:
        lowest = min(0.0, lowest * 1.05)
        axes.set_ylim(top, lowest - 0.03 * (top - lowest))


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


def plain_numbers(axes: Axes, which: str = "y") -> None:
    """0.1 and 10 instead of powers of ten on a logarithmic axis, and at least three of them."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    if axis.get_scale() == "log":
        axis.set_major_locator(_Decades())
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
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


def small_png(picture: bytes) -> bytes:
    """A PNG with 256 colours, which are enough for a plot."""
    small, image = io.BytesIO(), Image.open(io.BytesIO(picture)).convert("RGB")
    few = image.quantize(256, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True, dpi=(DPI, DPI))
    return small.getvalue()


def png_of(figure: Figure) -> bytes:
    """The figure as a small PNG; it is closed, so that a notebook's cell shows it once at most."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    plt.close(figure)
    return small_png(png.getvalue())


def picture(path: Path) -> Figure:
    """A picture that was drawn before, pixel by pixel, as a figure."""
    pixels = plt.imread(path)
    height, width = pixels.shape[:2]
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(pixels)
    figure.add_axes((0, 0, 1, 1)).set_axis_off()  # a notebook shows no figure without axes
    return figure


@dataclass
class Page:
    """Where a notebook saves its figures and tables, each with its data and its texts.

    Every text file has `order`, the notebook's number and the place at which it was saved there, so
    that a report can show figures as the notebook does.
    """

    notebook: str  # its file's name without the ending, which begins with a number
    write: Path  # the results folder
    names: list[str] = field(default_factory=list)  # of figures and tables, as they came

    def figure(
        self, name: str, data: Data, draw: Callable[..., Figure],
        *, title: str, alt: str, caption: str, paper: str, finding: Finding = "",
        when: object = None, otherwise: str = "there is nothing to plot", **options: Any,
    ) -> Figure | None:  # fmt: skip
        """Write figures/NAME.png, NAME.csv (the plotted data) and NAME.json (the texts).

        draw: makes the figure, of `data` and `options`. alt: what is to be seen, for who cannot see
        it. paper: what the paper shows in its place. finding: what is to be seen here, a sentence
        computed from the numbers (`analysis.findings`); printed as "Here: …", and so in the texts.
        when: whether there is anything to draw; by default, whether `data` has rows. If not,
        skipped/NAME.json says `otherwise`, and `data`, where it is a function, is not called.

        Returns the figure, closed, so that as the last expression of a cell it is shown once; None
        where there is none.
        """
        table = self._made("figures", name, data, when, otherwise)
        if table is None:
            return None
        figure = draw(table, **options)
        png = png_of(figure)
        texts = {"title": title, "alt": alt, "caption": caption, "paper": paper}
        if found := finding if isinstance(finding, str) else finding(table):
            texts["finding"] = f"Here: {found}"
            print(texts["finding"])
        self._write("figures", name, table, texts)
        (self.write / "figures" / f"{name}.png").write_bytes(png)
        return figure

    def table(
        self, name: str, data: Data, *, title: str, caption: str, paper: str,
        when: object = None, otherwise: str = "there is nothing to list",
    ) -> pd.DataFrame:  # fmt: skip
        """Write tables/NAME.csv and NAME.json, or why not, as `figure` does; returns the table."""
        table = self._made("tables", name, data, when, otherwise)
        if table is None:
            return data if isinstance(data, pd.DataFrame) else pd.DataFrame()
        self._write("tables", name, table, {"title": title, "caption": caption, "paper": paper})
        return table

    def _made(
        self, kind: str, name: str, data: Data, when: object, otherwise: str
    ) -> pd.DataFrame | None:
        """The table, or None where there is nothing to save: says why, and leaves no old file."""
        if name not in self.names:  # a cell that is executed again keeps its place
            self.names.append(name)
        skipped = self.write / "skipped" / f"{name}.json"
        if when is None:
            data = data if isinstance(data, pd.DataFrame) else data()
            when = len(data)
        if when:
            skipped.unlink(missing_ok=True)
            return data if isinstance(data, pd.DataFrame) else data()
        print(f"{name} skipped: {otherwise}")
        for old in (self.write / kind).glob(f"{name}.*"):
            old.unlink()
        write_json(skipped, {"name": name, "reason": otherwise})
        return None

    def _write(self, kind: str, name: str, data: pd.DataFrame, texts: dict[str, str]) -> None:
        folder = self.write / kind
        folder.mkdir(parents=True, exist_ok=True)
        order = [int(self.notebook[:2]), 1 + self.names.index(name)]
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
        write_json(folder / f"{name}.json", {"name": name} | texts | {"order": order})
