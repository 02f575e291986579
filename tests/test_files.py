"""Where files are, and that they are whole."""

import json
from pathlib import Path

from e2e_lib import files


def test_json_is_whole_and_plain(tmp_path):
    files.write_json(
        tmp_path / "new" / "a.json", {"x": float("nan"), "y": (1, tmp_path), "z": True}
    )
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {
        "x": None, "y": [1, str(tmp_path)], "z": True,
    }  # fmt: skip
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.json"]


def test_paths_are_relative_to_the_project(tmp_path, monkeypatch):
    project = tmp_path
    (project / "e2e_lib").mkdir()
    (project / "pyproject.toml").write_text("")
    (project / "notebooks").mkdir()
    monkeypatch.chdir(project / "notebooks")
    assert files.project_path("results/a") == project / "results/a"
    assert files.project_path(project / "b") == project / "b"
    assert files.source_path("gpt2") == "gpt2"
    (project / "model").mkdir()
    assert files.source_path("model") == str(project / "model")


def test_the_home_folder_of_nobody_is_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/a") == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~no one").mkdir()
    assert files.expanded("~no one/a.txt") == Path("~no one/a.txt")
    assert files.expanded("~no one").is_dir()
