"""Profiles: the shipped ones are valid, bad input is one sentence, other models get defaults."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from e2e_lib.errors import ConfigError, E2EError, ModelError
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.execution.fresh import plan_digest
from pipeline.plan import model_size
from pipeline.plan.grid import jobs
from pipeline.plan.model_size import auto_grid, default_layers, model_shape
from pipeline.plan.notebook_parameters import (
    BY_PROFILE,
    NOTEBOOKS,
    SET_BY_PIPELINE,
    check_parameters,
)
from pipeline.plan.preflight import shrunk
from pipeline.plan.profile import PROFILES, ROOT, load_profile, read_profile
from pipeline.plan.stages import stages
from pipeline.run import main, number_of_cores, parse_overrides, results_folder

LLAMA = {
    "num_hidden_layers": 5,
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "model_type": "llama",
}


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Overrides that name a five-block model and its text; its activations have size 2."""
    monkeypatch.setattr(
        model_size, "activation_scales", lambda v, layers, c: dict.fromkeys(layers, 2)
    )
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    texts = {"train_data": "train.jsonl", "validation_data": "validation.jsonl"}
    return {"model": str(tmp_path)} | texts


@pytest.mark.parametrize("name", sorted(p.stem for p in PROFILES.glob("*.yaml")))
def test_shipped_profiles_are_valid_and_survive_json(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    (tmp_path / "profile.json").write_text(profile.to_json("results/x"))
    assert read_profile(tmp_path / "profile.json") == (profile, "results/x")
    assert profile.middle_layer in profile.layers


def test_workshop_has_five_coefficients_in_the_middle_and_two_seeds() -> None:
    profile = load_profile("workshop")
    assert profile.layers == (1, 2, 3) and len(profile.seeds) >= 2
    for grids in profile.sparsity_coeffs.values():
        assert len(grids[2]) >= 5
    # Beside them objective × sparsifier, at an L0 of its own.
    other = [job.training for job in jobs(profile) if job.training.sparsifier != "relu"]
    assert {own.seed for own in other} == {*profile.seeds}
    assert {o for own in other for o in own.grids} == {*profile.objectives}


AGREEMENT = "29_faithfulness"
HELD = {"values": ["topk"], "l0": [8]}
BAD = [
    ({"dict_rato": 3}, "dict_rato", "dict_ratio"),
    ({"sparsifier": "top"}, "sparsifier", "one of relu, topk, batchtopk"),
    ({"sparsifier": "batchtopk"}, "'batchtopk'", "one of relu, jumprelu"),
    ({"train_tokens": 900}, "900", "batch_size · context_size = 1024"),
    ({"micro_batch_size": 3}, "micro_batch_size", "divisor of batch_size (8)"),
    ({"layers": [99]}, "99", "from 0 to"),
    ({"layers": []}, "layers", "list"),
    ({"layers": [2, 2]}, "layers", "different"),
    ({"layers": 2}, "layers", "list"),
    ({"layers": [1], "middle_layer": 3}, "middle_layer", "[1]"),
    ({"context_size": 1}, "context_size", "from 2 to"),
    ({"context_size": 10**6}, "context_size", "from 2 to"),
    ({"context_size": "long"}, "long", "integer"),
    ({"objectives": ["e3e"]}, "e3e", "local, e2e, e2e_ds"),
    ({"sparsity_coeffs": {"local": [-1.0], "e2e": [1], "e2e_ds": [1]}}, "-1", "at least 0"),
    ({"sparsity_coeffs": {"local": [1]}}, "e2e", "at least 0"),
    ({"sparsity_coeffs": {"globl": [1]}}, "globl", "local"),
    ({"sparsity_coeffs": 3}, "sparsity_coeffs", "list"),
    ({"downstream_coeff": -1}, "downstream_coeff", "at least 0"),
    ({"downstream_coeff": {2: 1.0, 9: "x"}}, "downstream_coeff", "number"),
    ({"dict_ratio": 0}, "dict_ratio", "above 0"),
    ({"dict_ratio": "big"}, "big", "above 0"),
    ({"seeds": [0.5]}, "seeds", "whole numbers"),
    ({"seeds": [True]}, "seeds", "whole numbers"),
    ({"train_tokens": 0}, "train_tokens", "at least 1"),
    ({"train_tokens": {"local": 5}}, "train_tokens of e2e", "at least 1"),
    ({"lr": -1e-3}, "lr", "above 0"),
    ({"lr": float("nan")}, "lr", "above 0"),
    ({"warmup_fraction": 2}, "warmup_fraction", "[0, 1)"),
    ({"schedule": "step"}, "step", "cosine"),
    ({"batch_size": 1.5}, "batch_size", "whole number"),
    ({"processed": "yes"}, "processed", "true or false"),
    ({"tracker": "tensorboard"}, "tensorboard", "wandb"),
    ({"hook_point": "hook_resid"}, "hook_resid", "hook_resid_pre"),
    ({"model": None}, "model", "folder"),
    ({"seeds_elsewhere": -1}, "seeds_elsewhere", "at least 0"),
    ({"sweeps": []}, "sweeps", "mapping"),
    ({"sweeps": {"momentum": {}}}, "momentum", "lr, dict_ratio, train_tokens, downstream_coeff"),
    ({"sweeps": {"lr": [0.1]}}, "sweeps.lr", "mapping"),
    ({"sweeps": {"lr": {"vales": [1]}}}, "sweeps.lr.vales", "values"),
    ({"sweeps": {"lr": {}}}, "sweeps.lr.values", "list"),
    ({"sweeps": {"lr": {"values": [-1]}}}, "[-1]", "above 0"),
    ({"sweeps": {"lr": {"values": ["x"]}}}, "x", "above 0"),
    ({"sweeps": {"lr": {"values": [0.1, 0.1]}}}, "0.1", "different"),
    ({"sweeps": {"train_tokens": {"values": [0.5]}}}, "0.5", "whole number"),
    ({"sweeps": {"null_scale": {"values": [0]}}}, "sweeps.null_scale.values", "above 0"),
    ({"sweeps": {"lr": {"values": [1], "layers": [4]}}}, "sweeps.lr.layers", "[1, 2, 3]"),
    ({"sweeps": {"lr": {"values": [1], "seeds": 0}}}, "sweeps.lr.seeds", "at least 1"),
    ({"sweeps": {"lr": {"values": [1], "start": 8.0}}}, "sweeps.lr.start", "values"),
    ({"sweeps": {"lr": {"values": [1], "sparsity_coeffs": {"e3e": 2}}}}, "e3e", "local, e2e"),
    (
        {"sweeps": {"lr": {"values": [1], "sparsity_coeffs": {"e2e": [-1.0]}}}},
        "sweeps.lr.sparsity_coeffs of e2e at layer 2",
        "at least 0",
    ),
    (
        {"sweeps": {"warm_start": {"values": [1], "sparsity_coeffs": {"local": 2}}}},
        "local",
        "e2e, e2e_ds",
    ),
    (
        {"sweeps": {"warm_start": {"values": [1], "start": 8.5}}},
        "sweeps.warm_start.start is 8.5",
        "λ of local's grid at layer 2, [",
    ),
    ({"sweeps": {"warm_start": {"values": [1], "lr": 0}}}, "sweeps.warm_start.lr", "above 0"),
    (
        {"sweeps": {"warm_start": {"values": [1]}}, "objectives": ["e2e"]},
        "sweeps.warm_start",
        "no local SAE",
    ),
    ({"sweeps": {"sparsifiers": HELD | {"values": ["relu"]}}}, "['relu']", "topk, batchtopk"),
    ({"sweeps": {"sparsifiers": HELD | {"l0": [2.5]}}}, "[2.5]", "whole numbers of at least 1"),
    ({"sweeps": {"sparsifiers": HELD | {"l0": [641]}}}, "sweeps.sparsifiers.l0 is 641", "640"),
    ({"sweeps": {"sparsifiers": HELD | {"objectives": ["finetune"]}}}, "finetune", "with local"),
    ({"sweeps": {"sparsifiers": HELD | {"lr": {"topk": {"e2e": 0}}}}}, "topk, e2e", "above 0"),
    ({"sweeps": {"sparsifiers": HELD | {"lr": {"jumprelu": 1}}}}, "jumprelu", "relu, topk"),
    ({"sweeps": {"sparsifiers": HELD | {"still": ["all", "some"]}}}, "some", "decoder, near"),
    ({"sweeps": {"sparsifiers": HELD | {"start": {"e2e": -1}}}}, "start of e2e", "above 0"),
    ({"sweeps": {"sparsifiers": {"values": ["topk"], "k": 3}}}, "sparsifiers.k", "values, l0"),
    ({"notebook_parameters": []}, "notebook_parameters is []", "mapping"),
    ({"notebook_parameters": {AGREEMENT: 3}}, "3", "mappings of their parameters"),
    ({"notebook_parameters": {"29_faith": {}}}, "29_faith", "29_faithfulness"),
    ({"notebook_parameters": {AGREEMENT: {"exmples": 4}}}, "exmples", "examples"),
    ({"notebook_parameters": {AGREEMENT: {"examples": "4"}}}, "examples of 29", "whole number"),
    ({"notebook_parameters": {AGREEMENT: {"examples": 4.5}}}, "4.5", "whole number"),
    ({"notebook_parameters": {AGREEMENT: {"examples": True}}}, "True", "whole number"),
    ({"notebook_parameters": {AGREEMENT: {"min_accuracy": "much"}}}, "much", "a number"),
    ({"notebook_parameters": {AGREEMENT: {"agreement_data": None}}}, "None", "a text"),
    (
        {"notebook_parameters": {"28_interpretability": {"every_seed": 1}}},
        "every_seed of 28_interpretability is 1",
        "true or false",
    ),
    ({"notebook_parameters": {AGREEMENT: {"device": "cpu"}}}, "device of 29", "by the pipeline"),
    ({"notebook_parameters": {"10_train": {"lr": 0.1}}}, "10_train", "profile's keys"),
    ({"notebook_parameters": {"90_claims": {"seed": 1}}}, "seed is no parameter", "results_folder"),
]


@pytest.mark.parametrize(("overrides", "value", "allowed"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_input_is_one_sentence(overrides: dict[str, Any], value: str, allowed: str) -> None:
    texts = {"train_data": "a", "validation_data": "b"} if "model" in overrides else {}
    with pytest.raises(ConfigError) as caught:
        load_profile("workshop", overrides | texts)
    sentence = str(caught.value)
    assert value in sentence and allowed in sentence
    assert "\n" not in sentence
    assert len(sentence) < (800 if "allowed are" in sentence else 300), "one that lists is longer"


def test_numbers_without_a_dot_are_numbers() -> None:
    assert load_profile("smoke", parse_overrides(["lr=1e-3"])).lr["e2e"] == 0.001


def test_a_learning_rate_for_each_objective() -> None:
    rates = {"local": 0.01, "e2e": "1e-3", "e2e_ds": 0.1}
    found = {"local": 0.01, "e2e": 0.001, "e2e_ds": 0.1}
    assert load_profile("smoke", {"lr": rates}).lr == found
    with pytest.raises(ConfigError, match="lr of e2e_ds is None"):
        load_profile("smoke", {"lr": {"local": 0.01, "e2e": 0.01}})


def test_unknown_profile_names_the_known() -> None:
    with pytest.raises(
        ConfigError, match="gpt2, published, smoke, smollm2, sparsifiers, storyworld"
    ):
        load_profile("workshp")


def test_own_model_gets_its_own_defaults(own_model: dict[str, Any]) -> None:
    profile = load_profile("workshop", own_model)
    assert profile.layers == (1, 2, 3) and profile.middle_layer == 2
    assert profile.training.context_size == 128
    assert profile.downstream_coeff == {1: 2.5, 2: 2.5, 3: 2.5}
    assert [len(profile.sparsity_coeffs["e2e"][layer]) for layer in (1, 2, 3)] == [3, 5, 3]
    assert set(profile.lr.values()) == {0.02}
    assert profile.sparsity_coeffs["local"][1] == auto_grid("local", 3, 2.0)


def test_own_model_forgets_sweeps_unless_given_its_own(own_model: dict[str, Any]) -> None:
    assert load_profile("storyworld", own_model).sweeps == {}
    given = {"sweeps": {"lr": {"values": [0.5]}}}
    assert load_profile("storyworld", own_model | given).sweeps["lr"].values == (0.5,)


def test_layers_beside_the_middle_one_may_get_fewer_seeds() -> None:
    own = {"seeds": [3, 1, 2], "sweeps": {}}
    profile = load_profile("workshop", own | {"seeds_elsewhere": 2})
    assert {(job.layer, job.training.seed) for job in jobs(profile)} == {
        (1, 3), (1, 1), (2, 3), (2, 1), (2, 2), (3, 3), (3, 1),
    }  # fmt: skip
    every = load_profile("workshop", own | {"seeds_elsewhere": 0})
    assert len(jobs(every)) == 9


def test_sanity_rows_are_in_the_matrix_unless_left_out() -> None:
    def rows(**given: object) -> set[str]:
        profile = load_profile("workshop", {"sweeps": {"sparsifiers": HELD | given}})
        trained = [job.training for job in jobs(profile)]
        return {t.still for t in trained} | {"shuffled" for t in trained if t.random_weights}

    assert rows() == {"none", "decoder", "near", "encoder", "all", "shuffled"}
    assert rows(still=[]) == {"none"}
    assert rows(still=["near"]) == {"none", "near"}


def test_a_sweep_takes_its_defaults_from_the_main_grid() -> None:
    given = {"lr": {"values": ["1e-3"]}, "warm_start": {"values": [5000], "seeds": 9}}
    profile = load_profile("workshop", {"sweeps": given})
    lr, warm = profile.sweeps["lr"], profile.sweeps["warm_start"]
    assert (lr.values, lr.layers, lr.seeds, lr.start) == ((0.001,), (2,), (0,), None)
    grid = profile.sparsity_coeffs["local"][2]
    assert lr.sparsity_coeffs["local"] == {2: (grid[0], grid[2], grid[4])}  # ends, middle of five
    assert set(warm.sparsity_coeffs) == {"e2e", "e2e_ds"}
    assert (warm.seeds, warm.start, warm.lr) == (profile.seeds, {2: grid[2]}, None)


def test_a_sweep_may_have_lambdas_of_its_own() -> None:
    coeffs = {"local": [3], "e2e": {1: [0.5], 2: [0.7]}, "e2e_ds": 2}
    given = {"lr": {"values": [1], "layers": [1, 2], "sparsity_coeffs": coeffs}}
    profile = load_profile("workshop", {"sweeps": given})
    main = profile.sparsity_coeffs["e2e_ds"]
    assert profile.sweeps["lr"].sparsity_coeffs == {
        "local": {1: (3.0,), 2: (3.0,)},
        "e2e": {1: (0.5,), 2: (0.7,)},
        "e2e_ds": {layer: (main[layer][0], main[layer][-1]) for layer in (1, 2)},
    }
    alone = load_profile("workshop", {"sweeps": given, "objectives": ["local"]})
    assert set(alone.sweeps["lr"].sparsity_coeffs) == {"local"}


# ------------------------------------------------------------------ set in single notebooks
def test_notebook_parameters_reach_their_notebook_alone() -> None:
    """Numbers that YAML reads as text are numbers; a text may be empty."""
    own = {AGREEMENT: {"examples": 8, "min_accuracy": "5e-1", "agreement_revision": ""}}
    profile = load_profile("smoke", {"notebook_parameters": own})
    assert profile.notebook_parameters[AGREEMENT]["min_accuracy"] == 0.5
    plain = {stage.name: stage for stage in stages(load_profile("smoke"), "x")}
    changed = {s.name: s for s in stages(profile, "x") if s != plain[s.name]}
    assert set(changed) == {AGREEMENT}
    added = {"examples": 8, "min_accuracy": 0.5, "agreement_revision": ""}
    assert changed[AGREEMENT].parameters == plain[AGREEMENT].parameters | added
    assert plan_digest(changed[AGREEMENT]) != plan_digest(plain[AGREEMENT]), "it runs again"


def test_what_the_pipeline_sets_in_analyses_cannot_be_set_twice() -> None:
    for name in ("smoke", "published"):
        for stage in stages(load_profile(name).but(notebook_parameters={}), "x"):
            known = stage.notebook in BY_PROFILE or set(stage.parameters) <= set(SET_BY_PIPELINE)
            assert known, stage.name


def test_the_command_line_adds_to_the_profiles_notebook_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path becomes relative to the project, where notebooks run; a word stays a word."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "own").mkdir(parents=True)
    (tmp_path / "auto").touch()
    text = (
        "{29_faithfulness: {agreement_data: data/own}, 24_umap: {}, 28_interpretability: {seed: 3}}"
    )
    given = parse_overrides([f"notebook_parameters={text}"])
    profile = load_profile("published", given)
    before = load_profile("published").notebook_parameters
    own = profile.notebook_parameters
    assert own[AGREEMENT] == before[AGREEMENT] | {
        "agreement_data": os.path.relpath(tmp_path / "data" / "own", ROOT)
    }
    assert own["28_interpretability"] == before["28_interpretability"] | {"seed": 3}
    assert set(own) == set(before)
    (tmp_path / "profile.json").write_text(profile.to_json("x"))
    assert read_profile(tmp_path / "profile.json") == (profile, "x")


def test_shrinking_keeps_where_data_come_from() -> None:
    profile = load_profile("published")
    own = shrunk(profile).notebook_parameters
    agreement, before = own[AGREEMENT], profile.notebook_parameters[AGREEMENT]
    assert agreement["agreement_data"] == before["agreement_data"]
    assert agreement["examples"] == 8 and agreement["ranking_examples"] == 4
    assert own["28_interpretability"]["n_features"] == 2
    assert own["28_interpretability"]["shown_are_scored"]
    assert shrunk(load_profile("smoke")).notebook_parameters[AGREEMENT]["examples"] == 8
    for name, parameters in own.items():
        check_parameters(NOTEBOOKS / f"{name}.ipynb", parameters)


def test_own_model_forgets_notebook_parameters_unless_given_its_own(
    own_model: dict[str, Any],
) -> None:
    assert load_profile("gpt2", own_model).notebook_parameters == {}
    given = {"notebook_parameters": {AGREEMENT: {"examples": 12}}}
    assert (
        load_profile("gpt2", own_model | given).notebook_parameters == given["notebook_parameters"]
    )


def test_own_model_in_a_profile_of_one_layer_gets_its_middle(own_model: dict[str, Any]) -> None:
    assert load_profile("smoke", own_model).layers == (2,)


def test_own_model_obeys_overrides(own_model: dict[str, Any]) -> None:
    chosen = {"layers": [4], "context_size": 512, "sparsity_coeffs": {"local": [1]}}
    profile = load_profile("workshop", own_model | chosen | {"objectives": ["local"]})
    assert profile.layers == (4,) and profile.training.context_size == 512
    assert profile.sparsity_coeffs == {"local": {4: (1.0,)}}


@pytest.mark.parametrize(
    ("n_layers", "layers"), [(12, (2, 6, 10)), (5, (1, 2, 3)), (8, (1, 4, 6)), (2, (0,)), (1, (0,))]
)
def test_default_layers(n_layers: int, layers: tuple[int, ...]) -> None:
    assert default_layers(n_layers) == layers


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_shape_of_an_embedded_model(name: str) -> None:
    assert model_shape(name) == (5, 64, 128)


def test_own_model_needs_text_of_its_own(own_model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="TRAIN is not given"):
        load_profile("workshop", {"model": own_model["model"]})


def test_models_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without a config\.json"):
        model_shape(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelError, match="describes a language model"):
        model_shape(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    with pytest.raises(ModelError, match="no JSON"):
        model_shape(str(tmp_path))


def test_hub_name_without_network_is_one_sentence() -> None:
    with pytest.raises(ModelError) as caught:
        model_shape("no-such-person/no-such-model")
    assert "no-such-person/no-such-model" in str(caught.value) and "\n" not in str(caught.value)


def test_overrides_and_cores() -> None:
    given = parse_overrides(["MODEL=gpt2", "seeds=[0, 3]", "lr=0.01"])
    assert given == {"model": "gpt2", "seeds": [0, 3], "lr": 0.01}
    for bad in ("seeds", "=3", "seeds=[0"):
        with pytest.raises(ConfigError):
            parse_overrides([bad])
    assert number_of_cores("3") == 3
    for bad in ("0", "two", "-1"):
        with pytest.raises(ConfigError, match="CORES"):
            number_of_cores(bad)


def test_results_folder_names_the_model(own_model: dict[str, Any], tmp_path: Path) -> None:
    profile = load_profile("smoke", own_model)
    assert results_folder("", profile, own_model=True).name == f"smoke-{tmp_path.name}"
    assert results_folder("", load_profile("smoke"), own_model=False).name == "smoke"
    assert results_folder(str(tmp_path), profile, own_model=True) == tmp_path


def test_the_command_fails_in_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["--profile", "smoke", "--results", str(results), "layers=[99]"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: layers is [99]") and error.count("\n") == 1
    assert not results.exists()


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(ConfigError, E2EError) and issubclass(ModelError, E2EError)
