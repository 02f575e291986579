"""The report: escaped, complete, readable without network or script, in a real browser too."""

import base64
import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from e2e_lib.analysis.claims.ledger import CLAIMS
from e2e_lib.analysis.claims.verdicts import VERDICTS
from pipeline import report
from pipeline.pages.notebook_html import write_pages
from pipeline.pages.questions import PLAN, linked
from pipeline.pages.render import PAGES, Extra
from pipeline.report import write_report
from tests.helpers.pages import EVIL, RUNS, Page, browser, chromium, hostile_results, png, put

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return hostile_results(tmp_path / "results")


def test_every_text_is_escaped(results: Path) -> None:
    text = write_report(results).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("script")) == 1 and not page.all("script")[0]  # the page's own
    assert text.count("&lt;script&gt;") >= 12
    assert [image["alt"] for image in page.all("img")] == [f"alt {EVIL}"] * 2


def test_figures_claims_and_skips_are_there(results: Path) -> None:
    text = write_report(results).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.all("figure")) == 2
    assert "0.25 <span class='ends'>[0.2, 0.3]" in text
    for words in (*VERDICTS, "Not made from these runs"):
        assert words in text
    assert "0.1235" in text  # a table's float, shortened
    (results / "tables" / "t.csv").write_text("a\n" + "7\n" * (report.ROWS + 5))
    long = write_report(results).read_text(encoding="utf-8")
    assert long.count("<td>7</td>") == report.ROWS and "tables/t.csv'>all of them" in long
    links = {link["href"] for link in page.all("a")}
    assert {"figures/pareto.csv", "tables/t.csv"} <= links
    assert {"notebooks/20_pareto.html", "notebooks/20_pareto.ipynb"} <= links


def test_figures_stand_in_the_order_in_which_they_were_saved(results: Path) -> None:
    """Notebook and place, if they are said; those of an older run come after them, by name."""

    def shown() -> list[str | None]:
        page = Page(write_report(results).read_text(encoding="utf-8"))
        return [figure["id"] for figure in page.all("figure")]

    assert shown() == ["geometry", "pareto"]
    for name, order in (("a", [20, 10]), ("b", [20, 2]), ("c", [3, 1]), ("d", "no order")):
        put(results / "figures" / f"{name}.json", {"name": name, "title": "t", "order": order})
    assert shown() == ["c", "b", "a", "d", "geometry", "pareto"]


def test_page_is_accessible_and_needs_no_network(results: Path) -> None:
    text = write_report(results).read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(image["alt"] for image in page.all("img"))
    for _, attributes in page.tags:
        for value in (attributes.get("src"), attributes.get("href")):
            assert not re.match("https?:|//|/", value or "")


