"""Notebook 26: loud directions, what SAEs keep of them and what the model needs of them."""

import pandas as pd

from e2e_lib.analysis.findings.words import each, known, number, said
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS


def projections(table: pd.DataFrame) -> str:
    """How far position 0 lies from the other tokens along direction 0.

    table: `pca_direction.projection_table`.
    """
    first = table["kind"] == "position 0"
    own, rest = table.loc[first, "projection"], table.loc[~first, "projection"]
    if own.empty or len(rest) < 2 or not rest.std() > 0:
        return "not said: there are no tokens at position 0, or none after it that differ."
    away = abs(float(own.median() - rest.median())) / float(rest.std())
    apart = own.min() > rest.max() or own.max() < rest.min()
    return (
        f"the median at position 0 is {number(away)} standard deviations of all other tokens from "
        f"theirs, and the two {'do not overlap' if apart else 'overlap'}."
    )


def elements(points: pd.DataFrame) -> str:
    """How far the elements of each objective point along direction 0, both ways."""
    parts = []
    for name in OBJECTIVES:
        own = points.loc[points["objective"] == name, "cosine"].astype(float)
        ends = " to ".join(number(own.quantile(q)) for q in (0.01, 0.99)) if len(own) else ""
        parts.append(f"{LABELS[name]} {ends or 'not measured'}")
    return f"cosine with direction 0, from the 1st to the 99th percentile: {', '.join(parts)}."


def kept(table: pd.DataFrame) -> str:
    """Correlation of input and output along direction 0. table: `correlation_table`."""
    zero = table[table["direction"] == 0]
    least = []
    for name in OBJECTIVES:
        own = table[(table["objective"] == name) & table["value"].notna()]
        if len(own):
            least.append(f"{LABELS[name]} {own.loc[own['value'].idxmin(), 'direction']}")
    return (
        f"along direction 0 input and output correlate by: {each(zero)}; the direction that each "
        f"keeps least: {', '.join(least) or 'not measured'}."
    )


def needed(table: pd.DataFrame) -> str:
    """Where direction 0 stands among the others by the harm of its ablation."""
    ranked = table.dropna(subset=["kl"]).sort_values("kl", ignore_index=True)
    zero = ranked[ranked["direction"] == 0]
    if zero.empty or not known(float(zero["kl"].iloc[0])):
        return "not said: the harm along direction 0 is not known."
    row, least, most = zero.iloc[0], ranked.iloc[0], ranked.iloc[-1]
    harm = said(row["kl"], row["kl_low"], row["kl_high"])
    return (
        f"resampling direction 0 does {harm} nats of harm, "
        f"number {len(ranked) - int(zero.index[0])} of {len(ranked)}; the least, direction "
        f"{least['direction']:.0f}, {number(least['kl'])}, the most, direction "
        f"{most['direction']:.0f}, {number(most['kl'])}."
    )
