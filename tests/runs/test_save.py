"""Writing run folders: names, what is in them, and that run.json goes last."""

import json
from pathlib import Path

import pytest

from e2e_lib.core.sae import SAE
from e2e_lib.data.formats.saelens import firing_frequency
from e2e_lib.errors import ResultsError
from e2e_lib.runs import read, save, tables
from tests.helpers.run_folders import HOOK, save_all, small_training
from tests.helpers.tiny_models import assert_sentence


def test_a_saved_run_can_be_read_back(tmp_path, made):
    plan, configs, trained, held_out = made
    folders = save_all(tmp_path, made)
    assert [f.name for f in folders] == [plan.name(c) for c in configs]
    for folder, run, found in zip(folders, trained, held_out, strict=True):
        assert read.finished(folder)
        names = {f.name for f in folder.iterdir()}
        assert names == {
            "run.json", "metrics.json", "rows.csv", "curve.csv", "cfg.json",
            "sae_weights.safetensors", "sparsity.safetensors",
        }  # fmt: skip
        assert SAE.load(read.sae_folder(tmp_path, folder.name)).d_sae == run.saes[HOOK].d_sae
        assert int((firing_frequency(folder) > 0).sum()) == found.saes[HOOK]["alive"]
        metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
        assert metadata["hook_name"] == HOOK
        assert metadata["context_size"] == 10
        record = json.loads((folder / "run.json").read_text())
        assert record["config"]["train_tokens"] == 80
        assert {"commit", "clean_tree", "code", "python", "packages"} <= set(record["provenance"])
        assert {"cpu", "cpus", "instruction_set", "memory_mb", "gpu"} <= set(record["provenance"])
        assert record["cost"]["train_seconds"] == run.train_seconds > 0
        assert record["provenance"]["products"] == "fp32"
        assert read.read_run(folder).cost == record["cost"], "as every analysis reads it"
        assert 50 < record["cost"]["peak_memory_mb"] < 100_000, "of a process with torch in it"


def test_run_json_is_written_last(tmp_path, made, monkeypatch):
    plan, configs, trained, held_out = made

    def fail() -> None:
        raise OSError("the disk is full")

    arguments = (tmp_path, plan.describe(configs[0]), trained[0], held_out[0])
    with monkeypatch.context() as patch:
        patch.setattr(save, "provenance", fail)
        with pytest.raises(OSError, match="disk is full"):
            save.save_run(*arguments)
    folder = tmp_path / "saes" / plan.name(configs[0])
    assert (folder / "metrics.json").is_file(), "the failure came late"
    assert not read.finished(folder)
    assert list(read.finished_runs(tmp_path)) == []
    assert plan.pending(tmp_path, configs) == configs
    with pytest.raises(ResultsError) as caught:
        tables.metrics_table(tmp_path)
    assert_sentence(caught, "results folder", "no finished run")
    save.save_run(*arguments)
    assert read.finished(folder)
    assert plan.pending(tmp_path, configs) == configs[1:]
    with monkeypatch.context() as patch:  # a second writing that fails half-way
        patch.setattr(save, "provenance", fail)
        with pytest.raises(OSError, match="disk is full"):
            save.save_run(*arguments)
    assert not read.finished(folder), "half new, half old is not finished"


@pytest.mark.parametrize("name", ["sae_weights", "metrics.json", "run.json"])
def test_a_full_disk_ends_in_one_sentence_and_no_finished_run(tmp_path, made, monkeypatch, name):
    plan, configs, trained, held_out = made

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    real = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda own, to: full() if Path(to).name == name else real(own, to)
    )
    if name == "sae_weights":
        monkeypatch.setattr("e2e_lib.data.formats.saelens.save_file", full)
    with pytest.raises(ResultsError) as caught:
        save.save_run(tmp_path, plan.describe(configs[0]), trained[0], held_out[0])
    assert_sentence(caught, name, "cannot be written", "No space left on device")
    assert list(read.finished_runs(tmp_path)) == []
    assert not list(tmp_path.rglob("*.part"))


def test_a_results_folder_that_cannot_be_written_to(tmp_path, made):
    plan, configs, trained, held_out = made
    (tmp_path / "saes").write_text("a file where a folder should be")
    with pytest.raises(ResultsError) as caught:
        save.save_run(tmp_path, plan.describe(configs[0]), trained[0], held_out[0])
    assert_sentence(caught, "cannot be written to the folder")


def test_names_are_stable_and_tell_runs_apart():
    plan = small_training(sparsity_coeffs="e2e:0.1,0.3")
    first, second = plan.configs()
    # A name that changes makes every finished run look unfinished: change it knowingly.
    alone = small_training(sparsity_coeffs="e2e:0.1")
    assert plan.name(first) == alone.name(alone.configs()[0])
    assert plan.name(first).startswith("e2e-blocks.1.hook_resid_pre-l0.1-s0-")
    names = {plan.name(first), plan.name(second)}
    for changed in (
        {"seed": 1}, {"model": "other"}, {"train_tokens": 160}, {"context_size": 8},
        {"processed": True}, {"dict_ratio": 3.0}, {"validation_data": "other"}, {"lr": 0.02},
    ):  # fmt: skip
        other = small_training(sparsity_coeffs="e2e:0.1", **changed)
        names.add(other.name(other.configs()[0]))
    assert len(names) == 10


def test_a_name_is_a_plain_file_name():
    config = {"hook_names": ["a/b c"], "objective": {"sparsity_coeff": 1e-4}, "seed": 0}
    name = read.run_name(config | {"objective_name": "custom"})
    assert name.startswith("custom-a_b_c-l0.0001-s0-")
