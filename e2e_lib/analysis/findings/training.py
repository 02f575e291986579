"""Notebooks 27 and 30: what hyperparameters and seeds change, and what training costs."""

from typing import Any

import pandas as pd

from e2e_lib.analysis.findings.words import E2E_TYPES, each, known, number, percent, said, seeds
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS

AT_L0 = "CE increase at equal L0"
SETTINGS = {
    "lr": "a learning rate of {}",
    "dict_ratio": "{} elements a dimension",
    "train_tokens": "{} tokens",
    "downstream_coeff": "β {}",
}


def _setting(column: str, value: Any) -> str:
    text = f"{value:,.0f}" if column == "train_tokens" else f"{value:g}"
    return SETTINGS.get(column, column + " {}").format(text)


def sweep(ratios: pd.DataFrame, column: str) -> str:
    """The setting with the least CE increase at equal L0, an objective at a time.

    ratios: `sweeps.sweep_ratios` of any columns.
    """
    if ratios.empty or "column" not in ratios:
        return "not said: no setting has two λ for a curve."
    of_column = (ratios["column"] == column) & (ratios["quantity"] == AT_L0)
    own = ratios[of_column & ratios["value"].notna()]
    if own.empty:
        return "not said: no setting shares a range of L0 with the main runs."
    parts, alike = [], len(set(own["main"])) == 1  # rates may be each objective's own
    for (layer, name), part in own.groupby(["layer", "objective"]):
        row = part.loc[part["value"].idxmin()]
        where = f" at layer {layer}" * (len(set(own["layer"])) > 1)
        in_place = f" in place of {row['main']:g}"
        parts.append(
            f"{LABELS[str(name)]}{where} {said(row['value'], row['low'], row['high'])} with "
            f"{_setting(column, row['setting'])}{in_place * (not alike)}"
        )
    usual = f" ({_setting(column, own['main'].iloc[0])})" * alike
    found = f"{usual}: {', '.join(parts)}{seeds(own)}."
    return f"least CE increase at equal L0, over the main runs'{found}"


def largest_change(ratios: pd.DataFrame) -> str:
    """The setting that moves CE increase at equal L0 furthest from the main runs', up and down."""
    own = ratios[(ratios["quantity"] == AT_L0) & (ratios["value"] > 0)] if len(ratios) else ratios
    if own.empty:
        return "not said: no setting shares a range of L0 with the main runs."
    parts = []
    for row in (own.loc[own["value"].idxmin()], own.loc[own["value"].idxmax()]):
        parts.append(
            f"{said(row['value'], row['low'], row['high'])} ({LABELS[row['objective']]}, "
            f"{_setting(row['column'], row['setting'])})"
        )
    return (
        f"CE increase at equal L0 over the main runs' goes from {' to '.join(parts)}{seeds(own)}."
    )


def convergence(moves: pd.DataFrame, at_most: float) -> str:
    """How many summary ratios have come to rest. moves: `sweeps.summaries_by_tokens`."""
    keys = ["layer", "quantity", "objective", "reference"]
    known = moves[moves["train_tokens"].notna()]
    last = known.sort_values("train_tokens").groupby(keys).tail(1)
    if last.empty:
        return "not said: no ratio is known at any number of training tokens."
    rest = int((last["moved"].abs() <= at_most).sum())
    far = last.loc[last["moved"].abs().idxmax()] if last["moved"].notna().any() else None
    most = ""
    if far is not None:
        most = (
            f"; most moves {far['quantity']}, {LABELS[far['objective']]} over "
            f"{LABELS[far['reference']]}, by {percent(float(far['moved'])).replace('-', '−')}"
        )
    return (
        f"at {last['train_tokens'].max():,} tokens {rest} of {len(last)} ratios move by at most "
        f"{at_most:.0%} per doubling{most}{seeds(last)}."
    )


def gap(gaps: pd.DataFrame) -> str:
    """e2e over local at the most tokens and in the largest dictionary. gaps: `gap_to_e2e`."""
    parts = []
    for column, own in gaps.dropna(subset=["value"]).groupby("column", sort=False):
        at = own[own["setting"] == own["setting"].max()]
        main, equal = (at[at["against"] == kind] for kind in ("main", "equal"))
        for rows, against in ((main, "e2e's main runs"), (equal, "e2e with the same")):
            if len(rows):
                row = rows.iloc[0]
                value = said(row["value"], row["low"], row["high"])
                parts.append(f"{_setting(str(column), row['setting'])}, {against}, {value}")
    if not parts:
        return "not said: local's curve shares no range of L0 with e2e's."
    return (
        f"CE increase of e2e over local's at equal L0: local with {'; '.join(parts)}{seeds(gaps)}."
    )


def seed_spread(spread: pd.DataFrame) -> str:
    """Largest standard deviation over seeds, as a share. spread: `sweeps.seed_spread`."""
    own = spread[(spread["metric"] == "ce_increase") & spread["spread"].notna()]
    if own.empty:
        return "not said: no λ has two seeds."
    least, most = own.loc[own["spread"].idxmin()], own.loc[own["spread"].idxmax()]
    ends = [
        f"{percent(float(row['spread']))} ({LABELS[row['objective']]}, layer {row['layer']})"
        for row in (least, most)
    ]
    return f"one standard deviation over seeds is {' to '.join(ends)} of the CE increase."


def alive(trends: pd.DataFrame) -> str:
    """Rank correlations of alive elements with the gradient norm. trends: `alive_trends`."""
    own = trends[(trends["against"] == "grad_norm") & trends["correlation"].notna()]
    if own.empty:
        return "not said: no layer and objective has three runs that differ."
    parts = []
    for name in OBJECTIVES:
        values = own.loc[own["objective"] == name, "correlation"]
        ends = (
            " to ".join(number(end) for end in (values.min(), values.max())) if len(values) else ""
        )
        parts.append(f"{LABELS[name]} {ends or 'not measured'}")
    return f"rank correlation of alive elements and gradient norm, over layers: {', '.join(parts)}."


def cost(table: pd.DataFrame) -> str:
    """Seconds a token over local's, a layer at a time; where an interval reaches below 0, which no
    ratio can, that the seconds tell of the machine. table: `sweeps.training_cost`."""
    parts = [
        f"at layer {layer} {each(own, 'ratio', names=E2E_TYPES)}"
        for layer, own in table.groupby("layer")
    ]
    below = sorted(table.loc[table["low"] < 0, "layer"].unique())
    busy = (
        f"; the machine was not always as busy at layer {' and '.join(map(str, below))}, where an "
        "interval reaches below 0, which no ratio can"
    )
    return f"seconds a token over local's: {'; '.join(parts)}{busy * bool(below)}{seeds(table)}."


def ways(table: pd.DataFrame) -> str:
    """Of each cheaper way, the setting with the least CE increase. table: `cost_quality`."""
    parts = []
    for (way, name), own in table.dropna(subset=["value"]).groupby(
        ["way", "objective"], sort=False
    ):
        row = own.loc[own["value"].idxmin()]
        dear = row["seconds_share_with_start"]
        share = float(dear if known(float(dear)) else row["seconds_share"])
        value = said(row["value"], row["low"], row["high"])
        parts.append(f"{way}, {LABELS[str(name)]}: {value} for {percent(share)} of the seconds")
    if not parts:
        return "not said: no cheaper setting shares a range of L0 with the full run."
    return f"least CE increase at equal L0 over the full run's: {'; '.join(parts)}{seeds(table)}."
