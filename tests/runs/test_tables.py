"""Run folders: what finished means, and the tables made of them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from e2e_lib import files
from e2e_lib.core.evaluate import Evaluation, evaluate
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.core.train import train
from e2e_lib.data.formats import firing_frequency
from e2e_lib.errors import ResultsError
from e2e_lib.runs import read, save, tables
from e2e_lib.runs.experiment import Experiment
from e2e_lib.runs.provenance import print_provenance
from tests.helpers.run_folders import HOOK, experiment
from tests.helpers.tiny_models import assert_sentence, random_tokens, tiny_model

DESIGN_COLUMNS = [
    "run",
    "model",
    "objective",
    "layer",
    "hook",
    "sparsity_coeff",
    "kl_coeff",
    "downstream_coeff",
    "seed",
    "dict_ratio",
    "d_sae",
    "train_tokens",
    "lr",
    "l0",
    "alive",
    "ce_clean",
    "ce_increase",
    "kl",
    "mse",
    "explained_variance",
    "train_seconds",
    "device",
]
Made = tuple[Experiment, list, list[TrainedRun], list[Evaluation]]


def make(**values) -> Made:
    plan = experiment(**values)
    configs = plan.configs({"local": [0.5], "e2e": [0.1], "e2e_ds": [0.2]}, lr=0.01)
    trained = train(tiny_model(), configs, random_tokens(plan.train_rows), progress=False)
    held_out = evaluate(tiny_model(), [r.saes for r in trained], random_tokens(plan.eval_rows))
    return plan, configs, trained, held_out


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def save_all(results, made: Made):
    plan, configs, trained, held_out = made
    return [
        save.save_run(results, plan.describe(c), t, e, e, source=plan.source)
        for c, t, e in zip(configs, trained, held_out, strict=True)
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, so that results/reference is empty."""
    (tmp_path / "e2e_lib").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------ saving
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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "running"}', "null"])
def test_only_status_ok_is_finished(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert not read.finished(tmp_path)
    assert not read.finished(tmp_path / "nowhere")


def test_json_is_whole_and_plain(tmp_path):
    files.write_json(
        tmp_path / "new" / "a.json", {"x": float("nan"), "y": (1, tmp_path), "z": True}
    )
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {
        "x": None, "y": [1, str(tmp_path)], "z": True,
    }  # fmt: skip
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.json"]


# ------------------------------------------------------------------ names
def test_names_are_stable_and_tell_runs_apart():
    plan = experiment()
    first, second = plan.configs({"e2e": [0.1, 0.3]}, lr=0.01)
    # A name that changes makes every finished run look unfinished: change it knowingly.
    assert plan.name(first) == plan.name(experiment().configs({"e2e": [0.1]}, lr=0.01)[0])
    assert plan.name(first).startswith("e2e-blocks.1.hook_resid_pre-l0.1-s0-")
    names = {plan.name(first), plan.name(second)}
    for changed in (
        {"seed": 1}, {"model": "other"}, {"train_tokens": 160}, {"context_size": 8},
        {"processed": True}, {"dict_ratio": 3.0}, {"validation_data": "other"},
    ):  # fmt: skip
        other = experiment(**changed)
        names.add(other.name(other.configs({"e2e": [0.1]}, lr=0.01)[0]))
    names.add(plan.name(plan.configs({"e2e": [0.1]}, lr=0.02)[0]))
    assert len(names) == 10


def test_a_name_is_a_plain_file_name():
    config = {"hook_names": ["a/b c"], "objective": {"sparsity_coeff": 1e-4}, "seed": 0}
    name = save.run_name(config | {"objective_name": "custom"})
    assert name.startswith("custom-a_b_c-l0.0001-s0-")


# ------------------------------------------------------------------ tables
def test_metrics_table(tmp_path, made):
    _plan, configs, _trained, held_out = made
    save_all(tmp_path, made)
    table = tables.metrics_table(tmp_path)
    assert list(table.columns[: len(tables.METRICS_FIRST)]) == tables.METRICS_FIRST
    assert set(DESIGN_COLUMNS) <= set(table.columns)
    assert {"alive_paper", "ce_increase_paper", "l0_paper", "explained_variance_paper"} <= set(
        table.columns
    )
    table = table.set_index("objective")
    assert set(table.index) == {"local", "e2e", "e2e_ds"}
    for config, found in zip(configs, held_out, strict=True):
        row = table.loc[config.objective.name]
        assert (row.hook, row.layer, row.model, row.d_sae) == (HOOK, 1, "tiny", 24)
        assert row.sparsity_coeff == config.objective.sparsity_coeff
        assert row.ce_increase == pytest.approx(found.model["ce_increase"])
        assert row.l0 == pytest.approx(found.saes[HOOK]["l0"])
    assert pd.isna(table.kl_coeff["local"])
    assert table.kl_coeff["e2e"] == 1
    assert table.downstream_coeff["e2e_ds"] == 2.5
    path = tables.write_metrics_table(tmp_path)
    columns = ["run", "model", "objective", *table.columns[2:], "flags"]
    assert list(pd.read_csv(path).columns) == columns


def test_other_tables(tmp_path, made):
    save_all(tmp_path, made)
    blocks, rows, curves = (
        t(tmp_path) for t in (tables.block_table, tables.row_table, tables.curve_table)
    )
    for table in (blocks, rows, curves):
        assert {"run", "objective", "layer", "seed", "sparsity_coeff"} <= set(table.columns)
        assert table.run.nunique() == 3
    assert sorted(blocks.block.unique()) == [1, 2, 3, 4]
    assert len(rows) == 3 * 4
    assert set(curves[curves.objective == "local"].step) == {0, 1}


def test_several_hooks_give_a_row_and_a_folder_each(tmp_path):
    hooks = (HOOK, "blocks.2.hook_mlp_out")
    folder = save_all(tmp_path, make(hook_names=hooks))[0]
    table = tables.metrics_table(tmp_path)
    assert len(table) == 6
    assert set(table.layer) == {1, 2}
    for hook in hooks:
        assert SAE.load(read.sae_folder(tmp_path, folder.name, hook)).d_in == 12


def test_weights_that_were_not_shipped(tmp_path, made):
    folder = save_all(tmp_path, made)[0]
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ResultsError) as caught:
        read.sae_folder(tmp_path, folder.name)
    assert folder.name in str(caught.value)


