"""The page on which a notebook shows its figures and tables, and saves them with data and texts."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from e2e_lib.files import write_json
from e2e_lib.plots.style import DPI

Data: TypeAlias = pd.DataFrame | Callable[[], pd.DataFrame]  # a table, or what would make it
Finding: TypeAlias = str | Callable[[pd.DataFrame], str]  # a sentence, or what makes it of the data


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
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none")
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
