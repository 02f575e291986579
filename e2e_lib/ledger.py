"""What the paper claims, as data, and how each claim is measured.

"Middle layer" is the middle one of the layers trained, "similar CE" the triple that
`matching.similar` picks in the first seed, with the same λ in the other seeds. What is averaged
over what, and what was resampled for the interval, stands in each claim's `how`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from e2e_lib.bootstrap import mean_differences, mean_interval
from e2e_lib.matching import (
    OBJECTIVES,
    across_seeds,
    depth_names,
    last_block_ratios,
    middle_layer,
    similar,
)
from e2e_lib.pareto import interpolated_ratio


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


@dataclass(frozen=True)
class Claim:
    """The claim holds where above < value < below (None: no bound on that side)."""

    id: str
    claim: str
    paper_value: str
    short: str  # for the forest plot
    above: float | None
    below: float | None
    how: str
    measure: Callable[[Tables], Measurement]


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


def _curve_ratio(
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


def _pathway(tables: Tables) -> Measurement:
    """C3b: where e2e+ds lies between local (0) and e2e (1) in log MSE after the last block."""
    triples = _similar_ce(tables)
    blocks = tables.blocks[tables.blocks["run"].isin(triples["run"])]
    pathway = last_block_ratios(blocks).set_index("seed")["pathway"]
    _need(len(pathway) > 0, "there is no block after the middle layer")
    _need(bool(pathway.notna().all()), "e2e's MSE after the last block is not above local's")
    return _over_seeds(pathway, len(triples))


def _alive(tables: Tables, objective: str, others: list[str], depths: list[str]) -> Measurement:
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


def _similarity(tables: Tables, name: str, first: str, second: str) -> Measurement:
    """C5, C6: difference of mean max cosine between two objectives at the middle layer."""
    table = _written(tables, name)
    found = mean_differences(_middle(table, tables.runs), [(first, second)])
    _need(len(found) > 0, f"no seed has weights for both {first} and {second} at this layer")
    seeds = int(found["n_seeds"].iloc[0])
    over = f"{seeds} seeds and the" if seeds > 1 else "the"
    note = f"Interval: bootstrap over {over} dictionary elements."
    value, low, high = (float(found[column].iloc[0]) for column in ("value", "low", "high"))
    return Measurement(value, low, high, 2 * seeds, note)


def _interpretability(tables: Tables, match: str) -> Measurement:
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
    value, low, high = (float(row[column]) for column in ("value", "low", "high"))
    return Measurement(value, low, high, 2 * seeds, note)


def _cost(tables: Tables, objective: str) -> Measurement:
    """C8: training seconds a token over local's; per layer and seed the mean over λ."""
    runs = tables.runs[tables.runs["objective"].isin([objective, "local"])]
    runs = runs.assign(seconds=runs["train_seconds"] / runs["train_tokens"])
    seconds = runs.pivot_table(index=["layer", "seed"], columns="objective", values="seconds")
    seconds = seconds.reindex(columns=[objective, "local"]).dropna()
    _need(len(seconds) > 0, f"no layer and seed has timed runs of {objective} and local")
    ratio = seconds[objective] / seconds["local"]
    interval = mean_interval(ratio.to_numpy(dtype=float))
    note = f"{len(ratio)} pairs of layer and seed; interval: bootstrap over them."
    if len(ratio) < 2:
        return Measurement(interval.value, None, None, len(runs), "One pair, so no interval.")
    return Measurement(*interval, len(runs), note)


def _still_behind(tables: Tables, column: str) -> Measurement:
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
    value, low, high = (float(largest[name]) for name in ("value", "low", "high"))
    return Measurement(value, low, high, int(largest["n_runs"]), note)


def _shrinkage(tables: Tables) -> Measurement:
    """C10: by how much e2e's L2 ratio lies below the smaller of the other two."""
    column = "l2_ratio_after_first"
    triples = _similar_ce(tables)
    _need(column in triples, f"the metrics have no {column}")
    ratio = triples.pivot_table(index="seed", columns="objective", values=column)
    return _over_seeds(ratio[["local", "e2e_ds"]].min(axis=1) - ratio["e2e"], len(triples))


def _first_direction(tables: Tables, quantity: str) -> Measurement:
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
    value, low, high = (float(row[column]) for column in ("value", "low", "high"))
    return Measurement(value, low, high, int(row["n"]), note)


