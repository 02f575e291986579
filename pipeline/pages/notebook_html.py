"""Executed notebooks as small pages that need neither network nor script."""

import base64
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import pass_context
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor, TagRemovePreprocessor
from pygments.formatters import HtmlFormatter

from e2e_lib.errors import ResultsError, reworded
from e2e_lib.files import write_text
from pipeline.pages.render import PAGES, plain, render, style
from pipeline.pages.result_files import read_json

START, END = "<!-- cells -->", "<!-- end of cells -->"  # between them is what a notebook holds
SAVES = re.compile(r"\b(?:study|page)\.(?:figure|table)\(\s*[\"']([\w.-]+)[\"']")
CODE = re.compile(r'<div class="highlight.*?</div>', re.S)
SPAN = re.compile(r'<span class="(\w+)">([^<]*)</span>')
BOXES = re.compile(r'(<div class="[^"]*?) border-box-sizing(?: rendered(?:_html)?)?')  # unused
COLOURS = HtmlFormatter(style="default").get_style_defs(".highlight")  # of code
COLOURED = set(re.findall(r"\.highlight \.(\w+)", COLOURS))
TEXT = re.compile(r'(<div class="text_cell_render">)(.*?)(</div>)', re.S)
HEADINGS = re.compile(r"<h[1-6].*?</h[1-6]>", re.S)
LIKE = "<p class='like'>Text and code are those of <a href='{}'>{}</a>, but for what is here.</p>"
LITTLE = 0.7  # of a page: where as much is its own, it is shown whole
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', re.S)


class Formulas(IPythonRenderer):
    """Formulas as MathML, which browsers draw by themselves."""

    def block_math(self, body: str) -> str:
        """A formula on a line of its own."""
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        """A formula in a line of text."""
        return mathml(body, "inline")


class Cells(HTMLExporter):
    """nbconvert's `basic` template keeps the alt text of pictures, which its default drops, and
    comes without the default's 280 kB of style sheet."""

    def __init__(self) -> None:
        super().__init__(raw_template=(PAGES / "cells.html.j2").read_text(encoding="utf-8"))
        self.exclude_input_prompt = self.exclude_output_prompt = True
        self.register_preprocessor(Shown, enabled=True)
        # A page has links of its own, where it lies.
        between = TagRemovePreprocessor(enabled=True, remove_cell_tags={"links"})
        self.register_preprocessor(between, enabled=True)

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """As the class above does it, with formulas."""
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = Formulas(escape=False, attachments=attachments)
        return str(MarkdownWithMath(renderer=renderer).render(source))


class Shown(Preprocessor):
    """What a page needs of a cell: a picture in `figures/` as a link to it, others with 256
    colours, which is all a plot needs, and a text for who cannot see them; which figures and tables
    it saves; no back-ticks in what it printed."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Cells in their order, with the heading above them."""
        figures, heading = Path(resources["metadata"]["path"]).parent / "figures", "this page"
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                heading = "".join(re.findall(r"^#+ (.*)", cell.source, re.M)[-1:]) or heading
            else:
                _show(cell, figures, f"A picture made by the code above, under: {heading}")
        return nb, resources


def _show(cell: Any, figures: Path, otherwise: str) -> None:
    from e2e_lib.plots.page import small_png  # here: it brings matplotlib, a second

    saves = SAVES.findall(cell.get("source", ""))
    texts = [read_json(figures / f"{name}.json", {}).get("alt") for name in saves]
    cell.metadata["saves"] = " and ".join(saves)
    cell.metadata["alt"] = plain(" ".join(t for t in texts if isinstance(t, str)) or otherwise)
    outputs = cell.get("outputs", [])
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    files = [f"{name}.png" for name in saves if (figures / f"{name}.png").is_file()]
    for place, output in enumerate(shown):
        picture = base64.b64decode(output.data["image/png"])
        same = [p.name for p in figures.glob("*.png") if p.stat().st_size == len(picture)]
        same = [name for name in same if (figures / name).read_bytes() == picture]
        if len(files) == len(shown) or same:
            name = files[place] if len(files) == len(shown) else same[0]
            output.metadata["filenames"] = {"image/png": f"../figures/{quote(name)}"}
        else:
            output.data["image/png"] = base64.b64encode(small_png(picture)).decode()
    for output in outputs:
        if output.output_type == "stream":
            output.text = plain(output.text)


def mathml(formula: str, display: str) -> str:
    """A formula of LaTeX as MathML; as code where it cannot be read."""
    from latex2mathml.converter import convert  # here: few pages have formulas

    try:
        made = convert(formula, display=display)
    except Exception:  # whatever the package raises: a page is made all the same
        return f"<code>{escape(formula)}</code>"
    return re.sub(r'<mi mathvariant="script">([A-Z])</mi>', _script, made)


