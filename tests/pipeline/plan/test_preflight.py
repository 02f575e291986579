"""A model that nobody has tried is tried before anything starts, as the kernel will use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2e_lib.data.models import load_model
from e2e_lib.errors import DataError, E2EError, ModelError
from e2e_lib.runs.experiment import Training
from pipeline.plan.model_size import model_shape
from pipeline.plan.preflight import _one_step, enough_text, small, tried_apart, try_model
from pipeline.plan.profile import Profile, load_profile
from pipeline.plan.stages import stages
from tests.helpers.architectures import BLOCKS, WIDTH, architecture_folder, configuration
from tests.helpers.tiny_models import assert_sentence, tiny_model, write_jsonl

TEXT = {"train_data": "a.txt", "validation_data": "b.txt"}
COEFFS = {"sparsity_coeffs": {"local": [0.5, 1], "e2e": [0.5], "e2e_ds": [2]}}


def profile_on(architecture: str, **changes: Any) -> Profile:
    """One layer of three objectives, whose λ are given: nothing is measured for them."""
    values = {"model": str(architecture_folder(architecture)), "context_size": 16}
    return load_profile("smoke", values | TEXT | COEFFS | {"layers": [0]} | changes)


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
    assert own.train_rows == 2 and own.context_size == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsifier": "topk", "sparsity_coeffs": "local:200"},
        {"sparsifier": "batchtopk", "sparsity_coeffs": "local:0.05;e2e:90"},
        {"sparsifier": "matryoshka", "sparsity_coeffs": "e2e:64"},
        {"sparsifier": "jumprelu", "target_l0": 90.0},
        {"sparsifier": "jumprelu", "penalty": "quadratic", "target_l0": 30.0},
        {"target_l0": 33.0},
    ],
)
def test_more_latents_than_there_are_in_small_are_tried_all_the_same(
    changes: dict[str, Any],
) -> None:
    """What the whole dictionary can have is not refused for want of latents in the trial's."""
    own = Training(**{"sparsity_coeffs": "local:1"} | changes, dict_ratio=10.0)
    _one_step(load_model("storyworld"), small(own), own.context_size)


@pytest.mark.parametrize(
    ("architecture", "hook"),
    [("OPT", "hook_resid_pre"), ("GraniteMoe", "hook_mlp_out"), ("Mamba2", "hook_resid_pre")],
)
def test_what_the_kernel_calls_is_called(
    capsys: pytest.CaptureFixture[str], architecture: str, hook: str
) -> None:
    try_model(profile_on(architecture, hook_point=hook))
    assert f"Tried one step at blocks.0.{hook}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("FalconMamba", {"hook_point": "hook_attn_out"}, "no such hook"),
        ("Qwen2", {"layers": [0, 1]}, "layers is [0, 1]"),  # e2e_ds: nothing comes after
    ],
)
def test_what_will_fail_is_said_before(
    architecture: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(E2EError) as caught:
        try_model(profile_on(architecture, **changes))
    assert_sentence(caught, words)


@pytest.mark.usefixtures("forked")
def test_it_is_tried_in_a_process_of_its_own_where_there_is_something_to_train(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = profile_on("FalconMamba", hook_point="hook_attn_out")
    todo = stages(profile, "results/x")
    (tmp_path / "profile.json").write_text(profile.to_json("results/x"))
    with pytest.raises(ModelError) as caught:
        tried_apart(profile, tmp_path, todo)
    assert_sentence(caught, "hook is 'blocks.0.hook_attn_out'", "no such hook")
    (tmp_path / "done").mkdir()
    for stage in todo:
        (tmp_path / "done" / f"{stage.name}.json").write_text(json.dumps({"name": stage.name}))
    tried_apart(profile, tmp_path, todo)
    known = load_profile("smoke")  # on the embedded model
    tried_apart(known, tmp_path / "other", stages(known, "results/x"))
    assert capfd.readouterr().out == ""


def test_there_is_text_for_what_reads_most_of_it(tmp_path: Path) -> None:
    """An analysis that would be refused after hours of training."""
    texts = [{"text": " ".join(f"w{1 + (i * j) % 29}" for j in range(1, 30))} for i in range(60)]
    held = str(write_jsonl(tmp_path / "held.jsonl", texts))
    few = {name: {"n_rows": 8} for name in ("25_activations", "42_loudness", "43_sparsifiers")}
    few |= {"26_pca_direction": {"n_rows": 8, "ablation_rows": 200}}
    pca = {"26_pca_direction": {"n_rows": 8, "ablation_rows": 8}}
    cards = {"12_finetune": {"eval_tokens": 16 * 100}}  # 100 rows, and as many hold L0
    for rows, other, said in (
        (512, {}, "n_rows of 28_interpretability asks for too much: data"),
        (100, {}, "ablation_rows of 26_pca_direction"),
        (99, pca | cards, "eval_tokens of 12_finetune asks for too much: data"),
        (99, pca, ""),
    ):
        own = few | {"28_interpretability": {"n_rows": rows}} | other
        profile = profile_on("GPT2", validation_data=held, eval_tokens=64, notebook_parameters=own)
        todo = stages(profile, "results/x")
        if not said:
            enough_text(tiny_model(), profile, todo)
            continue
        with pytest.raises(DataError) as caught:
            enough_text(tiny_model(), profile, todo)
        assert_sentence(caught, said, held)
