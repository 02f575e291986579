"""Notebooks 40 to 43: what the network uses, what SAEs keep of it, and what decides that."""

import numpy as np
import pandas as pd

from e2e_lib.analysis.counterfactual.scale import HIGHER
from e2e_lib.analysis.findings.words import each, listed, number, percent, said, seeds
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS, SPARSIFIERS

MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}
MEASURES = {
    "carried_function": "carried function S",
    "selectivity": "selectivity",
    "waste_l0": "waste of L0",
}

COSTS = (
    ("l0", "ce_increase", "CE increase at equal L0"),
    ("ce_increase", "l0", "L0 at equal CE increase"),
)


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
    """S, selectivity and waste at one layer, and who is no better than the best floor. summary:
    `scale.over_seeds`."""
    own = summary[summary["layer"] == layer].replace([np.inf, -np.inf], np.nan)
    parts: list[str] = []
    for match, words in MATCHES.items():
        if parts:  # at similar CE, where there is such a match
            break
        for measure, name in MEASURES.items():
            rows = own[(own["match"] == match) & (own["measure"] == measure)]
            if rows["value"].notna().any():
                parts.append(f"{name} at {words}: {each(rows)}{_floor(rows, measure)}")
    if not parts:
        return f"not said: at layer {layer} no measure is known."
    return f"layer {layer}; {'; '.join(parts)}{seeds(own)}."


def _floor(rows: pd.DataFrame, measure: str) -> str:
    """The best floor, and the objectives that are no better. rows: of one match and measure."""
    own = rows[rows["value"].notna() & rows["floor"].notna()] if "floor" in rows else rows.head(0)
    if own.empty:
        return ""
    sign = 1 if measure in HIGHER else -1
    below = own.loc[sign * own["value"] <= sign * own["floor"], "objective"]
    floor = f" (best floor {number(float(own['floor'].mean()))}"
    return floor + (f"; no better: {listed(LABELS[n] for n in below)})" if len(below) else ")")


def loudness(summary: pd.DataFrame) -> str:
    """CE increase at equal L0 at the loudest channel over that without one, or L0 at equal CE
    increase where the curves share no L0; and what of L0 the channel takes."""
    summary = summary[summary["layer"] == summary["layer"].min()]
    if "sparsifier" in summary:  # of several ReLU's, as in the paper
        kinds = list(summary["sparsifier"].unique())
        summary = summary[summary["sparsifier"] == ("relu" if "relu" in kinds else [*kinds, ""][0])]
    known = summary[summary["value"].notna()]
    found = {
        words: known[(known["match"] == match) & known["quantity"].isin([quantity, "wasted_l0"])]
        for match, quantity, words in COSTS
    }
    found = {words: there for words, there in found.items() if len(there["unused"].unique()) > 1}
    if not found:
        return "not said: the curves share no L0 and no CE increase at two scales of the channel."
    words, there = next(iter(found.items()))
    own = there[there["quantity"] != "wasted_l0"].drop_duplicates(["objective", "unused"])
    loudest, parts = own["unused"].max(), []
    for name in OBJECTIVES:
        values = own[own["objective"] == name].set_index("unused")["value"]
        quiet = values.get(values.index.min()) if len(values) > 1 else None
        parts.append(
            f"{LABELS[name]} {number(values[loudest] / quiet)}" if quiet and loudest in values.index
            else f"{LABELS[name]} not measured"
        )  # fmt: skip
    wasted = there[(there["quantity"] == "wasted_l0") & (there["unused"] == loudest)]
    shares = wasted.drop_duplicates("objective").set_index("objective")["value"]
    taken = [f"{LABELS[name]} {percent(shares[name])}" for name in OBJECTIVES if name in shares]
    return (
        f"with {percent(float(loudest))} of the variance unused, {words} over that "
        f"without a channel: {', '.join(parts)}"
        + (f"; of L0 the channel takes: {', '.join(taken)}" if taken else "")
        + f"{seeds(own)}."
    )


def matters(which: pd.DataFrame) -> str:
    """Whether the objective or the sparsifier matters more. which: `answers.ranges`."""
    known = which[which["value"].notna()]
    if known.empty:
        return "not said: no two objectives and two sparsifiers have a KL at one L0."
    row = known.iloc[-1]  # of all L0, behind those of each
    at = listed(f"{level:g}" for level in which["at"] if level != "all")
    difference = said(row["value"], row["low"], row["high"])
    return (
        f"at L0 {at}, KL differs by a factor of {number(row['objective_range'])} between "
        f"objectives and of {number(row['sparsifier_range'])} between sparsifiers; the logarithms "
        f"differ by {difference}, so that the objective matters more: {row['verdict']}"
        f"{seeds(known.tail(1))}."
    )


def short_tuning(tuned: pd.DataFrame) -> str:
    """How far a short fine-tuning comes, without a channel and beside the loudest.

    tuned: `answers.fine_tuning`; e2e is what it is compared with, where that is there.
    """
    known = tuned[tuned["value"].notna() & (tuned["objective"] == "finetune")]
    known = known[known["against"] == ("e2e" if "e2e" in set(known["against"]) else "e2e_ds")]
    parts = []
    for unused, own in known.groupby("unused"):
        if unused in (known["unused"].min(), known["unused"].max()):
            values = (
                f"{SPARSIFIERS[row['sparsifier']]} {said(row['value'], row['low'], row['high'])} "
                f"({row['verdict']})"
                for _, row in own.iterrows()
            )
            parts.append(f"with {percent(unused)} unused {', '.join(values)}")
    if not parts:
        return "not said: no SAE was fine-tuned beside a whole end-to-end training."
    return (
        f"a fine-tuning on {percent(known['tokens'].mean())} of the tokens, CE increase over "
        f"{LABELS[known['against'].iloc[0]]}'s and whether that is all one needs: "
        f"{'; '.join(parts)}{seeds(known)}."
    )
