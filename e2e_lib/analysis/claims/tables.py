"""What claims are measured on, and what a measurement says: tables in, rows of the ledger out.

What a notebook has measured is read from its table (`WRITTEN`), so that it is measured once.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, NamedTuple, SupportsInt

import numpy as np
import pandas as pd

from e2e_lib.analysis.matched import across_seeds, middle_layer, similar
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.files import project_path
from e2e_lib.names import OBJECTIVES

# Tables of notebooks that claims are measured on, figures/NAME.csv or tables/NAME.csv: the
# notebook's number, and columns that tables of before these rules do not have.
WRITTEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "summary_ratio": ("20", ("grid_low", "left_out")),
    "23_within_similarity": ("23", ()),
    "23_cross_seed_similarity": ("23", ()),
    "26_first_direction": ("26", ()),
    "27_gap_to_e2e": ("27", ("against", "left_out")),
    "27_ratios": ("27", ("grid_low", "left_out")),
    "28_differences": ("28", ()),
    "29_differences": ("29", ()),
    "41_differences": ("41", ()),
    "41_summary": ("41", ()),
}


BENCHMARK = "benchmarks/results/*gpt2.jsonl"  # of the steps on GPT-2's shape, for C8


@dataclass(frozen=True)
class Tables:
    """What the measures read: `main_runs` of the metrics, per-block and per-row tables, the tables
    that analysis notebooks wrote, by name (those of `WRITTEN` that are there), and the benchmark's
    lines on GPT-2's shape."""

    runs: pd.DataFrame
    blocks: pd.DataFrame
    rows: pd.DataFrame
    written: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    benchmark: pd.DataFrame = field(default_factory=pd.DataFrame)


class Measurement(NamedTuple):
    """A value with its 95 % interval (NaN: none), and what a verdict asks besides.

    n: SAEs behind it. n_seeds: trainings of each that the interval is over; 0 where no SAE takes
    part. grid: smallest and largest value with one λ left out. by_tokens: the value at other
    numbers of training tokens; at_tokens: at which of them it is (NaN: the main runs'). aside: what
    its short name should add.
    """

    value: float
    low: float
    high: float
    n: int
    n_seeds: int
    note: str
    grid: tuple[float, float] = (nan, nan)
    by_tokens: Mapping[float, float] = {}
    at_tokens: float = nan
    aside: str = ""


class NotTestableError(Exception):
    """The tables do not allow this measurement; the message is the reason."""


def percent(share: float) -> str:
    """A share in whole per cent, as the project's texts write it."""
    return f"{100 * share:.0f} %".replace("-", "−")


def need(condition: bool, reason: str) -> None:
    if not condition:
        raise NotTestableError(reason)


def written(tables: Tables, name: str) -> pd.DataFrame:
    """The middle layer's rows of a table that a notebook wrote, or all where it names none."""
    notebook, columns = WRITTEN[name]
    table = tables.written.get(name, pd.DataFrame())
    need(len(table) > 0, f"notebook {notebook} has not written {name} here")
    need({*columns} <= {*table}, f"{name} is older than these rules: run notebook {notebook} again")
    return table


def middle(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    need(len(runs) > 0, "there are no runs")
    return table[table["layer"] == middle_layer(runs)]


def similar_ce(tables: Tables, middle_only: bool = True) -> pd.DataFrame:
    """The similar-CE runs of all seeds in which every objective is there, per layer."""
    runs = middle(tables.runs, tables.runs) if middle_only else tables.runs
    need(len(runs) > 0, "there are no runs")
    triples = across_seeds(runs, similar(runs, "ce_increase"))
    complete = triples.groupby(["layer", "seed"])["objective"].transform("nunique")
    triples = triples[complete == len(OBJECTIVES)]
    need(len(triples) > 0, "no layer has a run of every objective with a CE increase above 0")
    return triples


def resampled(n_seeds: SupportsInt, inner: str = "", shared: bool = False) -> str:
    """What was resampled, as a sentence."""
    if int(n_seeds) != 1:
        beside = f" and the {inner} that they share" if shared else ""
        return f"Interval: t over {n_seeds} seeds{beside}."
    return f"Interval: bootstrap over {inner}, one seed." if inner else "One seed, so no interval."


def of_row(row: "pd.Series[Any]", n: int, note: str, **more: Any) -> Measurement:
    """A value with its interval, as a table holds them."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return Measurement(value, low, high, n, int(row["n_seeds"]), note, **more)


def of_seeds(per_seed: pd.Series, n: int, note: str = "") -> Measurement:
    """Mean of one value per seed, with its t interval."""
    seeds = len(per_seed)
    return Measurement(*seed_interval(per_seed), n, seeds, f"{note}{resampled(seeds)}")


def ranged(value: float, low: float, high: float) -> str:
    """A value and its interval, where it has one."""
    return f"{value:.3g}" + ("" if np.isnan(low) or np.isnan(high) else f" [{low:.3g}, {high:.3g}]")


def undetermined(row: "pd.Series[Any]") -> str:
    """Why a ratio of curves has no number, or one of few points: without those where the second
    curve is not above 0 it would be a choice of points by their noise. Empty if it is known."""
    if np.isnan(row["value"]):
        return str(row["note"])
    out = float(row["left_out"])
    return f"the CE increase to divide by is not above 0 at {percent(out)} of the points" * (
        out > 0
    )


def determined(row: "pd.Series[Any]") -> None:
    """A ratio of curves is known, and at every point."""
    need(not undetermined(row), undetermined(row))


def elsewhere(table: pd.DataFrame) -> str:
    """What other layers have, as a sentence, and of curves (with columns left_out, note) why a
    layer has none. table: columns layer, value, low, high."""
    known, unknown = [], []
    for _, row in table.iterrows():
        reason = undetermined(row) if "left_out" in table else ""
        if reason:
            unknown.append(f"Not known at layer {row['layer']:.0f}: {reason}. ")
        elif not np.isnan(row["value"]):
            value = ranged(row["value"], row["low"], row["high"])
            known.append(f"{value} at layer {row['layer']:.0f}")
    return "".join([f"Elsewhere {', '.join(known)}. " if known else "", *unknown])


def written_tables(figures: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The notebooks' tables that are there, by name: beside figures, or in the folder tables."""
    for name in WRITTEN:
        for folder in (figures, figures.parent / "tables"):
            if (folder / f"{name}.csv").is_file():
                yield name, pd.read_csv(folder / f"{name}.csv")
                break


def benchmark_lines() -> pd.DataFrame:
    """Milliseconds of a step on GPT-2's shape with one SAE, late in a training, the objectives in
    turn: columns file (and which of its measurements), repeat (the round), objective, ms, device;
    empty where the project's folder is not there."""
    lines: list[dict[str, Any]] = []
    for path in sorted(project_path(".").glob(BENCHMARK)):
        made = 0  # a file's measurements each begin with the machine
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            made += "hardware" in line
            lines.append(line | {"file": f"{path.name} {made}"})
    kept = [
        line | {"repeat": repeat, "ms": ms}
        for line in lines if line.get("against") == "local"
        for repeat, ms in enumerate(line["rounds"])
    ]  # fmt: skip
    return pd.DataFrame(kept, columns=["file", "repeat", "objective", "ms", "device"])
