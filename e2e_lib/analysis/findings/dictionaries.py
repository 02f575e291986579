"""Notebooks 23 and 24: how alike dictionary elements are, and where one dictionary is alone."""

import numpy as np
import pandas as pd

from e2e_lib.analysis.findings.words import each, listed, number, percent, said, seeds
from e2e_lib.analysis.matched import middle_layer
from e2e_lib.analysis.statistics import mean_differences
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS


def similarity(table: pd.DataFrame, pair: tuple[str, str] = ("local", "e2e")) -> str:
    """Mean largest cosines at the middle layer, and the difference of a pair of objectives.

    table: as for `mean_differences`.
    """
    layer = middle_layer(table)
    own = table[table["layer"] == layer]
    means = own.groupby(["objective", "seed"])["max_cosine"].mean().groupby("objective").mean()
    names = [name for name in OBJECTIVES if name in means or name != "local"]
    values = each(means.rename("value").reset_index(), names=names)
    first, second = (LABELS[name] for name in pair)
    gap = mean_differences(own, [pair])
    difference = f"{first} − {second} not measured"
    if len(gap):
        row = gap.iloc[0]
        difference = f"{first} − {second} {said(row['value'], row['low'], row['high'])}"
    return f"mean largest cosine at layer {layer}: {values}; {difference}{seeds(gap)}."


def trends(means: pd.DataFrame) -> str:
    """Range of the runs' mean cosines at the middle layer, an objective at a time."""
    layer, parts = middle_layer(means), []
    for name in OBJECTIVES:
        own = means[(means["layer"] == layer) & (means["objective"] == name)]["mean_max_cosine"]
        ends = listed(number(end) for end in (own.min(), own.max())).replace(" and ", " to ")
        parts.append(f"{LABELS[name]} {ends if len(own) else 'not measured'}")
    return f"over all λ and seeds of layer {layer} the mean goes: {', '.join(parts)}."


def maps(points: pd.DataFrame) -> str:
    """Share of the elements that lie in regions of one dictionary. points: `pair_maps`."""
    layer, parts = middle_layer(points), []
    for pair, own in points[points["layer"] == layer].groupby("pair", sort=False):
        names = listed(LABELS[name] for name in str(pair).split(" - "))
        inside = own["region"] > 0
        parts.append(
            f"{percent(float(inside.mean()))} of the {len(own):,} elements of {names} "
            f"(regions: {own.loc[inside, 'region'].nunique()})"
        )
    return f"in regions that one of two dictionaries has for its own lie at layer {layer}: " + (
        f"{', '.join(parts)}."
    )


def regions(counts: pd.DataFrame) -> str:
    """The largest region. counts: `region_table`."""
    size = (counts["n_first"] + counts["n_second"]).dropna()
    if size.empty:
        return "no region was found."
    row = counts.loc[size.idxmax()]
    own = row["share_first"], row["overall_share"]
    if row["objective"] != str(row["pair"]).split(" - ")[0]:
        own = 1 - own[0], 1 - own[1]
    parts = [f"{n} of {LABELS[name]}" for name, n in counts["objective"].value_counts().items()]
    return (
        f"{len(counts)} regions ({', '.join(parts)}); the largest has {size.max():,} elements at "
        f"layer {row['layer']}, {percent(own[0])} of them {LABELS[row['objective']]}'s, which has "
        f"{percent(own[1])} of all."
    )


def moved(table: pd.DataFrame) -> str:
    """Share of alive elements of a warm start that hardly moved. table: `geometry.moved`."""
    parts = []
    for name, own in table[table["cosine"].notna()].groupby("objective"):
        near = (own["cosine"] > 0.9).groupby(own["train_tokens"]).mean()
        at = [f"{percent(float(share))} after {tokens:,} tokens" for tokens, share in near.items()]
        parts.append(f"{LABELS[str(name)]} {at[0]}" + (f", {at[-1]}" if len(at) > 1 else ""))
    return "share of alive elements within a cosine of 0.9 of their start: " + (
        f"{'; '.join(parts) or 'not measured'}."
    )


def agreement(gain: pd.DataFrame) -> str:
    """By how much a local start makes seeds agree more. gain: `geometry.agreement_gain`."""
    known = gain[np.isfinite(gain["difference"].astype(float))] if len(gain) else gain
    known = known.assign(tokens=known["start"].str.replace(r"\D", "", regex=True).astype(int))
    longest = known[known["tokens"] == known.groupby("objective")["tokens"].transform("max")]
    parts = [
        f"{LABELS[row.objective]} {said(row.difference, row.low, row.high)} "
        f"(after {row.tokens:,} tokens)"
        for row in longest.itertuples()
    ]
    if not parts:
        return "no warm start has a run from scratch beside it in two seeds."
    return f"mean largest cosine with another seed, warm start − from scratch: {', '.join(parts)}."
