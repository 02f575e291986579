"""What tests of run folders share."""

from pathlib import Path

import pytest

from tests.helpers.run_folders import Made, make


@pytest.fixture(scope="package")
def made() -> Made:
    """A run of each objective; not to be changed."""
    return make()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, so that results/reference is empty."""
    (tmp_path / "e2e_lib").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path
