"""Which runs are compared: by hand on tables small enough to read."""

import numpy as np
import pandas as pd
import pytest

from e2e_lib import paper
from e2e_lib.analysis import matched
from e2e_lib.errors import ResultsError
from tests.helpers.sweep_tables import COEFFS, PLANE
from tests.helpers.sweep_tables import TABLE as SWEEPS
from tests.helpers.synthetic_results import write_results


def runs_of(*rows: tuple) -> pd.DataFrame:
    """Rows (layer, objective, seed, λ, CE increase, L0), everything else equal."""
    columns = ["layer", "objective", "seed", "sparsity_coeff", "ce_increase", "l0"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(
        run=[f"run{i}" for i in range(len(table))], model="m", hook="blocks.1.hook_resid_pre",
        dict_ratio=10.0, train_tokens=1000, lr=1e-3, kl_coeff=1.0, downstream_coeff=0.0,
        alive=100, grad_norm=0.5,
    )  # fmt: skip


TABLE = runs_of(
    (2, "local", 0, 0.1, 0.10, 90.0),
    (2, "local", 0, 0.5, 0.40, 30.0),
    (2, "e2e", 0, 0.2, 0.02, 60.0),
    (2, "e2e", 0, 2.0, 0.11, 28.0),
    (2, "e2e_ds", 0, 0.3, 0.03, 70.0),
    (2, "e2e_ds", 0, 3.0, 0.12, 33.0),
    (2, "local", 1, 0.1, 0.14, 80.0),
    (2, "e2e", 1, 2.0, 0.13, 26.0),
    (2, "local", 1, 0.5, 0.131, 31.0),  # closer in this seed alone: 0.27 in the mean
)


def test_similar_ce_is_the_closest_triple_by_the_mean_over_seeds():
    found = matched.similar(TABLE, "ce_increase")
    assert found["sparsity_coeff"].tolist() == [0.1, 2.0, 3.0]
    assert found["objective"].tolist() == ["local", "e2e", "e2e_ds"]
    assert set(found["match"]) == {"ce_increase"}


def test_similar_l0_is_another_triple():
    assert matched.similar(TABLE, "l0")["sparsity_coeff"].tolist() == [0.5, 2.0, 3.0]


def test_spread_is_measured_in_logarithms():
    # 0.01, 0.02 differ by a factor 2, 0.10, 0.12 by 1.2, though 0.01 apart against 0.02.
    table = runs_of(
        (0, "local", 0, 1.0, 0.01, 9.0),
        (0, "local", 0, 2.0, 0.10, 9.0),
        (0, "e2e", 0, 1.0, 0.02, 9.0),
        (0, "e2e", 0, 2.0, 0.12, 9.0),
        (0, "e2e_ds", 0, 1.0, 0.02, 9.0),
        (0, "e2e_ds", 0, 2.0, 0.12, 9.0),
    )
    assert matched.similar(table, "ce_increase")["sparsity_coeff"].tolist() == [2.0, 2.0, 2.0]


def test_equal_spreads_go_to_the_layers_median_then_to_the_lower_l0():
    triples = [(o, k, ce) for o in matched.OBJECTIVES for k, ce in ((1, 0.1), (2, 0.2), (3, 0.9))]
    table = runs_of(*[(0, o, 0, float(k), ce, 10.0) for o, k, ce in triples])
    assert matched.similar(table, "ce_increase")["sparsity_coeff"].tolist() == [2.0] * 3
    twins = runs_of(*[(0, o, 0, k, 0.1, 10 * k) for o in matched.OBJECTIVES for k in (2.0, 1.0)])
    assert matched.similar(twins, "ce_increase")["l0"].tolist() == [10.0] * 3


def test_layers_without_all_objectives_or_without_a_logarithm_are_left_out():
    assert matched.similar(TABLE[TABLE["objective"] != "e2e"], "l0").empty
    assert matched.similar(TABLE.assign(ce_increase=-0.01), "ce_increase").empty


def test_the_seed_is_one_that_every_layer_has():
    both = [(2, o, seed, 1.0, 0.1, 9.0) for o in matched.OBJECTIVES for seed in (0, 5)]
    table = runs_of(*both, *[(1, o, 5, 1.0, 0.1, 9.0) for o in matched.OBJECTIVES])
    assert set(matched.similar(table, "l0")["layer"]) == {1, 2}
    assert set(matched.similar(table, "l0")["seed"]) == {5}
    assert set(matched.similar(table, "l0", 0)["layer"]) == {2}
    assert set(matched.similar(table[table["layer"] == 2], "l0")["seed"]) == {0}


def test_other_seeds_keep_the_lambda():
    everywhere = matched.across_seeds(TABLE, matched.similar(TABLE, "ce_increase"))
    ours = everywhere[everywhere["seed"] == 1]
    assert ours["sparsity_coeff"].tolist() == [0.1, 2.0]
    summary = matched.over_seeds(everywhere)
    local = summary.iloc[0]
    assert local["n_seeds"] == 2
    assert local["ce_increase"] == pytest.approx(0.12)
    assert (local["ce_increase_min"], local["ce_increase_max"]) == (0.10, 0.14)
    cells = matched.with_range(summary, {"l0": 1})["l0"].tolist()
    assert cells == ["85.0 (80.0–90.0)", "27.0 (26.0–28.0)", "33.0"]


def test_main_runs_drops_sweeps_and_sorts():
    other = TABLE.iloc[[0]].assign(run="ratio", dict_ratio=20.0)
    slower = TABLE.iloc[[0]].assign(run="lr", lr=1e-4)
    custom = TABLE.iloc[[0]].assign(run="custom", objective="custom")
    several = pd.concat([TABLE.iloc[[0, 1]].assign(run="two hooks")])
    kept = matched.main_runs(pd.concat([other, slower, custom, several, TABLE]))
    assert sorted(kept["run"]) == sorted(TABLE["run"])
    assert kept["objective"].drop_duplicates().tolist() == list(matched.OBJECTIVES)


def test_learning_rate_may_differ_between_objectives():
    own = TABLE["objective"].map({"local": 1.0, "e2e": 2.0, "e2e_ds": 3.0})
    assert len(matched.main_runs(TABLE.assign(lr=own, train_tokens=1000 * own))) == len(TABLE)


def test_depth_names():
    table = pd.DataFrame({"layer": [10, 2, 6, 6]})
    assert matched.depth_names(table) == {2: "early", 6: "middle", 10: "late"}
    assert matched.middle_layer(pd.DataFrame({"layer": [3]})) == 3
    assert matched.middle_layer(pd.DataFrame({"layer": [1, 4]})) == 4


def test_paper_values_stand_beside_the_same_depth():
    summary = matched.over_seeds(matched.similar(TABLE, "ce_increase"))
    table = paper.beside(summary, {2: "middle"}, 2)
    assert table["paper_l0"].tolist() == [69.4, 27.5, 36.8]  # Table 1
    shares = paper.relative_to_local(summary, {2: "middle"}, 2)
    assert shares["l0"].tolist() == pytest.approx([28 / 90, 33 / 90])
    assert shares["paper_l0"].tolist() == pytest.approx([27.5 / 69.4, 36.8 / 69.4])


def test_last_block_ratios():
    blocks = pd.DataFrame(
        [(2, 0, o, b, m) for o, last in (("local", 1), ("e2e", 100), ("e2e_ds", 10))
         for b, m in ((2, 7.0), (4, float(last)))],
        columns=["layer", "seed", "objective", "block", "mse"],
    )  # fmt: skip
    row = matched.last_block_ratios(blocks).iloc[0]
    assert (row["e2e"], row["e2e_ds"]) == (100, 10)
    assert row["pathway"] == pytest.approx(0.5)  # 10 lies half way from 1 to 100 in logarithms
    level = blocks.assign(mse=1.0)
    assert matched.last_block_ratios(level)["pathway"].isna().all()


def test_missing_values_and_no_runs_are_no_error():
    assert len(matched.main_runs(TABLE.assign(dict_ratio=float("nan")))) == len(TABLE)
    assert matched.main_runs(TABLE.iloc[:0]).empty


# ------------------------------------------------------------------ sweeps
def test_main_runs_are_those_of_no_sweep():
    main = matched.main_runs(SWEEPS)
    assert set(main["run"]) == set(SWEEPS["run"][:12])
    without = matched.main_runs(SWEEPS.drop(columns="init_from"))  # an older table
    assert set(main["run"]) <= set(without["run"])


@pytest.mark.parametrize(
    ("column", "settings"),
    [("lr", {0.01, 0.1}), ("dict_ratio", {5.0, 10.0}), ("train_tokens", {500, 1000, 4000})],
)
def test_a_sweep_differs_in_one_column(column, settings):
    runs = matched.sweep_runs(SWEEPS, column)
    assert set(runs[column]) == settings
    for other in {"lr", "dict_ratio", "train_tokens", "init_from"} - {column}:
        assert len(set(runs[other])) == 1
    assert runs["main"].equals(runs[column].isin(matched.main_runs(SWEEPS)[column]))
    assert set(runs["seed"]) == {0}  # the sweeps have one seed, so the main runs beside them too
    pairs = runs.groupby(["objective", column])["sparsity_coeff"].apply(list)
    assert all(list(coeffs) == list(COEFFS) for coeffs in pairs)


def test_warm_starts_may_differ_in_tokens_and_rate():
    runs = matched.sweep_runs(SWEEPS, "init_from")
    assert runs.groupby("main").size().to_dict() == {True: 3, False: 6}
    assert set(runs.loc[~runs["main"], "train_tokens"]) == {200, 300}


def test_main_runs_of_other_lambdas_are_not_beside_a_sweep():
    some = SWEEPS[(SWEEPS["lr"] == 0.01) | (SWEEPS["sparsity_coeff"] > 1)]
    runs = matched.sweep_runs(some, "lr")
    assert set(runs["sparsity_coeff"]) == {2.0, 4.0}
    assert runs["main"].sum() == 2


def test_the_middle_lambda_is_compared():
    compared = matched.warm_start_runs(PLANE)
    assert compared.groupby("role").size().to_dict() == {"scratch": 2, "start": 2, "warm": 2}
    assert set(compared["sparsity_coeff"]) == {2.0}


def test_main_runs_are_of_one_sparsifier_and_variant():
    """A whole results folder may have another; runs that hold k have no λ to be compared by."""
    table = TABLE.assign(sparsifier="relu", k=None, variant="")
    expected = matched.main_runs(TABLE)["run"].tolist()
    topk = table.assign(run=table["run"] + "-k", sparsifier="topk", k=8.0)
    other = table.assign(run=table["run"] + "-v", variant="sparsity_warmup=0.5")
    both = pd.concat([topk, other, table], ignore_index=True)
    assert matched.main_runs(both)["run"].tolist() == expected
    assert matched.main_runs(other)["run"].tolist() == [f"{run}-v" for run in expected]
    assert matched.main_runs(topk).empty


def test_one_s_own_runs_are_laid_over_those_of_a_study(tmp_path):
    base = write_results(tmp_path / "base", layers=(1, 2), weights=False)
    mine = write_results(tmp_path / "mine", layers=(2, 4), seeds=(0,), coeffs=(0.5,), weights=False)
    study = matched.Study("20_pareto", str(base))
    assert matched.laid_over(study, "").empty
    over = matched.laid_over(study, str(mine))
    assert set(over["layer"]) == {2} and len(over) == 3  # layer 4 has nothing to lie over
    with pytest.raises(ResultsError, match="no finished run"):
        matched.laid_over(study, str(tmp_path / "nowhere"))
    other = write_results(tmp_path / "other", layers=(4,), seeds=(0,), coeffs=(0.5,), weights=False)
    with pytest.raises(ResultsError, match="compare_with="):
        matched.laid_over(study, str(other))


def test_nearest_in_log_ce_of_each_objective():
    triple = matched.similar(TABLE, "ce_increase")  # median 0.11
    found = matched.nearest(TABLE, triple)
    assert found["ce_increase"].tolist() == [0.11, 0.12, 0.10]  # by the alphabet
    assert set(found["match"]) == {"ce_increase"}
    assert matched.nearest(TABLE.assign(ce_increase=np.nan), triple).empty
    assert matched.nearest(TABLE.head(0), triple).empty
