"""The workshop for those who install nothing: a site, and notebooks that open in Colab.

    python -m pipeline.workshop.site [OWNER/NAME]        build/site, build/colab

build/site is what GitHub Pages shows: a first page, the reference's report, slides and guide.
build/colab is what lies on the branch `colab`: the exercises and the first notebooks, each begun by
a cell that fetches this package at its release's tag, for Colab opens single notebooks of a branch.

OWNER/NAME is where the repository lies on GitHub; workshop/README.md holds it, and its badges are
written anew. Until somebody has said it once, they lead nowhere.
"""

import os
import re
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from e2e_lib.errors import command, require
from e2e_lib.files import replace_block, shown_path, write_text
from e2e_lib.runs.read import REFERENCE
from pipeline.pages.render import render, style
from pipeline.plan.profile import ROOT
from pipeline.workshop import slides
from pipeline.workshop.generate import WORKSHOP, learners, masters, text_of

FIRST = ("00_start_here", "01_language_model", "02_one_sae_by_hand")
EXTRA = "workshop"  # of pyproject.toml: what the first notebooks and the workshop's need
UNKNOWN = "OWNER/NAME"
BADGES = (
    "[![Binder](https://mybinder.org/badge_logo.svg)]({binder})\n"
    "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
)
OPENING = """# Fetches the library and the reference, and installs what they need: once.
![ -d /content/e2e ] || git clone -q --depth 1 -b {tag} https://github.com/{name} /content/e2e
%cd /content/e2e
%pip install --quiet ".[{extra}]"
"""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


@dataclass(frozen=True)
class Repository:
    """Where the project lies on GitHub, and which release of it is opened.

    Raises:
        ConfigError: the name is not OWNER/NAME.
    """

    name: str

    def __post_init__(self) -> None:
        good = re.fullmatch(r"[\w.-]+/[\w.-]+", self.name, re.ASCII)
        require(good is not None, "the repository", self.name, "OWNER/NAME, as GitHub has it")

    @property
    def tag(self) -> str:
        """The release's: that of the version in pyproject.toml."""
        facts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        return f"v{facts['project']['version']}"

    def binder(self, path: str) -> str:
        """JupyterLab on Binder with this file open."""
        return f"https://mybinder.org/v2/gh/{self.name}/{self.tag}?urlpath=lab/tree/{path}"

    def colab(self, notebook: str) -> str:
        """One of the notebooks of the branch `colab`."""
        return f"https://colab.research.google.com/github/{self.name}/blob/colab/{notebook}.ipynb"

    def file(self, path: str) -> str:
        """A file of the release, to read."""
        return f"https://github.com/{self.name}/blob/{self.tag}/{path}"

    def badges(self) -> str:
        """The two badges, which open the workshop's first notebook."""
        first = masters()[0].stem
        path = f"workshop/exercises/{first}.ipynb"
        return BADGES.format(binder=self.binder(path), colab=self.colab(first))


def known_repository() -> Repository:
    """The one whose badges workshop/README.md holds."""
    text = (WORKSHOP / "README.md").read_text(encoding="utf-8")
    found = re.search(r"mybinder\.org/v2/gh/([^/]+/[^/]+)/", text)
    return Repository(found[1] if found else UNKNOWN)


def opened_in_colab(notebook: Any, folder: str, repository: Repository) -> Any:
    """The notebook behind a cell that fetches the project, its links whole.

    folder: where it lies in the repository, which is where its links start.
    """

    def whole(link: re.Match[str]) -> str:
        path = os.path.normpath(f"{folder}/{link[1]}")
        own = Path(path).stem in FIRST
        return f"]({repository.colab(Path(path).stem) if own else repository.file(path)}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(whole, cell.source)
    source = OPENING.format(tag=repository.tag, name=repository.name, extra=EXTRA)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source.rstrip("\n"), id="colab"))
    return notebook


def write_colab(repository: Repository, folder: Path) -> None:
    """The branch's notebooks, with nobody's solutions among them; what was in the folder goes."""
    shutil.rmtree(folder, ignore_errors=True)
    first = [ROOT / "notebooks" / f"{name}.ipynb" for name in FIRST]
    for path in (*first, *masters()):
        own = learners(nbformat.read(path, as_version=4))
        text = text_of(opened_in_colab(own, path.parent.name, repository))
        write_text(folder / path.name, text)


def write_site(repository: Repository, folder: Path) -> None:
    """The reference's report, slides, guide, and a page before them; no records of runs, nor what
    figures and tables say of themselves, which stands in the report.

    Raises:
        ResultsError: as `slides.write`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    unread = ("saes", "skipped", "longer", "longer.json", "[0-9]*.json")  # what no page loads
    without = shutil.ignore_patterns(*unread)
    shutil.copytree(ROOT / REFERENCE, folder / "report", ignore=without)
    slides.write(ROOT / REFERENCE, folder)
    beside = [name for name in ("features", "live") if (folder / f"report/{name}.html").is_file()]
    page = render(
        "site.html.j2", style=style("report.css"), repository=repository, beside=beside,
        first=FIRST, exercises=[path.stem for path in masters()],
    )  # fmt: skip
    write_text(folder / "index.html", page)


@command
def main(arguments: list[str]) -> None:
    """Write both, and the badges."""
    require(len(arguments) <= 1, "the command line", arguments, "at most OWNER/NAME")
    repository = Repository(arguments[0]) if arguments else known_repository()
    replace_block(WORKSHOP / "README.md", "badges", repository.badges())
    site, colab = ROOT / "build" / "site", ROOT / "build" / "colab"
    write_site(repository, site)
    write_colab(repository, colab)
    print(f"{shown_path(site)} and {shown_path(colab)}, for {repository.name} {repository.tag}.")


if __name__ == "__main__":
    raise SystemExit(main())
