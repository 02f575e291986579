"""Objective × sparsifier: which runs are compared, values at an L0, and the answers, by hand."""

import doctest
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from e2e_lib.analysis.matched import main_runs
from e2e_lib.analysis.sparsifiers import answers, matrix
from e2e_lib.plots.performance import plot_matrix

ROOT = Path(__file__).resolve().parents[3]
OUTCOME = ROOT / "results" / "reference_sparsifiers"
HOOK = "blocks.2.hook_resid_pre"


def row(objective: str = "local", coeff: float = 1.0, seed: int = 0, **changes: object) -> dict:
    """A main run; `changes` make it another."""
    values = {
        "model": "storyworld", "objective": objective, "layer": 2, "hook": HOOK, "seed": seed,
        "sparsity_coeff": coeff, "kl_coeff": None, "downstream_coeff": None, "dict_ratio": 5.0,
        "train_tokens": 1000, "lr": 0.03, "init_from": "", "l0": 8 / (coeff or 1), "alive": 300,
        "ce_increase": 0.1 * coeff, "kl": 0.2 * coeff,
        "sparsifier": "relu", "k": np.nan, "variant": "",
    } | changes  # fmt: skip
    return values | {"run": "-".join(map(str, values.values()))}


def topk(objective: str, k: float, seed: int = 0, **changes: object) -> dict:
    """What holds k."""
    own = {"sparsifier": "topk", "k": k, "l0": k, "lr": 0.01}
    return row(objective, 0.0, seed, **own | changes)


MAIN = [row(o, c, s) for o, c, s in product(("local", "e2e"), (0.5, 1.0, 2.0), (0, 1))]
HELD = [topk(o, k, s) for o, k, s in product(("local", "e2e"), (4, 8), (0, 1))]
JUMP = {"sparsifier": "jumprelu", "variant": "target_l0=8.0", "l0": 7.7}
TUNED = {"train_tokens": 100, "init_from": "start"}


def test_the_runs_of_the_matrix() -> None:
    others = [
        *HELD,
        row("e2e", 0.3, 0, **JUMP),
        topk("finetune", 4, **TUNED),
        row("finetune", 1.0, **TUNED),
        topk("local", 8, variant="still=decoder"),
        topk("local", 8, variant="random_weights=1"),
    ]
    left_out = [
        topk("e2e", 8, lr=0.3),  # a rate that fewer have
        topk("e2e", 8, train_tokens=500),
        topk("e2e", 8, variant="auxk_coeff=0.0"),
        topk("e2e", 8, hook=f"{HOOK}.null_8"),
        topk("e2e", 8, dict_ratio=10.0),
        row("local", 3.0, 7),  # a seed that no other sparsifier has
    ]
    table = pd.DataFrame([*MAIN, *others, *left_out])
    found = matrix.matrix_runs(table)
    assert set(found["run"]) == {one["run"] for one in [*MAIN, *others]}
    assert set(main_runs(table)["sparsifier"]) == {"relu"} and len(main_runs(table)) == 13
    assert found.groupby("still").size().to_dict() == {
        "decoder": 1, "random_weights": 1, "none": len(found) - 2,
    }  # fmt: skip
    assert matrix.levels(found) == [4, 8]
    assert matrix.matrix_runs(pd.DataFrame(MAIN)).empty
    assert matrix.matrix_runs(pd.DataFrame([*MAIN, row("finetune", 1.0, **TUNED)])).empty


def test_values_at_an_l0() -> None:
    runs = matrix.matrix_runs(pd.DataFrame([*MAIN, *HELD, row("e2e", 0.3, 0, **JUMP)]))
    table = runs.assign(**dict.fromkeys(matrix.MEASURES, 0.5))
    found = matrix.at_levels(table, [4.0, 6.0, 8.0])
    ce = found[found["quantity"] == "ce_increase"].set_index(
        ["sparsifier", "objective", "seed", "at"]
    )
    ce = ce.sort_index()
    # λ of 0.5, 1 and 2 have an L0 of 16, 8 and 4: CE increase is 0.8 / L0.
    assert ce.loc[("relu", "local", 0, 6), "value"] == pytest.approx(0.8 / 6)
    assert ce.loc[("relu", "local", 0, 8), ["l0", "n_runs"]].tolist() == [8, 3]
    jump = ce.loc[("jumprelu", "e2e", 0)]
    assert jump.loc[8, ["value", "l0"]].tolist() == pytest.approx([0.03, 7.7])
    assert np.isnan(jump.loc[6, "value"])
    summary = matrix.over_seeds(found)
    cells = summary.set_index(["sparsifier", "objective", "at", "quantity"]).sort_index()
    assert cells.loc[("relu", "e2e", 4, "ce_increase"), "n_seeds"] == 2
    assert ("jumprelu", "e2e", 6, "ce_increase") not in cells.index
    text = matrix.readable(summary, 8.0)
    assert text.loc[("jumprelu", "e2e"), "ce_increase"] == "0.03"  # of one seed, without interval
    assert "[" in text.loc[("relu", "local"), "ce_increase"]
    figure = plot_matrix(summary)
    assert len(figure.axes) == 3 * len(matrix.QUANTITIES)
    assert figure.axes[0].get_title() == "L0 = 4"
    mpl.pyplot.close(figure)


def found_of(values: dict[tuple[str, str], list[float]], at: float = 8.0) -> pd.DataFrame:
    """`at_levels` of these KL by sparsifier and objective, one a seed."""
    rows = [
        (2, kind, objective, "none", seed, at, "kl", value, at, 1)
        for (kind, objective), own in values.items()
        for seed, value in enumerate(own)
    ]
    columns = ["layer", *matrix.CELL, "seed", "at", "quantity", "value", "l0", "n_runs"]
    return pd.DataFrame(rows, columns=columns)


