"""A model that nobody has tried is tried before anything starts, as the kernel will use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2e_lib.errors import E2EError
from pipeline.plan.model_size import model_shape
from pipeline.plan.preflight import small, try_model
from pipeline.plan.profile import Profile, load_profile
from pipeline.plan.stages import stages
from tests.helpers.architectures import BLOCKS, WIDTH, architecture_folder, configuration
from tests.helpers.tiny_models import assert_sentence

TEXT = {"train_data": "a.txt", "validation_data": "b.txt"}
COEFFS = {"sparsity_coeffs": {"local": [0.5, 1], "e2e": [0.5], "e2e_ds": [2]}}


def profile_on(architecture: str, **changes: Any) -> Profile:
    """One layer of three objectives, whose λ are given: nothing is measured for them."""
    values = {"model": str(architecture_folder(architecture)), "context_size": 16}
    return load_profile("smoke", values | TEXT | COEFFS | {"layers": [0]} | changes)


def tried(profile: Profile, results: Path) -> None:
    try_model(profile, results, stages(profile, "results/x"))


@pytest.mark.parametrize(
    ("architecture", "n_ctx"),
    [("Bloom", 2048), ("Mpt", 32), ("Mamba", 2048), ("GPTBigCode", 32), ("OPT", 32)],
)
def test_sizes_are_those_of_the_configurations_class(
    tmp_path: Path, architecture: str, n_ctx: int
) -> None:
    """Where a class has no longest row, TransformerLens takes one of 2048."""
    facts = configuration(architecture).to_dict()
    if n_ctx == 2048:
        facts.pop("max_position_embeddings", None)
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert model_shape(str(tmp_path)) == (BLOCKS, WIDTH, n_ctx)


def test_a_training_is_tried_in_small() -> None:
    own = small(profile_on("OPT").training)
    assert own.grids.keys() <= {"local", "e2e", "e2e_ds"}
    assert all(len(coeffs) == 1 for coeffs in own.grids.values())
    assert own.train_rows == 1 and own.context_size == 8


@pytest.mark.parametrize(
    ("architecture", "hook"),
    [("OPT", "hook_resid_pre"), ("GraniteMoe", "hook_mlp_out"), ("Mamba2", "hook_resid_pre")],
)
def test_what_the_kernel_calls_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: str, hook: str
) -> None:
    tried(profile_on(architecture, hook_point=hook), tmp_path)
    assert f"Tried one step at blocks.0.{hook}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("FalconMamba", {"hook_point": "hook_attn_out"}, "no such hook"),
        ("Rwkv", {}, "inplace operation"),  # it has no gradient
        ("Qwen2", {"layers": [0, 1]}, "blocks.1.hook_resid_pre"),  # e2e_ds: nothing comes after
    ],
)
def test_what_will_fail_is_said_before(
    tmp_path: Path, architecture: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(E2EError) as caught:
        tried(profile_on(architecture, **changes), tmp_path)
    assert_sentence(caught, words)


def test_nothing_is_tried_where_nothing_is_to_be_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = profile_on("FalconMamba", hook_point="hook_attn_out")
    (tmp_path / "done").mkdir()
    for stage in stages(profile, "results/x"):
        (tmp_path / "done" / f"{stage.name}.json").write_text(json.dumps({"name": stage.name}))
    tried(profile, tmp_path)
    tried(load_profile("smoke"), tmp_path / "other")  # the embedded model
    assert capsys.readouterr().out == ""