def test_executed_notebook_keeps_its_alt_text_and_needs_no_network(results: Path) -> None:
    write_report(results)
    text = (results / "notebooks" / "20_pareto.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [image.get("alt") for image in page.all("img")] == ["the curve"]
    assert page.all("html")[0].get("lang") == "en"
    outside = [s["src"] for s in page.all("script") if s.get("src")]
    assert not outside and {x["href"] for x in page.all("link")} == {"data:,", "page.css"}
    assert ".highlight" in (results / "notebooks" / "page.css").read_text(encoding="utf-8")


def test_what_failed_is_said(results: Path) -> None:
    put(results / "failed" / "x.json", {"name": "x", "error": f"ValueError: {EVIL}"})
    assert "Not finished" in write_report(results).read_text(encoding="utf-8")


def test_empty_folder_gives_a_page(tmp_path: Path) -> None:
    assert "<h1>" in write_report(tmp_path).read_text(encoding="utf-8")


def test_pages_beside_the_report_are_linked_or_missed_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(results: Path) -> Extra:
        (results / "live.html").write_text("<title>its own</title>")
        return Extra("Live", "live.html", EVIL)

    makers = (made, lambda results: Extra("Features", "", "no weights are here"))
    monkeypatch.setattr(report, "EXTRAS", makers)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    links = [link["href"] for link in Page(text).all("a")]
    assert "live.html" in links and EVIL not in text and "its own" not in text
    assert "Features: no weights are here" in text


def dangling(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    parsed = Page(page.read_text(encoding="utf-8"))
    ids = {attributes.get("id") for _, attributes in parsed.tags}
    links = [x.get("href") or "" for tag in ("a", "link") for x in parsed.all(tag)]
    links += [image["src"] or "" for image in parsed.all("img")]
    return [
        link for link in links
        if not link.startswith("data:")
        and not (link[1:] in ids if link[0] == "#" else (page.parent / link).is_file())
    ]  # fmt: skip


def test_every_point_leads_to_an_sae_and_every_link_somewhere(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without weights or a page of features to its row; where a page shows it, there."""
    (results / "metrics.csv").write_text(RUNS)
    page = write_report(results)
    assert not dangling(page) and not dangling(results / "notebooks" / "20_pareto.html")
    parsed = Page(page.read_text(encoding="utf-8"))
    points = [a for a in parsed.all("a") if "point" in (a.get("class") or "")]
    assert [a["href"] for a in points] == 2 * ["#sae-a", "#sae-b", "#sae-c"]  # d has no number
    assert all("L0" in (a["aria-label"] or "") for a in points)

    shown = Extra("Features", "features.html", "every feature", ("a", "other"), ("pareto",))
    monkeypatch.setattr(report, "EXTRAS", (lambda folder: shown,))
    text = write_report(results).read_text(encoding="utf-8")
    assert "href='features.html#a'" in text and "href='#sae-b'" in text
    assert text.count("<a href='features.html'>every point leads to its feature</a>") == 1


def test_half_a_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    texts = {"name": "20_pareto", "title": "t", "alt": "a", "caption": "of `ce_increase`"}
    put(tmp_path / "figures" / "20_pareto.json", texts | {"finding": "Here: local is best."})
    (tmp_path / "figures" / "20_pareto.csv").write_text("a\n1\n")
    (tmp_path / "metrics.csv").write_text("".join(RUNS.splitlines(keepends=True)[:2]))
    claims = [{"id": "C2a", "claim": "c", "value": 0.3, "low": None, "high": None, "n": 1}]
    put(tmp_path / "claims.json", claims)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    for words in (
        "<b>Here:</b> local is best.", "<code>ce_increase</code>", "Its picture is missing",
        "30 % of the harm that local does (CE increase)</a>", "not testable here",
        "None has been executed",
    ):  # fmt: skip
        assert words in text
    assert len(re.findall("class='point", text)) == 2 and "`" not in text.split("<script>")[0]
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "claims.json").unlink()
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No picture of the SAEs" in text and "No claim has a number yet" in text
    assert dangling(tmp_path / "index.html") == []


def test_a_notebook_s_page_has_formulas_ways_and_folds(results: Path) -> None:
    shown = {"image/png": base64.b64encode(png()).decode()}
    picture = new_output("display_data", shown)
    printed = new_output("stream", name="stdout", text="skipped: see `make run`")
    cells = [
        new_markdown_cell("# Loss `x`\n$$\\mathcal L=\\tfrac1d\\lVert c\\rVert_1$$ of $\\hat x$"),
        new_markdown_cell("## One\n## Two\n$$\\frac{$$"),
        new_code_cell('study.figure("pareto", table)', outputs=[picture, printed]),
    ]
    nbformat.write(new_notebook(cells=cells), results / "notebooks" / "21_similar_ce.ipynb")
    for _ in range(2):  # the second time the cells are taken from the page
        write_report(results)
        text = (results / "notebooks" / "21_similar_ce.html").read_text(encoding="utf-8")
        assert text.count("<math") >= 2 and "ℒ" in text and "$" not in text and "`" not in text
        page = Page(text)
        assert [a["href"] for a in page.all("a") if a.get("rel")] == 2 * ["20_pareto.html"]
        assert '<span class="n">' not in text and '<span class="s2">' in text  # has a colour
        assert text.count("Code that saves pareto</summary>") == 1 and not dangling(
            results / "notebooks" / "21_similar_ce.html"
        )
        [image] = page.all("img")  # the figure's file
        assert (image["src"], image["alt"]) == ("../figures/pareto.png", f"alt {EVIL}")
        assert {"#One", "#Two"} <= {a["href"] for a in page.all("a")}


def test_text_and_code_of_several_runs_of_a_notebook_are_shown_once(tmp_path: Path) -> None:
    for name in ("10_train-a", "10_train-b", "20_pareto"):
        cells = [new_markdown_cell("# T\n\nBoth say."), new_code_cell(f"private = {name[-1]!r}")]
        cells += [new_code_cell(f"shared_{i} = 1") for i in range(2)]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    names = dict.fromkeys(("20_pareto", "10_train-a", "10_train-b"), "T")
    for _ in range(2):  # cells of the pages of before are taken over
        write_pages(tmp_path, names)
    pages = [(tmp_path / f"{name}.html").read_text() for name in sorted(names)]
    assert [page.count("private") for page in pages] == [1, 1, 1]
    assert [page.count("shared_") for page in pages] == [2, 0, 2]
    assert [page.count("Both say.") for page in pages] == [1, 0, 1]
    assert [len(Page(page).all("h1")) for page in pages] == [1, 1, 1]
    linked_to = [a["href"] for a in Page(pages[1]).all("a")]
    assert linked_to.count("10_train-a.html") == 3, "the ways above and below, and whose code it is"
    write_pages(tmp_path, {"10_train-b": "T"})
    assert (tmp_path / "10_train-b.html").read_text().count("shared_") == 2


def test_pages_whose_notebooks_are_gone_show_it_once_too(tmp_path: Path) -> None:
    """Of two versions of a notebook, the first page of each is whole."""
    texts = {"10_train-a": "old", "10_train-b": "new", "10_train-c": "new", "10_train-d": "old"}
    texts["20_pareto"] = "old"
    for name, version in texts.items():
        cells = [new_markdown_cell("# T\n\nAll say."), new_code_cell(f"{version}_cell = 1\n" * 40)]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
        write_pages(tmp_path, {name: "T"})  # each alone, as pages once were
        (tmp_path / f"{name}.ipynb").unlink()
    pages = {name: tmp_path / f"{name}.html" for name in texts}
    whole = {name: page.read_text() for name, page in pages.items()}
    for _ in range(2):
        write_pages(tmp_path, dict.fromkeys(texts, "T"))
        found = {name: page.read_text() for name, page in pages.items()}
        same = [name for name in texts if found[name] == whole[name]]
        assert same == ["10_train-a", "10_train-b", "20_pareto"]
        for name, like in (("10_train-c", "10_train-b"), ("10_train-d", "10_train-a")):
            assert "All say." not in found[name] and "<h1" in found[name]
            assert f"{texts[name]}_cell" not in found[name]
            assert found[name].count(f"href='{like}.html'>{like}</a>") == 1
    assert all(text.endswith("</html>\n") for text in found.values())


def test_questions_name_what_notebooks_save_and_claims_there_are() -> None:
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "notebooks").glob("*.ipynb"))
    named = {n for names in PLAN["shown_by"].values() for n in names}
    named |= {question["first"] for question in PLAN["questions"]}
    assert [name for name in sorted(named) if f'\\"{name}\\"' not in sources] == []
    claims = [{"id": claim.id} for claim in CLAIMS]
    assert set(linked(claims, named)) == {claim.id for claim in CLAIMS}
    assert linked([{"id": "C10"}], named) == {"C10": "25_l2_ratio"}  # which is none of C1
    told = {name for line in PLAN["answer"] for name in line["claims"].values()}
    assert told <= {claim.id for claim in CLAIMS}
    assert sum(len(p.read_text().splitlines()) for p in PAGES.glob("*.js")) < 600


PROBE = """<pre id="probe"></pre><script>
addEventListener("load", () => { document.getElementById("probe").textContent =
  JSON.stringify([...document.images].map(i => i.naturalWidth).concat(
    [document.documentElement.scrollWidth - innerWidth])); });
</script></body>"""


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_every_figure_loads(results: Path, tmp_path: Path, width: int) -> None:
    """Every picture has a width, nothing overflows sideways, the console stays empty."""
    page = write_report(results)
    probed = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    text = text.replace("Content-Security-Policy", "x").replace("</body>", PROBE)
    probed.write_text(text, encoding="utf-8")
    size = f"--window-size={max(width, 500)},900"  # a headless window is at least 500 wide
    dumped = chromium(probed, tmp_path / "a", size, "--dump-dom")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dumped.stdout)
    assert found, dumped.stderr[-500:]
    *widths, overflow = json.loads(found[1])
    assert widths == [600, 600] and overflow <= 0
    assert "<title>End-to-end SAEs" in dumped.stdout  # no hostile script ran
    assert "CONSOLE" not in dumped.stderr

    shot = tmp_path / "page.png"
    taken = chromium(page, tmp_path / "b", f"--window-size={width},1600", f"--screenshot={shot}")
    assert "CONSOLE" not in taken.stderr  # the page keeps to its own security policy
    assert shot.stat().st_size > 10_000


def test_a_ledger_stands_beside_those_of_the_shipped_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a column but for the folder's own; a dash where a study has no number."""
    from e2e_lib.analysis.claims import studies

    own = {"claim": "c", "low": None, "high": None, "n": 1, "verdict": "undecided", "how": "h"}
    claims = [own | {"id": "C1a", "value": 1.5}, own | {"id": "C2a", "value": None}]
    decided = {"value": 2.25, "low": 2.125, "high": 2.5, "verdict": "holds"}
    put(tmp_path / "big" / "claims.json", [claims[0] | decided, claims[1]])
    put(tmp_path / "small" / "claims.json", claims)
    places = {name.upper(): str(tmp_path / name) for name in ("big", "small", "none")}
    monkeypatch.setattr(studies, "STUDIES", places)

    def columns(folder: str) -> dict[str, list[str]]:
        text = write_report(tmp_path / folder).read_text(encoding="utf-8")
        pattern = r"<td class='other' data-study='(\w+), as shipped'>(.*?)</td>"
        cells = re.findall(pattern, text, re.DOTALL)
        found: dict[str, list[str]] = {}
        for name, cell in cells:
            found.setdefault(name, []).append(" ".join(re.sub("<[^>]*>", " ", cell).split()))
        assert text.count("<th scope='col'>BIG, as shipped</th>") == ("BIG" in found)
        return found

    both = {"BIG": ["2.25 [2.12, 2.5] ✓ holds", "–"], "SMALL": ["1.5 ? undecided", "–"]}
    put(tmp_path / "mine" / "claims.json", [claims[0] | {"value": 1.25}, claims[1]])
    assert columns("mine") == both
    assert columns("big") == {"SMALL": both["SMALL"]}