def test_which_matters_more() -> None:
    e = np.e
    values = {
        ("relu", "local"): [e**4, e**4], ("relu", "e2e"): [1.0, e**1.1],
        ("topk", "local"): [e**5, e**5], ("topk", "e2e"): [e, e**2.1],
    }  # fmt: skip
    found = pd.concat([found_of(values), found_of(values, at=4.0)])
    answer = answers.ranges(found).set_index("at")
    # Objectives are 4 and 2.9 apart in the logarithm, sparsifiers 1: 3 and 1.9 more.
    row = answer.loc["all"]
    assert row["value"] == pytest.approx(2.45) and row["sparsifier_range"] == pytest.approx(e)
    assert row["high"] - 2.45 == pytest.approx(12.706 * 1.1 / 2, rel=1e-3)
    assert row["verdict"] == "undecided" and row["n_seeds"] == 2
    values |= {("relu", "e2e"): [1.0, e**0.01], ("topk", "e2e"): [e, e**1.01]}
    assert answers.ranges(found_of(values))["verdict"].tolist() == ["holds", "holds"]
    # What has a gap goes as a whole, and of more objectives every two count alike.
    gap = found_of(values | {("jumprelu", "e2e"): [1.0, 1.0]})
    assert answers.ranges(gap)["n_sparsifiers"].tolist() == [2, 2]
    more = found_of(values | {(k, "finetune"): values[k, "local"] for k in ("relu", "topk")})
    wide = answers.ranges(more).iloc[0]
    assert wide["n_objectives"] == 3
    assert np.log(wide["objective_range"]) == pytest.approx(2 / 3 * 3.995)
    assert answers.ranges(found.head(0)).empty
    assert answers.ranges(found[found["sparsifier"] == "relu"]).empty
    negative = found_of(values | {("relu", "local"): [-0.1, 1.0]})
    assert answers.ranges(negative).empty, "without a logarithm there are not two of each left"
    assert not doctest.testmod(answers).failed


def test_a_verdict_that_rests_on_one_line_of_the_matrix_is_undecided() -> None:
    e = np.e
    # Objectives are 2 apart, relu is 5 above two others: with it sparsifiers matter, without not.
    values = {
        (kind, objective): [e ** (level + two)] * 2
        for kind, level in (("relu", 5.0), ("topk", 0.0), ("jumprelu", 0.1))
        for objective, two in (("local", 2.0), ("e2e", 0.0))
    }
    found = answers.ranges(found_of(values)).iloc[0]
    # Of two of three sparsifiers: 5, 4.9 and 0.1 apart in the logarithm.
    assert found["value"] == pytest.approx(2 - 10 / 3) and found["verdict"] == "undecided"
    assert found["why"] == "the verdict is another without relu (1.9: holds)"
    assert (found["grid_low"], found["grid_high"]) == pytest.approx((-3.0, 1.9))
    both = answers.ranges(found_of({k: v for k, v in values.items() if k[0] != "relu"})).iloc[0]
    assert both["verdict"] == "holds" and np.isnan(both["grid_high"]), "neither of two can go"


def test_what_the_documentation_says_of_the_outcome_is_what_its_metrics_give() -> None:
    runs = matrix.matrix_runs(pd.read_csv(OUTCOME / "metrics.csv"))
    table = runs.assign(**dict.fromkeys(matrix.MEASURES, np.nan))
    found = answers.ranges(matrix.at_levels(table, matrix.levels(runs)))
    row = found.set_index("at").loc["all"]
    interval = f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
    ends = f"between {row['grid_low']:.3g} and {row['grid_high']:.3g} with one left"
    assert row["verdict"] == "undecided" and "without relu (0.14: holds)" in row["why"]
    assert (row["n_objectives"], row["n_sparsifiers"]) == (4, 4), "no line has a gap"
    text = (ROOT / "docs" / "sparsifiers.md").read_text().replace("−", "-")
    assert interval in text and ends in text


def test_a_fine_tuning_against_a_whole_training() -> None:
    rows = [
        (0.4, 29.0, "topk", objective, seed, tokens, value)
        for objective, tokens, values in (
            ("e2e", 1000, (0.1, 0.2)), ("finetune", 100, (0.11, 0.22)), ("local", 1000, (1.0, 0)),
        )
        for seed, value in enumerate(values)
    ]  # fmt: skip
    columns = ["unused", "null_scale", "sparsifier", "objective", "seed", "tokens", "ce_increase"]
    [found] = answers.fine_tuning(pd.DataFrame(rows, columns=columns)).to_dict("records")
    assert found["value"] == pytest.approx(1.1) and found["tokens"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(1.1) and found["verdict"] == "holds"
    assert found["unused"] == pytest.approx(0.4)
    assert (found["against"], found["n_seeds"]) == ("e2e", 2)
    worse = pd.DataFrame(rows, columns=columns)
    worse.loc[worse["objective"] == "finetune", "ce_increase"] *= 3
    assert answers.fine_tuning(worse)["verdict"].tolist() == ["refuted"]
    assert answers.fine_tuning(worse[worse["objective"] != "e2e"]).empty
    best = pd.DataFrame(rows, columns=columns)  # a seed in which nothing is left to mend
    best.loc[(best["objective"] == "finetune") & (best["seed"] == 0), "ce_increase"] = -0.001
    [row] = answers.fine_tuning(best).to_dict("records")
    assert row["verdict"] == "undecided" and "0 or less" in row["why"] and row["n_seeds"] == 1
