"""pyproject.toml, environment.yml, requirements.lock and what is installed agree on versions."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def pins(lines: list[str]) -> dict[str, str]:
    """Version by normalised name of every `name==version`; any other line is an error."""
    found = {}
    for line in lines:
        match = PIN.match(line)
        assert match, f"not an exact pin: {line!r}"
        found[normal(match[1])] = match[2]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def project() -> dict[str, str]:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = facts["optional-dependencies"]
    return pins(facts["dependencies"] + [pin for extra in extras.values() for pin in extra])


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def test_environment_yml_says_the_same_and_why(project: dict[str, str]) -> None:
    text = (ROOT / "environment.yml").read_text()
    (from_pip,) = [d["pip"] for d in yaml.safe_load(text)["dependencies"] if isinstance(d, dict)]
    assert pins(from_pip) == project
    for line in text.splitlines():
        assert "==" not in line or re.search(r" # \w+", line), f"no reason given: {line}"


def test_lock_covers_every_direct_dependency(project: dict[str, str], lock: dict[str, str]) -> None:
    assert {name: lock.get(name) for name in project} == project


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