def _no_winner(tables: Tables, match: str) -> Measurement:
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


_RATIO = (
    "Middle layer: both curves interpolated linearly at 20 evenly spaced {x}, ratio averaged over "
    "them and over seeds."
)
_COSINE = (
    "Middle layer, similar CE: difference of the mean over alive elements of the largest cosine "
)
_SCORE = (
    "Middle layer, similar {match}: difference of mean interpretability scores (correlation of "
    "simulated and true activations). No less means not worse by 0.05, a margin of ours."
)
_WINNER = (
    "Middle layer, similar {match}: pairs of objectives of which one's m(SAE) / m(clean) is closer "
    "to 1 on all four agreement tasks, with intervals that exclude 0. That reading of no clear "
    "winner, and the bound of 1, are ours."
)
_COST = (
    "Training seconds a token over local's, main runs, mean over layers, λ and seeds. SAEs trained "
    "side by side share the clean passes; each is charged an equal part of them."
)

_BEHIND = (
    "Middle layer: local with the {what} of the sweep over e2e's main runs at the same seeds and "
    "as many λ, both curves interpolated linearly at 20 evenly spaced values of L0, ratio averaged."
)


def _curve_claims() -> list[Claim]:
    claims = []
    for objective, letter, name in (("e2e", "a", "e2e"), ("e2e_ds", "b", "e2e+ds")):
        claims += [
            Claim(
                f"C1{letter}", f"at equal CE increase, local needs more than twice {name}'s L0",
                "> 2", f"L0 local / {name}", 2.0, None, _RATIO.format(x="values of CE increase"),
                partial(_curve_ratio, objective="local", reference=objective,
                        x="ce_increase", y="l0"),
            ),
            Claim(
                f"C2{letter}", f"at equal L0, {name} has under 45 % of local's CE increase",
                "< 0.45", f"CE {name} / local", None, 0.45, _RATIO.format(x="values of L0"),
                partial(_curve_ratio, objective=objective, reference="local"),
            ),
        ]  # fmt: skip
    return sorted(claims, key=lambda claim: claim.id)


