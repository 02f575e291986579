"""Two results folders, number by number, within a tolerance stated for each kind of file.

Tables are aligned by their keys (run, layer, seed, …), not by position; a text counts number by
number, its words must be equal. What differs is named: file, row, column, both values, tolerance.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from e2e_lib.errors import ResultsError, reworded
from pipeline.compare.tolerances import Tolerance, tolerance

KEYS = (
    *("run", "id", "match", "key", "layer", "pair", "hook", "block", "objective", "reference"),
    *("seed", "other_seed", "first", "second", "difference", "compared", "quantity", "against"),
    *("metric", "way", "column", "setting", "main", "task", "start", "train_tokens", "kept"),
    *("source", "positions", "position", "row", "direction", "latent", "region", "kind", "term"),
    *("section", "item", "x", "y"),
)
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
FILES = ("metrics.csv", "claims.json", "[0-9]*.html", "figures/*.*", "tables/*.*", "skipped/*.json")


class Difference(NamedTuple):
    """One number or text that is not the reference's."""

    file: str
    row: str
    column: str
    reference: str
    found: str
    why: str  # the tolerance, or what is wrong

    def __str__(self) -> str:
        place = " · ".join(filter(None, (self.file, self.row, self.column)))
        return f"{place}: {self.reference} in the reference, {self.found} now ({self.why})"


class Lacking(NamedTuple):
    """What cannot be computed again, because the weights behind it are not there."""

    marks: frozenset[tuple[str, str]] = frozenset()  # (key column, value) of rows about such runs
    rows: tuple[str, ...] = ()  # patterns of the files in which such rows may be missing
    averages: tuple[str, ...] = ()  # and of those with averages over such runs and others
    whole: tuple[str, ...] = ()  # and of those that are made of such runs, row by row


@dataclass
class Outcome:
    """What a comparison found."""

    differences: list[Difference] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)  # numbers by file
    carried: Counter[str] = field(default_factory=Counter)  # not recomputed: weights are lacking
    pictures: int = 0  # only looked for: their data is in the CSV beside them
    new: list[str] = field(default_factory=list)  # files that the reference does not have

    def add(self, file: str, row: str, column: str, reference: Any, found: Any, why: str) -> None:
        """One more difference; long values are cut."""
        old, new = (str(value)[:60] for value in (reference, found))
        self.differences.append(Difference(file, row[:120], column, old, new, why))


def compare_folders(
    reference: Path,
    found: Path,
    lacking: Lacking | None = None,
    files: Sequence[str] = FILES,
    outcome: Outcome | None = None,
) -> Outcome:
    """Compare every file of `reference` that one of the patterns `files` names with its namesake.

    What `lacking` allows to be missing or other counts as carried over from the reference.
    Adds to `outcome`, if there is one already, and returns it.
    """
    outcome, lacking = outcome or Outcome(), lacking or Lacking()
    names = [
        sorted({path.relative_to(folder).as_posix() for p in files for path in folder.glob(p)})
        for folder in (reference, found)
    ]
    outcome.new = sorted({*outcome.new, *names[1]} - set(names[0]))
    for name in names[0]:
        partial = bool(lacking.marks) and matches(name, lacking.whole)
        if name not in names[1] and not partial:
            outcome.add(name, "", "", "there", "missing", "every file must be made again")
        elif partial:
            if name.endswith(".png"):  # its data is carried over
                continue
            table = read_csv(reference / name) if name.endswith(".csv") else pd.DataFrame([0])
            outcome.carried[name] += int(table.select_dtypes("number").size)
        elif name.endswith(".csv"):
            old, new = (read_csv(folder / name) for folder in (reference, found))
            compare_tables(name, old, new, outcome, lacking)
        elif name.endswith((".json", ".html")):
            before, after = (read_text(folder / name) for folder in (reference, found))
            compare_documents(name, before, after, outcome, lacking)
        else:
            outcome.pictures += 1
    return outcome


def read_csv(path: Path) -> pd.DataFrame:
    """A table; its empty cells are NaN.

    Raises:
        ResultsError: the file is no table.
    """
    with reworded(ResultsError, f"{path.name!r} is no table"):
        return pd.read_csv(path)


def read_text(path: Path) -> str:
    """A text. Raises ResultsError if the file is none."""
    with reworded(ResultsError, f"{path.name!r} is no text"):
        return path.read_text(encoding="utf-8")


