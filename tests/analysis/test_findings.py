"""Sentences under figures: the numbers of their tables, and what is missing in words."""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest

from e2e_lib.analysis.findings import (
    dictionaries,
    directions,
    features,
    pareto,
    roads,
    training,
    use,
)
from e2e_lib.analysis.sweeps import MOVES
from e2e_lib.files import project_path
from e2e_lib.names import OBJECTIVES

REFERENCE = project_path("results/reference")
Sentence = Callable[[pd.DataFrame], str]
SENTENCES: dict[str, list[Sentence]] = {  # of tables that the reference has
    "tables/summary_ratio": [
        partial(pareto.at_layer, layer=2), pareto.by_layer, pareto.intervals,
    ],
    "figures/90_claims": [pareto.claims],
    "figures/22_mse": [roads.last_block, partial(roads.last_block, column="mse_after_first")],
    "figures/22_explained_variance": [roads.explained_variance],
    "figures/23_within_similarity": [dictionaries.similarity],
    "figures/23_cross_seed_similarity": [dictionaries.similarity],
    "figures/23_cross_type_similarity": [partial(dictionaries.similarity, pair=("e2e_ds", "e2e"))],
    "figures/23_similarity_trends": [dictionaries.trends],
    "figures/24_umap": [dictionaries.maps],
    "tables/24_region_counts": [dictionaries.regions],
    "figures/25_norms": [roads.norms],
    "figures/25_cosine": [roads.cosine],
    "figures/25_norm_by_position": [roads.norm_by_position],
    "figures/25_direction_by_position": [roads.direction_by_position],
    "figures/26_projections": [directions.projections],
    "figures/26_cosine_map": [directions.elements],
    "figures/26_correlation": [directions.kept],
    "figures/26_ablation": [directions.needed],
    "figures/27_ratios": [partial(training.sweep, column="lr"), training.largest_change],
    "figures/27_gap_to_e2e": [training.gap],
    "figures/27_convergence": [partial(training.convergence, at_most=MOVES)],
    "tables/27_seed_spread": [training.seed_spread],
    "tables/27_alive_trends": [training.alive],
    "figures/30_cost_ratio": [training.cost],
    "figures/30_cost_quality": [training.ways],
    "figures/30_moved_features": [dictionaries.moved],
    "tables/30_agreement_gain": [dictionaries.agreement],
    "figures/28_scores": [features.scores],
    "tables/29_differences": [partial(features.faithfulness, layer=2)],
    "tables/29_features_needed": [features.needed],
    "tables/40_use": [use.by_layer, lambda table: use.kinds(table[table["layer"] == 2])],
    "figures/41_summary": [partial(use.measures, layer=2)],
    "figures/42_loudness": [use.loudness],
}  # fmt: skip
FOUND = [name for name in SENTENCES if (REFERENCE / f"{name}.csv").is_file()]
LABELS = ["layer", "seed", "other_seed", "objective", "compared", "reference", "first", "second"]


def few(table: pd.DataFrame, n: int = 40) -> pd.DataFrame:
    keys = [c for c in (*LABELS, "pair", "source", "kind") if c in table]
    return table.groupby(keys, sort=False).head(n) if keys else table


def without(table: pd.DataFrame, objective: str) -> pd.DataFrame:
    keep = pd.Series(True, table.index)
    for column in ("objective", "compared", "source", "first", "second"):
        keep &= table[column] != objective if column in table else True
    return table[keep]


