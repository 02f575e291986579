"""A result counts for what lies at a path now: runs' names, stale stages, models of other names."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from e2e_lib.data.models import model_path
from e2e_lib.data.text import named_split
from e2e_lib.errors import ConfigError
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.storyworld.corpus import STORYWORLD_FOLDER
from pipeline.execution.fresh import in_words, input_digests, inputs_of, plan_digest, stale
from pipeline.plan.profile import load_profile
from pipeline.plan.stages import Stage
from pipeline.run import parse_overrides
from tests.helpers.tiny_models import assert_sentence, copied_folder, write_jsonl

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, the working directory."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "e2e_lib").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.run.ROOT", tmp_path)
    return tmp_path


def data_folder(folder: Path, words: str) -> Path:
    (folder / "data").mkdir(parents=True)
    write_jsonl(folder / "data" / "train-00000-of-00001.jsonl", [{"text": words}])
    write_jsonl(folder / "data" / "validation.jsonl", [{"text": "another"}])
    return folder


def contents(**parameters: Any) -> dict[str, str | None]:
    """What is in a run's name of the files that it reads."""
    found: dict[str, str | None] = Training(**parameters).shared["contents"]
    return found


# ------------------------------------------------------------------ names of runs
@pytest.mark.parametrize("split", ["", ":train", ":validation"])
def test_a_folder_of_data_rewritten_in_place(tmp_path: Path, split: str) -> None:
    name = f"{data_folder(tmp_path / 'text', 'one two')}{split}"
    before = contents(train_data=name)["train"]
    assert before and before == contents(validation_data=name)["validation"]
    shutil.rmtree(tmp_path / "text")
    data_folder(tmp_path / "text", "two one")  # as long as before
    assert contents(train_data=name)["train"] not in (None, before)


def name_of(train: Path | str, validation: Path | str) -> str:
    training = Training(train_data=str(train), validation_data=str(validation))
    return training.name(training.configs()[0])


def test_a_source_has_one_name_by_whatever_path(tmp_path: Path) -> None:
    """What analyses read as one source is what training read as one."""
    text = data_folder(tmp_path / "text", "one two")
    (tmp_path / "linked").symlink_to(text)
    expected = name_of(text, text)
    for other in (tmp_path / "linked", f"{text}/../text", f"{text}:train", f"{text}/"):
        assert name_of(text, other) == expected, other
    assert name_of(text, f"{text}:validation") != expected


def test_a_copy_is_no_second_path(tmp_path: Path) -> None:
    """One text is split by its documents; of two that are alike each is read from its start."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "a.jsonl", [{"text": "w1"}])
    one, two = tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl"
    assert name_of(one, two) != name_of(one, one) == name_of(two, two)


def test_a_local_text_is_called_by_its_last_part(root: Path) -> None:
    data_folder(root / "texts" / "mine", "one two")
    assert name_of("texts/mine", "texts/mine") == name_of("./texts/mine", root / "texts/mine")


def test_rows_tokenised_again_have_another_name(tmp_path: Path) -> None:
    from pipeline.tokenise import main

    source = write_jsonl(tmp_path / "a.jsonl", [{"text": "w1 w2 w3 " * 30}])
    model, output = copied_folder(tmp_path / "model"), tmp_path / "rows"
    found = set()
    for size in ("8", "10"):
        shutil.rmtree(output, ignore_errors=True)
        given = [str(source), "--tokenizer", str(model), "--context-size", size]
        assert main([*given, "--output", str(output)]) == 0
        found.add(contents(train_data=str(output))["train"])
    assert len(found) == 2 and None not in found


def test_what_counts_of_a_folder(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "text", "one")
    before = content_digest(str(folder))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("y")
    assert content_digest(str(folder)) == before, "hidden files are nobody's data"
    moved = folder / "data" / "train-00000-of-00001.jsonl"
    moved.rename(moved.with_name("test.jsonl"))
    assert content_digest(str(folder)) != before, "another split holds it"
    nested = folder / "data" / "more" / "b.jsonl"
    nested.parent.mkdir()
    now = content_digest(str(folder))
    nested.write_text("{}")
    assert content_digest(str(folder)) != now


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "merges.txt"])
def test_what_counts_of_a_model(tmp_path: Path, name: str) -> None:
    folder = copied_folder(tmp_path / "model")
    before = contents(model=str(folder))["model"]
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert contents(model=str(folder))["model"] != before


def test_the_same_time_and_size_is_the_only_thing_believed(tmp_path: Path) -> None:
    """A file of the same length, written within the clock's tick but renamed, is read again."""
    path = tmp_path / "a.txt"
    path.write_text("one two")
    before = content_digest(str(path))
    path.write_text("two one")
    os.utime(path, ns=(1, 1))
    assert content_digest(str(path)) != before


