"""An executed notebook as a small page that needs no network."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from pygments.formatters import HtmlFormatter

from e2e_lib.errors import ResultsError
from e2e_lib.files import write_text
from e2e_lib.plots.style import small_png

STYLES = Path(__file__).with_name("report.css"), Path(__file__).with_name("notebook.css")
STYLE_SHEET = "page.css"


class SmallPictures(Preprocessor):
    """Pictures with 256 colours, which is all a plot needs."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Quantise the PNG of every output."""
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
    try:
        body, _ = exporter.from_filename(str(notebook))
    except Exception as error:  # of nbformat, nbconvert, a picture that is none
        raise ResultsError(
            f"executed notebook {notebook.name!r} is damaged ({type(error).__name__}): delete it "
            "and run it again."
        ) from error
    write_text(page, _page(notebook_title(notebook), body))
    return page


def write_style_sheet(folder: Path) -> None:
    """Write what all pages of a folder look like: the report's style, notebooks', and code's."""
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    parts = [*(path.read_text(encoding="utf-8") for path in STYLES), colours, ""]
    write_text(folder / STYLE_SHEET, "\n".join(parts))


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f'<link rel="stylesheet" href="{STYLE_SHEET}">\n'
        f"</head>\n<body>\n<main class='notebook'>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def notebook_title(notebook: Path) -> str:
    """The first heading of a notebook, or its file name."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = [_lines(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return notebook.stem
    lines = (line for source in sources for line in source)
    return next(
        (line.lstrip("# ").strip() for line in lines if line.startswith("#")), notebook.stem
    )


def _lines(source: str | list[str]) -> list[str]:
    return "".join(source).splitlines()
