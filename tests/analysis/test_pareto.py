"""The interpolated summary ratio by hand."""

import numpy as np
import pandas as pd
import pytest

from e2e_lib.analysis import pareto
from e2e_lib.analysis.statistics import seed_interval

CURVES = {"local": [(10, 1.0), (20, 0.6), (40, 0.2)], "e2e": [(5, 0.5), (25, 0.3), (50, 0.1)],
          "e2e_ds": [(8, 0.4), (16, 0.4), (60, 0.4)]}  # fmt: skip


def runs_of(seeds: tuple[int, ...] = (0,), layer: int = 2) -> pd.DataFrame:
    rows = [
        (f"{o}{k}s{s}", layer, o, s, float(l0), ce * (1 + 0.5 * s), 100 - l0)
        for o, curve in CURVES.items() for k, (l0, ce) in enumerate(curve) for s in seeds
    ]  # fmt: skip
    columns = ["run", "layer", "objective", "seed", "l0", "ce_increase", "alive"]
    return pd.DataFrame(rows, columns=columns)


def rows_of(runs: pd.DataFrame, n: int = 50, noise: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for row in runs.itertuples():
        factor = 1 + noise * rng.standard_normal(n)
        factor /= factor.mean()
        values = {"ce_increase": row.ce_increase * factor, "l0": row.l0 * np.ones(n)}
        parts.append(pd.DataFrame({"run": row.run, "row": range(n)} | values))
    return pd.concat(parts)


def test_window_is_what_all_curves_share():
    assert pareto.shared_window(runs_of(), "l0", [0]) == (10, 40)


def test_ratio_by_hand():
    runs = runs_of()
    found = pareto.interpolated_ratio(runs, rows_of(runs), "e2e", points=4)
    # At L0 10, 20, 30, 40: e2e 0.45, 0.35, 0.26, 0.18; local 1, 0.6, 0.4, 0.2.
    by_hand = np.mean([0.45 / 1, 0.35 / 0.6, 0.26 / 0.4, 0.18 / 0.2])
    assert found["value"] == pytest.approx(by_hand)
    assert (found["window_low"], found["window_high"], found["n_runs"]) == (10, 40, 6)
    assert found["low"] == pytest.approx(by_hand) == pytest.approx(found["high"])  # no noise


def test_reverse_ratio_by_hand():
    runs = runs_of()
    found = pareto.interpolated_ratio(
        runs, rows_of(runs), "local", reference="e2e", x="ce_increase", y="l0",
        window=(0.3, 0.5), points=3,
    )  # fmt: skip
    # At CE 0.3, 0.4, 0.5: local L0 35, 30, 25; e2e 25, 15, 5.
    assert found["value"] == pytest.approx(np.mean([35 / 25, 30 / 15, 25 / 5]))


def test_curves_are_sorted_before_interpolation():
    x, y = np.array([[3.0, 1.0, 2.0]]), np.array([[30.0, 10.0, 20.0]])
    assert pareto.interpolate(np.array([1.5, 9.0]), x, y).tolist() == [[15.0, 30.0]]


def test_seeds_are_averaged_and_widen_the_interval():
    runs = runs_of((0, 1))
    runs.loc[(runs["seed"] == 1) & (runs["objective"] == "e2e"), "ce_increase"] *= 2
    one, two = (
        pareto.interpolated_ratio(runs[runs["seed"] == s], rows_of(runs), "e2e") for s in (0, 1)
    )
    both = pareto.interpolated_ratio(runs, rows_of(runs), "e2e")
    assert both["value"] == pytest.approx((one["value"] + two["value"]) / 2)
    assert both["n_seeds"] == 2
    expected = seed_interval([one["value"], two["value"]])  # rows do not differ
    assert (both["low"], both["high"]) == pytest.approx(expected[1:])


def test_noise_between_rows_gives_an_interval_round_the_value():
    runs = runs_of()
    found = pareto.interpolated_ratio(runs, rows_of(runs, noise=0.5), "e2e")
    assert found["low"] < found["value"] < found["high"]
    again = pareto.interpolated_ratio(runs, rows_of(runs, noise=0.5), "e2e")
    assert found == again


def test_rows_are_resampled_together_for_all_runs():
    # The same hard rows for every run: ratios do not move, however rows are drawn.
    runs = runs_of()
    rows = rows_of(runs)
    hard = 1 + np.arange(50) / 50
    rows["ce_increase"] *= np.tile(hard / hard.mean(), len(runs))
    found = pareto.interpolated_ratio(runs, rows, "e2e")
    assert found["high"] - found["low"] < 1e-12


def test_a_seed_with_two_lambdas_is_no_curve():
    runs = runs_of((0, 1))
    runs = runs[~((runs["seed"] == 1) & (runs["run"] == "e2e0s1"))]
    assert pareto.curve_seeds(runs) == [0]
    found = pareto.interpolated_ratio(runs[runs["seed"] == 1], rows_of(runs), "e2e")
    assert np.isnan(found["value"])
    assert "3 runs" in found["note"]


def test_curves_without_a_common_range():
    runs = runs_of()
    runs.loc[runs["objective"] == "local", "l0"] += 1000
    found = pareto.interpolated_ratio(runs, rows_of(runs), "e2e")
    assert np.isnan(found["value"])
    assert "share no range of l0" in found["note"]


def test_summary_has_a_row_a_layer_objective_and_quantity():
    runs = pd.concat([runs_of(layer=1).assign(run=lambda t: t["run"] + "early"), runs_of()])
    table = pareto.summary_ratios(runs, rows_of(runs), resamples=50)
    assert len(table) == 14
    table = table[table["layer"] == 2]
    at_l0 = table[(table["quantity"] == "CE increase at equal L0") & (table["compared"] == "e2e")]
    alone = pareto.interpolated_ratio(runs_of(), rows_of(runs_of()), "e2e")
    assert at_l0["value"].item() == pytest.approx(alone["value"])
    [both] = table[table["reference"] == "e2e_ds"].query("objective == 'e2e'").itertuples()
    assert (both.quantity, both.compared) == ("CE increase at equal L0", "e2e_ds")


def test_one_lambda_left_out_by_hand():
    """Three runs a curve, so that one inner run of each can be left out: a straight line then."""
    runs = runs_of()
    found = pareto.interpolated_ratio(runs, rows_of(runs), "e2e", points=4)
    l0 = np.array([10.0, 20, 30, 40])
    local, e2e = np.array([1, 0.6, 0.4, 0.2]), np.array([0.45, 0.35, 0.26, 0.18])
    without_local = np.mean(e2e / np.interp(l0, [10, 40], [1, 0.2]))
    without_e2e = np.mean(np.interp(l0, [5, 50], [0.5, 0.1]) / local)
    ends = sorted([without_local, without_e2e])
    assert (found["grid_low"], found["grid_high"]) == pytest.approx(tuple(ends))
    assert (found["at_low"], found["at_high"]) == pytest.approx((0.45, 0.9))
    assert (found["beyond"], found["left_out"]) == (0, 0)  # below 0.45
    fewer = pareto.interpolated_ratio(runs, rows_of(runs), "e2e", x="alive", points=4)
    assert fewer["beyond"] == 1  # below 1
    two = runs[runs["l0"] != runs["run"].map({"local1s0": 20.0, "e2e1s0": 25.0})]
    pairs = [tuple(two[two["objective"] == name] for name in ("e2e", "local"))]
    assert np.isnan(pareto.ratio_of_curves(pairs, rows_of(runs))["grid_low"])


def test_a_curve_that_costs_nothing_gives_no_ratio():
    runs = runs_of()
    runs.loc[runs["run"] == "local2s0", "ce_increase"] = -0.6  # 0.6, 0, -0.6 at L0 20, 30, 40
    found = pareto.interpolated_ratio(runs, rows_of(runs), "e2e", points=4)
    assert found["left_out"] == 0.5
    runs.loc[runs["objective"] == "local", "ce_increase"] = -0.01
    assert np.isnan(pareto.interpolated_ratio(runs, rows_of(runs), "e2e")["value"])


def test_a_fine_tuned_sae_beside_full_training_by_hand():
    runs = runs_of(seeds=(0, 1)).assign(train_tokens=1000, train_seconds=4.0)
    runs.loc[runs["objective"] == "e2e", "train_seconds"] = 10.0
    tuned = pd.DataFrame(
        [("local1s1", "finetune", 20.0, 0.9, 100, 1.0), ("local1s1", "e2e", 60.0, 0.9, 100, 1.0)],
        columns=["run", "objective", "l0", "ce_increase", "train_tokens", "train_seconds"],
    )
    first, second = pareto.beside_full_training(tuned, runs).to_dict("records")
    # At L0 20 e2e has 0.5 - 0.2 · 15/20 = 0.35, in seed 1 half as much again.
    assert first["ce_full"] == pytest.approx(1.5 * 0.35)
    assert first["ratio"] == pytest.approx(0.9 / (1.5 * 0.35))
    assert (first["l0_before"], first["seed"], first["tokens_share"]) == (20, 1, 0.1)
    assert (first["seconds_ratio"], first["full_seconds_ratio"]) == (1.25, 2.5)
    assert np.isnan(second["ratio"]) and "as large an L0" in second["note"]
    alone = pareto.beside_full_training(tuned, runs[runs["objective"] == "local"])
    assert set(alone["note"]) == {"fewer than 2 λ of e2e"}
    assert not len(pareto.beside_full_training(tuned.head(0), runs))
