"""How each claim of the paper is measured; no torch.

"Middle layer" is the middle one of the layers trained, "similar CE" the triple that
`matched.similar` picks by means over seeds, with the same λ in every seed.
"""

from math import nan

import numpy as np
import pandas as pd

from e2e_lib.analysis.claims.tables import (
    Measurement,
    Tables,
    determined,
    elsewhere,
    middle,
    need,
    of_row,
    of_seeds,
    percent,
    ranged,
    resampled,
    similar_ce,
    written,
)
from e2e_lib.analysis.matched import last_block_ratios
from e2e_lib.analysis.pareto import BEYOND
from e2e_lib.analysis.statistics import (
    Interval,
    mean_differences,
    median_interval,
    seed_interval,
)
from e2e_lib.analysis.sweeps import seconds_ratios
from e2e_lib.names import OBJECTIVES

CEILING = 0.95  # share of the latents that are alive, above which their number is the dictionary's
PREMISE = {"first_cosine": 0.9, "norm_ratio": 10.0}  # of C11; on GPT-2 about 1 and 40
MATCHED = {"ce_increase": "CE", "l0": "L0"}  # what SAEs are matched on


def curve_ratio(tables: Tables, quantity: str, objective: str, reference: str) -> Measurement:
    """Interpolated ratio of two curves at the middle layer (C1, C2, C3a)."""
    table = written(tables, "summary_ratio")
    table = table[
        (table["quantity"] == quantity)
        & (table["objective"] == objective)
        & (table["reference"] == reference)
    ]
    own = middle(table, tables.runs)
    need(len(own) > 0, f"notebook 20 has not compared {objective} with {reference} here")
    row = own.iloc[0]
    determined(row)
    words, _ = BEYOND[row["x"], row["y"]]
    beyond = f", {words}, as the paper says, at {percent(row['beyond'])} of it"
    note = (
        f"Layer {row['layer']}, {row['x']} from {row['window_low']:.3g} to "
        f"{row['window_high']:.3g}, which all curves share: {row['at_low']:.3g} at its lower and "
        f"{row['at_high']:.3g} at its upper end{beyond * ('local' in (objective, reference))}. "
        + elsewhere(table[table["layer"] != row["layer"]])
        + resampled(row["n_seeds"], f"{row['n_rows']} rows of text", shared=True)
    )
    grid = (float(row["grid_low"]), float(row["grid_high"]))
    if not np.isnan(grid[0]):
        note += f" With one inner λ left out: {grid[0]:.3g} to {grid[1]:.3g}."
    return of_row(row, int(row["n_runs"]), note, grid=grid)


def downstream_pathway(tables: Tables) -> Measurement:
    """C3b: where e2e+ds lies between local (0) and e2e (1) in log MSE after the last block."""
    triples = similar_ce(tables)
    blocks = tables.blocks[tables.blocks["run"].isin(triples["run"])]
    pathway = last_block_ratios(blocks).set_index("seed")["pathway"]
    need(len(pathway) > 0, "there is no block after the middle layer")
    need(bool(pathway.notna().all()), "e2e's MSE after the last block is not above local's")
    return of_seeds(pathway, len(triples))


def alive_ratio(tables: Tables, objective: str, others: list[str]) -> Measurement:
    """C4: alive elements over the fewest among `others`, at the middle layer, where the sweep over
    training tokens is: a value and its movement are of one layer."""
    triples = similar_ce(tables, middle_only=False)
    alive = triples.pivot_table(index=["layer", "seed"], columns="objective", values="alive")
    ratio = (alive[objective] / alive[others].min(axis=1)).rename("value").reset_index()
    own = middle(ratio, tables.runs)
    need(len(own) > 0, "no similar-CE triple at the middle layer")
    mine = middle(triples[triples["objective"] == objective], tables.runs)
    full = (mine["alive"] / mine["d_sae"]).mean()
    need(
        bool(full < CEILING),
        f"{percent(full)} of {objective}'s latents are alive: the dictionary is full, and its size "
        "decides, not the objective",
    )
    layers = [
        (layer, *seed_interval(part["value"]))
        for layer, part in ratio.groupby("layer") if layer != own["layer"].iloc[0]
    ]  # fmt: skip
    note = elsewhere(pd.DataFrame(layers, columns=["layer", *Interval._fields]))
    return of_seeds(own["value"], len(own) * len(OBJECTIVES), note)


def similarity_difference(tables: Tables, name: str, first: str, second: str) -> Measurement:
    """C5, C6: difference of mean max cosine between two objectives at the middle layer."""
    found = mean_differences(middle(written(tables, name), tables.runs), [(first, second)])
    need(len(found) > 0, f"no seed has weights for both {first} and {second} at this layer")
    row = found.iloc[0]
    over = resampled(row["n_seeds"], "dictionary elements")
    if name == "23_cross_seed_similarity":
        over = f"Interval: jackknife over {row['n_seeds']} seeds, of which pairs share each."
    return of_row(row, 2 * int(row["n_seeds"]), over)


