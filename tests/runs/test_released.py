"""Loaders of published SAEs: exactly their keys and shapes, and files that must be refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from e2e_lib.analysis import geometry, pareto
from e2e_lib.analysis import matched as matching
from e2e_lib.analysis.claims import verdicts
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.sae import SAE
from e2e_lib.errors import ModelError
from e2e_lib.runs.provenance import content_digest
from e2e_lib.runs.read import run_config
from e2e_lib.runs.released import (
    as_trained,
    check_fit,
    read_released,
    released_paths,
    shown,
    training_of,
)
from e2e_lib.runs.save import save_run
from e2e_lib.runs.tables import block_table, curve_table, metrics_table, write_metrics_table
from tests.helpers.released_files import (
    authors_config,
    raw_weights,
    write_checkpoint,
    write_registry,
    write_release,
)
from tests.helpers.tiny_models import assert_sentence, model_folder, random_tokens, tiny_model

D_IN, D_SAE = 12, 40
HOOK = "blocks.6.hook_resid_pre"


def expected(raw: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The authors' forward pass: linear, ReLU, linear with unit columns."""
    codes = torch.relu(x @ raw["encoder.weight"].T + raw["encoder.bias"])
    columns = raw["decoder.weight"] / raw["decoder.weight"].norm(dim=0, keepdim=True)
    return codes @ columns.T + raw["decoder.bias"]


# ------------------------------------------------------------------ what is read
@pytest.mark.parametrize("described", [True, False])
def test_the_authors_release(tmp_path, described):
    """Objective, layer, λ, β and seed come from the yaml, and without one from the tables."""
    paths = released_paths(str(write_release(tmp_path, D_IN, D_SAE, described)))
    assert len(paths) == 18
    found = {path.stem: read_released(path)[0] for path in paths}
    ds = found["downstream_similar_ce_layer_6"]
    assert (ds.config.objective.name, ds.hook, ds.config.seed) == ("e2e_ds", HOOK, 0)
    objective = ds.config.objective
    assert (objective.sparsity_coeff, objective.kl_coeff, objective.downstream_coeff) == (
        50,
        0.5,
        2.5,
    )
    assert ds.train_tokens == 409_600_000
    assert (ds.config.lr, ds.config.warmup_fraction, ds.config.dict_ratio) == (
        5e-4,
        0.05,
        D_SAE / D_IN,
    )
    local = found["local_similar_l0_layer_10"]
    assert (local.config.objective.name, local.config.objective.sparsity_coeff) == ("local", 10)
    assert local.config.objective.kl_coeff is None
    assert found["downstream_similar_l0_layer_10"].config.objective.downstream_coeff == 0.05
    e2e = found["e2e_similar_ce_layer_2"].config.objective
    assert (e2e.name, e2e.sparsity_coeff, e2e.kl_coeff, e2e.local_coeff) == ("e2e", 0.5, 1, None)


def test_released_weights_compute_what_the_authors_compute(tmp_path):
    path = write_release(tmp_path, D_IN, D_SAE) / "e2e_similar_l0_layer_6.pt"
    raw, [found], x = torch.load(path), read_released(path), torch.randn(5, D_IN)
    torch.testing.assert_close(found.sae(x).output, expected(raw, x))
    torch.testing.assert_close(found.sae.W_dec, raw["decoder.weight"].T)
    assert all(p.requires_grad for p in found.sae.parameters())
    assert found.sae.W_dec.is_contiguous() and found.sae.W_enc.T.is_contiguous()


def test_gpt2_size_is_read_in_place(tmp_path):
    """d_in 768 as published; half precision is widened."""
    path = tmp_path / "local_similar_ce_layer_2.pt"
    torch.save({k: v.half() for k, v in raw_weights(768, 1536).items()}, path)
    [found] = read_released(path)
    assert (found.sae.d_in, found.sae.d_sae) == (768, 1536)
    assert found.sae.W_enc.dtype == torch.float32


def test_a_native_checkpoint_of_two_saes(tmp_path):
    """Keys with the hook's name, a decoder that is not normalised, final_config.yaml beside it."""
    hooks = [HOOK, "blocks.10.hook_resid_pre"]
    path = write_checkpoint(tmp_path / "run", D_IN, D_SAE, hooks)
    found = {one.hook: one for one in read_released(path)}
    assert list(found) == hooks
    x = torch.randn(5, D_IN)
    for k, hook in enumerate(hooks):
        raw = raw_weights(D_IN, D_SAE, k, unit=False)
        torch.testing.assert_close(found[hook].sae(x).output, expected(raw, x))
    config = found[HOOK].config
    assert (config.seed, config.lr, config.grad_clip, config.batch_size) == (3, 5e-4, 10.0, 16)
    assert config.objective.downstream_hooks[0] == "blocks.7.hook_resid_pre"
    assert len(config.objective.downstream_hooks) == 5


