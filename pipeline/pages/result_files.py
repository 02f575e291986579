"""Files of a results folder as the report reads them: what is damaged is named in a sentence."""

import csv
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from math import inf
from pathlib import Path
from typing import Any

from e2e_lib.errors import ResultsError, is_number, reworded

Json = Mapping[str, Any]


def read_json(path: Path, default: Any) -> Any:
    """What a JSON file holds, or `default` where there is none.

    Raises:
        ResultsError: it is no JSON, or neither a mapping where `default` is one nor a list of them.
    """
    if not path.is_file():
        return default
    with _undamaged(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        entries = [found] if isinstance(default, dict) else found
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            raise ValueError(f"it must hold a {'mapping' if default == {} else 'list of mappings'}")
    return found


def read_all(folder: Path) -> list[Json]:
    """Every JSON file of a folder in the order in which a notebook saved them, else by name.

    `name` is the file's, for it leads to other files.
    """
    found = [{**read_json(path, {}), "name": path.stem} for path in folder.glob("*.json")]
    return sorted(found, key=_place)


def _place(facts: Json) -> tuple[list[float], str]:
    """The notebook's number and the place in it, as `order` says, for sorting; without, the end."""
    order = facts.get("order")
    if isinstance(order, list) and all(map(is_number, order)):
        return order, facts["name"]
    return [inf], facts["name"]


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV, the header first.

    Raises:
        ResultsError: there is no such file, or it is none.
    """
    with _undamaged(path), path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file)) or [[]]


def _undamaged(path: Path) -> AbstractContextManager[None]:
    place = f"{path.parent.name}/{path.name}"
    what = f"results file {place!r} is damaged: delete it and run its notebook again"
    return reworded(ResultsError, what)