def score_difference(tables: Tables, match: str, objective: str) -> Measurement:
    """C7: mean interpretability score minus local's, at the middle layer."""
    table = written(tables, "28_differences")
    named = table["difference"] == f"{objective} - local"
    own = middle(table[named & (table["match"] == match)], tables.runs)
    need(len(own) > 0, f"{objective} and local have no scored features of one seed at this layer")
    row = own.iloc[0]
    looked_up = row["explainer"] == "storyworld"
    truth = "a look-up among StoryWorld's labels, no language model"
    explainer = truth if looked_up else row["explainer"]
    note = (
        f"Explainer: {explainer}; {row['n_first']} and {row['n_second']} features. "
        f"{resampled(row['n_seeds'], 'features')}"
    )
    aside = "by labels" if looked_up else ""
    return of_row(row, 2 * int(row["n_seeds"]), note, aside=aside)


def cost_ratio(tables: Tables, objective: str) -> Measurement:
    """C8: a training step's time over local's, on GPT-2's shape with one SAE (the benchmark)."""
    lines = tables.benchmark
    need(len(lines) > 0, "benchmarks/results has no measurement of GPT-2's shape here")
    ms = lines.pivot_table(index=["file", "repeat"], columns="objective", values="ms").dropna()
    ratio = ms[objective] / ms["local"]
    each = [median_interval(own) for _, own in ratio.groupby(level="file")]
    own = seconds_ratios(tables.runs)
    shared = own[objective].mean() if objective in own else nan
    note = (
        f"{len(ratio)} rounds of GPT-2's shape, one SAE, {lines['device'].iloc[0]}, in {len(each)} "
        "measurements: median of all; the interval spans each measurement's, by the sign test."
    )
    if shared == shared:
        note += f" On these runs' own model: {shared:.3g}."
    ends = min(one.low for one in each), max(one.high for one in each)
    return Measurement(float(ratio.median()), *ends, 0, 0, note)


def still_behind(tables: Tables, column: str, against: str = "main") -> Measurement:
    """C9: e2e over local at the largest setting of a sweep, CE increase at equal L0.

    against: of e2e's main runs ("main"), or of e2e at the same setting ("equal").
    """
    table = written(tables, "27_gap_to_e2e")
    table = table[(table["column"] == column) & (table["against"] == against)]
    gaps = middle(table, tables.runs)
    beyond = gaps[gaps["setting"] > gaps.loc[gaps["main"], "setting"].max()]
    need(len(beyond) > 0, f"no sweep trained local with a larger {column} than the main runs'")
    row = beyond.loc[beyond["setting"].idxmax()]
    determined(row)
    usual = gaps.loc[gaps["main"], "value"].iloc[0]
    note = f"{column} {row['setting']:g}; with the main runs' it is {usual:.3g}. " + resampled(
        row["n_seeds"], f"{row['n_rows']} rows of text", shared=True
    )
    known = gaps.dropna(subset=["value"]).set_index("setting")["value"]
    grid = (float(row["grid_low"]), float(row["grid_high"]))
    if column != "train_tokens":
        return of_row(row, int(row["n_runs"]), note, grid=grid)
    tokens = {"by_tokens": known.to_dict(), "at_tokens": float(row["setting"])}
    return of_row(row, int(row["n_runs"]), note, grid=grid, **tokens)


def shrinkage_gap(tables: Tables) -> Measurement:
    """C10: by how much e2e's L2 ratio lies below the smaller of the other two."""
    column = "l2_ratio_after_first"
    triples = similar_ce(tables)
    need(column in triples, f"the metrics have no {column}")
    ratio = triples.pivot_table(index="seed", columns="objective", values=column)
    return of_seeds(ratio[["local", "e2e_ds"]].min(axis=1) - ratio["e2e"], len(triples))


def first_direction(tables: Tables, quantity: str) -> Measurement:
    """C11: PCA direction 0 against the other leading directions, at the last layer."""
    table = written(tables, "26_first_direction")
    need(len(tables.runs) > 0, "there are no runs")
    table = table[table["layer"] == tables.runs["layer"].max()]
    need(len(table) > 0, "notebook 26 looked at another layer than the last")
    for name, words in (
        ("first_cosine", "its cosine with it is"),
        ("norm_ratio", "its norm over the others' is"),
    ):
        least = float(table[name].iloc[0]) if name in table else nan
        need(
            not least < PREMISE[name],
            f"the paper's direction 0 points to a position 0 of tens of times the others' norm; "
            f"here {words} {least:.2g}, not above {PREMISE[name]:g}",
        )
    own = table[table["quantity"] == quantity].dropna(subset=["value"])
    need(len(own) > 0, "e2e+ds and local have no weights for one seed at the last layer")
    need("n_seeds" in own, "26_first_direction is older than these rules: run notebook 26 again")
    row = own.iloc[0]
    over = resampled(row["n_seeds"], "rows of text", shared=True)
    note = over if row["n_seeds"] else "No SAE takes part. Interval: bootstrap over rows of text."
    return of_row(row, int(row["n"]) if row["n_seeds"] else 0, f"Layer {row['layer']}. {note}")