CLAIMS: tuple[Claim, ...] = (
    *_curve_claims(),
    Claim(
        "C3a", "e2e+ds does about as well as e2e: at equal L0 its CE increase is under 1.5 times "
        "e2e's", "about 1", "CE e2e+ds / e2e", None, 1.5,
        _RATIO.format(x="values of L0") + " The bound of 1.5 is ours.",
        partial(_curve_ratio, objective="e2e_ds", reference="e2e"),
    ),
    Claim(
        "C3b", "e2e+ds takes a pathway closer to local's than to e2e's", "about 0.1 (read off)",
        "pathway of e2e+ds", None, 0.5,
        "Middle layer, similar CE: MSE to the clean residual stream after the last block; where "
        "log MSE of e2e+ds lies between local's (0) and e2e's (1), mean over seeds. The bound of "
        "0.5 is ours.", _pathway,
    ),
    Claim(
        "C4a", "at similar CE, e2e has fewer alive elements than local at every layer", "0.85",
        "alive e2e / local", None, 1.0, "Ratio at the layer where it is largest, mean over seeds.",
        partial(_alive, objective="e2e", others=["local"], depths=["early", "middle", "late"]),
    ),
    Claim(
        "C4b", "at similar CE, e2e+ds has fewer alive elements than local at every layer", "0.76",
        "alive e2e+ds / local", None, 1.0,
        "Ratio at the layer where it is largest, mean over seeds.",
        partial(_alive, objective="e2e_ds", others=["local"], depths=["early", "middle", "late"]),
    ),
    Claim(
        "C4c", "at similar CE, e2e+ds has the fewest alive elements at early and middle layers",
        "0.82", "alive e2e+ds / fewest", None, 1.0,
        "Alive elements over the smaller of local's and e2e's, at the early or middle layer where "
        "that is largest, mean over seeds.",
        partial(_alive, objective="e2e_ds", others=["local", "e2e"], depths=["early", "middle"]),
    ),
    Claim(
        "C5a", "local's features are more alike each other than e2e+ds's", "0.04",
        "within: local − e2e+ds", 0.0, None, _COSINE + "with another element of the dictionary.",
        partial(_similarity, name="23_within_similarity", first="local", second="e2e_ds"),
    ),
    Claim(
        "C5b", "e2e+ds's features are more alike each other than e2e's", "0.126",
        "within: e2e+ds − e2e", 0.0, None, _COSINE + "with another element of the dictionary.",
        partial(_similarity, name="23_within_similarity", first="e2e_ds", second="e2e"),
    ),
    Claim(
        "C6a", "another seed finds local's features again better than e2e's", "> 0 (figure)",
        "across seeds: local − e2e", 0.0, None,
        _COSINE + "with an element of another seed's dictionary.",
        partial(_similarity, name="23_cross_seed_similarity", first="local", second="e2e"),
    ),
    Claim(
        "C6b", "another seed finds e2e+ds's features again better than e2e's", "> 0 (figure)",
        "across seeds: e2e+ds − e2e", 0.0, None,
        _COSINE + "with an element of another seed's dictionary.",
        partial(_similarity, name="23_cross_seed_similarity", first="e2e_ds", second="e2e"),
    ),
    Claim(
        "C7a", "at similar CE, e2e+ds's features are no less interpretable than local's", "0.10",
        "score: e2e+ds − local, same CE", -0.05, None, _SCORE.format(match="CE"),
        partial(_interpretability, match="ce_increase"),
    ),
    Claim(
        "C7b", "at similar L0, e2e+ds's features are no less interpretable than local's", "−0.01",
        "score: e2e+ds − local, same L0", -0.05, None, _SCORE.format(match="L0"),
        partial(_interpretability, match="l0"),
    ),
    Claim(
        "C8a", "e2e costs 2 to 3.5 times local in training time", "1.9 to 3.3",
        "seconds e2e / local", 2.0, 3.5, _COST, partial(_cost, objective="e2e"),
    ),
    Claim(
        "C8b", "e2e+ds costs 2 to 3.5 times local in training time", "1.9 to 3.3",
        "seconds e2e+ds / local", 2.0, 3.5, _COST, partial(_cost, objective="e2e_ds"),
    ),
    Claim(
        "C9a", "local stays behind e2e when it trains on more tokens", "> 1 (figure)",
        "CE local, most tokens / e2e", 1.0, None, _BEHIND.format(what="most training tokens"),
        partial(_still_behind, column="train_tokens"),
    ),
    Claim(
        "C9b", "local stays behind e2e when its dictionary is larger", "> 1 (figure)",
        "CE local, largest dictionary / e2e", 1.0, None,
        _BEHIND.format(what="largest dictionary ratio"),
        partial(_still_behind, column="dict_ratio"),
    ),
    Claim(
        "C10", "shrinkage is strongest for e2e", "0.25", "shrinkage of e2e", 0.0, None,
        "Middle layer, similar CE: ‖SAE output‖ / ‖input‖ after the first position, mean over "
        "tokens; the smaller of local's and e2e+ds's minus e2e's, mean over seeds.", _shrinkage,
    ),
    Claim(
        "C11a", "of the leading PCA directions at the last layer, e2e+ds keeps direction 0 least, "
        "and less than local does", "−0.39 (0.262 − about 0.65)", "correlation, direction 0", None,
        0.0, "Last layer, similar CE, tokens after position 0: correlation of SAE input and output "
        "along direction 0 for e2e+ds, minus the smallest of local's along it and of its own along "
        "other leading directions; bootstrap over rows of text and seeds.",
        partial(_first_direction, quantity="correlation"),
    ),
    Claim(
        "C11b", "resampling PCA direction 0 at the last layer harms the output less than any other "
        "leading direction", "about 0.1 (read off)", "harm of direction 0 / least other", None,
        1.0, "Last layer, clean model: mean KL(clean ‖ ablated) after exchanging, among tokens "
        "after position 0, their components along direction 0, over the smallest of the other "
        "leading directions; bootstrap over rows of text.",
        partial(_first_direction, quantity="ablation"),
    ),
    Claim(
        "C12a", "at similar CE, no objective is more faithful than another on all agreement tasks",
        "no clear winner", "clear winners, same CE", None, 1.0, _WINNER.format(match="CE"),
        partial(_no_winner, match="ce_increase"),
    ),
    Claim(
        "C12b", "at similar L0, no objective is more faithful than another on all agreement tasks",
        "no clear winner", "clear winners, same L0", None, 1.0, _WINNER.format(match="L0"),
        partial(_no_winner, match="l0"),
    ),
)  # fmt: skip
