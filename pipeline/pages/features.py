"""The page of features: every one that fires, what it does, and what stands beside it elsewhere.

Notebook 28 writes the data (`e2e_lib.analysis.interpret.browser` says what), the page shows it.
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from markupsafe import Markup

from e2e_lib.errors import ResultsError, reworded
from e2e_lib.files import write_text
from pipeline.pages.pareto import SHAPES
from pipeline.pages.render import NAMES, SITE, Extra, render, style, write_scripts
from pipeline.pages.result_files import Json, read_json, read_rows

TITLE = "Every feature, and its neighbours"
TEXT = "contexts, activations and logits of each, and the nearest ones of the other objectives."
INDEX = "features.json"  # what notebook 28 writes, beside a file a dictionary
MAP, REGIONS = "24_umap", "24_regions"  # figures of which every point is a feature
WIDTH, HEIGHT, EDGE = 520, 360, 12  # of a map, in the SVG's own units


def write_features(results: Path) -> Extra:
    """Write features.html and its script, or say why there is none."""
    (results / "features.html").unlink(missing_ok=True)
    found = read_json(results / SITE / INDEX, {})
    there = [one for one in found.get("dictionaries", []) if _data(results, one["key"]).is_file()]
    if not there:
        none = "notebook 28 found no SAEs of similar CE increase with weights."
        return Extra(TITLE, "", found.get("reason", none))
    layers = sorted({one["layer"] for one in there})
    middle = layers[len(layers) // 2]
    named = [one | {"name": f"{_name(one)}, layer {one['layer']}"} for one in there]
    maps = _maps(results, there)
    facts = {"dictionaries": named, "middle": middle, "maps": maps, "shapes": SHAPES}
    index = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    first = next(one["key"] for one in named if one["layer"] == middle)
    page = render("features.html.j2", title=TITLE, style=style("report.css", "explore.css"),
                  about=found.get("about", ""), dictionaries=named, first=first,
                  names=NAMES, shapes=SHAPES,
                  size=(WIDTH, HEIGHT), index=Markup(index))  # fmt: skip
    write_scripts(results, "page.js", "features.js")
    write_text(results / "features.html", page)
    runs = [one["run"] for one in named]
    return Extra(TITLE, "features.html", TEXT, runs, (MAP, REGIONS) if maps else ())


def _maps(results: Path, dictionaries: Sequence[Json]) -> list[Json]:
    """The maps of notebook 24 with a dictionary of the page on them: a name, and of each such
    dictionary the points, four numbers each: feature, x, y (downwards), region (0: none).

    Raises:
        ResultsError: the figure's table is damaged.
    """
    if not (path := results / "figures" / f"{MAP}.csv").is_file():
        return []
    of = {one["run"]: one for one in dictionaries}
    header, *rows = read_rows(path)
    found: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    what = f"results file 'figures/{MAP}.csv' is damaged: delete it and run its notebook again"
    with reworded(ResultsError, what):
        for row in (dict(zip(header, cells, strict=True)) for cells in rows):
            place = [float(row["x"]), float(row["y"])]
            point = [int(row["latent"]), *place, int(row["region"])]
            found.setdefault((row["layer"], row["pair"]), {}).setdefault(row["run"], []).append(
                point
            )
        return [_map(own, of) for own in found.values() if own.keys() & of.keys()]


def _map(sides: dict[str, list[list[float]]], of: dict[str, Json]) -> Json:
    """One map, its places in whole units of the picture."""
    _, xs, ys, _ = zip(*chain(*sides.values()), strict=True)
    low, size = (min(xs), max(ys)), (max(xs) - min(xs) or 1.0, min(ys) - max(ys) or -1.0)
    inner = (WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE)

    def placed(latent: float, x: float, y: float, region: float) -> list[int]:
        at = (
            round(EDGE + (value - start) / all_ * length)
            for value, start, all_, length in zip((x, y), low, size, inner, strict=True)
        )
        return [int(latent), *at, int(region)]

    there = {run: points for run, points in sides.items() if run in of}
    names = " and ".join(_name(of[run]) for run in there)
    return {
        "name": f"{names}, layer {of[next(iter(there))]['layer']}",
        "sides": [
            {"key": of[run]["key"], "points": [*chain(*(placed(*one) for one in points))]}
            for run, points in there.items()
        ],
    }


def _data(results: Path, key: str) -> Path:
    return results / SITE / f"features_{key}.js"


def _name(one: Json) -> str:
    return NAMES.get(one["objective"], str(one["objective"]))
