"""An SAE's folder examined on StoryWorld's own pairs; seeds and objectives compared by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib.analysis.counterfactual import dictionaries, examine, scale
from e2e_lib.data.models import load_model
from e2e_lib.errors import DataError, ModelError
from e2e_lib.runs.load import SavedSAE
from e2e_lib.storyworld.pairs import pair_rows, pairs
from tests.helpers.tiny_models import assert_sentence, small_sae

HOOK = "blocks.3.hook_resid_pre"
USED, UNUSED = ("name", "object"), ("coin", "passing-object")


def rows_of(kinds, n, seed=0):
    return pair_rows([pair for own in pairs(kinds, n, seed).values() for pair in own])


@pytest.fixture(scope="module")
def model():
    return load_model("storyworld")


@pytest.fixture(scope="module")
def exam(model):
    kinds = (*USED, *UNUSED)
    return examine.open_exam(model, HOOK, rows_of(kinds, 6), rows_of(kinds, 30, seed=1))


def test_verdicts_and_the_oracle(exam):
    assert (exam.used, exam.unused) == (list(USED), list(UNUSED))
    assert set(exam.directions) == set(USED)
    oracle = examine.examine(exam, None)
    assert oracle["carried_function", "all"][0] > 0.8
    assert oracle["spurious_response", "all"][0] < 1e-6
    for wasted in ("waste_l0", "waste_alive", "dedicated_l0"):
        assert oracle[wasted, "all"][0] == 0


def test_a_folder_is_examined(exam, tmp_path):
    small_sae(40, d_in=64).save(tmp_path)
    table = examine.measure_folder(tmp_path, exam).set_index(["measure", "kind"])
    wanted = ["value", "low", "high", "floor", "oracle", "scaled"]
    assert list(table.columns) == wanted
    row = table.loc[("carried_function", "all")]
    assert row.low <= row.value <= row.high < row.oracle
    assert row.value < row.floor  # it was never trained
    assert {"name", "object", "all"} == set(table.loc["necessity"].index)
    for measure in ("waste_alive", "dedicated_l0"):
        assert 0 <= table.loc[(measure, "all"), "value"] <= 1
    small_sae(20, d_in=12).save(tmp_path / "narrow")
    with pytest.raises(ModelError) as caught:
        examine.measure_folder(tmp_path / "narrow", exam)
    assert_sentence(caught, "12", "64", HOOK)


def test_a_floor_that_carries_nothing_has_no_necessity(exam, monkeypatch):
    """N80 counts the latents of a full swap; of one that makes no effect it says nothing."""
    both = torch.cat([torch.eye(64), -torch.eye(64)])
    made = {
        name: dictionaries.Linear(
            lambda x: (x @ both.T).clamp_min(0), scale * both, torch.zeros(64)
        )
        for name, scale in (("whole", 1.0), ("nothing", 0.0))
    }
    monkeypatch.setattr(dictionaries, "floors", lambda *_: made)
    floors = examine.examined_floors(exam, 128, k=3, necessary=True)
    s = {name: own["carried_function", "all"][0] for name, own in floors.items()}
    assert s["whole"] > 0.99 and s["nothing"] <= 0
    assert ("necessity", "all") in floors["whole"] and ("necessity", "all") not in floors["nothing"]
    floor = floors["whole"]["necessity", "all"][0]
    four, two = ({("necessity", "all"): np.array([x])} for x in (4.0, 2.0))
    [row] = scale.measure_table(four, floors, two).itertuples()
    assert row.floor == floor > 4 and row.scaled == pytest.approx((floor - 4) / (floor - 2))
    plain = examine.examined_floors(exam, 128, k=3)
    assert not any(measure == "necessity" for own in plain.values() for measure, _ in own)


def test_many_saes_at_once(model):
    saved = SavedSAE(small_sae(40, d_in=64), HOOK, small_sae(40).b_enc)
    rows = rows_of(("name", "coin"), 6)
    result = examine.examine_all(model, {"a": saved}, rows, rows, necessary_at=[HOOK])
    assert set(result.table.run) == set(result.found) == {"a"}
    assert dict(zip(result.verdicts.kind, result.verdicts.verdict, strict=True)) == {
        "name": "used", "coin": "unused"
    }  # fmt: skip
    empty = examine.examine_all(model, {}, rows, rows)
    assert empty.table.empty and empty.verdicts.empty and not empty.found
    assert {"run", "measure", "kind"} <= set(empty.table.columns)


def test_a_model_that_uses_all_kinds_cannot_be_asked(model):
    rows = rows_of(("name",), 4)
    with pytest.raises(DataError) as caught:
        examine.open_exam(model, HOOK, rows, rows)
    assert_sentence(caught, "name", HOOK)


def test_differences_and_means_over_seeds_by_hand():
    runs = pd.DataFrame({
        "match": "l0", "layer": 2, "objective": ["local", "local", "e2e", "e2e"],
        "seed": [0, 1, 0, 1], "run": list("abcd"),
    })  # fmt: skip
    values = {"a": 0.5, "b": 0.7, "c": 0.9, "d": 0.8}
    found = {
        run: {("carried_function", "all"): np.full(1001, x), ("waste_alive", "all"): np.array([x])}
        for run, x in values.items()
    }
    table = scale.differences(runs, found, ["carried_function", "waste_alive"])
    assert table.value.tolist() == pytest.approx([-0.25, -0.25])
    assert (table.n_seeds == 2).all()
    assert (table.low < -0.25).all() and (table.high > -0.25).all()
    assert table.columns.tolist() == [
        *("match", "layer", "first", "second", "measure", "value", "low", "high", "n_seeds")
    ]
    floor, top = ({("carried_function", "all"): np.array([x])} for x in (0.2, 1.0))
    shown = pd.concat([
        scale.measure_table(own, {"floor": floor}, top).assign(run=run)
        for run, own in found.items()
    ])  # fmt: skip
    means = scale.over_seeds(runs, shown, found).set_index(["objective", "measure"])
    assert means.loc[("local", "carried_function"), "value"] == pytest.approx(0.6)
    assert means.loc[("local", "carried_function"), "scaled"] == pytest.approx(0.5)
    assert math.isnan(means.loc[("local", "waste_alive"), "scaled"])
    assert "waste_alive" in scale.COMPARED
    assert scale.differences(runs[:0], found).empty
    one = scale.differences(runs[runs.seed == 0], found, ["waste_alive"])
    assert one.n_seeds.tolist() == [1] and one.low.isna().all(), "nothing was drawn"
