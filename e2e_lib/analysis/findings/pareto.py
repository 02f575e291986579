"""Notebooks 20 and 90: how far apart the curves lie, and which claims hold."""

import pandas as pd

from e2e_lib.analysis.findings.words import E2E_TYPES, counted, each, number, said, seeds
from e2e_lib.plots.style import LABELS

AT_L0, AT_CE = "CE increase at equal L0", "L0 at equal CE increase"
NONE = "the curves cannot be compared: {}"


def _over_local(ratios: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows that compare an end-to-end objective with local, those with a value."""
    with_local = (ratios[["objective", "reference"]] == "local").any(axis=1)
    return ratios[with_local & (ratios["quantity"] == quantity) & ratios["value"].notna()]


def _reason(ratios: pd.DataFrame) -> str:
    notes = [str(note) for note in ratios["note"] if note == note and note] if len(ratios) else []
    return NONE.format(notes[0] if notes else "no layer has all three objectives") + "."


def at_layer(ratios: pd.DataFrame, layer: int) -> str:
    """CE increase at equal L0 and L0 at equal CE increase, at one layer.

    ratios: `pareto.summary_ratios`.
    """
    own = ratios[ratios["layer"] == layer] if len(ratios) else ratios
    if own.empty:
        return _reason(own)
    at_l0, at_ce = (_over_local(own, quantity) for quantity in (AT_L0, AT_CE))
    if at_l0.empty and at_ce.empty:
        return _reason(own)
    over_l0, over_ce = (each(part, key="compared", names=E2E_TYPES) for part in (at_l0, at_ce))
    first = at_l0.iloc[0] if len(at_l0) else None
    ends = "" if first is None else f" of {window(first)}"
    return (
        f"at layer {layer} and an equal L0{ends}, the CE increase over local's is "
        f"{over_l0}; at equal CE increase local's L0 over theirs is "
        f"{over_ce}{seeds(own)}."
    )


def window(row: pd.Series) -> str:
    """The range in which two curves were compared."""
    return " to ".join(number(row[f"window_{end}"]) for end in ("low", "high"))


def by_layer(ratios: pd.DataFrame) -> str:
    """CE increase over local's at equal L0, at every layer; a ratio of points that were chosen by
    their noise (`left_out` above 0) is none."""
    found = _over_local(ratios, AT_L0) if len(ratios) else ratios
    if found.empty:
        return _reason(ratios)
    parts = []
    for name in E2E_TYPES:
        own = found[found["compared"] == name]
        at = [
            f"{said(row.value, row.low, row.high) if row.left_out == 0 else 'not known'} at layer "
            f"{row.layer}"
            for row in own.itertuples()
        ]
        parts.append(f"{LABELS[name]} {', '.join(at) or 'not measured'}")
    return f"CE increase over local's at equal L0: {'; '.join(parts)}{seeds(found)}."


def intervals(ratios: pd.DataFrame) -> str:
    """How many intervals lie beyond 1, and how many beyond what the paper says."""
    at_l0, at_ce = (_over_local(ratios, quantity) for quantity in (AT_L0, AT_CE))
    if at_l0.empty and at_ce.empty:
        return _reason(ratios)
    below = [int((at_l0["high"] < bound).sum()) for bound in (1, 0.45)]
    above = [int((at_ce["low"] > bound).sum()) for bound in (1, 2)]
    return (
        f"{counted(below[0], len(at_l0), 'intervals')} of the CE increase at equal L0 lie below 1, "
        f"{below[1]} below the paper's 0.45; {counted(above[0], len(at_ce), 'intervals')} of "
        f"local's L0 at equal CE increase lie above 1, {above[1]} above 2{seeds(ratios)}."
    )


def claims(frame: pd.DataFrame) -> str:
    """How many claims have each verdict. frame: `claims.verdicts.claims_frame`."""
    counts = frame["verdict"].value_counts()
    return f"of {len(frame)} rows " + ", ".join(f"{n} {word}" for word, n in counts.items()) + "."
