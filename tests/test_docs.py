"""What README and docs/ name is there: files, notebooks, links, functions, and code that runs."""

import ast
import re
from pathlib import Path

import pytest

from e2e_lib import source_code

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = r"(?:e2e_lib|pipeline|benchmarks|notebooks|tests|docs|results/reference|\.ci)"
page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@page
def test_paths_and_notebooks_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(rf"(?<![\w/]){ROOMS}/[\w./-]*\w/?(?![\w*<])", text)
    for path in paths:
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(\d\d_\w+)`", text):
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file(), name


@page
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_architecture_names_what_its_modules_define() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`: `(\w+)`(?:, (?:and )?`(\w+)`)?", text)
    assert len(named) > 8
    for path, *names in named:
        defined = {
            node.id if isinstance(node, ast.Name) else node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef)
        }
        assert set(names) - {""} <= defined, path


def test_readme_is_short_and_its_code_imports_public_names() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 10_000
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imports] == ["e2e_lib"]
    assert {alias.name for node in imports for alias in node.names} <= set(
        source_code.public_names()
    )


def test_the_changelog_s_new_places_are_there() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    table = re.compile(r"^\| `(\w+)\.` .*\n\|---.*\n((?:\|.*\n)+)", re.MULTILINE)
    for package, rows in table.findall(text):
        new = " ".join(row.split("|")[2] for row in rows.splitlines())
        places = re.findall(r"`([\w.]+)`", new)
        assert len(places) > 10
        for place in places:
            assert (ROOT / package / f"{place.replace('.', '/')}.py").is_file(), place
