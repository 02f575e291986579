"""Hostile parameters, profiles and command lines: each is used, or refused in one sentence."""

from dataclasses import fields
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from e2e_lib.core.config import TrainConfig, learning_rate_factor
from e2e_lib.core.losses import Objective
from e2e_lib.names import parse_sparsity_coeffs
from e2e_lib.runs.experiment import Training
from pipeline.plan.profile import PROFILES, make_profile
from pipeline.run import parse_overrides
from tests.helpers.hostile import (
    VALUES,
    batch,
    changed_value,
    json_text,
    survives,
)
from tests.helpers.run_folders import HOOK

pytestmark = pytest.mark.usefixtures("without_type_checks")
SMOKE = yaml.safe_load((PROFILES / "smoke.yaml").read_text())

WORDS = st.lists(
    st.sampled_from(["local", "e2e", ":", ",", ";", "0.3", "1", "nan", "inf", "-1", " ", "1e400"])
)


@batch(600)
@given(st.one_of(st.text(), WORDS.map("".join), VALUES))
def test_sparsity_coeffs(text: Any) -> None:
    found = survives(parse_sparsity_coeffs, text)
    for grid in (found or {}).values():
        assert all(0 <= coeff < float("inf") for coeff in grid)


TRAIN = {
    "hook_names": (HOOK,), "dict_ratio": 2.0, "seed": 0, "batch_size": 4, "micro_batch_size": 2,
    "lr": 0.01, "warmup_fraction": 0.1, "schedule": "cosine", "min_lr_factor": 0.1,
    "grad_clip": 1.0, "init_from": {}, "frozen": (), "downstream_last_block": False,
}  # fmt: skip
SHARED = {own.name: own.default for own in fields(Training)}


@batch(800)
@given(st.dictionaries(st.sampled_from(sorted(TRAIN)), VALUES, min_size=1, max_size=3))
def test_training_parameters(changes: dict[str, Any]) -> None:
    config = survives(TrainConfig, Objective(1.0, kl_coeff=1.0), **(TRAIN | changes))
    if config is not None:
        assert 0 <= learning_rate_factor(3, 10, config) <= 1


@batch(500)
@given(st.dictionaries(st.sampled_from(sorted(SHARED)), VALUES, min_size=1, max_size=3))
def test_trainings(changes: dict[str, Any]) -> None:
    training = survives(Training, **(SHARED | changes))
    if training is not None:
        assert training.train_rows >= 1 and training.eval_rows >= 1
        for config in survives(training.configs) or ():
            assert "/" not in training.name(config)


@batch(600)
@given(changed_value(SMOKE))
def test_profiles(values: Any) -> None:
    if isinstance(values, dict) and values.get("model") == "storyworld":
        survives(make_profile, "smoke", values)


@batch(300)
@given(st.sampled_from(sorted(SMOKE)), VALUES)
def test_profile_keys(key: str, value: Any) -> None:
    if key != "model":  # any text may be the name of a model on the hub
        survives(make_profile, "smoke", SMOKE | {key: value})


@batch(300)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.builds("{}={}".format, st.sampled_from(sorted(SMOKE)), st.text(max_size=20)),
            st.builds("{}={}".format, st.sampled_from(sorted(SMOKE)), VALUES.map(json_text)),
        ),
        max_size=3,
    )
)
def test_command_lines(pairs: list[str]) -> None:
    overrides = survives(parse_overrides, pairs)
    if overrides is not None and "model" not in overrides:
        survives(make_profile, "smoke", {**SMOKE, **overrides})
