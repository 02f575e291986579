"""Provenance, the reproducibility checklist and the flags, on run folders made by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from e2e_lib.analysis.claims import checklist
from e2e_lib.errors import ResultsError
from e2e_lib.runs import provenance
from e2e_lib.runs.tables import flagged
from e2e_lib.source_code import library_digest
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from tests.helpers.run_folders import METRICS, OLD, write_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Four finished runs, one of them older; one unfinished; one failed notebook; one set aside."""
    write_run(tmp_path, "a", cost={"peak_memory_mb": 700, "peak_gpu_memory_mb": None})
    write_run(tmp_path, "b", cost={"peak_memory_mb": 900}, seed=1, coeff=2.0, train_seconds=30.0)
    write_run(tmp_path, "c", origin=OLD, objective="e2e", train_seconds=3560.0)
    write_run(tmp_path, "d", objective="e2e", seed=1, train_seconds=None, alive=9, l0=10.5)
    write_run(tmp_path, "e", status="diverged")
    write_run(tmp_path / "aside", "f")
    (tmp_path / "aside" / "saes").rename(tmp_path / "set_aside")
    (tmp_path / "failed").mkdir()
    error = json.dumps({"name": "10_train", "error": "NotebookError: <b>no</b> disk"})
    (tmp_path / "failed" / "10_train.json").write_text(error)
    (tmp_path / "failed" / "20_pareto.json").write_text("{")
    return tmp_path


def answers(results: Path) -> dict[tuple[str, str], str]:
    table = checklist.checklist(results)
    assert list(table.columns) == ["section", "item", "value"]
    keys = list(zip(table["section"], table["item"], strict=True))
    assert len(keys) == len(set(keys))
    return dict(zip(keys, table["value"], strict=True))


def test_runs_are_counted_by_what_became_of_them(results: Path) -> None:
    said = answers(results)
    assert said["runs", "finished"] == "4 runs, 4 SAEs"
    assert said["runs", "unfinished"] == "1 run folders"
    assert said["runs", "failed"] == (
        "2 notebooks: 10_train: NotebookError: <b>no</b> disk; 20_pareto: its record is damaged"
    )
    assert said["runs", "set aside"].startswith("1 runs")
    assert said["runs", "flagged: dead dictionary"].startswith("1 SAEs")
    assert said["runs", "flagged: L0 beyond d_model"].startswith("1 SAEs")
    assert said["runs", "flagged: loss unknown"].startswith("0 SAEs")
    assert said["seeds", "seeds"] == "0 (2 runs), 1 (2 runs)"


def test_compute_code_and_data_are_what_the_runs_recorded(results: Path) -> None:
    said = answers(results)
    assert said["compute", "processor"] == "Quick, x86_64"  # the older run knows the machine alone
    assert said["compute", "instruction set used"] == "AVX2, not recorded"
    assert said["compute", "memory of the machine, MB"] == "16000, not recorded"
    assert said["compute", "GPU"] == "none, not recorded"
    recorded = "training of all runs, hours (recorded seconds, waits for a busy machine included)"
    assert said["compute", recorded] == "1"  # 10 + 30 + 3560 s
    assert said["compute", "training of a run, seconds"] == "10 to 3.56e+03, median 30"
    assert said["compute", "peak memory of a process, MB"] == "900"
    assert said["compute", "peak GPU memory of a process, MB"] == "not recorded"
    assert said["code", "commit"] == "aaaaaaaaaa, bbbbbbbbbb"
    assert said["code", "clean tree"] == "3 of 4 runs"
    assert said["code", "torch"] == "2.0"
    assert said["data", "contents.model"] == "d1gest"
    assert said["data", "commit of model"] == "f" * 40
    assert ("data", "commit of train_data") not in said


def test_every_parameter_is_listed_with_all_its_values(results: Path) -> None:
    said = answers(results)
    assert said["parameters", "objective.sparsity_coeff"] == "1, 2"
    assert said["parameters", "objective_name"] == "e2e, local"
    assert said["parameters", "objective.kl_coeff"] == "none"
    assert said["data", "train_tokens"] == "1000"
    assert ("parameters", "seed") not in said and ("parameters", "init_from") not in said
    assert {item for section, item in said if section == "selection"} == set(checklist.SELECTION)


