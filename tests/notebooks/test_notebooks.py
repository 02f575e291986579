"""The notebooks as files: stripped, numbered, parameterised, importing only what is installed."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pipeline.plan.notebook_parameters import LINKS, NOTEBOOKS, links
from pipeline.plan.profile import ROOT, load_profile
from pipeline.plan.stages import ALL_NOTEBOOKS, stages
from pipeline.run_notebook import check_parameters

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PARAMETER = re.compile(r"^[a-z]\w*: (str|int|float|bool) = \S.*  # \S.*$")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_every_notebook_of_the_pipeline_exists_and_no_other() -> None:
    assert [path.stem for path in PATHS] == sorted(ALL_NOTEBOOKS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stripped_of_output(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in code(path):
        assert not cell.outputs and cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})  # of one person's Python


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_opens_with_a_numbered_title(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[:2]}")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_leads_to_its_words_and_its_neighbours(path: Path) -> None:
    """As `python -m pipeline.plan.notebook_parameters` writes them."""
    head, foot = links(path, PATHS)
    cells = [c for c in read(path).cells if LINKS in c.metadata.get("tags", [])]
    assert [c.source for c in cells] == [head, foot]
    assert cells == [read(path).cells[1], read(path).cells[-1]]
    for target in re.findall(r"\]\(([^)#]+)", head + foot):
        assert (NOTEBOOKS / target).is_file()
    neighbours = {f"{PATHS[i].name}" for i in (PATHS.index(path) - 1, PATHS.index(path) + 1)
                  if 0 <= i < len(PATHS)}  # fmt: skip
    assert set(re.findall(r"\]\(([^)]+)", foot)) == neighbours


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_asks_instead_of_telling_what_to_expect(path: Path) -> None:
    told = [c.source for c in read(path).cells if re.search(r"\b[Ee]xpect\b", c.source)]
    assert [text for text in told if "can expect" not in text] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_first_code_cell_is_the_parameters(path: Path) -> None:
    """One annotated scalar a line, with a comment: `papermill --help-notebook` shows them."""
    cells = code(path)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == cells[:1]
    for line in tagged[0].source.splitlines():
        assert PARAMETER.match(line), line


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_is_short(path: Path) -> None:
    cells = code(path)
    assert len(cells) <= 30
    for cell in cells[1:]:
        assert len(cell.source.splitlines()) <= 24, cell.source[:80]


def test_saving_and_skipping_take_little_of_the_code() -> None:
    """At most 12 % of the lines of code, comments and blank lines left out.

    Counted are the lines of every call that saves a figure or a table, or says why there is none:
    what is drawn, when, and what is said otherwise; and every `if` or `else` around one. What a
    reader sees (title, alt text, caption, the paper's words) is text and not counted.
    """
    lines, saving = 0, 0
    for source in (cell.source for path in PATHS for cell in code(path)):
        lines += len([x for x in source.splitlines() if x.strip() and x.strip()[0] != "#"])
        tree = ast.parse(source)
        saving += sum(len(lines_of(node) - texts_of(node)) for node in saves(tree))
        branches = [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp)]
        saving += sum(1 + bool(node.orelse) for node in branches if saves(node))
    assert saving > 100  # the calls were found
    assert saving / lines <= 0.12


def saves(tree: ast.AST) -> list[ast.Call]:
    """Calls of `figure` and `table` of a notebook's page or study."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and re.fullmatch(r"(study|page)\.(figure|table)", ast.unparse(node.func))
    ]


def lines_of(node: Any) -> set[int]:
    return set(range(node.lineno, node.end_lineno + 1))


def texts_of(call: ast.Call) -> set[int]:
    texts = [k for k in call.keywords if k.arg in ("title", "alt", "caption", "paper", "finding")]
    return {line for text in texts for line in lines_of(text)}


@pytest.mark.parametrize(
    "path",
    [path for path in PATHS if "20" <= path.stem[:2] <= "42"],
    ids=lambda path: path.stem,
)
def test_every_figure_says_what_it_found(path: Path) -> None:
    figures = [call for c in code(path) for call in saves(ast.parse(c.source))
               if ast.unparse(call.func).endswith(".figure")]  # fmt: skip
    for call in figures:
        assert "finding" in {k.arg for k in call.keywords}, ast.unparse(call.args[0])


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem[0] in "2349"], ids=lambda path: path.stem
)
def test_opens_its_results_in_one_call(path: Path) -> None:
    opening = [cell.source for cell in code(path) if "Study(" in cell.source]
    assert opening == [code(path)[1].source]
    assert f'study = Study("{path.stem}", results_folder' in opening[0]


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path.stem[0] == "2"], ids=lambda path: path.stem
)
def test_begins_with_its_mathematics_by_hand(path: Path) -> None:
    """A few lines for one pair of SAEs, held against the library, before anything is drawn."""
    cells = read(path).cells
    [place] = [i for i, cell in enumerate(cells) if cell.source.startswith("## By hand: ")]
    assert not any(saves(ast.parse(c.source)) for c in cells[:place] if c.cell_type == "code")
    by_hand = cells[place + 1].source
    assert len(by_hand.splitlines()) <= 18
    asserts = [node for node in ast.walk(ast.parse(by_hand)) if isinstance(node, ast.Assert)]
    assert asserts or "torch.testing.assert_close(" in by_hand


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_ends_in_its_provenance(path: Path) -> None:
    """Which runs were read and which code was at work: the last thing that it prints."""
    last = code(path)[-1].source.splitlines()[-1]
    assert re.fullmatch(r"print_provenance\(.*\)", last), last


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_imports_are_direct_dependencies_or_the_standard_library(path: Path) -> None:
    """Nothing that is only installed because another package wants it, no relative paths."""
    allowed = set(sys.stdlib_module_names) | {"e2e_lib", "IPython"} | direct_modules()
    for cell in code(path):
        assert "../" not in cell.source
        for node in ast.walk(ast.parse(cell.source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, name


@cache
def direct_modules() -> set[str]:
    """Modules that the packages which pyproject.toml names for the library bring."""
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*facts["dependencies"], *facts["optional-dependencies"]["analysis"]]
    wanted = {re.split(r"[<>=~\[; ]", line)[0].lower() for line in named}
    owners = metadata.packages_distributions().items()
    return {module for module, names in owners if wanted & {name.lower() for name in names}}


@pytest.mark.parametrize(
    "name", ["smoke", "workshop", "storyworld", "tinystories", "gpt2", "published"]
)
def test_profiles_pass_only_parameters_that_the_notebooks_have(name: str) -> None:
    checked = set()
    for stage in stages(load_profile(name), "results/x"):
        if stage.notebook not in checked:
            check_parameters(NOTEBOOKS / f"{stage.notebook}.ipynb", stage.parameters)
            checked.add(stage.notebook)
