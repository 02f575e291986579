"""Notebooks 40 to 42: what the network uses, and what SAEs keep of it."""

import numpy as np
import pandas as pd

from e2e_lib.analysis.findings.words import each, listed, number, percent, seeds
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS

MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}
MEASURES = {
    "carried_function": "carried function S",
    "selectivity": "selectivity",
    "waste_l0": "waste of L0",
}


def kinds(table: pd.DataFrame) -> str:
    """How many kinds are used, and which unused one is loudest. table: one layer of `use_table`."""
    counts = table["verdict"].value_counts()
    unused = table[(table["verdict"] == "unused") & table["presence"].notna()]
    loudest = "no kind is unused"
    if len(unused):
        row = unused.loc[unused["presence"].idxmax()]
        loudest = (
            f"the loudest unused one, {row['kind']}, has presence {number(row['presence'])} and "
            f"use {number(row['use'])} nats"
        )
    words = (f"{counts.get(word, 0)} {word}" for word in ("used", "undecided", "unused"))
    return f"of {len(table)} kinds of decision {listed(words)}; {loudest}."


def by_layer(table: pd.DataFrame) -> str:
    """Used kinds at the first and the last layer."""
    used = table[table["verdict"] == "used"].groupby("layer").size()
    layers = sorted(table["layer"].unique())
    total = table["kind"].nunique()
    parts = [f"{used.get(layer, 0)} at block {layer}" for layer in layers]
    return f"of {total} kinds, used where they first show: {', '.join(parts)}."


def measures(summary: pd.DataFrame, layer: int) -> str:
    """S, selectivity and waste at one layer. summary: `scale.over_seeds`."""
    own = summary[summary["layer"] == layer].replace([np.inf, -np.inf], np.nan)
    parts: list[str] = []
    for match, words in MATCHES.items():
        if parts:  # at similar CE, where there is such a match
            break
        for measure, name in MEASURES.items():
            rows = own[(own["match"] == match) & (own["measure"] == measure)]
            if rows["value"].notna().any():
                parts.append(f"{name} at {words}: {each(rows)}")
    if not parts:
        return f"not said: at layer {layer} no measure is known."
    return f"layer {layer}; {'; '.join(parts)}{seeds(own)}."


def loudness(summary: pd.DataFrame) -> str:
    """CE increase at equal L0 at the loudest channel over that without one."""
    own = summary[(summary["match"] == "l0") & (summary["quantity"] == "ce_increase")]
    own = own[(own["layer"] == own["layer"].min()) & own["value"].notna()]
    if "sparsifier" in own:  # of several ReLU's, as in the paper
        kinds = list(own["sparsifier"].unique())
        own = own[own["sparsifier"] == ("relu" if "relu" in kinds else [*kinds, ""][0])]
    own = own.drop_duplicates(["objective", "unused"])
    if own.empty or own["unused"].nunique() < 2:
        return "not said: the curves share no L0 at two scales of the channel."
    loudest, parts = own["unused"].max(), []
    for name in OBJECTIVES:
        values = own[own["objective"] == name].set_index("unused")["value"]
        quiet = values.get(values.index.min()) if len(values) > 1 else None
        known = quiet and loudest in values.index
        parts.append(
            f"{LABELS[name]} {number(values[loudest] / quiet)}" if known
            else f"{LABELS[name]} not measured"
        )  # fmt: skip
    return (
        f"with {percent(float(loudest))} of the variance unused, CE increase at equal L0 over that "
        f"without a channel: {', '.join(parts)}{seeds(own)}."
    )
