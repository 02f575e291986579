"""What a list of runs shares, and which of them are still to do."""

import json
from dataclasses import asdict, dataclass, replace

import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import Objective, named_objective
from e2e_lib.core.sae_run import build_saes
from e2e_lib.core.train import train
from e2e_lib.data.formats.saelens import WEIGHTS
from e2e_lib.errors import ConfigError, Weight
from e2e_lib.files import project_path, write_json
from e2e_lib.names import parse_sparsity_coeffs
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.runs.read import REFERENCE, config_dict, finished_runs, read_record, run_name
from pipeline.plan.profile import read_profile
from pipeline.plan.stages import TRAIN, stages
from tests.helpers.run_folders import HOOK, small_training
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
    plan = small_training(
        seed=3, sparsity_coeffs="local:1,2;e2e:0.5;e2e_ds:0.1", ds_kl_coeff=0.4,
        downstream_coeff=0.7, lr=0.01, schedule="linear",
    )  # fmt: skip
    configs = plan.configs()
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
    assert small_training(train_tokens=199).train_rows == 16  # four batches of 4 · 10 tokens
    assert small_training(train_tokens=40).train_rows == 4
    assert small_training(eval_tokens=41).eval_rows == 5
    described = small_training(train_tokens=199, eval_tokens=41)
    values = described.describe(described.configs()[0])
    assert (values["train_tokens"], values["eval_tokens"]) == (160, 50)


def test_a_description_is_json_without_local_folders():
    plan = small_training(model="/somewhere/on/this/machine/my_model", train_data="./texts/a.jsonl")
    config = plan.configs()[0]
    text = json.dumps(plan.describe(config))
    assert "my_model" in text
    assert "a.jsonl" in text
    assert "somewhere" not in text
    assert "texts" not in text
    assert plan.source["model_name"] == "my_model"
    assert small_training(model="nobody/model").source["model_name"] == "nobody/model"


@dataclass(frozen=True, kw_only=True)
class WithOneMore(Training):
    one_more: Weight = 0.0


def test_a_parameter_that_nobody_described_is_in_the_name():
    trainings = Training(), WithOneMore(), WithOneMore(one_more=1.0)
    plain, usual, other = (t.name(t.configs()[0]) for t in trainings)
    assert plain == usual != other
    shuffled = Training(random_weights=1)
    assert shuffled.name(shuffled.configs()[0]) not in (plain, other)
    assert shuffled.describe(shuffled.configs()[0])["random_weights"] == 1


def test_pending_skips_what_is_finished(tmp_path):
    plan = small_training(sparsity_coeffs="e2e:0.1,0.2,0.3")
    configs = plan.configs()
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
        small_training(**values)
    assert_sentence(caught, *parts)


def test_starts(tmp_path):
    plan = small_training()
    assert plan.starts(tmp_path) == {}
    run = tmp_path / "saes" / "a-run"
    small_sae(24).save(run)
    write_json(run / "run.json", {"status": "ok"})
    assert replace(plan, init_from="a-run").starts(tmp_path) == {HOOK: str(run)}
    assert replace(plan, init_from=str(run)).starts(tmp_path / "elsewhere") == {HOOK: str(run)}
    two = small_training(hook=f"{HOOK}+blocks.2.hook_resid_pre", init_from=str(tmp_path / "both"))
    for hook in two.hook_names:
        small_sae(24).save(tmp_path / "both" / hook)
    assert two.starts(tmp_path) == {hook: str(tmp_path / "both" / hook) for hook in two.hook_names}


def test_starts_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError) as caught:
        small_training(init_from="no-run").starts(tmp_path)
    assert_sentence(caught, "init_from", "'no-run'", "a finished run with weights")
    small_sae(24).save(tmp_path / "sae")
    with pytest.raises(ConfigError) as caught:
        small_training(dict_ratio=3.0, init_from=str(tmp_path / "sae")).starts(tmp_path)
    assert_sentence(caught, "dict_ratio", "3.0", "24 latents for 12")


