"""How each claim of the paper is measured on the tables of a results folder; no torch.

"Middle layer" is the middle one of the layers trained, "similar CE" the triple that
`matched.similar` picks in the first seed, with the same λ in the other seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from e2e_lib.analysis.matched import (
    across_seeds,
    depth_names,
    last_block_ratios,
    middle_layer,
    similar,
)
from e2e_lib.analysis.pareto import interpolated_ratio
from e2e_lib.analysis.statistics import mean_differences, mean_interval
from e2e_lib.analysis.sweeps import seconds_ratios
from e2e_lib.names import OBJECTIVES


@dataclass(frozen=True)
class Tables:
    """What the measures read: `main_runs` of the metrics, per-block and per-row tables, and the
    tables that analysis notebooks wrote, by name (those of `WRITTEN` that are there)."""

    runs: pd.DataFrame
    blocks: pd.DataFrame
    rows: pd.DataFrame
    written: Mapping[str, pd.DataFrame] = field(default_factory=dict)


# Tables of notebooks that a claim is measured on: figures/NAME.csv or tables/NAME.csv.
WRITTEN = (
    "23_within_similarity",
    "23_cross_seed_similarity",
    "26_first_direction",
    "27_gap_to_e2e",
    "28_differences",
    "29_differences",
)


class Measurement(NamedTuple):
    """A value, its 95 % interval (None: nothing to resample), the SAEs behind it, a remark."""

    value: float
    low: float | None
    high: float | None
    n: int
    note: str


class NotTestableError(Exception):
    """The tables do not allow this measurement; the message is the reason."""


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise NotTestableError(reason)


def _written(tables: Tables, name: str) -> pd.DataFrame:
    """A table that a notebook wrote; its name begins with the notebook's number."""
    _need(len(tables.written.get(name, ())) > 0, f"notebook {name[:2]} has not written {name} here")
    return tables.written[name]