def test_of_checkpoints_the_latest_is_taken(tmp_path):
    last = write_checkpoint(tmp_path / "run", D_IN, D_SAE, [HOOK])
    for n in (50_000, 99_999):
        (tmp_path / "run" / f"samples_{n}.pt").write_bytes(last.read_bytes())
    assert released_paths(str(tmp_path)) == [last]


METADATA = {"metadata": {"hook_name": "blocks.10.hook_resid_pre", "sae_lens_version": "6.54.12"}}


@pytest.mark.parametrize(
    ("place", "config", "objective", "coeff"),
    [
        ("gpt2-small__res_scefr-ajt/6-res_scefr-ajt", {}, "e2e_ds", 50),
        ("gpt2-small__res_slefr-ajt/blocks.10.hook_resid_pre", METADATA, "e2e_ds", 1.75),
        ("gpt2-small__res_sll-ajt/10-res_sll-ajt", METADATA, "local", 10),
        ("gpt2-small__res_sce-ajt/x", {"architecture": "standard"}, "e2e", 3),
        ("gpt2-small__res_scl-ajt/x", {"hook_name": "blocks.2.hook_resid_pre"}, "local", 0.8),
    ],
)
def test_folders_of_the_saelens_registry(tmp_path, place, config, objective, coeff):
    """cfg.json of any age: with or without architecture, hook_point, hook_name or metadata."""
    write_registry(tmp_path / place, 6, config, D_IN, D_SAE)
    [path] = released_paths(str(tmp_path))
    [found] = read_released(path)
    name = config.get("metadata", config).get("hook_name", HOOK)
    assert found.hook == name
    assert found.config.objective.name == objective
    assert found.config.objective.sparsity_coeff == coeff
    x = torch.randn(3, D_IN)
    torch.testing.assert_close(found.sae(x).output, expected(raw_weights(D_IN, D_SAE), x))


def test_several_sets_at_once(tmp_path):
    first = write_release(tmp_path / "one", D_IN, D_SAE)
    write_registry(tmp_path / "res_sce-ajt" / "a", 6, {}, D_IN, D_SAE)
    names = f"{first}, {tmp_path / 'res_sce-ajt'}"
    assert len(released_paths(names)) == 19
    assert shown(names) == "one,res_sce-ajt"
    assert shown("apollo-research/e2e-saes-gpt2") == "apollo-research/e2e-saes-gpt2"


def test_commas_are_between_names_and_may_be_in_one(tmp_path):
    """What is between them counts, with spaces too; of a folder's name they are letters."""
    one = write_release(tmp_path / "a,b", D_IN, D_SAE, described=False)
    assert len(released_paths(str(one))) == 18 and shown(str(one)) == one.name
    two = [write_release(tmp_path / name, D_IN, D_SAE, described=False) for name in "cd"]
    both = ", ".join(map(str, two))
    assert len(released_paths(both)) == 36
    before = content_digest(both)
    (two[1] / "more.txt").write_text("x")
    assert content_digest(both) != before, "of the second too"


def test_a_hub_name_is_read_from_the_local_cache(tmp_path, monkeypatch):
    """Without a network, a cached download and a folder with the same files give the same."""
    from huggingface_hub import constants

    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--apollo-research--e2e-saes-gpt2"
    write_release(repository / "snapshots" / commit, D_IN, D_SAE)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    local = released_paths(str(repository / "snapshots" / commit))
    assert released_paths("apollo-research/e2e-saes-gpt2") == local
    assert released_paths("apollo-research/e2e-saes-gpt2", commit) == local
    with pytest.raises(ModelError, match="revision 'v2'"):
        released_paths("apollo-research/e2e-saes-gpt2", "v2")


