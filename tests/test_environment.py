"""pyproject.toml, environment.yml, requirements.lock and what is installed agree on versions."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def pins(lines: list[str]) -> dict[str, str]:
    """Version by normalised name of every `name==version`; any other line is an error."""
    found = {}
    for line in lines:
        match = PIN.match(line)
        assert match, f"not an exact pin: {line!r}"
        found[str(canonicalize_name(match[1]))] = match[2]
    return found


@pytest.fixture(scope="module")
def project() -> list[Requirement]:
    """What pyproject.toml asks for, extras too."""
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = facts["optional-dependencies"].values()
    return [Requirement(line) for lines in (facts["dependencies"], *extras) for line in lines]


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def test_what_users_install_are_ranges_of_two_ends() -> None:
    """An exact version in a library's metadata would replace the user's torch."""
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in facts["dependencies"] + facts["optional-dependencies"]["analysis"]:
        assert sorted(s.operator for s in Requirement(line).specifier) == ["<", ">="], line


def test_lock_covers_every_direct_dependency(
    project: list[Requirement], lock: dict[str, str]
) -> None:
    for wanted in project:
        locked = lock.get(canonicalize_name(wanted.name))
        assert locked and wanted.specifier.contains(locked), f"{wanted}, locked {locked}"


def test_environment_yml_says_the_lock_s_versions_and_why(
    project: list[Requirement], lock: dict[str, str]
) -> None:
    text = (ROOT / "environment.yml").read_text()
    (from_pip,) = [d["pip"] for d in yaml.safe_load(text)["dependencies"] if isinstance(d, dict)]
    assert pins(from_pip) == {n: lock[n] for n in {canonicalize_name(r.name) for r in project}}
    for line in text.splitlines():
        assert "==" not in line or re.search(r" # \w+", line), f"no reason given: {line}"


def test_lock_is_portable() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert not re.search(r"(^| )-{1,2}\w|://|@ |(^|\s)/|\+cpu|\+cu", line), line


def test_installed_is_what_the_lock_says(lock: dict[str, str]) -> None:
    for name, version in lock.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            pytest.fail(f"{name} is in requirements.lock but not installed")
        assert installed.split("+")[0] == version, name


def test_python_versions_agree() -> None:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert facts["project"]["requires-python"] == ">=3.11,<3.14"
    assert facts["tool"]["ruff"]["target-version"] == "py311"
    assert "python=3.11 " in (ROOT / "environment.yml").read_text()
