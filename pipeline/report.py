"""Write index.html: every figure beside the paper's number, readable offline, in one file.

    python -m pipeline.report            # of the results folder that is the working directory

Pictures are embedded, so that the page can be mailed; tables of data and the executed notebooks
are linked relative to it. The page is pages/report.html.j2, which escapes every text.
"""

import base64
import re
import sys
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path

from e2e_lib.errors import command
from e2e_lib.files import write_text
from pipeline.pages.notebook_html import notebook_title, write_notebook_html, write_style_sheet
from pipeline.pages.render import Extra, render, style
from pipeline.pages.result_files import Json, read_all, read_json, read_rows
from pipeline.plan.stages import ALL_NOTEBOOKS, TRAIN

PROVENANCE = (
    *("commit", "clean_tree", "code", "python", "packages", "machine", "system", "cpu", "cpus"),
    *("instruction_set", "memory_mb", "gpu"),
)

# Makers of the pages beside this one, in the order in which they are linked.
EXTRAS: tuple[Callable[[Path], Extra], ...] = ()


def write_report(results: Path) -> Path:
    """Write `results`/index.html and an HTML copy of every executed notebook; returns the page."""
    notebooks = sorted((results / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        write_notebook_html(notebook)
    if notebooks:
        write_style_sheet(results / "notebooks")
    analyses = {n.stem: n.read_text(encoding="utf-8") for n in notebooks if TRAIN not in n.stem}
    titles = {notebook.stem: notebook_title(notebook) for notebook in notebooks}
    known = {stem: titles[stem] for stem in (*ALL_NOTEBOOKS, *titles) if stem in titles}
    profile = read_json(results / "profile.json", {})
    extras = [make(results) for make in EXTRAS]
    page = render(
        "report.html.j2",
        style=style("report.css"),
        name=profile.get("name", ""),
        model=str(profile.get("model", "")).removesuffix("/").split("../")[-1],
        failures=read_all(results / "failed"),
        claims=read_json(results / "claims.json", []),
        figures=[_figure(results, facts, analyses) for facts in read_all(results / "figures")],
        extras=extras,
        pages=_other_pages(results, {"index.html", *(extra.file for extra in extras)}),
        tables=[_table(results, facts, analyses) for facts in read_all(results / "tables")],
        skipped=read_all(results / "skipped"),
        notebooks={stem: title for stem, title in known.items() if not stem.startswith(TRAIN)},
        training={stem: title for stem, title in titles.items() if stem.startswith(TRAIN)},
        parameters={**profile, **provenance(results)},
    )
    path = results / "index.html"
    write_text(path, page)
    return path


def _figure(results: Path, facts: Json, analyses: Mapping[str, str]) -> Json:
    """A figure's texts with its picture, which may be missing, and the notebook that made it."""
    picture = results / "figures" / f"{facts['name']}.png"
    data = picture.read_bytes() if picture.is_file() else b""
    width = int.from_bytes(data[16:20], "big") * 5 // 8  # sharp on fine screens
    png = base64.b64encode(data).decode()
    return {**facts, "maker": _maker(facts, analyses), "width": width, "png": png}


def _table(results: Path, facts: Json, analyses: Mapping[str, str]) -> Json:
    """A table's texts with its cells and the notebook that made it."""
    header, *rows = read_rows(results / "tables" / f"{facts['name']}.csv")
    return {**facts, "maker": _maker(facts, analyses), "header": header, "rows": rows}


def _maker(facts: Json, analyses: Mapping[str, str]) -> str:
    """The first executed notebook that names a figure or table; empty if none does."""
    return next((n for n, text in analyses.items() if f'\\"{facts["name"]}\\"' in text), "")


def _other_pages(results: Path, known: set[str]) -> dict[str, str]:
    """The titles of pages that notebooks wrote, by file."""
    return {p.name: page_title(p) for p in sorted(results.glob("*.html")) if p.name not in known}


def page_title(page: Path) -> str:
    """The title of an HTML page, as plain text, or its file name."""
    found = re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"), re.S)
    return unescape(found[1]).strip() if found else page.name


def provenance(results: Path) -> Json:
    """What run.json of the first finished run says about code, versions and hardware."""
    for path in sorted((results / "saes").glob("*/run.json")):
        facts = read_json(path, {})
        origin = facts.get("provenance")
        if facts.get("status") == "ok" and isinstance(origin, dict):
            return {k: v for k, v in origin.items() if k in PROVENANCE}
    return {}


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    print(write_report(Path()).name)


if __name__ == "__main__":
    sys.exit(main())