def test_provenance_in_one_line(tmp_path, made, capsys):
    save_all(tmp_path, made)
    print_provenance(tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("3 runs, seeds 0, torch 2.")
    assert "; this notebook: commit " in printed
    assert printed.count("\n") == 1
    print_provenance()
    assert capsys.readouterr().out == printed.split("; ")[1]


def test_runs_of_older_versions_can_be_read(tmp_path, made, capsys):
    """Folders that were written before costs and processors were recorded."""
    save_all(tmp_path, made)
    before = tables.metrics_table(tmp_path)
    for path in tmp_path.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        record = {"status": "ok", "config": record["config"], "provenance": {"commit": "c" * 40}}
        del record["config"]["init_from"]
        path.write_text(json.dumps(record))
    assert tables.metrics_table(tmp_path).equals(before)
    print_provenance(tmp_path)
    assert capsys.readouterr().out.startswith("3 runs, seeds 0, torch unknown, commit cccccccccc;")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("run.json", '{"status": "ok"}', "no config"),
        ("run.json", '{"status": "ok", "config": {"objective": {}}}', "no usable model"),
        ("metrics.json", "{", "cannot be read"),
        ("metrics.json", '{"saes": {}, "blocks": []}', "no metrics of an SAE"),
        ("metrics.json", '{"saes": {"h": {"l0": "many"}}, "blocks": []}', "no numbers"),
        ("metrics.json", '{"saes": {"h": {"l0": 1.0}}, "blocks": []}', "lacks d_sae, alive"),
        ("metrics.json", '{"saes": {"../../h": {}}, "blocks": []}', "no numbers"),
    ],
)
def test_a_damaged_run_is_named(tmp_path, made, name, text, says):
    folder = save_all(tmp_path, made)[0]
    (folder / name).write_text(text)
    with pytest.raises(ResultsError) as caught:
        tables.metrics_table(tmp_path)
    assert_sentence(caught, folder.name, name, says)


@pytest.mark.parametrize("text", ["", "row,kl\n1,2\n", "ce_clean,ce_increase,kl,l0\n1,x,2,3\n"])
def test_a_damaged_table_of_rows_is_named(tmp_path, made, text):
    folder = save_all(tmp_path, made)[0]
    (folder / "rows.csv").write_text(text)
    with pytest.raises(ResultsError) as caught:
        tables.row_table(tmp_path)
    assert_sentence(caught, folder.name, "rows.csv")


# ------------------------------------------------------------------ where to read and write
def test_open_results(project, made, capsys):
    with pytest.raises(ResultsError) as caught:
        read.open_results("results/mine")
    assert_sentence(caught, "results_folder", "'results/mine'", "make run")
    save_all(project / "results" / "reference", made)
    opened = read.open_results("results/mine")
    assert opened == (project / "results/reference", project / "results/notebook")
    assert "results/mine" in capsys.readouterr().out
    save_all(project / "results" / "mine", made)
    assert read.open_results("results/mine") == (project / "results/mine",) * 2
    assert capsys.readouterr().out == ""


def test_paths_are_relative_to_the_project(project, monkeypatch):
    (project / "notebooks").mkdir()
    monkeypatch.chdir(project / "notebooks")
    assert files.project_path("results/a") == project / "results/a"
    assert files.project_path(project / "b") == project / "b"
    assert files.source_path("gpt2") == "gpt2"
    (project / "model").mkdir()
    assert files.source_path("model") == str(project / "model")


def test_a_skipped_figure_is_recorded(project, capsys):
    results = project / "results"
    files.write_text(results / "figures" / "pareto.png", "old")
    tables.skip_figure(results, "pareto", "there is one layer only.")
    assert not (results / "figures" / "pareto.png").exists()
    record = json.loads((results / "skipped" / "pareto.json").read_text())
    assert record == {"name": "pareto", "reason": "there is one layer only."}
    assert capsys.readouterr().out == "pareto skipped: there is one layer only.\n"


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
        monkeypatch.setattr("e2e_lib.data.formats.save_file", full)
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