def _middle(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    _need(len(runs) > 0, "there are no runs")
    return table[table["layer"] == middle_layer(runs)]


def _similar_ce(tables: Tables, middle_only: bool = True) -> pd.DataFrame:
    """The similar-CE runs of all seeds in which every objective is there, per layer."""
    runs = _middle(tables.runs, tables.runs) if middle_only else tables.runs
    _need(len(runs) > 0, "there are no runs")
    first_seed = int(runs["seed"].min())
    triples = across_seeds(runs, similar(runs, "ce_increase", first_seed))
    complete = triples.groupby(["layer", "seed"])["objective"].transform("nunique")
    triples = triples[complete == len(OBJECTIVES)]
    _need(len(triples) > 0, "no layer has a run of every objective with a CE increase above 0")
    return triples


def _of_row(row: "pd.Series[Any]", n: int, note: str) -> Measurement:
    """A value with its interval, as a table holds them."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return Measurement(value, low, high, n, note)


def _over_seeds(per_seed: pd.Series, n: int) -> Measurement:
    """Mean of one value per seed, with a bootstrap over the seeds."""
    interval = mean_interval(per_seed.to_numpy(dtype=float))
    seeds = len(per_seed)
    if seeds < 2:
        return Measurement(interval.value, None, None, n, "One seed, so there is no interval.")
    note = f"Interval: bootstrap over {seeds} seeds" + (
        ", which with two seeds is their range." if seeds == 2 else "."
    )
    return Measurement(*interval, n, note)


def curve_ratio(
    tables: Tables, objective: str, reference: str, x: str = "l0", y: str = "ce_increase"
) -> Measurement:
    """Interpolated ratio at the middle layer (C1, C2, C3a)."""
    ratio = interpolated_ratio(
        _middle(tables.runs, tables.runs), tables.rows, objective, reference=reference, x=x, y=y
    )
    _need(not np.isnan(ratio["value"]), ratio["note"])
    seeds, rows = ratio["n_seeds"], ratio["n_rows"]
    spread = f"{seeds} seeds and {rows} rows of text" if seeds > 1 else f"{rows} rows of text"
    note = (
        f"Window: {x} {ratio['window_low']:.3g} to {ratio['window_high']:.3g}, which all curves "
        f"share. Interval: bootstrap over {spread}" + (", with one seed." if seeds == 1 else ".")
    )
    if not rows:
        return Measurement(ratio["value"], None, None, ratio["n_runs"], "No rows, no interval.")
    return Measurement(ratio["value"], ratio["low"], ratio["high"], ratio["n_runs"], note)


def downstream_pathway(tables: Tables) -> Measurement:
    """C3b: where e2e+ds lies between local (0) and e2e (1) in log MSE after the last block."""
    triples = _similar_ce(tables)
    blocks = tables.blocks[tables.blocks["run"].isin(triples["run"])]
    pathway = last_block_ratios(blocks).set_index("seed")["pathway"]
    _need(len(pathway) > 0, "there is no block after the middle layer")
    _need(bool(pathway.notna().all()), "e2e's MSE after the last block is not above local's")
    return _over_seeds(pathway, len(triples))


def alive_ratio(
    tables: Tables, objective: str, others: list[str], depths: list[str]
) -> Measurement:
    """C4: alive elements over the fewest among `others`, at the layer where that is largest."""
    triples = _similar_ce(tables, middle_only=False)
    depth = triples["layer"].map(depth_names(tables.runs))
    alive = triples[depth.isin(depths)].pivot_table(
        index=["layer", "seed"], columns="objective", values="alive"
    )
    _need(len(alive) > 0, f"no similar-CE triple at {' or '.join(depths)} layers")
    ratio = alive[objective] / alive[others].min(axis=1)
    worst = ratio.groupby("layer").mean().idxmax()
    measured = _over_seeds(ratio.loc[worst], len(alive) * len(OBJECTIVES))
    layers = len(alive.index.unique("layer"))
    return measured._replace(
        note=f"The largest of {layers} layers is layer {worst}. {measured.note}"
    )


def similarity_difference(tables: Tables, name: str, first: str, second: str) -> Measurement:
    """C5, C6: difference of mean max cosine between two objectives at the middle layer."""
    table = _written(tables, name)
    found = mean_differences(_middle(table, tables.runs), [(first, second)])
    _need(len(found) > 0, f"no seed has weights for both {first} and {second} at this layer")
    seeds = int(found["n_seeds"].iloc[0])
    over = f"{seeds} seeds and the" if seeds > 1 else "the"
    note = f"Interval: bootstrap over {over} dictionary elements."
    return _of_row(found.iloc[0], 2 * seeds, note)


def score_difference(tables: Tables, match: str) -> Measurement:
    """C7: difference of mean interpretability scores, e2e+ds minus local, at the middle layer."""
    table = _written(tables, "28_differences")
    own = _middle(table[table["match"] == match], tables.runs)
    _need(len(own) > 0, "e2e+ds and local have no scored features of one seed at this layer")
    row = own.iloc[0]
    seeds = int(row["n_seeds"])
    note = (
        f"Explainer: {row['explainer']}, {row['n_first']} and {row['n_second']} features. "
        "Interval: bootstrap over features"
        + (f" and {seeds} seeds." if seeds > 1 else ", with one seed.")
    )
    return _of_row(row, 2 * seeds, note)


def cost_ratio(tables: Tables, objective: str) -> Measurement:
    """C8: training seconds a token over local's; per layer and seed the mean over λ."""
    ratios = seconds_ratios(tables.runs)
    ratio = ratios[objective].dropna() if objective in ratios else ratios.sum(axis=1)[:0]
    _need(len(ratio) > 0, f"no layer and seed has timed runs of {objective} and local")
    n = int(tables.runs["objective"].isin([objective, "local"]).sum())
    interval = mean_interval(ratio.to_numpy(dtype=float))
    if len(ratio) < 2:
        return Measurement(interval.value, None, None, n, "One pair, so no interval.")
    note = f"{len(ratio)} pairs of layer and seed; interval: bootstrap over them."
    return Measurement(*interval, n, note)


def still_behind(tables: Tables, column: str) -> Measurement:
    """C9: local at the largest setting of a sweep over e2e's main runs, CE increase at equal L0."""
    table = _written(tables, "27_gap_to_e2e")
    gaps = _middle(table[table["column"] == column], tables.runs)
    beyond = gaps[gaps["setting"] > gaps.loc[gaps["main"], "setting"].max()]
    _need(len(beyond) > 0, f"no sweep trained local with a larger {column} than the main runs'")
    largest = beyond.loc[beyond["setting"].idxmax()]
    _need(not np.isnan(largest["value"]), str(largest["note"]))
    usual = gaps.loc[gaps["main"], "value"].iloc[0]
    seeds, rows = (int(largest[name]) for name in ("n_seeds", "n_rows"))
    note = (
        f"{column} {largest['setting']:g}; with the main runs' it is {usual:.3g}. Interval: "
        f"bootstrap over {rows} rows of text" + (f" and {seeds} seeds." if seeds > 1 else ".")
    )
    return _of_row(largest, int(largest["n_runs"]), note)


def shrinkage_gap(tables: Tables) -> Measurement:
    """C10: by how much e2e's L2 ratio lies below the smaller of the other two."""
    column = "l2_ratio_after_first"
    triples = _similar_ce(tables)
    _need(column in triples, f"the metrics have no {column}")
    ratio = triples.pivot_table(index="seed", columns="objective", values=column)
    return _over_seeds(ratio[["local", "e2e_ds"]].min(axis=1) - ratio["e2e"], len(triples))


def first_direction(tables: Tables, quantity: str) -> Measurement:
    """C11: PCA direction 0 against the other leading directions, at the last layer."""
    table = _written(tables, "26_first_direction")
    _need(len(tables.runs) > 0, "there are no runs")
    table = table[table["layer"] == tables.runs["layer"].max()]
    _need(len(table) > 0, "notebook 26 looked at another layer than the last")
    own = table[table["quantity"] == quantity].dropna(subset=["value"])
    _need(len(own) > 0, "e2e+ds and local have no weights for one seed at the last layer")
    row = own.iloc[0]
    cosine = float(row["first_cosine"])
    note = (
        f"Layer {row['layer']}; direction 0 has cosine {cosine:.2g} with the mean activation at "
        "position 0"
        + (", as in the paper." if cosine > 0.9 else ": it is not the direction of the paper's.")
    )
    return _of_row(row, int(row["n"]), note)


def clear_winners(tables: Tables, match: str) -> Measurement:
    """C12: pairs of objectives of which one is more faithful on every agreement task."""
    table = _written(tables, "29_differences")
    own = _middle(table[table["match"] == match], tables.runs)
    _need(own["task"].nunique() == 4, "not all four tasks were measured at this layer")
    winners = []
    for (first, second), pair in own.groupby(["first", "second"]):
        if (pair["low"] > 0).all():
            winners.append(f"{first} over {second}")
        if (pair["high"] < 0).all():
            winners.append(f"{second} over {first}")
    seeds, width = int(own["n_seeds"].max()), (own["high"] - own["low"]).median()
    over = f"prompts and {seeds} seeds" if seeds > 1 else "prompts, with one seed"
    note = (
        f"Here: {', '.join(winners) or 'none'}. Intervals: bootstrap over {over}; half of them are "
        f"wider than {width:.2g}, and the wider they are the easier this holds."
    )
    return Measurement(float(len(winners)), None, None, len(OBJECTIVES) * seeds, note)
