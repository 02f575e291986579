"""The picture of the first screen: every SAE's CE increase against its L0 and its alive elements.

Python places the points; what the page's script adds is a reader's pointer and switches.
"""

from collections.abc import Mapping, Sequence
from math import copysign, log, log10
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from e2e_lib.errors import ResultsError, reworded
from pipeline.pages.render import NAMES

WIDTH, HEIGHT = 460, 360  # of a panel, in the SVG's own units
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46  # its margins
AXES = {"l0": "L0: active latents a token", "alive": "alive dictionary elements"}
Y, Y_LABEL = "ce_increase", "CE increase (nats a token)"
TEXTS = ("run", "model", "objective", "hook", "init_from", "sparsifier", "variant")
SHAPES = {  # markers differ in shape too; all about equally large
    "local": "M0-6.5 6.5 5.5-6.5 5.5z",
    "e2e": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0",
    "e2e_ds": "M-2-5.8 0-2 2-5.8 5.8-2 2 0 5.8 2 2 5.8 0 2-2 5.8-5.8 2-2 0-5.8-2z",
}


class Axis(NamedTuple):
    """Where values stand on a panel: logarithmic if all are above 0 and spread enough for it.

    CE increase may lie below 0: then linear in a band around it and logarithmic beyond, as
    `style.wide_axis` has it.
    """

    low: float
    high: float
    log: bool
    start: float  # where `low` is drawn
    end: float
    near: float = 0.0  # above 0: the band's half width

    def _along(self, value: float) -> float:
        if self.near:  # the band is a decade wide in all
            steps = abs(value) / self.near
            return copysign(min(steps, 1) / 2 + log10(max(steps, 1)), value)
        return log(value) if self.log else value

    def place(self, value: float) -> float:
        low, high, at = map(self._along, (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts."""
        from matplotlib.ticker import Locator, LogLocator, MaxNLocator  # here: half a second

        from e2e_lib.plots.style import BothWays

        spread = self.high / self.low if self.log else 0
        few, some, all_ = (1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)
        digits = all_ if spread < 6 else some if spread < 100 else few
        plain: Locator = LogLocator(subs=digits) if self.log else MaxNLocator(5)
        locator = BothWays(self.near) if self.near else plain
        values = locator.tick_values(self.low, self.high)
        return [
            (self.place(v), f"{v:g}".replace("-", "−"))
            for v in values
            if self.low <= v <= self.high
        ]


class Point(NamedTuple):
    """One SAE."""

    run: str
    objective: str
    x: float
    y: float
    text: str  # what it is and what was measured, in words


class Panel(NamedTuple):
    """CE increase against one quantity."""

    label: str
    x: Axis
    y: Axis
    points: list[Point]
    curves: dict[str, str]  # SVG paths through means over seeds


class Layer(NamedTuple):
    """All panels of one layer."""

    layer: int
    panels: list[Panel]

    @property
    def banded(self) -> bool:
        """Whether CE increase has a linear band around 0."""
        return any(panel.y.near for panel in self.panels)


def main_table(results: Path) -> pd.DataFrame:
    """The main runs of metrics.csv that have numbers to be drawn; no rows where there is no file.

    Raises:
        ResultsError: metrics.csv is damaged.
    """
    from e2e_lib.analysis.matched import main_runs  # here: it brings matplotlib, a second

    path = results / "metrics.csv"
    if not path.is_file():
        return pd.DataFrame()
    what = "results file 'metrics.csv' is damaged: delete it and run make again"
    with reworded(ResultsError, what):
        table = main_runs(pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str)))
        drawn = table[[*AXES, Y]].apply(pd.to_numeric, errors="coerce").abs() < float("inf")
        return table[drawn.all(axis=1)].reset_index(drop=True)


def layers(table: pd.DataFrame) -> list[Layer]:
    """Every layer's panels, the middle layer's first."""
    if table.empty:
        return []
    from e2e_lib.analysis.matched import middle_layer

    found, middle = {int(layer) for layer in table["layer"]}, middle_layer(table)
    order = sorted(found, key=lambda layer: (layer != middle, layer))
    return [Layer(k, _panels(table[table["layer"] == k])) for k in order]


def _panels(table: pd.DataFrame) -> list[Panel]:
    """The y axis points down: little harm is drawn at the top."""
    y = _harm_axis(table[Y], TOP, HEIGHT - BOTTOM)
    panels = []
    for name, label in AXES.items():
        x = _axis(table[name], LEFT, WIDTH - RIGHT)
        points = [
            Point(row["run"], row["objective"], x.place(row[name]), y.place(row[Y]), _text(row))
            for row in table.to_dict("records")
        ]
        curves = {o: _curve(own, name, x, y) for o, own in table.groupby("objective")}
        panels.append(Panel(label, x, y, points, curves))
    return panels


def _axis(values: pd.Series, start: float, end: float) -> Axis:
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 1.5 * low:
        edge = (high / low) ** 0.06
        return Axis(low / edge, high * edge, True, start, end)
    edge = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low - edge, high + edge, False, start, end)


def _harm_axis(values: pd.Series, start: float, end: float) -> Axis:
    """`_axis`, but with a band around 0 where some values lie above it and others do not."""
    from e2e_lib.plots.style import linear_up_to

    low, high = float(values.min()), float(values.max())
    if not low <= 0 < high:
        return _axis(values, start, end)
    near = linear_up_to(values)
    return Axis(1.15 * low - 0.3 * near, 1.15 * high, False, start, end, near)


def _curve(table: pd.DataFrame, name: str, x: Axis, y: Axis) -> str:
    """A line through the means over seeds, in order of CE increase."""
    means = table.groupby("sparsity_coeff")[[name, Y]].mean().sort_values(Y)
    places = [f"{x.place(a)},{y.place(b)}" for a, b in means.itertuples(index=False)]
    return "M" + "L".join(places) if len(places) > 1 else ""


def _text(row: Mapping[str, Any]) -> str:
    return (
        f"{NAMES[row['objective']]}, layer {row['layer']}, λ {row['sparsity_coeff']:g}, "
        f"seed {row['seed']}: L0 {row['l0']:.3g}, {row['alive']:.0f} alive, "
        f"CE increase {row[Y]:.3g}"
    )


def targets(table: pd.DataFrame, pages: Sequence[Any]) -> dict[str, str]:
    """Where a point leads, by run: an entry of a page beside the report, else its row there."""
    if table.empty:
        return {}
    found = {run: f"#sae-{run}" for run in table["run"]}
    for page in pages:
        if page.file:
            found |= {run: f"{page.file}#{run}" for run in page.runs if run in found}
    return found
