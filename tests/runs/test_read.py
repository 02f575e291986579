"""Reading run folders: what finished means, where to read, and damage, which is named."""

import json

import pytest

from e2e_lib.errors import ResultsError
from e2e_lib.runs import read, tables
from e2e_lib.runs.provenance import print_provenance
from tests.helpers.run_folders import save_all
from tests.helpers.tiny_models import assert_sentence


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "running"}', "null"])
def test_only_status_ok_is_finished(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert not read.finished(tmp_path)
    assert not read.finished(tmp_path / "nowhere")


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


def test_weights_that_were_not_shipped(tmp_path, made):
    folder = save_all(tmp_path, made)[0]
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ResultsError) as caught:
        read.sae_folder(tmp_path, folder.name)
    assert folder.name in str(caught.value)


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
        ("run.json", '{"status": "ok"}', ["config (Field required)"]),
        ("run.json", '{"status": "ok", "config": {"lr": 1}}', ["config.model (", "config.seed ("]),
        ("run.json", '{"status": "ok", "config": 3}', ["config", "a valid dictionary"]),
        ("metrics.json", "{", ["cannot be read"]),
        ("metrics.json", "[]", ["content", "a valid dictionary"]),
        ("metrics.json", '{"saes": {}, "blocks": []}', ["saes", "at least 1"]),
        ("metrics.json", '{"saes": {"h": {"l0": "many"}}, "blocks": []}', ["h.l0", "valid number"]),
        ("metrics.json", '{"saes": {"h": {"l0": 1}}, "blocks": []}', ["h.alive (Field required)"]),
        ("metrics.json", '{"saes": {"../../h": {}}, "blocks": []}', ["../../h.[key]"]),
        ("metrics.json", '{"saes": {}, "blocks": [{"hook": "h", "mse": ""}]}', ["blocks.0.mse"]),
    ],
)
def test_a_damaged_run_is_named(tmp_path, made, name, text, says):
    folder = save_all(tmp_path, made)[0]
    (folder / name).write_text(text)
    with pytest.raises(ResultsError) as caught:
        tables.metrics_table(tmp_path)
    assert_sentence(caught, folder.name, name, *says)


@pytest.mark.parametrize("text", ["", "row,kl\n1,2\n", "ce_clean,ce_increase,kl,l0\n1,x,2,3\n"])
def test_a_damaged_table_of_rows_is_named(tmp_path, made, text):
    folder = save_all(tmp_path, made)[0]
    (folder / "rows.csv").write_text(text)
    with pytest.raises(ResultsError) as caught:
        tables.row_table(tmp_path)
    assert_sentence(caught, folder.name, "rows.csv")


def test_provenance_in_one_line(tmp_path, made, capsys):
    save_all(tmp_path, made)
    print_provenance(tmp_path)
    printed = capsys.readouterr().out
    assert printed.startswith("3 runs, seeds 0, torch 2.")
    assert "; this notebook: commit " in printed
    assert printed.count("\n") == 1
    print_provenance()
    assert capsys.readouterr().out == printed.split("; ")[1]