# ------------------------------------------------------------------ what is refused
class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def damaged(kind: str, path: Path) -> None:
    """Write a file of this kind of damage."""
    raw = raw_weights(D_IN, D_SAE)
    if kind == "malicious":
        torch.save(raw | {"encoder.bias": Malicious(path.with_name("ran"))}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Malicious(path.with_name("ran"))))
    elif kind == "truncated":
        torch.save(raw, path)
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "transposed":
        torch.save(raw | {"encoder.weight": raw["encoder.weight"].T.contiguous()}, path)
    elif kind == "short bias":
        torch.save(raw | {"decoder.bias": raw["decoder.bias"][:-1].clone()}, path)
    elif kind == "missing":
        del raw["decoder.bias"]
        torch.save(raw, path)
    elif kind == "another key":
        torch.save(raw | {"threshold": torch.zeros(D_SAE)}, path)
    elif kind == "whole numbers":
        torch.save({k: v.long() for k, v in raw.items()}, path)
    elif kind == "a view of nothing":  # claims 4 TB, holds four bytes
        views = {
            "encoder.weight": (10**9, 10**3), "encoder.bias": (10**9,),
            "decoder.weight": (10**3, 10**9), "decoder.bias": (10**3,),
        }  # fmt: skip
        torch.save({k: torch.zeros(1).expand(*shape) for k, shape in views.items()}, path)
    elif kind == "a list":
        torch.save([1, 2], path)


@pytest.mark.parametrize(
    "kind",
    ["malicious", "bare pickle", "truncated", "empty", "transposed", "short bias", "missing",
     "another key", "whole numbers", "a view of nothing", "a list"],
)  # fmt: skip
def test_files_that_are_refused_in_one_sentence(tmp_path, kind):
    path = tmp_path / "e2e_similar_ce_layer_6.pt"
    damaged(kind, path)
    with pytest.raises(ModelError) as caught:
        read_released(path)
    assert_sentence(caught, "e2e_similar_ce_layer_6.pt")
    assert not (tmp_path / "ran").exists(), "nothing of a pickle may run"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "final_config.yaml"),
        ("loss: [", "final_config.yaml"),
        ("- 1", "mapping"),
        ("seed: 0", "loss"),
        ("loss: {sparsity: {coeff: 1}}", "at least one term"),
        ("!!python/object/apply:os.getcwd []", "final_config.yaml"),
        ("{loss: {sparsity: {coeff: 1}, logits_kl: {coeff: 1}}, lr_schedule: step}", "schedule"),
        ("{loss: {sparsity: {coeff: 1}, logits_kl: {coeff: 1}}, lr: fast}", "fast"),
    ],
)
def test_checkpoints_with_unusable_descriptions(tmp_path, text, part):
    path = write_checkpoint(tmp_path, D_IN, D_SAE, [HOOK])
    path.with_name("final_config.yaml").unlink()
    if text is not None:
        path.with_name("final_config.yaml").write_text(text)
    with pytest.raises(ModelError) as caught:
        read_released(path)
    assert_sentence(caught, part)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"architecture": "jumprelu"}, "threshold"),
        ({"activation_fn_str": "topk"}, "k None"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, "topk"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
    ],
)
def test_registry_folders_of_other_kinds(tmp_path, config, part):
    folder = write_registry(tmp_path / "res_sce-ajt" / "a", 6, config, D_IN, D_SAE)
    with pytest.raises(ModelError) as caught:
        read_released(folder)
    assert_sentence(caught, part)


@pytest.mark.parametrize("said", [True, None])
def test_a_bias_taken_from_the_input_is_folded(tmp_path, said):
    """An older configuration that says nothing about it means true."""
    folder = write_registry(
        tmp_path / "res_sce-ajt" / "a", 6, {"apply_b_dec_to_input": said}, D_IN, D_SAE
    )
    text = (folder / "cfg.json").read_text().replace(', "apply_b_dec_to_input": null', "")
    (folder / "cfg.json").write_text(text)
    raw, x = raw_weights(D_IN, D_SAE), torch.randn(3, D_IN)
    [found] = read_released(folder)
    raw["encoder.bias"] = raw["encoder.bias"] - raw["encoder.weight"] @ raw["decoder.bias"]
    torch.testing.assert_close(found.sae(x).output, expected(raw, x))


def test_names_that_hold_no_saes(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError) as caught:
        released_paths(str(tmp_path))
    assert_sentence(caught, "released", str(tmp_path), "samples_N.pt")
    for name in ("nobody/no-saes", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError) as caught:
            released_paths(name)
        assert_sentence(caught, repr(name), "network")


def test_a_folder_of_no_known_set(tmp_path):
    write_registry(tmp_path / "mine", 6, {}, D_IN, D_SAE)
    with pytest.raises(ModelError, match=r"res_\*-ajt"):
        read_released(tmp_path / "mine")


def test_a_layer_the_paper_has_no_sae_of(tmp_path):
    torch.save(raw_weights(D_IN, D_SAE), tmp_path / "e2e_similar_ce_layer_5.pt")
    with pytest.raises(ModelError, match=r"layer is 5"):
        read_released(tmp_path / "e2e_similar_ce_layer_5.pt")