# ------------------------------------------------------------------ stale stages
def stage_on(name: str, **parameters: Any) -> Stage:
    return Stage(name, "20_pareto", {"results_folder": "results/x", **parameters}, ())


def finish(results: Path, todo: list[Stage]) -> None:
    """Markers as run_notebook writes them."""
    from e2e_lib.source_code import notebook_digest

    digests = input_digests(todo)
    (results / "done").mkdir(exist_ok=True)
    for stage in todo:
        marker = {"plan": plan_digest(stage), "inputs": inputs_of(stage, digests)}
        marker["code"] = notebook_digest(NOTEBOOKS / "20_pareto.ipynb")
        (results / "done" / f"{stage.name}.json").write_text(json.dumps(marker))


def test_stages_are_stale_by_what_they_read(tmp_path: Path) -> None:
    text, held = (write_jsonl(tmp_path / n, [{"text": n}]) for n in ("a.jsonl", "b.jsonl"))
    model = copied_folder(tmp_path / "model")
    todo = [
        stage_on("train", model=str(model), train_data=str(text), validation_data=str(held)),
        stage_on("look", model=str(model), validation_data=str(held)),
        stage_on("others", released=f"{model},{data_folder(tmp_path / 'saes', 'x')}"),
        stage_on("plot", model="storyworld", validation_data="storyworld", level=3),
    ]
    finish(tmp_path, todo)
    assert stale(tmp_path, todo, NOTEBOOKS) == {}
    write_jsonl(text, [{"text": "z.jsonl"}])
    assert in_words(stale(tmp_path, todo, NOTEBOOKS)) == ["Runs again: train (TRAIN has changed)."]
    write_jsonl(held, [{"text": "longer"}])
    reasons = stale(tmp_path, todo, NOTEBOOKS)
    assert reasons["train"] == "TRAIN and VALIDATION have changed"
    assert reasons["look"] == "VALIDATION has changed"
    finish(tmp_path, todo)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    reasons = stale(tmp_path, todo, NOTEBOOKS)
    assert reasons == {
        "train": "MODEL has changed",
        "look": "MODEL has changed",
        "others": "released has changed",
    }
    finish(tmp_path, todo)
    held.unlink()
    assert set(stale(tmp_path, todo, NOTEBOOKS)) == {"train", "look"}


# ------------------------------------------------------------------ folders called like something
def test_a_folder_is_named_as_a_folder(root: Path) -> None:
    for name in ("storyworld", "gpt2", "texts/mine"):
        (root / name).mkdir(parents=True)
    given = [f"MODEL={name}" for name in ("./storyworld", "storyworld", "gpt2", "texts/mine")]
    found = [parse_overrides([one])["model"] for one in given]
    assert found == ["./storyworld", "storyworld", "./gpt2", "texts/mine"]
    assert named_split("storyworld") == ("storyworld", None)
    assert named_split("./storyworld") == (str(root / "storyworld"), None)
    assert model_path("storyworld") == str(STORYWORLD_FOLDER)
    assert contents()["train"] is None and contents()["model"] == model_digest("storyworld")


def test_up_from_behind_a_link_is_where_the_link_leads(root: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    (far / "deep").mkdir(parents=True)
    (root / "near").symlink_to(far / "deep")
    for folder in (root, far):
        write_jsonl(folder / "a.jsonl", [{"text": folder.name}])
    found = {k: parse_overrides([f"{k}=near/../a.jsonl"]) for k in ("TRAIN", "VALIDATION")}
    assert found["TRAIN"]["train_data"] == "far/a.jsonl"
    assert found["VALIDATION"]["validation_data"] == "far/a.jsonl"
    assert parse_overrides(["MODEL=near/.."])["model"] == "./far"
    assert parse_overrides(["TRAIN=far/deep/../a.jsonl"])["train_data"] == "far/a.jsonl"


def test_an_own_model_called_like_the_embedded_one(root: Path) -> None:
    shutil.copytree(STORYWORLD_FOLDER, root / "storyworld")
    copy = load_profile("workshop", {"model": "./storyworld"})
    assert copy.sparsity_coeffs == load_profile("workshop").sparsity_coeffs
    with (root / "storyworld" / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\1")
    with pytest.raises(ConfigError) as caught:
        load_profile("workshop", {"model": "./storyworld"})
    assert_sentence(caught, "TRAIN is not given", "./storyworld")


def test_a_folder_in_the_way_of_the_hubs_model(root: Path) -> None:
    copied_folder(root / "gpt2")
    with pytest.raises(ConfigError) as caught:
        load_profile("gpt2")
    assert_sentence(caught, "MODEL", "'gpt2'", "./gpt2")
    with pytest.raises(ConfigError, match="TRAIN is not given"):
        load_profile("gpt2", {"model": "./gpt2"})
