"""Write index.html: what was found, by question, beside the paper's words, readable offline.

    python -m pipeline.report            # of the results folder that is the working directory

The page belongs to its folder: pictures, tables of data, the executed notebooks and pages beside it
are linked relative to it. It is pages/report.html.j2, which escapes every text; what stands where
is pages/questions.yaml.
"""

import base64
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path

from e2e_lib.errors import command
from e2e_lib.files import write_text
from e2e_lib.names import VERDICTS
from pipeline.pages import pareto
from pipeline.pages.features import write_features
from pipeline.pages.live import write_live
from pipeline.pages.notebook_html import notebook_title, write_pages
from pipeline.pages.questions import answer, linked, sections
from pipeline.pages.render import Extra, render, style
from pipeline.pages.result_files import Json, read_all, read_json, read_rows
from pipeline.plan.stages import ALL_NOTEBOOKS, TRAIN

PROVENANCE = (
    *("commit", "clean_tree", "code", "python", "packages", "machine", "system", "cpu", "cpus"),
    *("instruction_set", "memory_mb", "gpu"),
)
ROWS = 40  # of a table on the page; its CSV has all

# Makers of the pages beside this one, in the order in which they are linked.
EXTRAS: tuple[Callable[[Path], Extra], ...] = (write_features, write_live)


def write_report(results: Path) -> Path:
    """Write `results`/index.html and an HTML copy of every executed notebook; returns the page."""
    titles = notebook_titles(results)
    write_pages(results / "notebooks", {name: one["title"] for name, one in titles.items()})
    texts = {n: one["text"] for n, one in titles.items() if not n.startswith(TRAIN)}
    profile = read_json(results / "profile.json", {})
    extras = [make(results) for make in EXTRAS]
    figures = [_figure(results, facts, texts) for facts in read_all(results / "figures")]
    tables = [_table(results, facts, texts) for facts in read_all(results / "tables")]
    claims = _claims(results, {one["name"]: one.get("title") for one in (*figures, *tables)})
    rule, others = _rule_and_others(results) if claims else ("", {})
    saes = pareto.main_table(results)
    page = render(
        "report.html.j2",
        style=style("report.css"),
        script=(script := style("report.js")),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=profile.get("name", ""),
        model=str(profile.get("model", "")).removesuffix("/").split("../")[-1],
        failures=read_all(results / "failed"),
        answer=answer(claims),
        claims=claims,
        rule=rule,
        others=others,
        symbols=VERDICTS,
        size=pareto,
        layers=pareto.layers(saes),
        saes=saes.to_dict("records"),
        targets=pareto.targets(saes, extras),
        sections=sections(figures, tables),
        extras=extras,
        pages=_other_pages(results, {"index.html", *(extra.file for extra in extras)}),
        skipped=read_all(results / "skipped"),
        notebooks={n: one for n, one in titles.items() if not n.startswith(TRAIN)},
        training={n: one for n, one in titles.items() if n.startswith(TRAIN)},
        has_metrics=(results / "metrics.csv").is_file(),
        parameters={**profile, **provenance(results)},
    )
    path = results / "index.html"
    write_text(path, page)
    return path


def notebook_titles(results: Path) -> dict[str, Json]:
    """Title and text of every executed notebook, in the pipeline's order; of some only the page is
    there, as in the committed reference."""
    found: dict[str, Json] = {}
    for path in sorted((results / "notebooks").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        found[path.stem] = {"title": page_title(path), "text": text, "ipynb": False}
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        found[path.stem] = {"title": notebook_title(path), "text": text, "ipynb": True}
    known = [name for name in ALL_NOTEBOOKS if name in found]
    return {name: found[name] for name in dict.fromkeys((*known, *sorted(found)))}


def _claims(results: Path, titles: Mapping[str, object]) -> list[Json]:
    """Every claim with its verdict in a word, and which figure or table shows it.

    titles: of the figures and tables there, by name.
    """
    claims = read_json(results / "claims.json", [])
    shown = linked(claims, titles)
    return [
        {**_worded(claim), "shown": name, "shown_as": titles.get(name)}
        for claim in claims
        for name in [shown.get(claim.get("id"), "")]
    ]


def _worded(claim: Json) -> Json:
    """A claim with its verdict in one of the words that there are."""
    verdict = claim.get("verdict")
    known = isinstance(verdict, str) and verdict in VERDICTS
    return {**claim, "word": str(verdict) if known else "not testable here"}


def _rule_and_others(results: Path) -> tuple[str, dict[str, dict[str, Json]]]:
    """What the verdicts mean, and the claims by id of each shipped study but this one."""
    from e2e_lib.analysis.claims.studies import other_studies  # here: it brings matplotlib,
    from e2e_lib.analysis.claims.verdicts import RULE  # a second

    ledgers = other_studies(read_json(results / "claims.json", [])).items()
    named = ((f"{name}, as shipped", own) for name, own in ledgers)  # a run may be of the same
    return RULE, {name: {one["id"]: _worded(one) for one in own} for name, own in named}


def _figure(results: Path, facts: Json, notebooks: Mapping[str, str]) -> Json:
    """A figure's texts with its picture's size, if there is one, and the notebook that made it."""
    picture = results / "figures" / f"{facts['name']}.png"
    size = b""
    if picture.is_file():
        with picture.open("rb") as file:
            size = file.read(24)[16:]
    width, height = (int.from_bytes(part, "big") * 5 // 8 for part in (size[:4], size[4:]))  # sharp
    return {**_item(facts, notebooks), "width": width, "height": height, "there": bool(size)}


def _table(results: Path, facts: Json, notebooks: Mapping[str, str]) -> Json:
    """A table's texts with its first cells and the notebook that made it."""
    header, *rows = read_rows(results / "tables" / f"{facts['name']}.csv")
    return {**_item(facts, notebooks), "header": header, "rows": rows[:ROWS], "of": len(rows)}


def _item(facts: Json, notebooks: Mapping[str, str]) -> Json:
    """A figure's or table's texts, with the first executed notebook that names it, if one does."""
    name = facts["name"]
    named = (f'\\"{name}\\"', f'>"{name}"<')  # in a notebook's file, and in its page
    maker = next((n for n, text in notebooks.items() if any(one in text for one in named)), "")
    found = str(facts.get("finding") or "").removeprefix("Here: ")
    return {**facts, "maker": maker, "finding": found}


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
