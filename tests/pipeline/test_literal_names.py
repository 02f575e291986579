"""No character of a user's path or text is read by a library or a shell that it passes through."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from pipeline.plan.notebook_parameters import check_parameters
from pipeline.plan.profile import ROOT, Profile
from pipeline.run import main, results_folder, words_of
from pipeline.run_notebook import run_notebook
from pipeline.tokenise import main as tokenise
from tests.helpers.small_project import FEW, SmallProject
from tests.helpers.tiny_models import build_tokenizer, write_jsonl

ODD = "{seed} [a]*b? $HOME #1; 'q' {{x}} %s"


@pytest.mark.slow
def test_a_whole_pipeline_in_an_odd_folder_with_odd_names(tmp_path: Path) -> None:
    """Its checkout, its results outside of it, its text: to the report."""
    project = SmallProject(tmp_path / ODD, notebooks=FEW)
    for name in ("train", "validation"):
        write_jsonl(tmp_path / f"{name} {ODD}.jsonl", [{"text": "a " * 20_000}])
    project.results = tmp_path / "elsewhere" / ODD
    done = project.run(
        f"TRAIN={tmp_path}/train {ODD}.jsonl",
        f"VALIDATION={tmp_path}/validation {ODD}.jsonl",
        f"--results={project.results}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.results / "index.html").is_file()
    marker = next((project.results / "done").glob("10_train*.json"))
    given = json.loads(marker.read_text())["parameters"]
    assert given["train_data"].endswith(f"/train {ODD}.jsonl")


def test_papermill_gets_a_path_and_no_template(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    notebook = folder / "{x}.ipynb"
    cell = new_code_cell("x: int = 1  # a number", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": kernel}), notebook)
    check_parameters(notebook, {"x": 3})


@pytest.mark.slow
def test_a_notebook_is_executed_into_an_odd_folder(tmp_path: Path) -> None:
    notebook = tmp_path / ODD / "a.ipynb"
    notebook.parent.mkdir()
    cell = new_code_cell("x: int = 1  # a number", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": kernel}), notebook)
    assert (
        run_notebook(notebook, tmp_path / "{x}", {"x": 3}) == tmp_path / "{x}" / "done" / "a.json"
    )
    assert (tmp_path / "{x}" / "notebooks" / "a.ipynb").is_file()


@pytest.mark.parametrize("text", [ODD.replace("'q'", "q"), 'a\\b `c` "d" $(e) $$f', "x'y", "~/m"])
@pytest.mark.parametrize("given_by", ["command line", "environment"])
def test_make_hands_on_what_it_is_given(tmp_path: Path, text: str, given_by: str) -> None:
    """`make run` with a Python that prints its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > arguments\n')
    python.chmod(0o755)
    ready = tmp_path / ".venv" / ".ready"
    ready.touch()
    os.utime(ready, (2e9, 2e9))
    given = {"MODEL": text, "TRAIN": text, "RESULTS": text, "SET": f"seeds=[0] x={text}"}
    words = [f"{k}={v}" for k, v in given.items()]
    command = ["make", "run", "PYTHON=true"]
    command = [*command, *words] if given_by == "command line" else ["env", *words, *command]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = (tmp_path / "arguments").read_text().split("\0")[:-1]
    assert {f"MODEL={text}", f"TRAIN={text}", text, given["SET"]} <= set(found)


def test_words_of_a_text_of_settings() -> None:
    assert words_of("seeds=[0,1] a=*  b='c d' e=\"f 'g'\" ~/x $y") == [
        "seeds=[0,1]", "a=*", "b=c d", "e=f 'g'", "~/x", "$y",
    ]  # fmt: skip


def test_a_quote_without_its_other_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profile", "smoke", "--set", "a='b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: SET is") and error.count("\n") == 1


def test_the_home_folder_in_every_argument_of_tokenise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    build_tokenizer().save_pretrained(tmp_path / "words {x}*")
    write_jsonl(tmp_path / "a::[b].jsonl", [{"text": "w1 w2 w3"}] * 9)
    arguments = ["~/a::[b].jsonl", "--tokenizer", "~/words {x}*", "--context-size", "4"]
    assert tokenise([*arguments, "--output", "~/rows::{y}[z]*"]) == 0
    folder = tmp_path / "rows::{y}[z]*"
    assert (folder / "data" / "train-00000-of-00001.parquet").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("variable", ["MODEL", "TRAIN", "VALIDATION", "--results", "--cluster"])
def test_the_home_folder_of_nobody(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, variable: str
) -> None:
    given = [f"{variable}=~no_such_user/x"]
    given += ["TRAIN=a.txt", "VALIDATION=b.txt"] if variable == "MODEL" else []
    given += ["device=cuda:77"] if variable == "--results" else []  # nothing is to run
    assert main(["--profile", "smoke", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    results = Profile.__new__(Profile)
    assert results_folder("~no_such_user/x", results, False) == Path.cwd() / "~no_such_user/x"
