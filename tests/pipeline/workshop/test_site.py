"""The workshop without an installation: Binder, Colab, Pages. What can be known without them."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import nbformat
import pytest
import yaml

from e2e_lib.errors import ConfigError
from e2e_lib.source_code import code_cells, imported
from pipeline.plan.profile import ROOT
from pipeline.workshop import site
from pipeline.workshop.site import EXTRA, FIRST, Repository, known_repository
from tests.helpers.axe import checked
from tests.helpers.pages import Page, browser

OURS = Repository("someone/something")
MOST_BYTES = 12_000_000  # of the site, so that it goes on a stick and through a phone
FACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PATHS = [*(ROOT / "notebooks" / f"{name}.ipynb" for name in FIRST), *site.masters()]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())


def test_the_light_extra_is_a_part_of_analysis() -> None:
    extras = FACTS["optional-dependencies"]
    assert set(extras[EXTRA]) < set(extras["analysis"])
    assert not [line for line in extras[EXTRA] if line.startswith("umap")]


def foreign_imports(source: str) -> set[str]:
    """Packages that executing this source imports; what functions import when called is none."""
    plain = "\n".join(x for x in source.splitlines() if not x.startswith(("%", "!")))
    waiting: list[ast.AST] = [ast.parse(plain)]
    names: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        checked_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not checked_only and not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"e2e_lib"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_light_extra_has_what_a_notebook_imports(path: Path) -> None:
    """By reading, its own cells and the library's modules behind them; tests/check_pack.py runs
    them so."""
    lines = FACTS["dependencies"] + FACTS["optional-dependencies"][EXTRA]
    installed = {re.split(r"[^\w-]", line)[0].lower().replace("-", "_") for line in lines}
    imported_as = {"pyyaml": "yaml", "pillow": "PIL"}
    allowed = {imported_as.get(name, name) for name in installed}
    allowed |= {"pyarrow", "IPython"}  # of `datasets`, and of the kernel
    cells = code_cells(path)
    sources = [*cells, *(file.read_text() for file in imported("\n".join(cells)))]
    found = set().union(*map(foreign_imports, sources))
    assert {"torch", "numpy"} <= found <= allowed, found - allowed


def test_binder_installs_the_lock_s_versions_and_no_cuda(tmp_path: Path) -> None:
    """postBuild, with stand-ins that say what they were called with."""
    for name in ("pip", "python", "jupyter"):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        stand_in.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    said = subprocess.check_output(
        [ROOT / ".binder/postBuild"], text=True, cwd=ROOT, env={"PATH": path}
    )
    pip, python, jupyter = said.splitlines()
    [locked] = re.findall(r"^torch==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert f" torch=={locked}+cpu --editable .[{EXTRA}]" in pip
    assert "--constraint requirements.lock" in pip and "https://download.pytorch.org/whl/cpu" in pip
    assert python == "python -m pipeline.workshop.generate" and "announcements" in jupyter
    asked = yaml.safe_load((ROOT / ".binder/environment.yml").read_text())["dependencies"]
    assert "python=3.11" in asked


def test_the_workflow_has_pinned_actions_and_least_permissions() -> None:
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "build": {"contents": "read"},
        "publish": {"pages": "write", "id-token": "write"},
        "colab": {"contents": "write"},
    }
    steps = [step for job in jobs.values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert len(used) == 6
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", name) for name in used)
    makefile = (ROOT / "Makefile").read_text()
    made = [step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")]
    assert made == ["site"] and all(re.search(rf"(?m)^{name}:", makefile) for name in made)
    folders = {step["with"]["path"] for step in steps if "upload" in step.get("uses", "")}
    assert folders == {"build/site", "build/colab"}
    triggers = WORKFLOW[True]["push"]["paths"]  # `on`, which YAML 1.1 takes for a truth
    assert all((ROOT / path.removesuffix("/**")).exists() for path in triggers)


def named(address: str) -> str:
    """What a link to Binder, Colab or GitHub opens: a path of the repository."""
    parts = urlsplit(address)
    if parts.netloc == "mybinder.org":
        [path] = parse_qs(parts.query)["urlpath"]
        return path.removeprefix("lab/tree/").replace("workshop/exercises", "workshop")
    kind, ref, path = parts.path.split("/blob/")[0], *parts.path.split("/blob/")[1].split("/", 1)
    assert kind.endswith(OURS.name)
    if ref == "colab":
        return f"{'notebooks' if path[0] == '0' else 'workshop'}/{path}"
    assert ref == OURS.tag == f"v{FACTS['version']}"
    return path


def test_the_site_s_links_lead_to_files(tmp_path: Path) -> None:
    site.write_site(OURS, tmp_path)
    page = Page((tmp_path / "index.html").read_text())
    links = [str(tag["href"]) for tag in page.all("a")]
    away = [link for link in links if link.startswith("https")]
    for link in links:
        if link not in away:
            assert (tmp_path / link).is_file(), link
    opened = [named(link) for link in away if link != f"https://github.com/{OURS.name}"]
    assert len(opened) == 2 * (len(FIRST) + len(site.masters()))
    assert all((ROOT / path).is_file() for path in opened), opened
    report = (tmp_path / "report/index.html").read_text()
    beside = re.findall(r"""(?:href|src)=["']([^"'#:]+)["'#]""", report)
    assert beside and all((tmp_path / "report" / path).exists() for path in beside)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("longer*"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) < MOST_BYTES


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no chromium, chromium-browser or google-chrome")
def test_axe_finds_nothing_but_minor_things_on_the_first_page_slides_and_guide(
    tmp_path: Path,
) -> None:
    site.write_site(OURS, tmp_path / "site")
    names = ("index", "slides", "guide", "report/12_cards")
    pages = checked([tmp_path / f"site/{name}.html" for name in names], tmp_path / "profile")
    assert len(pages) == 2 * len(names)
    found = [(page["page"], one) for page in pages for one in page["found"]]
    assert not [(page, one) for page, one in found if one["impact"] != "minor"]


def test_what_colab_opens_fetches_the_package_and_holds_no_solution(tmp_path: Path) -> None:
    site.write_colab(OURS, tmp_path)
    paths = sorted(tmp_path.glob("*.ipynb"))
    assert [p.stem for p in paths] == [*FIRST, *(p.stem for p in site.masters())]
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        first, text = notebook.cells[0].source, json.dumps(notebook)
        assert f"-b {OURS.tag} https://github.com/{OURS.name} /content/e2e" in first
        assert first.endswith(f'%cd /content/e2e\n%pip install --quiet ".[{EXTRA}]"')
        assert "SOLUTION" not in text and "instructor" not in text
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                for link in re.findall(r"\]\(([^)#\s]+)", cell.source):
                    assert "arxiv" in link or (ROOT / named(link)).is_file(), link


def test_the_badges_are_those_of_the_repository_that_they_name() -> None:
    text = (ROOT / "workshop/README.md").read_text()
    assert f"<!-- badges:begin -->\n{known_repository().badges()}\n<!-- badges:end -->" in text
    for link in re.findall(r"\]\((https[^)]*)\)", OURS.badges()):
        if "badge" not in link:
            assert (ROOT / named(link)).is_file()
    with pytest.raises(ConfigError, match="the repository is 'a b', but it must be OWNER/NAME"):
        Repository("a b")