def test_many_values_are_a_range(tmp_path: Path) -> None:
    for i in range(13):
        write_run(tmp_path, f"r{i}", coeff=10.0 - i / 2)
    assert answers(tmp_path)["parameters", "objective.sparsity_coeff"] == "4 to 10 (13 values)"


def test_compute_table(results: Path) -> None:
    table = checklist.compute_table(results).set_index("objective")
    local, e2e = table.loc["local"], table.loc["e2e"]
    assert (local.runs, local.seeds, local.layer, local.train_tokens) == (2, 2, 1, 1000)
    assert local.hours == pytest.approx(40 / 3600)
    assert (local.seconds_min, local.seconds_median, local.seconds_max) == (10, 20, 30)
    assert local.peak_memory_mb == 900
    assert (e2e.runs, e2e.seconds_max) == (2, 3560), "a run without seconds counts as a run"
    assert math.isnan(e2e.peak_memory_mb)


def test_a_folder_without_runs_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no finished run"):
        checklist.checklist(tmp_path)


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({}, ""),
        ({"alive": 10}, ""),  # a tenth of the latents is enough
        ({"alive": 9}, "dead dictionary"),
        ({"alive": 0}, "dead dictionary"),
        ({"l0": 10.0}, ""),  # as many as there are dimensions
        ({"l0": 10.1}, "L0 beyond d_model"),
        ({"l0": 10.1, "alive": 9}, "dead dictionary; L0 beyond d_model"),
        ({"ce_increase": math.nan}, "loss unknown"),
        ({"ce_increase": math.inf}, "loss unknown"),
        ({"ce_increase": -0.01}, ""),
        ({"d_in": math.nan, "l0": 1e6}, ""),
    ],
)
def test_flags(values: dict[str, float], flags: str) -> None:
    table = pd.DataFrame([METRICS, METRICS | values])
    assert list(flagged(table)["flags"]) == ["", flags]
    assert "flags" not in table, "the table itself stays"


def test_flags_of_a_table_without_widths() -> None:
    table = pd.DataFrame([METRICS | {"alive": 1, "l0": 1e6}]).drop(columns="d_in")
    assert list(flagged(table)["flags"]) == ["dead dictionary"]


# ------------------------------------------------------------------ provenance
def test_provenance_names_code_and_hardware_but_no_host_and_no_folder() -> None:
    import platform

    facts = provenance.provenance()
    assert facts["instruction_set"] and facts["memory_mb"] > 500 and facts["cpus_usable"] >= 1
    assert facts["gpu"] is None or facts["gpu"]["name"]
    text = json.dumps(facts)
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path.home()) not in text and str(Path.cwd()) not in text


def test_the_digest_of_the_library_changes_with_any_of_its_files(tmp_path: Path) -> None:
    digests = set()
    (tmp_path / "sub").mkdir()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("sub/b.py", "1"), ("sub/c.py", "1")):
        (tmp_path / name).write_text(text)
        library_digest.cache_clear()
        digests.add(library_digest(tmp_path))
    library_digest.cache_clear()
    assert len(digests) == 4


def test_hub_commits_come_from_the_cache_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for place, text in (
        ("models--a--model/refs/main", "1" * 40),
        ("datasets--a--text/refs/v1", "2" * 40 + "\n"),
        ("datasets--a--other/refs/v1", "secret" * 9),
    ):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(text)
    config = {"model": "a/model", "train_data": "a/text:train", "validation_data": "a/other"}
    found = provenance.hub_commits(config | {"model_revision": "main", "data_revision": "v1"})
    assert found == {"model": "1" * 40, "train_data": "2" * 40, "validation_data": None}
    exact = provenance.hub_commits(config | {"model_revision": "3" * 40, "data_revision": "../v1"})
    assert exact == {"model": "3" * 40, "train_data": None, "validation_data": None}
    for name in EMBEDDED_MODELS:
        shipped = provenance.hub_commits({"model": name, "model_revision": "3" * 40})
        assert shipped["model"] is None
