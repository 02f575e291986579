"""An executed notebook as a small page that needs no network."""

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from PIL import Image
from pygments.formatters import HtmlFormatter

STYLE = Path(__file__).with_name("report.css"), Path(__file__).with_name("notebook.css")


class SmallPictures(Preprocessor):
    """Pictures with 256 colours, which is all a plot needs, at a quarter of the size."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Quantise the PNG of every output."""
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _quantised(output.data["image/png"])
        return cell, resources


def _quantised(encoded: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    small = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return base64.b64encode(small.getvalue()).decode()


def write_notebook_html(notebook: Path) -> Path:
    """Write NAME.html beside NAME.ipynb, unless it is there and newer; returns it.

    nbconvert's `basic` template keeps the alt text of pictures, which its default drops, and comes
    without the default's 280 kB of style sheet: this page has the report's own.
    """
    page = notebook.with_suffix(".html")
    if page.is_file() and page.stat().st_mtime > notebook.stat().st_mtime:
        return page
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(SmallPictures, enabled=True)
    body, _ = exporter.from_filename(str(notebook))
    page.write_text(_page(notebook_title(notebook), body), encoding="utf-8")
    return page


def _page(title: str, body: str) -> str:
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    style = "\n".join([*(path.read_text(encoding="utf-8") for path in STYLE), colours])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main class='notebook'>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def notebook_title(notebook: Path) -> str:
    """The first heading of a notebook, or its file name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = (line for c in cells if c["cell_type"] == "markdown" for line in _lines(c["source"]))
    return next(
        (line.lstrip("# ").strip() for line in lines if line.startswith("#")), notebook.stem
    )


def _lines(source: str | list[str]) -> list[str]:
    return "".join(source).splitlines()
