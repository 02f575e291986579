"""Sweeps: which runs belong to one, ratios and costs worked out by hand, warm-started features."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib import paper, plots
from e2e_lib.analysis import geometry, matched, sweeps
from e2e_lib.analysis.claims import measures, verdicts
from e2e_lib.analysis.pareto import ratio_of_curves
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae_run import build_saes
from e2e_lib.core.train import train
from e2e_lib.runs.load import SavedSAE
from tests.helpers.run_folders import experiment
from tests.helpers.tiny_models import D_MODEL, random_tokens, small_sae, tiny_model

HOOK = "blocks.2.hook_resid_pre"
COEFFS = (1.0, 2.0, 4.0)


def curve(objective: str, strength: float, seed: int = 0, seconds: float = 10.0, **other):
    """Three runs on the straight line CE increase = strength · (1 - L0 / 100): λ 1, 2, 4."""
    l0 = np.array([80.0, 50.0, 20.0])
    text = "-".join(f"{key}{value}" for key, value in other.items())
    ce = strength * (1 - l0 / 100)
    values = {
        "model": "m", "objective": objective, "layer": 2, "hook": HOOK, "sparsity_coeff": COEFFS,
        "kl_coeff": float(objective != "local"), "downstream_coeff": math.nan, "seed": seed,
        "dict_ratio": 10.0, "train_tokens": 1000, "lr": 0.01, "init_from": "", "l0": l0,
        "alive": 1000 - 500 * ce / strength, "ce_increase": ce, "grad_norm": 0.1 / l0,
        "train_seconds": seconds, "d_sae": 640,
        "run": [f"{objective}-s{seed}-l{coeff}-{text}" for coeff in COEFFS],
    }  # fmt: skip
    return pd.DataFrame(values | other)


START = "local-s0-l2.0-"
TABLE = pd.concat(
    [
        *(curve("local", 4.0, seed, seconds=4.0) for seed in (0, 1)),
        *(curve("e2e", 1.0, seed) for seed in (0, 1)),
        curve("local", 3.0, train_tokens=4000, seconds=16.0),
        curve("local", 6.0, train_tokens=500, seconds=2.0),
        curve("e2e", 1.5, train_tokens=500, seconds=5.0),
        curve("e2e", 2.0, lr=0.1),
        curve("e2e", 1.2, dict_ratio=5.0, d_sae=320, seconds=8.0),
        curve("e2e", 1.25, train_tokens=200, init_from=START, seconds=2.0),
        curve("e2e", 1.25, lr=0.001, train_tokens=300, init_from=START, seconds=3.0),
        curve("e2e", 9.0, lr=0.1, train_tokens=500),  # two things at once: in no sweep
    ],
    ignore_index=True,
)
ROWS = pd.concat(
    [
        pd.DataFrame({"run": run, "row": range(8), "ce_increase": ce, "l0": l0})
        for run, ce, l0 in zip(TABLE["run"], TABLE["ce_increase"], TABLE["l0"], strict=True)
    ],
    ignore_index=True,
)


# ------------------------------------------------------------------ which runs
def test_main_runs_are_those_of_no_sweep():
    main = matched.main_runs(TABLE)
    assert set(main["run"]) == set(TABLE["run"][:12])
    without = matched.main_runs(TABLE.drop(columns="init_from"))  # an older table
    assert set(main["run"]) <= set(without["run"])


@pytest.mark.parametrize(
    ("column", "settings"),
    [("lr", {0.01, 0.1}), ("dict_ratio", {5.0, 10.0}), ("train_tokens", {500, 1000, 4000})],
)
def test_a_sweep_differs_in_one_column(column, settings):
    runs = matched.sweep_runs(TABLE, column)
    assert set(runs[column]) == settings
    for other in {"lr", "dict_ratio", "train_tokens", "init_from"} - {column}:
        assert len(set(runs[other])) == 1
    assert runs["main"].equals(runs[column].isin(matched.main_runs(TABLE)[column]))
    assert set(runs["seed"]) == {0}  # the sweeps have one seed, so the main runs beside them too
    pairs = runs.groupby(["objective", column])["sparsity_coeff"].apply(list)
    assert all(list(coeffs) == list(COEFFS) for coeffs in pairs)


def test_warm_starts_may_differ_in_tokens_and_rate():
    runs = matched.sweep_runs(TABLE, "init_from")
    assert runs.groupby("main").size().to_dict() == {True: 3, False: 6}
    assert set(runs.loc[~runs["main"], "train_tokens"]) == {200, 300}


def test_main_runs_of_other_lambdas_are_not_beside_a_sweep():
    some = TABLE[(TABLE["lr"] == 0.01) | (TABLE["sparsity_coeff"] > 1)]
    runs = matched.sweep_runs(some, "lr")
    assert set(runs["sparsity_coeff"]) == {2.0, 4.0}
    assert runs["main"].sum() == 2


def test_no_sweep_is_an_empty_table_everywhere():
    main = matched.main_runs(TABLE)
    for column in matched.SWEPT:
        runs = matched.sweep_runs(main, column)
        assert runs.empty
        assert sweeps.sweep_ratios(runs, ROWS, column).empty
    assert sweeps.gap_to_e2e(matched.sweep_runs(main, "lr"), ROWS, "lr").empty
    assert sweeps.cost_quality(main, ROWS).empty
    compared = matched.warm_start_runs(main)
    assert compared.empty
    assert geometry.moved({}, compared).empty
    agree = geometry.agreement_of_starts({}, compared)
    assert agree.empty
    assert geometry.agreement_gain(agree).empty
    assert matched.sweep_runs(TABLE.iloc[:0], "lr").empty


# ------------------------------------------------------------------ ratios
def test_ratio_of_two_straight_lines():
    # Both lines are straight, so interpolation is exact and their ratio the same everywhere.
    first, second = curve("e2e", 3.0), curve("local", 4.0)
    found = ratio_of_curves([(first, second)], ROWS.iloc[:0])
    assert found["value"] == pytest.approx(0.75)
    assert (found["window_low"], found["window_high"]) == (20.0, 80.0)
    two = ratio_of_curves([(first, second), (curve("e2e", 1.0, 1), second)], ROWS.iloc[:0])
    assert two["value"] == pytest.approx((0.75 + 0.25) / 2)  # the pairs count alike
    apart = ratio_of_curves([(first.assign(l0=first["l0"] + 100), second)], ROWS)
    assert math.isnan(apart["value"])
    assert apart["note"] == "the curves share no range of l0"


def ratios_of(column: str) -> pd.DataFrame:
    return sweeps.sweep_ratios(matched.sweep_runs(TABLE, column), ROWS, column)


def test_sweep_ratios_by_hand():
    table = ratios_of("train_tokens")
    ce = table[table["quantity"] == "CE increase at equal L0"]
    found = {(r.objective, r.setting): r.value for r in ce.itertuples()}
    assert found == pytest.approx({("local", 500): 1.5, ("local", 4000): 0.75, ("e2e", 500): 1.5})
    assert set(table["main"]) == {1000}
    assert set(ce["n_seeds"]) == {1}
    np.testing.assert_allclose(ce["low"], ce["value"])  # every row of text is the same
    # Alive is 1000 - 500 · share of the strength: at CE increase c, 1000 - 500 c / strength.
    alive = table[(table["quantity"] != "CE increase at equal L0") & (table["objective"] == "e2e")]
    grid = np.linspace(0.3, 0.8, 20)  # from 1.5 · 0.2 to 1.0 · 0.8
    expected = ((1000 - 500 * grid / 1.5) / (1000 - 500 * grid)).mean()
    assert alive["value"].iloc[0] == pytest.approx(expected)


def test_warm_starts_are_told_apart_by_their_tokens():
    table = ratios_of("init_from")
    ce = table[table["quantity"] == "CE increase at equal L0"].set_index("setting")["value"]
    assert ce.to_dict() == pytest.approx({200: 1.25, 300: 1.25})


def test_one_lambda_is_no_curve():
    runs = matched.sweep_runs(TABLE, "lr")
    table = sweeps.sweep_ratios(runs[runs["sparsity_coeff"] == 1], ROWS, "lr")
    assert table["value"].isna().all()
    assert set(table["note"]) == {"no seed has 2 λ of both curves"}


def gaps() -> pd.DataFrame:
    runs = matched.sweep_runs(TABLE, "train_tokens")
    return sweeps.gap_to_e2e(runs, ROWS, "train_tokens")


def test_gap_to_e2e_by_hand():
    table = gaps().set_index("setting")
    assert table["value"].to_dict() == pytest.approx({500: 6.0, 1000: 4.0, 4000: 3.0})
    assert table["main"].to_dict() == {500: False, 1000: True, 4000: False}


def test_the_gap_is_what_c9_reads():
    tables = measures.Tables(
        runs=matched.main_runs(TABLE), blocks=pd.DataFrame(), rows=ROWS,
        written={"27_gap_to_e2e": gaps()},
    )  # fmt: skip
    more_tokens, larger = verdicts.ledger(tables, [c for c in verdicts.CLAIMS if c.id[:2] == "C9"])
    assert (more_tokens["holds"], more_tokens["value"]) == (True, pytest.approx(3.0))
    assert larger["holds"] is None  # no sweep of local's dictionary


# ------------------------------------------------------------------ seeds, alive elements
def test_seed_spread_by_hand():
    one, two = curve("e2e", 1.0), curve("e2e", 3.0, 1)
    table = sweeps.seed_spread(pd.concat([one, two])).set_index("metric")
    # Strengths 1 and 3: mean 2, standard deviation √2, at every λ.
    assert table.loc["ce_increase", "spread"] == pytest.approx(math.sqrt(2) / 2)
    assert table.loc["ce_increase", "low"] == pytest.approx(math.sqrt(2) / 2)
    assert table.loc["l0", "spread"] == 0
    assert table["n_coeffs"].tolist() == [3] * 3
    assert sweeps.seed_spread(one).empty


def test_rank_correlation_by_hand():
    runs = curve("e2e", 1.0).assign(alive=[30, 10, 20], grad_norm=[1.0, 2.0, 30.0])
    table = sweeps.alive_trends(runs).set_index("against")
    assert table.loc["grad_norm", "correlation"] == pytest.approx(-0.5)  # 3 1 2 against 1 2 3
    assert table.loc["ce_increase", "correlation"] == pytest.approx(-0.5)
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (2, 12)).astype(float)  # many ties
    expected = pd.Series(x).rank().corr(pd.Series(y).rank())
    assert sweeps._rank_correlation(x[None], y[None])[0] == pytest.approx(expected)
    assert sweeps.alive_trends(runs.iloc[:2]).empty
    released = sweeps.alive_trends(runs.assign(grad_norm=None))
    assert set(released["against"]) == {"ce_increase"}


# ------------------------------------------------------------------ cost
def test_training_cost_by_hand():
    main = matched.main_runs(TABLE)
    table = sweeps.training_cost(main).set_index("objective")
    assert table.loc["e2e", "ratio"] == pytest.approx(2.5)
    assert table.loc["local", "tokens_per_second"] == pytest.approx(250)
    twice = main.assign(train_tokens=np.where(main["objective"] == "e2e", 2000, 1000))
    again = sweeps.training_cost(twice).set_index("objective")
    assert again.loc["e2e", "ratio"] == pytest.approx(1.25)  # of seconds a token
    assert sweeps.training_cost(main.assign(train_seconds=None)).empty  # released SAEs
    beside = paper.beside_table6(table.reset_index(), {2: "middle"})
    assert beside["paper_hours"].tolist() == pytest.approx([4.75, 11 + 1 / 3])
    assert beside["paper_ratio"].tolist() == pytest.approx([1, 2.386], abs=1e-3)


def test_cost_and_quality_by_hand():
    table = sweeps.cost_quality(TABLE, ROWS).set_index(["way", "setting"])
    assert set(table["objective"]) == {"e2e"}
    tokens = table.loc[("fewer tokens", 500)]
    assert tokens[["tokens_share", "seconds_share", "value"]].tolist() == pytest.approx(
        [0.5, 0.5, 1.5]
    )
    small = table.loc[("smaller dictionary", 5)]
    assert small[["tokens_share", "seconds_share", "value"]].tolist() == pytest.approx(
        [1, 0.8, 1.2]
    )
    warm = table.loc[("warm start", 200)]
    # Two of ten seconds, and four more for the local SAE.
    assert warm[["seconds_share", "seconds_share_with_start"]].tolist() == pytest.approx([0.2, 0.6])
    lost = TABLE[TABLE["run"] != START]
    found = sweeps.cost_quality(lost, ROWS).set_index(["way", "setting"])
    assert math.isnan(found.loc[("warm start", 200), "seconds_share_with_start"])


# ------------------------------------------------------------------ warm-started features
def saved(*degrees: float, alive: tuple[bool, ...] = (True, True)) -> SavedSAE:
    """An SAE with two features in the plane."""
    sae = small_sae(2, d_in=2)
    radians = torch.tensor(degrees) * math.pi / 180
    sae.W_dec.data = torch.stack([radians.cos(), radians.sin()], dim=-1)
    return SavedSAE(sae.requires_grad_(False), HOOK, torch.tensor(alive).float())


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


PLANE = pd.concat(
    [
        *(curve("local", 4.0, seed) for seed in (0, 1)),
        *(curve("e2e", 1.0, seed) for seed in (0, 1)),
        *(
            curve("e2e", 1.2, seed, train_tokens=200, init_from=f"local-s{seed}-l2.0-")
            for seed in (0, 1)
        ),
    ],
    ignore_index=True,
)


def test_the_middle_lambda_is_compared():
    compared = matched.warm_start_runs(PLANE)
    assert compared.groupby("role").size().to_dict() == {"scratch": 2, "start": 2, "warm": 2}
    assert set(compared["sparsity_coeff"]) == {2.0}


def plane() -> tuple[dict[str, SavedSAE], pd.DataFrame]:
    compared = matched.warm_start_runs(PLANE)
    name = {(r.role, r.seed): r.run for r in compared.itertuples()}
    saes = {
        name["start", 0]: saved(0, 90, alive=(True, False)),
        name["start", 1]: saved(10, 100),
        name["warm", 0]: saved(5, 60),
        name["warm", 1]: saved(30, 100, alive=(True, False)),
        name["scratch", 0]: saved(0, 90),
        name["scratch", 1]: saved(45, 135),
    }
    return saes, compared


def test_moved_features_by_hand():
    saes, compared = plane()
    table = geometry.moved(saes, compared)
    assert table["cosine"].tolist() == pytest.approx([cos(5), cos(30), cos(20)], abs=1e-6)
    assert table["started_alive"].tolist() == [True, False, True]
    assert set(table["train_tokens"]) == {200}
    del saes["local-s1-l2.0-"]
    assert len(geometry.moved(saes, compared)) == 2


def test_agreement_by_hand():
    saes, compared = plane()
    table = geometry.agreement_of_starts(saes, compared)
    means = table.groupby("start")["max_cosine"].mean()
    # Warm: 5 and 60 degrees to 30 alone, 30 to 5; the dead ones do not count.
    assert means["warm, 200 tokens"] == pytest.approx((cos(25) + cos(30) + cos(25)) / 3)
    assert means[geometry.SCRATCH] == pytest.approx(cos(45))
    # The local starts: 0 degrees to 10, and 10 and 100 degrees to 0.
    assert means[geometry.LOCAL] == pytest.approx((cos(10) + cos(10) + cos(100)) / 3)
    [row] = geometry.agreement_gain(table).to_dict("records")
    by_seed = [(cos(25) + cos(30)) / 2, cos(25)]
    assert row["mean"] == pytest.approx(sum(by_seed) / 2)
    assert row["difference"] == pytest.approx(sum(by_seed) / 2 - cos(45))
    assert row["low"] <= row["difference"] <= row["high"]
    alone = table[table["start"] != geometry.SCRATCH]
    assert geometry.agreement_gain(alone).empty


# ------------------------------------------------------------------ the start itself
def test_training_begins_at_exactly_the_saved_weights(tmp_path):
    start = small_sae(2 * D_MODEL, seed=5)
    start.save(tmp_path / "start")
    plan = experiment(seed=3)
    init_from = plan.starts(tmp_path / "results", str(tmp_path / "start"))
    [config] = plan.configs({"local": [0.3]}, lr=0.01, init_from=init_from)
    assert isinstance(config, TrainConfig)
    [hook] = config.hook_names
    begun = build_saes(tiny_model(), config)[hook]
    assert torch.equal(begun.W_enc, start.W_enc)
    assert torch.equal(begun.b_enc, start.b_enc)
    assert torch.equal(begun.W_dec, start.dictionary)  # saved at unit length
    assert torch.equal(begun.b_dec, start.b_dec)

    rows = random_tokens(4)
    [run] = train(tiny_model(), [config], rows, progress=False)
    x = clean_pass(tiny_model(), rows, [hook], logits=False).activations[hook]
    output, codes = start(x)
    objective = named_objective("local", 0.3)
    expected = (output - x).pow(2).mean()
    expected += objective.sparsity_coeff * codes.abs().sum(-1).mean() / D_MODEL
    assert run.curve[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


# ------------------------------------------------------------------ figures
def test_figures_are_labelled_and_better_is_up():
    runs = matched.sweep_runs(TABLE, "train_tokens")
    ratios = pd.concat([ratios_of("train_tokens"), ratios_of("lr")])
    ways = sweeps.cost_quality(TABLE, ROWS)
    main = matched.main_runs(TABLE)
    saes, compared = plane()
    beside = paper.beside_table6(sweeps.training_cost(main), {2: "middle"})
    figures = [
        plots.sweep_curves(runs, "train_tokens"),
        plots.sweep_ratios(ratios),
        plots.gap_to_e2e(gaps()),
        plots.seed_curves(main),
        plots.alive_trends(main),
        plots.training_cost(beside),
        plots.cost_quality(ways),
        plots.moved_features(geometry.moved(saes, compared)),
        plots.seed_agreement(geometry.agreement_of_starts(saes, compared)),
    ]
    for figure in figures:
        panels = figure.get_axes()
        assert any(axes.get_xlabel() for axes in panels)
        assert panels[0].get_ylabel()
    for figure in (figures[0], figures[3], figures[6]):
        low, high = figure.get_axes()[0].get_ylim()
        assert low > high
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["500", "1000 (main runs)", "4000"]
