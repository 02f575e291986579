"""The page of features: every one that fires, what it does, and what stands beside it elsewhere.

Notebook 28 writes the data (`e2e_lib.analysis.interpret.browser` says what), the page shows it.
"""

import json
from pathlib import Path

from markupsafe import Markup

from e2e_lib.files import write_text
from pipeline.pages.render import NAMES, SITE, Extra, render, style, write_scripts
from pipeline.pages.result_files import Json, read_json

TITLE = "Every feature, and its neighbours"
TEXT = "contexts, activations and logits of each, and the nearest ones of the other objectives."
INDEX = "features.json"  # what notebook 28 writes, beside a file a dictionary


def write_features(results: Path) -> Extra:
    """Write features.html and its script, or say why there is none."""
    (results / "features.html").unlink(missing_ok=True)
    found = read_json(results / SITE / INDEX, {})
    there = [one for one in found.get("dictionaries", []) if _data(results, one["key"]).is_file()]
    if not there:
        return Extra(TITLE, "", "notebook 28 found no SAEs of similar CE increase with weights.")
    layers = sorted({one["layer"] for one in there})
    middle = layers[len(layers) // 2]
    named = [one | {"name": f"{_name(one)}, layer {one['layer']}"} for one in there]
    index = json.dumps({"dictionaries": named, "middle": middle}).replace("<", "\\u003c")
    first = next(one["key"] for one in named if one["layer"] == middle)
    page = render("features.html.j2", title=TITLE, style=style("report.css", "explore.css"),
                  about=found.get("about", ""), dictionaries=named, first=first,
                  index=Markup(index))  # fmt: skip
    write_scripts(results, "page.js", "features.js")
    write_text(results / "features.html", page)
    return Extra(TITLE, "features.html", TEXT, [one["run"] for one in named])


def _data(results: Path, key: str) -> Path:
    return results / SITE / f"features_{key}.js"


def _name(one: Json) -> str:
    return NAMES.get(one["objective"], str(one["objective"]))