def _script(letter: re.Match[str]) -> str:
    """A script capital as a character: browsers know no such variant of others."""
    try:
        found = unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {letter[1]}")
    except KeyError:  # Unicode had these before
        found = unicodedata.lookup(f"SCRIPT CAPITAL {letter[1]}")
    return f"<mi>{found}</mi>"


def write_pages(folder: Path, titles: Mapping[str, str]) -> None:
    """Write NAME.html beside every NAME.ipynb of `folder`, and what all of them look like.

    Of several runs of one notebook, NOTEBOOK-WHAT, the first shows the text and code of all.

    titles: of all pages in the order in which a reader turns them, by name.
    """
    names, whole = list(titles), defaultdict[str, list[Path]](list)
    for place, name in enumerate(names):
        notebook, kind = folder / f"{name}.ipynb", name.partition("-")[0]
        if not notebook.is_file():  # as in the committed reference
            _shorten(notebook.with_suffix(".html"), whole[kind])
            continue
        before, after = names[max(place - 1, 0) : place], names[place + 1 : place + 2]
        beside = {"before": before, "after": after}
        turns = {k: (one[0], titles[one[0]]) if one else None for k, one in beside.items()}
        page = write_notebook_html(notebook, **turns, like=next(iter(whole[kind]), None))
        whole[kind] += [page] if not whole[kind] else []
    if names:
        text = "\n".join([style("report.css", "notebook.css"), COLOURS, ""])
        write_text(folder / "page.css", text)


def write_notebook_html(
    notebook: Path,
    before: tuple[str, str] | None = None,
    after: tuple[str, str] | None = None,
    like: Path | None = None,
) -> Path:
    """Write NAME.html beside NAME.ipynb; cells of a page that is newer are taken from it.

    before, after: name and title of the pages that a reader turns to.
    like: a page of another run of the notebook, linked for the text and code that both have.
    """
    page = notebook.with_suffix(".html")
    link = _link(like) if like else ""
    body = _written(page, notebook)
    if not body or (LIKE[:16] in body and not (link and link in body)):
        body = _converted(notebook)
    if like:
        body = _but_for(like.read_text(encoding="utf-8"), body, link)
    contents = [(id, Markup(text)) for id, text in HEADING.findall(body)]
    text = render(
        "notebook.html.j2", name=notebook.stem, title=notebook_title(notebook), contents=contents,
        before=before, after=after, body=Markup(f"{START}\n{body}\n{END}"),
    )  # fmt: skip
    write_text(page, text)
    return page


def _link(like: Path) -> str:
    return LIKE.format(quote(like.name), escape(like.stem))


def _shorten(page: Path, whole: list[Path]) -> None:
    """Take from a page whose notebook is gone what one of the `whole` ones has as well; where that
    is little, as of another version of the notebook, it is one of them."""
    text = page.read_text(encoding="utf-8")
    if LIKE[:16] in text:  # it was made so before
        return
    before, start, body = text.partition(START)
    short = [_but_for(one.read_text(encoding="utf-8"), body, _link(one)) for one in whole]
    best = min(short, key=len, default=body)
    if len(best) < LITTLE * len(body):
        write_text(page, before + start + best)
    else:
        whole.append(page)


def _but_for(told: str, body: str, link: str) -> str:
    """`body` without text and code that the page `told` has as well, of text the headings stay;
    the link is where the first such code was."""
    codes, once = set(CODE.findall(told)), iter([link])
    texts = {text[0] for text in TEXT.finditer(told)}

    def headings(text: re.Match[str]) -> str:
        return text[1] + "".join(HEADINGS.findall(text[2])) + text[3]

    body = CODE.sub(lambda own: next(once, "") if own[0] in codes else own[0], body)
    return TEXT.sub(lambda own: headings(own) if own[0] in texts else own[0], body)


def _written(page: Path, notebook: Path) -> str:
    """The cells of a page that is newer than its notebook and than how pages are made; else ""."""
    made_of = (notebook, Path(__file__), PAGES / "cells.html.j2")
    if not page.is_file() or page.stat().st_mtime <= max(p.stat().st_mtime for p in made_of):
        return ""
    text = page.read_text(encoding="utf-8")
    start, end = text.find(START), text.rfind(END)
    return text[start + len(START) : end].strip() if 0 <= start < end else ""


def _converted(notebook: Path) -> str:
    what = f"executed notebook {notebook.name!r} is damaged: delete it and run it again"
    with reworded(ResultsError, what):
        body = CODE.sub(_light, str(Cells().from_filename(str(notebook))[0]))
        return BOXES.sub(r"\1", body)


def _light(code: re.Match[str]) -> str:
    """Code without the marks that no colour is for: a third of a page."""
    return SPAN.sub(lambda span: span[0] if span[1] in COLOURED else span[2], code[0])


def notebook_title(notebook: Path) -> str:
    """The first heading of a notebook, or its file name."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return notebook.stem
    heading = re.search(r"^#[# ]*(.*)", "\n".join(texts), re.M)
    return heading[1].strip() if heading else notebook.stem