def test_saes_that_do_not_fit_the_model(tmp_path):
    torch.save(raw_weights(D_IN + 1, D_SAE), tmp_path / "e2e_similar_ce_layer_2.pt")
    [found] = read_released(tmp_path / "e2e_similar_ce_layer_2.pt")
    with pytest.raises(ModelError) as caught:
        check_fit(tiny_model("gpt2"), found)
    assert_sentence(caught, "width 13", "width 12")


# ------------------------------------------------------------------ runs that were not trained here
@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Runs of nine released SAEs at three layers of a four-block model."""
    folder, results = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("results")
    model, rows = tiny_model("gpt2"), random_tokens(6)
    shared = {
        "model": str(model_folder("gpt2")), "validation_data": "text", "eval_tokens": 60,
        "context_size": 10,
    }  # fmt: skip
    for layer in (0, 1, 2):
        for k, (objective, coeff) in enumerate([("local", 4.0), ("e2e", 3.0), ("e2e_ds", 50.0)]):
            facts = authors_config(objective, layer, coeff, seed=0)
            facts["loss"]["in_to_orig"] = facts["loss"]["in_to_orig"] and {
                "hook_positions": ["blocks.3.hook_resid_pre"], "total_coeff": 2.5,
            }  # fmt: skip
            hook = f"blocks.{layer}.hook_resid_pre"
            path = write_checkpoint(folder / f"{layer}{k}", D_IN, D_SAE, [hook])
            path.with_name("final_config.yaml").write_text(yaml.safe_dump(facts))
            [found] = read_released(path)
            check_fit(model, found)
            [held_out] = evaluate(model, [{found.hook: found.sae}], rows)
            training = training_of(found, **shared)
            config = training.describe(found.config) | {"released": "x"}
            save_run(results, config, as_trained(found), held_out, source=training.source)
    return results


def test_they_enter_the_table_of_runs(results):
    table = metrics_table(results)
    assert len(table) == 9
    assert set(table.objective) == {"local", "e2e", "e2e_ds"}
    assert set(table.layer) == {0, 1, 2}
    assert set(table.train_tokens) == {409_600_000}
    assert table[["grad_norm", "train_seconds", "alive_paper"]].isna().all(axis=None)
    assert table["grad_norm"].dtype == table["train_seconds"].dtype == float
    assert table[["l0", "ce_increase", "mse", "alive"]].notna().all(axis=None)
    read = pd.read_csv(write_metrics_table(results))
    assert list(read.run) == list(table.run)
    config = run_config(results, table.run[0])
    assert config["train_data"] == config["validation_data"] == "text"
    sae = SAE.load(results / "saes" / table.run[0])
    assert (sae.d_in, sae.d_sae) == (D_IN, D_SAE)


def test_analyses_survive_what_only_training_knows(results):
    """NaN in grad_norm, train_seconds and alive_paper, no curve, one seed, one λ."""
    table = matching.main_runs(metrics_table(results))
    assert len(table) == 9
    for on in ("ce_increase", "l0"):
        positive = table.assign(ce_increase=table["ce_increase"].abs())
        matched = matching.across_seeds(positive, matching.similar(positive, on))
        summary = matching.over_seeds(matched)
        assert len(summary) == 9
        assert summary["grad_norm"].isna().all()
        matching.with_range(summary, {"grad_norm": 2, "l0": 1})
    ratios = pareto.summary_ratios(table, pd.DataFrame(columns=["run", "row"]))
    assert ratios["value"].isna().all()
    assert set(block_table(results)["layer"]) == {0, 1, 2}
    assert len(curve_table(results)) == 0
    directions = {r: SAE.load(results / "saes" / r).dictionary.detach() for r in table["run"]}
    assert len(geometry.within_similarity(directions, table)) == 9 * D_SAE


def test_claims_say_what_they_cannot_test(results):
    found = {claim["id"]: claim for claim in verdicts.evaluate_claims(results)}
    assert {found[name]["verdict"] for name in ("C1a", "C3b", "C5a")} == {"not testable here"}


def test_the_same_sae_in_two_files_is_one_run(tmp_path):
    folder = write_release(tmp_path, D_IN, D_SAE)
    shared = {"model": "m", "validation_data": "t", "eval_tokens": 100, "context_size": 10}
    every = [read_released(path)[0] for path in released_paths(str(folder))]
    names = {training_of(found, **shared).name(found.config) for found in every}
    assert (len(every), len(names)) == (18, 15)
    other = every[0]._replace(config=replace(every[0].config, seed=1))
    assert training_of(other, **shared).name(other.config) not in names
