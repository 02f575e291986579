"""Numbers in sentences: as many digits as their interval allows, and a word where there is none."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import pandas as pd

from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS

NO_NUMBER = math.nan
E2E_TYPES = OBJECTIVES[1:]
ONE_SEED = "; one seed: another training may differ"


def known(value: Any) -> bool:
    """Whether it is a finite number.

    >>> known(0.1), known(float("nan")), known(None), known("0.1")
    (True, False, False, False)
    """
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any, low: Any = NO_NUMBER, high: Any = NO_NUMBER) -> str:
    """A number at the digits that half its interval allows; without one, at three.

    >>> number(0.41234, 0.381, 0.442), number(0.41234), number(1234.5), number(-0.2, -0.25, -0.15)
    ('0.41', '0.412', '1,234', '−0.20')
    """
    if not known(value):
        return "not measured"
    half = abs(high - low) / 2 if known(low) and known(high) else 0.0
    if half > 0:
        places = min(6, max(0, -math.floor(math.log10(half / 3))))
    elif value and abs(value) < 1000:
        places = min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
    else:
        places = 0
    text = f"{value:,.{places}f}"
    text = text if half > 0 or "." not in text else text.rstrip("0").rstrip(".")
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


def said(value: Any, low: Any = NO_NUMBER, high: Any = NO_NUMBER) -> str:
    """A number and its interval, where it has one.

    >>> said(0.41234, 0.381, 0.442), said(0.41234)
    ('0.41 (0.38 to 0.44)', '0.412')
    """
    if not (known(value) and known(low) and known(high)):
        return number(value)
    ends = (number(end, low, high) if high > low else number(end) for end in (low, high))
    return f"{number(value, low, high)} ({' to '.join(ends)})"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """For reading: value, low and high as one column of text, at the digits of each row's interval.

    >>> readable(pd.DataFrame({"layer": [2], "value": [0.41234], "low": [0.381], "high": [0.442]}))
       layer               value
    0      2 0.41 (0.38 to 0.44)
    """
    if not {"value", "low", "high"} <= set(table):
        return table
    columns = (table[name] for name in ("value", "low", "high"))
    text = [said(*map(as_number, row)) for row in zip(*columns, strict=True)]
    return table.assign(value=text).drop(columns=["low", "high"])


def each(
    table: pd.DataFrame,
    value: str = "value",
    ends: str = "{}",
    key: str = "objective",
    names: Sequence[str] = OBJECTIVES,
) -> str:
    """The objectives' values with their intervals, also which of them have none.

    table: a row an objective; ends: names of the columns of its interval, as for `error_of`.

    >>> each(pd.DataFrame({"objective": ["local", "e2e"], "value": [1.5, None]}))
    'local 1.5, e2e not measured, e2e+ds not measured'
    """
    parts = []
    for name in names:
        found = table[table[key] == name]
        row = found.iloc[0].to_dict() if len(found) else {}
        low, high = (float(row.get(ends.format(end), NO_NUMBER)) for end in ("low", "high"))
        parts.append(f"{LABELS[name]} {said(as_number(row.get(value)), low, high)}")
    return ", ".join(parts)


def as_number(value: object) -> float:
    """NaN for what is none."""
    return float(value) if isinstance(value, Real) else NO_NUMBER


def seeds(table: pd.DataFrame) -> str:
    """What to add where numbers come from one training seed; nothing where it is not known."""
    column = "n_seeds" if "n_seeds" in table else "seed" if "seed" in table else ""
    if not column or table.empty:
        return ""
    most = table[column].max() if column == "n_seeds" else table[column].nunique()
    return ONE_SEED if most <= 1 else ""


def alone(table: pd.DataFrame, value: str = "value") -> str:
    """What to add to a caption: how many of its points rest on one training seed, if any do.

    >>> alone(pd.DataFrame({"value": [0.5, 0.7, None], "n_seeds": [1, 3, 1]}))
    ' 1 of 2 points rests on one seed: another training may differ.'
    """
    if not len(table):
        return ""
    own = table.dropna(subset=[value])
    few = int((own["n_seeds"] <= 1).sum())
    verb = "rests" if few == 1 else "rest"
    return (
        f" {counted(few, len(own), 'points')} {verb} on one seed: another training may differ."
        if few
        else ""
    )


def listed(parts: Iterable[str], nothing: str = "none") -> str:
    """
    >>> listed(["a", "b", "c"]), listed([])
    ('a, b and c', 'none')
    """
    *first, last = [*parts] or [nothing]
    return f"{', '.join(first)} and {last}" if first else last


def counted(n: int, of: int, what: str) -> str:
    """
    >>> counted(2, 6, "intervals")
    '2 of 6 intervals'
    """
    return f"{n} of {of} {what}"


def percent(share: Any) -> str:
    """
    >>> percent(0.123), percent(0.004), percent(float("nan"))
    ('12 %', '0.4 %', 'not measured')
    """
    if not known(share):
        return "not measured"
    return f"{100 * share:.0f} %" if not share or abs(share) >= 0.01 else f"{100 * share:.1g} %"
