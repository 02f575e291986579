"""An executed notebook as a small page that needs no network."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from pygments.formatters import HtmlFormatter

from e2e_lib.errors import ResultsError, reworded
from e2e_lib.files import write_text
from pipeline.pages.render import render, style


class SmallPictures(Preprocessor):
    """Pictures with 256 colours, which is all a plot needs."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Quantise the PNG of every output."""
        from e2e_lib.plots.style import small_png  # here: it brings seaborn, two seconds

        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture = small_png(base64.b64decode(output.data["image/png"]))
                output.data["image/png"] = base64.b64encode(picture).decode()
        return cell, resources


def write_notebook_html(notebook: Path) -> Path:
    """Write NAME.html beside NAME.ipynb, unless it is there and newer; returns it.

    nbconvert's `basic` template keeps the alt text of pictures, which its default drops, and comes
    without the default's 280 kB of style sheet: all pages of a folder share one beside them.
    """
    page = notebook.with_suffix(".html")
    if page.is_file() and page.stat().st_mtime > notebook.stat().st_mtime:
        return page
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(SmallPictures, enabled=True)
    what = f"executed notebook {notebook.name!r} is damaged: delete it and run it again"
    with reworded(ResultsError, what):
        body, _ = exporter.from_filename(str(notebook))
    title = notebook_title(notebook)
    write_text(page, render("notebook.html.j2", title=title, body=Markup(body)))
    return page


def write_style_sheet(folder: Path) -> None:
    """Write what all pages of a folder look like: the report's style, notebooks', and code's."""
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    text = "\n".join([style("report.css", "notebook.css"), colours, ""])
    write_text(folder / "page.css", text)


def notebook_title(notebook: Path) -> str:
    """The first heading of a notebook, or its file name."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return notebook.stem
    heading = re.search(r"^#[# ]*(.*)", "\n".join(texts), re.M)
    return heading[1].strip() if heading else notebook.stem
