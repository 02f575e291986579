"""What a list of runs shares, and which of them are still to do."""

import json
from dataclasses import fields

import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae_run import build_saes
from e2e_lib.core.train import train
from e2e_lib.errors import ConfigError
from e2e_lib.files import write_json
from e2e_lib.runs.experiment import parse_sparsity_coeffs, planned
from e2e_lib.runs.read import run_name
from tests.helpers.run_folders import HOOK, experiment
from tests.helpers.tiny_models import (
    D_MODEL,
    assert_sentence,
    random_tokens,
    small_sae,
    tiny_model,
)


def test_sparsity_coeffs():
    parsed = parse_sparsity_coeffs(" local:0.3, 1 ; e2e:1e-2;")
    assert parsed == {"local": [0.3, 1.0], "e2e": [0.01]}


@pytest.mark.parametrize("text", ["local", "local:", "local:a", "local:1:2", "0.3,1"])
def test_sparsity_coeffs_of_another_form(text):
    with pytest.raises(ConfigError) as caught:
        parse_sparsity_coeffs(text)
    assert_sentence(caught, "sparsity_coeffs", repr(text), "local:0.3,1")


def test_configs():
    plan = experiment(seed=3)
    configs = plan.configs(
        {"local": [1.0, 2.0], "e2e": [0.5], "e2e_ds": [0.1]}, ds_kl_coeff=0.4, downstream_coeff=0.7,
        lr=0.01, schedule="linear",
    )  # fmt: skip
    assert [(c.objective.name, c.objective.sparsity_coeff) for c in configs] == [
        ("local", 1.0), ("local", 2.0), ("e2e", 0.5), ("e2e_ds", 0.1),
    ]  # fmt: skip
    local, _, e2e, ds = (c.objective for c in configs)
    assert (local.local_coeff, local.kl_coeff, local.downstream_coeff) == (1.0, None, None)
    assert (e2e.local_coeff, e2e.kl_coeff, e2e.downstream_coeff) == (None, 1.0, None)
    assert (ds.local_coeff, ds.kl_coeff, ds.downstream_coeff) == (None, 0.4, 0.7)
    assert {(c.seed, c.lr, c.schedule, c.batch_size, c.dict_ratio) for c in configs} == {
        (3, 0.01, "linear", 4, 2.0)
    }


def test_rows_are_whole_batches():
    assert experiment(train_tokens=199).train_rows == 16  # four batches of 4 · 10 tokens
    assert experiment(train_tokens=40).train_rows == 4
    assert experiment(eval_tokens=41).eval_rows == 5
    described = experiment(train_tokens=199, eval_tokens=41)
    values = described.describe(described.configs({"e2e": [1.0]})[0])
    assert (values["train_tokens"], values["eval_tokens"]) == (160, 50)


def test_a_description_is_json_without_local_folders():
    plan = experiment(model="/somewhere/on/this/machine/my_model", train_data="./texts/a.jsonl")
    config = plan.configs({"e2e": [1.0]})[0]
    text = json.dumps(plan.describe(config))
    assert "my_model" in text
    assert "a.jsonl" in text
    assert "somewhere" not in text
    assert "texts" not in text
    assert plan.source["model_name"] == "my_model"
    assert experiment(model="nobody/model").source["model_name"] == "nobody/model"


def test_pending_skips_what_is_finished(tmp_path):
    plan = experiment()
    configs = plan.configs({"e2e": [0.1, 0.2, 0.3]})
    assert plan.pending(tmp_path, configs) == configs
    write_json(tmp_path / "saes" / plan.name(configs[1]) / "run.json", {"status": "ok"})
    write_json(tmp_path / "saes" / plan.name(configs[2]) / "run.json", {"status": "failed"})
    assert plan.pending(tmp_path, configs) == [configs[0], configs[2]]


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"context_size": 1}, ("context_size", "1", "at least 2")),
        ({"threads": 0}, ("threads", "0", "at least 1")),
        ({"eval_tokens": 0}, ("eval_tokens", "0", "at least 1")),
        ({"train_tokens": 39}, ("train_tokens", "39", "batch_size", "40")),
    ],
)
def test_values_that_are_not_allowed(values, parts):
    with pytest.raises(ConfigError) as caught:
        experiment(**values)
    assert_sentence(caught, *parts)


