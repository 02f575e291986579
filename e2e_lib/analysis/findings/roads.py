"""Notebooks 22 and 25: what happens to activations at the SAE and on the way to the output."""

from typing import Any

import numpy as np
import pandas as pd

from e2e_lib.analysis.findings.words import E2E_TYPES, each, known, number, percent, seeds
from e2e_lib.analysis.matched import last_block_ratios, middle_layer
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS


def _over_local(blocks: pd.DataFrame, layer: Any, column: str) -> pd.DataFrame:
    """Error behind the last block over local's, a row an objective, over the layer's seeds."""
    own = blocks[blocks["layer"] == layer]
    ratios = last_block_ratios(own.assign(mse=own[column]))
    rows = [(name, *seed_interval(ratios[name])) for name in E2E_TYPES if len(ratios)]
    found = pd.DataFrame(rows, columns=["objective", "value", "low", "high"])
    return found.assign(n_seeds=ratios["seed"].nunique())


def last_block(blocks: pd.DataFrame, column: str = "mse") -> str:
    """Squared error behind the last block over local's, at every layer. blocks: `block_table`."""
    parts, kinds = [], []
    for layer in sorted(blocks["layer"].unique()):
        kinds.append(_over_local(blocks, layer, column))
        parts.append(f"at layer {layer} {each(kinds[-1], names=E2E_TYPES)}")
    where = ", first position left out," if column == "mse_after_first" else ""
    return (
        f"behind the last block{where} the squared error over local's is "
        f"{'; '.join(parts)}{seeds(pd.concat(kinds))}."
    )


def alike(matched: pd.DataFrame, column: str = "ce_increase") -> str:
    """For captions: how close a triple is, as the largest of its means over seeds by the smallest.

    matched: a row a run, columns layer, objective, and what was matched, as `Study.matched` has.

    >>> runs = {"layer": 1, "objective": ["local", "local", "e2e"], "ce_increase": [0.1, 0.3, 0.1]}
    >>> alike(pd.DataFrame(runs))
    'Largest CE increase of a triple over its smallest: 2 at layer 1.'
    """
    means = matched.groupby(["layer", "objective"])[column].mean()
    parts = []
    for layer, own in means.groupby("layer"):
        factor = own.max() / own.min() if own.min() > 0 else np.nan
        parts.append(f"{number(round(factor, 2) if known(factor) else factor)} at layer {layer}")
    return f"Largest CE increase of a triple over its smallest: {', '.join(parts)}."


def explained_variance(blocks: pd.DataFrame) -> str:
    """At the SAE and behind the last block, as a ratio of sums, a mean over seeds."""
    parts = []
    for place, block in (("the SAE", "min"), ("the end", "max")):
        own = blocks[blocks["block"] == blocks["block"].agg(block)]
        values = own.groupby("objective", as_index=False)["explained_variance"].mean()
        parts.append(f"at {place} {each(values, 'explained_variance')}")
    return f"explained variance (c) {'; '.join(parts)}{seeds(blocks)}."


def norms(tokens: pd.DataFrame) -> str:
    """Median length of the output over the input's, after the first position."""
    later = tokens[tokens["position"] > 0]
    ratio = later.assign(ratio=later["output_norm"] / later["input_norm"])
    medians = ratio.groupby("objective", as_index=False)["ratio"].median()
    return f"after the first position, median length over the input's: {each(medians, 'ratio')}."


def cosine(histogram: pd.DataFrame) -> str:
    """Mean cosine of output and input, at the middle layer."""
    layer = middle_layer(histogram)
    means = histogram[histogram["layer"] == layer].drop_duplicates("objective")
    values = each(means[["objective", "mean"]], "mean")  # low and high are edges of bins
    return f"mean cosine at layer {layer}: {values}."


def norm_by_position(table: pd.DataFrame) -> str:
    """Mean norm over the clean one, at the first position and averaged over later ones."""
    layer = middle_layer(table)
    own = table[table["layer"] == layer].pivot_table("value", "position", "source")
    if "clean" not in own:
        return "not said: there is no clean activation beside the SAEs."
    over = own.div(own["clean"], axis=0)
    parts = []
    for name in OBJECTIVES:
        first, later = (
            rows[name].mean() if name in over else np.nan
            for rows in (over[over.index == 0], over[over.index > 0])
        )
        parts.append(f"{LABELS[name]} {number(first)} and {number(later)}")
    return (
        f"norm over the clean one at layer {layer}, first position and later: {', '.join(parts)}."
    )


def direction_by_position(table: pd.DataFrame) -> str:
    """How much of a direction's movement over positions an SAE passes on: where that is largest."""
    layer = middle_layer(table)
    own = table[(table["layer"] == layer) & (table["position"] > 0)]
    spread = own.pivot_table("value", "source", "direction", aggfunc="std")
    if "clean" not in spread.index or not known(float(spread.loc["clean"].max())):
        return "not said: the clean activation is not known at two positions."
    most = spread.loc["clean"].idxmax()
    shares = spread[most] / spread.loc["clean", most]
    parts = [f"{LABELS[name]} {percent(shares.get(name, np.nan))}" for name in OBJECTIVES]
    return (
        f"along direction {most}, which position moves most at layer {layer}, the spread over "
        f"later positions is, of the clean one's: {', '.join(parts)}."
    )