def test_a_name_covers_the_weights_it_starts_from(tmp_path):
    plan, names = small_training(sparsity_coeffs="e2e:0.1"), set()
    names.add(plan.name(plan.configs()[0]))
    for folder, seed in (("one/sae", 1), ("two/sae", 2), ("three/other", 2)):
        small_sae(24, seed=seed).save(tmp_path / folder)
        warm = replace(plan, init_from=str(tmp_path / folder))
        names.add(plan.name(warm.configs(warm.starts(tmp_path))[0]))
    assert len(names) == 4  # other weights under one name, the same ones under another
    again = replace(plan, init_from=str(tmp_path / "one/sae")).starts(tmp_path)
    described = plan.describe(plan.configs(again)[0])
    assert described["init_from"] == {HOOK: "sae"}
    assert str(tmp_path) not in json.dumps(described)
    assert run_name(described) in names


def test_a_name_covers_the_configuration_it_starts_from(tmp_path):
    """The same tensors are another SAE where its file says that the input's bias is taken off."""
    plan, names = small_training(sparsity_coeffs="e2e:0.1"), set()
    for place in ("own/sae", "run"):
        folder = tmp_path / place
        small_sae(24).save(folder)
        if place == "run":
            write_json(folder / "run.json", {"status": "ok"})
        warm = replace(plan, init_from=str(folder))
        for change in ({}, {"apply_b_dec_to_input": True}):
            path = folder / "cfg.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
            names.add(plan.name(warm.configs(warm.starts(tmp_path))[0]))
    assert len(names) == 3, "of a run the weights say it all"


def test_a_word_for_a_fetched_model_is_the_content_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "e2e_lib").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_digest("smollm2") is None
    folder = tmp_path / "build" / "models" / "smollm2"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    before = model_digest("smollm2")
    assert before == model_digest("build/models/smollm2") is not None
    (folder / "model.safetensors").write_text("{ }")
    assert model_digest("smollm2") not in (None, before)


def test_objectives_choose_among_the_lambdas():
    chosen = small_training(objectives=" e2e, local", sparsity_coeffs="local:1;e2e:2;e2e_ds:3")
    assert chosen.grids == {"local": [1.0], "e2e": [2.0]}
    assert [c.objective.name for c in chosen.configs()] == ["local", "e2e"]


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"objectives": "e2e,topk"}, ("objectives", "'e2e,topk'", "local, e2e, e2e_ds")),
        ({"objectives": "e2e,e2e"}, ("objectives", "each once")),
        ({"objectives": ""}, ("objectives", "local, e2e, e2e_ds")),
        ({"sparsity_coeffs": "topk:1"}, ("sparsity_coeffs", "'topk:1'", "local, e2e, e2e_ds")),
        ({"sparsity_coeffs": "e2e:-1"}, ("sparsity_coeffs", "'e2e:-1'", "at least 0")),
        (
            {"objectives": "local", "sparsity_coeffs": "e2e:1"},
            ("sparsity_coeffs", "'e2e:1'", "at least 1 of objectives = local"),
        ),
        (
            {"objectives": "local,finetune"},  # the usual λ are of others: one would be left out
            ("sparsity_coeffs", "at least 2 of objectives = local,finetune"),
        ),
        (
            {"sparsity_coeffs": "finetune:1"},
            ("sparsity_coeffs", "'finetune:1'", "at least 1 of objectives = local,e2e,e2e_ds"),
        ),
        ({"hook": "a+a"}, ("hook", "'a+a'", "joined by +")),
        ({"lr": -1.0}, ("lr", "-1.0", "above 0")),
        ({"min_lr_factor": 2.0}, ("min_lr_factor", "2.0", "[0, 1]")),
        ({"micro_batch_size": 3}, ("micro_batch_size", "3", "divisor of batch_size (4)")),
        ({"device": " "}, ("device", "' '", "cuda")),
        ({"tracker": "tensorboard"}, ("tracker", "none, wandb")),
        (
            {"sparsifier": "batchtopk", "sparsity_coeffs": Training.sparsity_coeffs},
            ("sparsity_coeffs", "numbers are k"),
        ),
        (
            {"hook": "a>b", "sparsifier": "topk", "sparsity_coeffs": "e2e:3"},
            ("no topk transcoder",),
        ),
        ({"colour": "red"}, ("colour", "parameter of Training", "objectives", "lr")),
    ],
)
def test_what_a_library_call_may_not_say(values, parts):
    with pytest.raises(ConfigError) as caught:
        small_training(**values)
    assert_sentence(caught, *parts)