def compare_tables(
    name: str,
    reference: pd.DataFrame,
    found: pd.DataFrame,
    outcome: Outcome,
    lacking: Lacking | None = None,
) -> None:
    """Add to `outcome` how two tables compare: columns, then rows by key, then values."""
    lacking = lacking or Lacking()
    for column in reference.columns.difference(found.columns, sort=False):
        outcome.add(name, "", str(column), "there", "missing", "a missing column")
    for column in found.columns.difference(reference.columns, sort=False):
        outcome.add(name, "", str(column), "missing", "there", "a new column")
    keys = [k for k in KEYS if k in reference and k in found and _is_key(reference[k], found[k])]
    left, right = (_keyed(table, keys) for table in (reference, found))
    missing = left[~left.index.isin(right.index)]
    allowed = _about(missing, keys, lacking) & matches(name, lacking.rows)
    outcome.carried[name] += int(missing[allowed].select_dtypes("number").size)
    for key in missing.index[~allowed]:
        outcome.add(name, _words(keys, key), "", "there", "missing", "a missing row")
    for key in right.index[~right.index.isin(left.index)]:
        outcome.add(name, _words(keys, key), "", "missing", "there", "a new row")
    both = left.index[left.index.isin(right.index)]
    left, right, rows = left.loc[both], right.loc[both], [_words(keys, key) for key in both]
    averaged = bool(lacking.marks) and matches(name, lacking.averages)
    for column in (c for c in reference.columns if c in found):
        sides = [left[column], right[column]]
        if all(side.dtype.kind in "iufb" for side in sides):
            sides = [side * 1 for side in sides]  # a flag counts as 0 or 1
        else:
            sides = [side.astype(object).where(side.notna(), "").map(str) for side in sides]
        values = zip(rows, repeat(str(column)), *(side.tolist() for side in sides))
        _compare(name, values, outcome, averaged)


def compare_documents(
    name: str, reference: str, found: str, outcome: Outcome, lacking: Lacking | None = None
) -> None:
    """Add to `outcome` how two JSON documents, or two pages, compare: value by value.

    A figure's `order` is how the report sorts it: a reference may be older than that.
    """
    if not name.endswith(".json"):
        reference, found = (json.dumps(text.splitlines()) for text in (reference, found))
    with reworded(ResultsError, f"{name!r} is no JSON"):
        left, right = (dict(_flat(json.loads(text))) for text in (reference, found))
    places = [p for p in left | right if p in left or not p.startswith("order[")]
    sides = ([side.get(place, "missing") for place in places] for side in (left, right))
    averaged = lacking is not None and bool(lacking.marks) and matches(name, lacking.averages)
    _compare(name, zip(places, repeat(""), *sides), outcome, averaged)


def _compare(
    name: str, values: Iterable[tuple[str, str, Any, Any]], outcome: Outcome, averaged: bool = False
) -> None:
    """Values by row and column, the reference's first; averages that differ count as carried."""
    allowed = tolerance(name)
    why = f"allowed: {allowed.absolute:g} + {allowed.relative:g} · |reference|"
    for row, column, old, new in values:
        numbers = len(NUMBER.findall(old)) if isinstance(old, str) else int(_is_number(old))
        outcome.compared[name] += numbers
        if _same(old, new, allowed):
            continue
        if averaged:
            outcome.compared[name] -= 1
            outcome.carried[name] += 1
        else:
            outcome.add(name, row, column, old, new, why)


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON value with its place; entries of a list go by their `id`, if any."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}".strip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            known = item.get("id") if isinstance(item, dict) else None
            yield from _flat(item, f"{place}[{i if known is None else known}]")
    else:
        yield place, value


def _keyed(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The table by its keys and, among equal ones, by order."""
    text = pd.DataFrame({key: table[key].fillna("").astype(str) for key in keys}, table.index)
    again = text.groupby(keys).cumcount() if keys else pd.Series(range(len(table)), table.index)
    index = pd.MultiIndex.from_arrays([*(text[key] for key in keys), again], names=[*keys, None])
    return table.set_axis(index, axis=0)


def _is_key(*columns: pd.Series) -> bool:
    """Whether both hold names and whole numbers; a measured number cannot be a key."""
    return all(column.dtype.kind != "f" or column.isna().all() for column in columns)


def _about(rows: pd.DataFrame, keys: list[str], lacking: Lacking) -> np.ndarray:
    """Which of the rows are about a run without weights."""
    about = np.zeros(len(rows), dtype=bool)
    for key in keys:
        values = rows.index.get_level_values(key)
        values = values.str.split("/").str[0] if key == "key" else values  # run/latent
        about |= values.isin([v for k, v in lacking.marks if k == ("run" if key == "key" else key)])
    return about


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits a file's name."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def _same(reference: Any, found: Any, allowed: Tolerance) -> bool:
    """Whether numbers are close enough; of texts the words are equal, and numbers in them close."""
    if _is_number(reference) and _is_number(found):
        return allowed.allows(reference, found)
    if not (isinstance(reference, str) and isinstance(found, str)):
        return type(reference) is type(found) and reference == found
    if NUMBER.sub("#", reference) != NUMBER.sub("#", found):
        return False
    return all(map(allowed.allows, _numbers(reference), _numbers(found)))


def _numbers(text: str) -> list[float]:
    return [float(n.replace("−", "-").replace(",", "")) for n in NUMBER.findall(text)]


def _words(keys: list[str], index: Any) -> str:
    """A row's keys in words; `#2` is the third row with the same ones."""
    *values, again = index if isinstance(index, tuple) else (index,)
    pairs = [f"{key} {value}" for key, value in zip(keys, values, strict=True) if value]
    return ", ".join([*pairs, f"#{again}"] if again or not pairs else pairs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
