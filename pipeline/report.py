"""Write index.html: every figure beside the paper's number, readable offline, in one file.

    python -m pipeline.report            # of the results folder that is the working directory

Pictures are embedded, so that the page can be mailed; tables of data and the executed notebooks
are linked relative to it. Every text that comes from a file is escaped.
"""

import base64
import json
import re
import sys
from collections.abc import Iterable, Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from e2e_lib.errors import E2EError
from e2e_lib.files import write_text
from pipeline.pages.notebook_html import notebook_title, write_notebook_html, write_style_sheet
from pipeline.pages.result_files import Json, read_all, read_json, read_rows
from pipeline.plan.profile import ROOT
from pipeline.plan.stages import ALL_NOTEBOOKS, TRAIN

VERDICTS = {True: ("✓", "holds"), False: ("✗", "does not hold"), None: ("–", "not testable here")}
PROVENANCE = (
    *("commit", "clean_tree", "code", "python", "packages", "machine", "system", "cpu", "cpus"),
    *("instruction_set", "memory_mb", "gpu"),
)


def write_report(results: Path) -> Path:
    """Write `results`/index.html and an HTML copy of every executed notebook; returns the page."""
    notebooks = sorted((results / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        write_notebook_html(notebook)
    if notebooks:
        write_style_sheet(results / "notebooks")
    sources = {n.stem: n.read_text(encoding="utf-8") for n in notebooks if TRAIN not in n.stem}
    profile = read_json(results / "profile.json", {})
    page = "\n".join(
        [
            head(profile),
            failures_section(read_all(results / "failed")),
            claims_section(read_json(results / "claims.json", [])),
            figures_section(results, sources),
            pages_section(results),
            tables_section(results, sources),
            skipped_section(read_all(results / "skipped")),
            notebooks_section(notebooks),
            parameters_section(profile, provenance(results)),
            "</main>\n</body>\n</html>",
        ]
    )
    path = results / "index.html"
    write_text(path, page + "\n")
    return path


def head(profile: Json) -> str:
    """Title, style, and what was run in one sentence."""
    name = escape(str(profile.get("name", "")))
    model = escape(str(profile.get("model", "")).removesuffix("/").split("../")[-1])
    style = (ROOT / "pipeline" / "pages" / "report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>End-to-end SAEs: {name}, {model}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<p class="kicker">Profile {name} · model {model}</p>
<h1>End-to-end sparse autoencoders: the paper’s results, measured again</h1>
<p>Every number here was computed by the <a href="#notebooks">notebooks below</a> on text that
training never saw. Each figure stands beside what the paper (Braun, Taylor, Goldowsky-Dill and
Sharkey 2024, <cite>Identifying Functionally Important Features with End-to-End Sparse Dictionary
Learning</cite>) reports.</p>
</header>"""


def failures_section(failures: list[Json]) -> str:
    """What did not finish, if anything."""
    items = (f"<li><b>{_text(f, 'name')}</b>: {_text(f, 'error')}</li>" for f in failures)
    return section("Not finished", f"<ul>{''.join(items)}</ul>", "alert") if failures else ""


def claims_section(claims: list[Json]) -> str:
    """The claims ledger as a table."""
    if not claims:
        return ""
    rows = []
    for claim in claims:
        holds = claim.get("holds")
        symbol, words = VERDICTS[holds if isinstance(holds, bool) else None]
        rows.append(
            f"<tr><th scope='row'>{_text(claim, 'id')}</th>"
            f"<td>{_text(claim, 'claim')}<p class='how'>{_text(claim, 'how')}</p></td>"
            f"<td>{_text(claim, 'paper_value')}</td>"
            f"<td>{_measured(claim)}</td><td>{_text(claim, 'n')}</td>"
            f"<td class='verdict {words.split()[0]}'><span aria-hidden='true'>{symbol}</span> "
            f"{words}</td></tr>"
        )
    header = ("", "claim", "paper", "here [95 % interval]", "n", "verdict")
    return section("The paper’s claims", table(header, rows, "claims"), "claims")


def _measured(claim: Json) -> str:
    """`value [low, high]`, as far as they exist."""
    if claim.get("value") is None:
        return "–"
    interval = claim.get("low") is not None and claim.get("high") is not None
    ends = f" <span class='ends'>[{_text(claim, 'low')}, {_text(claim, 'high')}]</span>"
    return _text(claim, "value") + (ends if interval else "")


def figures_section(results: Path, sources: Mapping[str, str]) -> str:
    """Every figure with alt text, caption, the paper's words and where it comes from."""
    figures = []
    for facts in read_all(results / "figures"):
        picture = results / "figures" / f"{facts['name']}.png"
        data = picture.read_bytes() if picture.is_file() else b""
        width = int.from_bytes(data[16:20], "big") * 5 // 8  # sharp on fine screens
        figures.append(
            f"<figure id='{_text(facts, 'name')}'>\n<h3>{_text(facts, 'title')}</h3>\n"
            f"<img alt='{_text(facts, 'alt')}' width='{width}' "
            f"src='data:image/png;base64,{base64.b64encode(data).decode()}'>\n"
            f"<figcaption>{_beside(facts, 'figures', sources)}</figcaption>\n</figure>"
        )
    return section("Figures", "\n".join(figures), "figures") if figures else ""


def pages_section(results: Path) -> str:
    """Links to what notebooks wrote as pages of their own, such as feature cards."""
    pages = [page for page in sorted(results.glob("*.html")) if page.name != "index.html"]
    items = (f"<li><a href='{quote(p.name)}'>{escape(page_title(p))}</a></li>" for p in pages)
    return section("Pages", f"<ul>{''.join(items)}</ul>", "pages") if pages else ""


def page_title(page: Path) -> str:
    """The title of an HTML page, as plain text, or its file name."""
    found = re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"), re.S)
    return unescape(found[1]).strip() if found else page.name


def tables_section(results: Path, sources: Mapping[str, str]) -> str:
    """Every table of tables/ with its caption."""
    parts = []
    for facts in read_all(results / "tables"):
        header, *lines = read_rows(results / "tables" / f"{facts['name']}.csv")
        rows = ["<tr>" + "".join(f"<td>{number(v)}</td>" for v in line) + "</tr>" for line in lines]
        parts.append(
            f"<h3 id='{_text(facts, 'name')}'>{_text(facts, 'title')}</h3>\n{table(header, rows)}"
            f"\n<div class='caption'>{_beside(facts, 'tables', sources)}</div>"
        )
    return section("Tables", "\n".join(parts), "tables") if parts else ""


def _beside(facts: Json, kind: str, sources: Mapping[str, str]) -> str:
    """Caption, the paper's words, links to the data and to the notebook that made it."""
    name = facts["name"]
    makers = [stem for stem, text in sources.items() if f'\\"{name}\\"' in text]
    links = [f"<a href='{kind}/{quote(name)}.csv'>data (CSV)</a>"]
    links += [f"<a href='notebooks/{quote(m)}.html'>notebook {escape(m)}</a>" for m in makers[:1]]
    paper = f"<p class='paper'><b>The paper:</b> {_text(facts, 'paper')}</p>"
    return (
        f"<p>{_text(facts, 'caption')}</p>{paper if facts.get('paper') else ''}"
        f"<p class='links'>{' · '.join(links)}</p>"
    )


def skipped_section(skipped: list[Json]) -> str:
    """Figures that these runs do not allow, each with its reason."""
    items = (f"<li><b>{_text(s, 'name')}</b>: {_text(s, 'reason')}</li>" for s in skipped)
    return section("Not made from these runs", f"<ul>{''.join(items)}</ul>") if skipped else ""


def notebooks_section(notebooks: list[Path]) -> str:
    """Links to every executed notebook; the many training runs fold away."""

    def item(path: Path) -> str:
        stem, title = quote(path.stem), escape(notebook_title(path))
        links = f"<a href='notebooks/{stem}.html'>{title}</a> (<a href='notebooks/{stem}.ipynb'>"
        return f"<li>{links}.ipynb</a>)<span class='file'> {escape(path.stem)}</span></li>"

    known = [n for n in notebooks if not n.stem.startswith(TRAIN)]
    known.sort(key=lambda n: ALL_NOTEBOOKS.index(n.stem) if n.stem in ALL_NOTEBOOKS else 99)
    training = "".join(item(n) for n in notebooks if n.stem.startswith(TRAIN))
    folded = f"<details><summary>Training runs</summary><ul>{training}</ul></details>"
    body = f"<ul>{''.join(map(item, known))}</ul>{folded if training else ''}"
    return section("Executed notebooks", body, "notebooks")


def parameters_section(profile: Json, origin: Json) -> str:
    """The resolved profile and the origin of the runs."""
    rows = [
        f"<tr><th scope='row'>{escape(str(key))}</th><td><code>{escape(_compact(value))}</code>"
        "</td></tr>"
        for key, value in {**profile, **origin}.items()
    ]
    link = "<p><a href='metrics.csv'>metrics.csv</a>: one row for each SAE.</p>"
    return section("Parameters and origin", link + table(("key", "value"), rows, "keys"))


def provenance(results: Path) -> Json:
    """What run.json of the first finished run says about code, versions and hardware."""
    for path in sorted((results / "saes").glob("*/run.json")):
        facts = read_json(path, {})
        origin = facts.get("provenance")
        if facts.get("status") == "ok" and isinstance(origin, dict):
            return {k: v for k, v in origin.items() if k in PROVENANCE}
    return {}


def section(title: str, body: str, name: str = "") -> str:
    """A section under a heading; nothing where the body is empty."""
    return f"<section id='{name}'>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def table(header: Iterable[str], rows: Iterable[str], kind: str = "") -> str:
    """A table that scrolls by itself on a narrow screen."""
    cells = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    body = "\n".join(rows)
    return (
        f"<div class='scroll' tabindex='0'><table class='{kind}'>\n<thead><tr>{cells}</tr></thead>"
        f"\n<tbody>\n{body}\n</tbody></table></div>"
    )


def number(text: str) -> str:
    """A cell of a CSV: floats to four digits, anything else escaped."""
    try:
        return escape(text) if "." not in text else f"{float(text):.4g}"
    except ValueError:
        return escape(text)


def _text(facts: Json, key: str) -> str:
    """A value of `facts`, escaped for text and for attributes in either quotes."""
    value = facts.get(key)
    return escape("–" if value is None else f"{value:.3g}" if type(value) is float else str(value))


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main() -> int:
    """The command line; returns the exit status."""
    try:
        print(write_report(Path()).name)
    except E2EError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