def damaged(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    numbers = [c for c in table.select_dtypes("number") if c not in (*LABELS, "block", "position")]
    one_seed = table[table["seed"] == table["seed"].min()] if "seed" in table else table
    one_seed = one_seed.assign(n_seeds=1) if "n_seeds" in table else one_seed
    ends = {c: np.nan for c in table if str(c).endswith(("low", "high"))}
    return {
        "whole": table,
        "one seed": one_seed.assign(**ends),
        "no numbers": table.astype(dict.fromkeys(numbers, float)).assign(
            **dict.fromkeys(numbers, np.nan)
        ),
    } | {f"no {name}": without(table, name) for name in OBJECTIVES}


def test_a_sweep_says_in_place_of_which_rate_where_objectives_have_their_own() -> None:
    row = {"layer": 2, "column": "lr", "quantity": "CE increase at equal L0", "low": 1.1}
    row |= {"value": 1.2, "high": 1.3, "n_seeds": 3}
    table = pd.DataFrame(
        [
            row | {"objective": "local", "setting": 0.06, "main": 0.03},
            row | {"objective": "e2e", "setting": 0.12, "main": 0.06},
        ]
    )
    said = training.sweep(table, "lr")
    assert "local 1.20 (1.10 to 1.30) with a learning rate of 0.06 in place of 0.03" in said
    assert "e2e 1.20 (1.10 to 1.30) with a learning rate of 0.12 in place of 0.06" in said
    alone = training.sweep(table[:1], "lr")
    assert "the main runs' (a learning rate of 0.03): local" in alone and "in place" not in alone


def test_the_reference_has_the_tables_to_try() -> None:
    assert len(FOUND) >= 28


@pytest.mark.parametrize("name", FOUND)
def test_a_sentence_whatever_is_missing(name: str) -> None:
    table = few(pd.read_csv(REFERENCE / f"{name}.csv"))
    for what, own in damaged(table).items():
        if own.empty:  # then the figure is not drawn
            continue
        for sentence in SENTENCES[name]:
            found = sentence(own)
            assert found.endswith(".") and "\n" not in found, (what, found)
            assert not re.search(r"\b(nan|inf|None|NaN)\b", found), (what, found)
            assert len(found) < 600, (what, found)


@pytest.fixture
def ratios() -> pd.DataFrame:
    shared = {"layer": 2, "n_seeds": 3, "note": "", "window_low": 5.0, "window_high": 20.0}
    rows = [
        ("e2e", pareto.AT_L0, "e2e", "local", 0.412, 0.38, 0.44),
        ("e2e_ds", pareto.AT_L0, "e2e_ds", "local", 0.6, 0.5, 0.7),
        ("e2e", pareto.AT_CE, "local", "e2e", 2.3, 2.1, 2.5),
        ("e2e_ds", pareto.AT_L0, "e2e_ds", "e2e", 1.5, 1.4, 1.6),
    ]
    columns = ["compared", "quantity", "objective", "reference", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).assign(**shared)


def test_the_gap_between_curves_in_a_sentence(ratios: pd.DataFrame) -> None:
    assert pareto.at_layer(ratios, 2) == (
        "at layer 2 and an equal L0 of 5 to 20, the CE increase over local's is e2e 0.41 (0.38 to "
        "0.44), e2e+ds 0.60 (0.50 to 0.70); at equal CE increase local's L0 over theirs is e2e "
        "2.30 (2.10 to 2.50), e2e+ds not measured."
    )
    assert pareto.intervals(ratios).startswith("2 of 2 intervals of the CE increase at equal L0")
    assert "1 below the paper's 0.45" in pareto.intervals(ratios)
    alone = ratios.assign(n_seeds=1, low=np.nan, high=np.nan)
    assert "e2e 0.412, e2e+ds 0.6" in pareto.at_layer(alone, 2)
    assert pareto.at_layer(alone, 2).endswith("one seed: another training may differ.")
    lacking = ratios.assign(value=np.nan, note="no seed has 3 runs")
    assert pareto.at_layer(lacking, 2) == "the curves cannot be compared: no seed has 3 runs."
    assert "no layer has all" in pareto.at_layer(ratios, 7)


def test_a_layer_whose_ratio_is_of_few_points_has_none(ratios: pd.DataFrame) -> None:
    other = ratios.assign(layer=1, left_out=0.72, value=8.68, low=-40, high=57.4)
    found = pareto.by_layer(pd.concat([other, ratios.assign(left_out=0.0)]))
    assert found == (
        "CE increase over local's at equal L0: e2e not known at layer 1, 0.41 (0.38 to 0.44) at "
        "layer 2; e2e+ds not known at layer 1, 0.60 (0.50 to 0.70) at layer 2."
    )


def test_synonyms_without_power_are_said_to_have_none() -> None:
    shares = pd.DataFrame(
        {"objective": OBJECTIVES, "kind": "one synonym", "value": 0.0, "low": 0.0, "high": 0.0,
         "n": [60, 60, 50]}
    )  # fmt: skip
    assert "no feature of 170" in features.power(shares) and "no power" in features.power(shares)
    some = shares.assign(value=[0.1, 0.02, 0.0], low=[0.06, 0.0, 0.0], high=[0.14, 0.04, 0.0])
    assert "local 10 (6 to 14)" in features.power(some)
    assert features.power(some).endswith("the intervals lie apart.")
    assert "no feature was held" in features.power(shares[shares["kind"] == "decoy"])


def test_who_is_nearer_to_the_clean_model() -> None:
    gaps = pd.DataFrame({
        "match": "l0", "layer": 2, "task": "all", "first": ["local", "e2e"],
        "second": ["e2e", "e2e_ds"], "value": [0.15, -0.02], "low": [0.1, -0.05],
        "high": [0.2, 0.03], "n_seeds": 3,
    })  # fmt: skip
    assert features.faithfulness(gaps, 2) == (
        "distance of m from the clean model's, all tasks, layer 2: local nearer than e2e by 0.15 "
        "(similar L0), e2e and e2e+ds not told apart (similar L0)."
    )
    assert "no two objectives" in features.faithfulness(gaps, 3)


def test_what_the_network_uses_and_does_not() -> None:
    table = pd.DataFrame({
        "kind": ["object", "coin", "size"], "layer": 1, "verdict": ["used", "unused", "unused"],
        "presence": [1.0, 0.9, 0.1], "use": [10.0, 0.002, 0.001],
    })  # fmt: skip
    assert use.kinds(table) == (
        "of 3 kinds of decision 1 used, 0 undecided and 2 unused; the loudest unused one, coin, "
        "has presence 0.9 and use 0.002 nats."
    )
    assert use.by_layer(table) == "of 3 kinds, used where they first show: 1 at block 1."


def test_a_channel_s_loudness_in_factors() -> None:
    rows = [("local", 0.0, 0.1), ("local", 0.5, 0.4), ("e2e", 0.0, 0.1), ("e2e_ds", 0.5, 0.2)]
    table = pd.DataFrame(rows, columns=["objective", "unused", "value"]).assign(
        match="l0", quantity="ce_increase", layer=2, n_seeds=3
    )
    assert use.loudness(table).endswith("local 4, e2e not measured, e2e+ds not measured.")
    assert "not said" in use.loudness(table[table["unused"] == 0])
    wasted = table[table["unused"] == 0.5].assign(quantity="wasted_l0", value=0.25)
    other = pd.concat([table.assign(quantity="l0"), wasted]).assign(match="ce_increase")
    found = use.loudness(other)
    assert "L0 at equal CE increase over that without a channel: local 4, e2e not" in found
    assert found.endswith("; of L0 the channel takes: local 25 %, e2e+ds 25 %.")


def test_what_matters_more_and_whether_a_short_tuning_is_enough() -> None:
    rows = [
        (4.0, 2.0, 1.5, 0.29, -0.1, 0.7, "undecided"),
        ("all", 4.0, 2.0, 0.69, 0.6, 0.8, "holds"),
    ]
    columns = ["at", "objective_range", "sparsifier_range", "value", "low", "high", "verdict"]
    which = pd.DataFrame(rows, columns=columns).assign(n_seeds=3)
    assert use.matters(which) == (
        "at L0 4, KL differs by a factor of 4 between objectives and of 2 between "
        "sparsifiers; the logarithms differ by 0.69 (0.60 to 0.80), so that the objective matters "
        "more: holds."
    )
    assert "not said" in use.matters(which.head(0))
    tuned = pd.DataFrame({
        "unused": [0.0, 0.0, 0.8], "sparsifier": ["relu", "relu", "topk"], "objective": "finetune",
        "against": ["e2e", "e2e_ds", "e2e"], "tokens": 0.1, "value": [1.1, 0.9, 3.0],
        "low": [1.0, 0.8, 2.0], "high": [1.15, 1.0, 4.0], "n_seeds": 3,
        "verdict": ["holds", "holds", "refuted"],
    })  # fmt: skip
    assert use.short_tuning(tuned) == (
        "a fine-tuning on 10 % of the tokens, CE increase over e2e's and whether that is all one "
        "needs: with 0 % unused ReLU 1.10 (1.00 to 1.15) (holds); with 80 % unused TopK 3.0 (2.0 "
        "to 4.0) (refuted)."
    )
    assert "not said" in use.short_tuning(tuned.head(0))