def test_training_begins_at_exactly_the_saved_weights(tmp_path):
    start = small_sae(2 * D_MODEL, seed=5)
    start.save(tmp_path / "start")
    start_from = {"init_from": str(tmp_path / "start"), "sparsity_coeffs": "local:0.3"}
    plan = small_training(seed=3, **start_from)
    [config] = plan.configs(plan.starts(tmp_path / "results"))
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


def test_unknown_parameters_of_one_run_are_listed():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(named_objective("e2e", 1.0), (HOOK,), colour="red")
    assert_sentence(caught, "colour", "parameter of TrainConfig", "lr", "hook_names")
    with pytest.raises(ConfigError) as caught:
        Objective(1.0, kl_coeff=1.0, topk_coeff=1.0)
    assert_sentence(caught, "topk_coeff", "parameter of Objective", "kl_coeff", "sparsity_coeff")
    with pytest.raises(ConfigError) as caught:
        named_objective("topk", 1.0)
    assert_sentence(caught, "objective", "'topk'", "local, e2e, e2e_ds")


# ------------------------------------------------------------------ the committed reference
def test_every_run_of_the_reference_keeps_its_name():
    """From the reference's profile to the names of its folders, as `make run` gets there today."""
    reference = project_path(REFERENCE)
    recorded = {folder.name: read_record(folder)["config"] for folder in finished_runs(reference)}
    profile, results = read_profile(reference / "profile.json")
    found = set()
    for stage in stages(profile, results):
        if stage.notebook != TRAIN:
            continue
        training = Training(**stage.parameters)
        assert asdict(training) == stage.parameters
        start = reference / "saes" / training.init_from
        for config in training.configs({training.hook: str(start)} if training.init_from else {}):
            described = json.loads(json.dumps(training.describe(config)))
            if training.init_from and not (start / WEIGHTS).is_file():  # few weights are shipped
                [contents] = [c["contents"] for c in recorded.values() if _same(c, described)]
                described["contents"] = contents
            found.add(run_name(described))
            assert list(recorded[run_name(described)].items()) == list(described.items())
    assert found == recorded.keys() and len(found) > 150


def _same(one, other):
    """Whether both are one run but for what its start's weights were."""
    return one | {"contents": None} == other | {"contents": None}


def test_a_configuration_is_plain_json():
    values = config_dict(TrainConfig(named_objective("e2e", 0.3), (HOOK,)))
    assert values["objective"]["kl_coeff"] == 1.0
    assert values["hook_names"] == (HOOK,)
    assert values["init_from"] == {}


MODEL = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    "names",
    [
        ("config.json", "ae.pt"),
        ("config.json", "train.parquet"),
        *((MODEL[0], text, MODEL[1]) for text in ("a.jsonl", "train.txt", "data/a.txt")),
    ],
)
def test_a_config_beside_it_makes_no_model_of_a_folder(tmp_path, names):
    """Of an SAE or of data every file counts, beside a model too; a link to nowhere is none."""
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / name).write_text("{}")
    before = content_digest(str(tmp_path))
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere")
    assert content_digest(str(tmp_path)) == before
    (tmp_path / names[1]).write_text("{ }")
    assert content_digest(str(tmp_path)) != before


def test_a_link_to_nowhere_in_a_model_is_no_file(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    before = model_digest(str(tmp_path))
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere")
    assert model_digest(str(tmp_path)) == before is not None
