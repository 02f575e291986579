"""An executed notebook as a page that needs no network."""

import json
from pathlib import Path

from nbconvert import HTMLExporter
from traitlets.config import Config


def write_notebook_html(notebook: Path) -> Path:
    """Write NAME.html beside NAME.ipynb, unless it is there and newer; returns it.

    nbconvert's `classic` template keeps the alt text of pictures, its default drops it.
    """
    page = notebook.with_suffix(".html")
    if page.is_file() and page.stat().st_mtime > notebook.stat().st_mtime:
        return page
    no_network = {"mathjax_url": "", "require_js_url": "", "jquery_url": ""}
    exporter = HTMLExporter(
        template_name="classic", config=Config({"HTMLExporter": {**no_network}})
    )
    body, _ = exporter.from_filename(str(notebook))
    page.write_text(body, encoding="utf-8")
    return page


def notebook_title(notebook: Path) -> str:
    """The first heading of a notebook, or its file name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = (line for c in cells if c["cell_type"] == "markdown" for line in _lines(c["source"]))
    return next(
        (line.lstrip("# ").strip() for line in lines if line.startswith("#")), notebook.stem
    )


def _lines(source: str | list[str]) -> list[str]:
    return "".join(source).splitlines()
