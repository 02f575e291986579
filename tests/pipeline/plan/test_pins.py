"""Branches of the hub become commits, once a results folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from e2e_lib.engine import device
from pipeline.plan.pins import pinned
from pipeline.plan.profile import Profile, load_profile

DATA = "apollo-research/Skylion007-openwebtext-tokenizer-gpt2"


class Hub:
    """A hub whose branches move: every question gets another commit."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def repo_info(self, name: str, repo_type: str, revision: str, timeout: float) -> object:
        self.asked.append((repo_type, name, revision))
        return SimpleNamespace(sha=f"{len(self.asked):040x}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


@pytest.fixture(scope="module")
def published() -> Profile:
    return load_profile("published")


def test_branches_become_commits_and_stay_them(
    hub: Hub, published: Profile, tmp_path: Path
) -> None:
    first = pinned(published, tmp_path)
    asked = [("dataset", DATA, "main"), ("model", "apollo-research/e2e-saes-gpt2", "main")]
    assert hub.asked == asked, "the model's revision is a commit already"
    assert first.training.model_revision == published.training.model_revision
    assert first.training.data_revision == f"{1:040x}" and first.released_revision == f"{2:040x}"
    assert pinned(published, tmp_path) == first, "a run that goes on reads what it began with"
    assert len(hub.asked) == 2
    assert set(json.loads((tmp_path / "pins.json").read_text()).values()) == {
        first.training.data_revision,
        first.released_revision,
    }


def test_a_named_split_belongs_to_its_data_set(hub: Hub, tmp_path: Path) -> None:
    profile = load_profile("tinystories").but(data_revision="main")
    assert pinned(profile, tmp_path).training.data_revision == f"{1:040x}"
    assert hub.asked == [("dataset", profile.training.train_data, "main")]


def test_two_data_sets_share_no_commit(hub: Hub, published: Profile, tmp_path: Path) -> None:
    profile = published.but(validation_data="someone/else", released="")
    assert pinned(profile, tmp_path) == profile and not hub.asked


def test_nothing_local_is_asked_for(hub: Hub, published: Profile, tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    text.write_text("{}")
    profile = published.but(
        model=str(tmp_path), train_data=str(text), validation_data=str(text), released=""
    )
    assert pinned(profile, tmp_path) == profile
    assert pinned(load_profile("smoke"), tmp_path) == load_profile("smoke")
    assert not hub.asked and not (tmp_path / "pins.json").exists()


def test_without_a_network_the_branch_stays(
    published: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pinned(published, tmp_path) == published  # the tests' hub is offline
    said = capsys.readouterr().out
    assert f"data_revision stays 'main': the hub says nothing about {DATA}." in said
    assert not (tmp_path / "pins.json").exists()


def test_native_precision_stays_what_it_was_where_the_folder_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("smoke", {"precision": "native"})
    monkeypatch.setattr(device, "bf16_is_faster", lambda: True)
    for flags in (["avx512_bf16"], ["avx2"]):  # begun on one machine, gone on with on another
        monkeypatch.setattr(device, "_processor_flags", flags.copy)
        assert pinned(profile, tmp_path).training.precision == "bf16"
    assert pinned(profile, tmp_path / "x").training.precision == "fp32"
    assert pinned(load_profile("smoke"), tmp_path).training.precision == "auto"
