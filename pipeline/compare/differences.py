"""Two results folders, number by number, within a tolerance stated for each kind of file.

Tables are aligned by their keys (run, layer, seed, …), not by position; a text counts number by
number, its words must be equal. What differs is named: file, row, column, both values, tolerance.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from e2e_lib.errors import ResultsError, first_sentence
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

    def join(self, other: "Outcome") -> None:
        """Add what another comparison found."""
        self.differences += other.differences
        self.compared += other.compared
        self.carried += other.carried
        self.pictures += other.pictures
        self.new = sorted({*self.new, *other.new})


def compare_folders(
    reference: Path, found: Path, lacking: Lacking | None = None, files: Sequence[str] = FILES
) -> Outcome:
    """Compare every file of `reference` that one of the patterns `files` names with its namesake.

    What `lacking` allows to be missing or other counts as carried over from the reference.
    """
    outcome, lacking = Outcome(), lacking or Lacking()
    names = [
        sorted({path.relative_to(folder).as_posix() for p in files for path in folder.glob(p)})
        for folder in (reference, found)
    ]
    outcome.new = sorted(set(names[1]) - set(names[0]))
    for name in names[0]:
        if name not in names[1]:
            outcome.add(name, "", "", "there", "missing", "every file must be made again")
        elif name.endswith(".csv"):
            old, new = (read_csv(folder / name) for folder in (reference, found))
            compare_tables(name, old, new, outcome, lacking)
        elif name.endswith((".json", ".html")):
            before, after = (read_text(folder / name) for folder in (reference, found))
            compare_documents(name, before, after, outcome)
        else:
            outcome.pictures += 1
    return outcome


def read_csv(path: Path) -> pd.DataFrame:
    """A table; its empty cells are NaN.

    Raises:
        ResultsError: the file is no table.
    """
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path.name!r} is no table ({first_sentence(error)}).") from error


def read_text(path: Path) -> str:
    """A text. Raises ResultsError if the file is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path.name!r} is no text ({first_sentence(error)}).") from error


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
    allowed = _about(missing, keys, lacking) & _matches(name, lacking.rows)
    outcome.carried[name] += int(missing[allowed].select_dtypes("number").size)
    for key in missing.index[~allowed]:
        outcome.add(name, _words(keys, key), "", "there", "missing", "a missing row")
    for key in right.index[~right.index.isin(left.index)]:
        outcome.add(name, _words(keys, key), "", "missing", "there", "a new row")
    both = left.index[left.index.isin(right.index)]
    left, right = left.loc[both], right.loc[both]
    averaged = bool(lacking.marks) and _matches(name, lacking.averages)
    for column in (c for c in reference.columns if c in found):
        _compare_column(name, column, left[column], right[column], keys, outcome, averaged)


def _compare_column(
    name: str,
    column: str,
    left: pd.Series,
    right: pd.Series,
    keys: list[str],
    outcome: Outcome,
    averaged: bool,
) -> None:
    """Values of rows that both tables have; of averages, those that differ are carried."""
    allowed = tolerance(name)
    if left.dtype.kind in "iufb" and right.dtype.kind in "iufb":
        a, b = left.to_numpy(dtype=float), right.to_numpy(dtype=float)
        wrong = np.flatnonzero(~allowed.allows(a, b))
        numbers = len(a)
    else:
        texts = [side.astype(object).where(side.notna(), "").map(str) for side in (left, right)]
        pairs = list(zip(*texts, strict=True))
        same = [_same_text(a, b, allowed) for a, b in pairs]
        wrong = np.flatnonzero(~np.array(same, dtype=bool))
        numbers = sum(len(NUMBER.findall(a)) for a, _ in pairs)
    carried = len(wrong) if averaged else 0
    outcome.carried[name] += carried
    outcome.compared[name] += numbers - carried
    for i in wrong[carried:]:
        row = _words(keys, left.index[i])
        outcome.add(name, row, column, left.iloc[i], right.iloc[i], _terms(allowed))


def compare_documents(name: str, reference: str, found: str, outcome: Outcome) -> None:
    """Add to `outcome` how two JSON documents, or two pages, compare: value by value."""
    allowed = tolerance(name)
    if not name.endswith(".json"):
        reference, found = (json.dumps(text.splitlines()) for text in (reference, found))
    try:
        left, right = (dict(_flat(json.loads(text))) for text in (reference, found))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{name!r} is no JSON ({first_sentence(error)}).") from error
    for place in left | right:
        a, b = left.get(place, "missing"), right.get(place, "missing")
        if _is_number(a) and _is_number(b):
            same = bool(allowed.allows(float(a), float(b)))
            outcome.compared[name] += 1
        else:
            same = type(a) is type(b) and _same_text(str(a), str(b), allowed)
            outcome.compared[name] += len(NUMBER.findall(a)) if isinstance(a, str) else 0
        if not same:
            outcome.add(name, place, "", a, b, _terms(allowed))


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


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _same_text(reference: str, found: str, allowed: Tolerance) -> bool:
    """Equal words, and numbers in them that are close enough."""
    if reference == found:
        return True
    if NUMBER.sub("#", reference) != NUMBER.sub("#", found):
        return False
    sides = ([_value(n) for n in NUMBER.findall(text)] for text in (reference, found))
    return bool(np.all(allowed.allows(*map(np.array, sides))))


def _value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def _words(keys: list[str], index: Any) -> str:
    """A row's keys in words; `#2` is the third row with the same ones."""
    *values, again = index if isinstance(index, tuple) else (index,)
    pairs = [f"{key} {value}" for key, value in zip(keys, values, strict=True) if value]
    return ", ".join([*pairs, f"#{again}"] if again or not pairs else pairs)


def _terms(allowed: Tolerance) -> str:
    return f"allowed: {allowed.absolute:g} + {allowed.relative:g} · |reference|"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