def faithfulness(tables: Tables, match: str, pair: list[str] | None = None) -> Measurement:
    """C12: by how much the second of a pair is closer to the clean model than the first, mean over
    the agreement tasks; without a pair: the largest such difference of any two, without sign."""
    table = written(tables, "29_differences")
    own = middle(table[(table["match"] == match) & (table["task"] == "all")], tables.runs)
    need(len(own) > 0, "notebook 29 has written no mean over the tasks at this layer")
    if pair:
        own = own[(own["first"] == pair[0]) & (own["second"] == pair[1])]
        need(len(own) > 0, f"no seed has both {pair[0]} and {pair[1]}")
    ends = own[["low", "high"]]
    across = (ends["low"] <= 0) & (ends["high"] >= 0)
    apart = [
        "{} nearer than {}".format(*((r.first, r.second)[:: 1 if r.value > 0 else -1]))
        for r in own[~across & ends.notna().all(axis=1)].itertuples()
    ]
    row = own.loc[own["value"].abs().idxmax()].copy()
    if pair:
        row[["value", "low", "high"]] = -row[["value", "high", "low"]].to_numpy(dtype=float)
        names = ""
    else:
        sizes = ends.abs().where(~across, ends.abs().assign(low=0.0))
        row["low"], row["high"] = sizes.min(axis=1).max(), sizes.max(axis=1).max()
        names = f"The largest: {row['first']} and {row['second']}. "
        row["value"] = abs(row["value"])
    seeds = int(row["n_seeds"])
    told = f"Intervals without 0: {', '.join(apart)}. " if apart else ""
    note = names + told + resampled(seeds, "prompts", shared=True)
    return of_row(row, (2 if pair else len(OBJECTIVES)) * seeds, note)


def functional_difference(
    tables: Tables, measure: str, objective: str, less: bool = False
) -> Measurement:
    """C0: a measure on exact counterfactual pairs, minus local's (less: local's minus it), at
    similar CE and at similar L0: the smaller value, and the ends of both intervals together, so
    that a verdict is true of both matches or there is none."""
    table = written(tables, "41_differences")
    own = middle(table[table["measure"] == measure], tables.runs)
    sign = pd.Series(nan, own.index)
    sign[(own["first"] == objective) & (own["second"] == "local")] = 1.0
    sign[(own["first"] == "local") & (own["second"] == objective)] = -1.0
    own, sign = own[sign.notna()], sign.dropna() * (-1 if less else 1)
    need({*own["match"]} == {*MATCHED}, "not both matches were measured at this layer")
    turned = own[["value", "low", "high"]].mul(sign, axis=0)
    both = turned.assign(low=turned[["low", "high"]].min(axis=1, skipna=False))
    both["high"] = turned[["low", "high"]].max(axis=1, skipna=False)
    ends = both["low"].min(skipna=False), both["high"].max(skipna=False)
    seeds = int(own["n_seeds"].min())
    parts = [
        f"{ranged(*row)} at similar {MATCHED[m]}"
        for row, m in zip(both.itertuples(index=False), own["match"], strict=True)
    ]
    differ = (
        "; the sign hangs on the match" if both["value"].min() < 0 < both["value"].max() else ""
    )
    pairs = f"{int(own['n_pairs'].min())} " if "n_pairs" in own else ""
    note = (
        f"{', '.join(parts)}{differ}. {_floors(tables, measure, objective, less)}"
        f"{resampled(seeds, f'{pairs}counterfactual pairs and kinds of decision', shared=True)}"
    )
    return Measurement(both["value"].min(), *ends, 2 * len(own) * seeds, seeds, note)


def _floors(tables: Tables, measure: str, objective: str, less: bool) -> str:
    """The two objectives' own values beside the best floor's, and which are no better than it."""
    table = tables.written.get(
        "41_summary", pd.DataFrame(columns=["layer", "measure", "objective", "value", "floor"])
    )
    own = middle(table[table["measure"] == measure], tables.runs)
    own = own[own["objective"].isin(["local", objective])].dropna(subset=["value", "floor"])
    if own.empty:
        return ""
    by_name = own.groupby("objective", sort=False)[["value", "floor"]]
    ends = by_name.agg(["min", "max"])
    said = [
        f"{name} " + " to ".join(dict.fromkeys(f"{x:.3g}" for x in row["value"]))
        for name, row in ends.iterrows()
    ]
    worse = own["value"] >= own["floor"] if less else own["value"] <= own["floor"]
    below = list(own.loc[worse, "objective"].unique())
    floor = " to ".join(dict.fromkeys(f"{x:.3g}" for x in (own["floor"].min(), own["floor"].max())))
    return (
        f"Own values: {', '.join(said)}; the best floor (untrained, half frozen, PCA) has "
        f"{floor}" + (f": {' and '.join(below)} no better. " if below else ". ")
    )