def test_starts(tmp_path):
    plan = experiment()
    assert plan.starts(tmp_path, "") == {}
    run = tmp_path / "saes" / "a-run"
    small_sae(24).save(run)
    write_json(run / "run.json", {"status": "ok"})
    assert plan.starts(tmp_path, "a-run") == {HOOK: str(run)}
    assert plan.starts(tmp_path / "elsewhere", str(run)) == {HOOK: str(run)}
    two = experiment(hook_names=(HOOK, "blocks.2.hook_resid_pre"))
    for hook in two.hook_names:
        small_sae(24).save(tmp_path / "both" / hook)
    found = two.starts(tmp_path, str(tmp_path / "both"))
    assert found == {hook: str(tmp_path / "both" / hook) for hook in two.hook_names}


def test_starts_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError) as caught:
        experiment().starts(tmp_path, "no-run")
    assert_sentence(caught, "init_from", "'no-run'", "a finished run with weights")
    small_sae(24).save(tmp_path / "sae")
    with pytest.raises(ConfigError) as caught:
        experiment(dict_ratio=3.0).starts(tmp_path, str(tmp_path / "sae"))
    assert_sentence(caught, "dict_ratio", "3.0", "24 latents for 12")


def test_a_name_covers_the_weights_it_starts_from(tmp_path):
    plan, names = experiment(), set()
    names.add(plan.name(plan.configs({"e2e": [0.1]})[0]))
    for folder, seed in (("one/sae", 1), ("two/sae", 2), ("three/other", 2)):
        small_sae(24, seed=seed).save(tmp_path / folder)
        starts = plan.starts(tmp_path, str(tmp_path / folder))
        names.add(plan.name(plan.configs({"e2e": [0.1]}, init_from=starts)[0]))
    assert len(names) == 4  # other weights under one name, the same ones under another
    again = plan.starts(tmp_path, str(tmp_path / "one/sae"))
    described = plan.describe(plan.configs({"e2e": [0.1]}, init_from=again)[0])
    assert described["init_from"] == {HOOK: "sae"}
    assert str(tmp_path) not in json.dumps(described)
    assert run_name(described) in names


def test_planned_runs_have_the_names_of_the_experiment():
    plan = experiment()
    training = {"lr": 0.01, "schedule": "linear", "e2e_kl_coeff": 1.0, "ds_kl_coeff": 0.5}
    training |= {"downstream_coeff": 0.7, "warmup_fraction": 0.1, "min_lr_factor": 0.1}
    training |= {"grad_clip": 1.0, "downstream_last_block": False, "precision": "tf32"}
    configs = plan.configs({"local": [0.3, 1.0]}, **training)
    parameters = {f.name: getattr(plan, f.name) for f in fields(plan) if f.name != "hook_names"}
    parameters |= training | {"hook": HOOK, "results_folder": "somewhere", "objectives": "e2e"}
    assert planned(parameters, {"local": [0.3, 1.0]}) == [plan.name(c) for c in configs]


@pytest.mark.parametrize(
    ("coeffs", "parts"),
    [
        ({"e3e": [1.0]}, ("objective", "'e3e'", "local, e2e, e2e_ds")),
        ({"e2e": [-1.0]}, ("sparsity_coeff", "-1.0", "at least 0")),
    ],
)
def test_configs_that_are_not_allowed(coeffs, parts):
    with pytest.raises(ConfigError) as caught:
        experiment().configs(coeffs)
    assert_sentence(caught, *parts)


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
