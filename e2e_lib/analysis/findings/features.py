"""Notebooks 28 and 29: features in words, true latents, and agreement of verbs."""

import pandas as pd

from e2e_lib.analysis.findings.words import ONE_SEED, each, known, listed, number, seeds
from e2e_lib.analysis.matched import middle_layer
from e2e_lib.analysis.statistics import grouped_means
from e2e_lib.names import OBJECTIVES
from e2e_lib.plots.style import LABELS

SYNONYM = "one synonym"
MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}


def scores(scored: pd.DataFrame) -> str:
    """Mean scores at the middle layer, for both matches. scored: one row a feature."""
    layer = middle_layer(scored)
    means = grouped_means(scored[scored["layer"] == layer], "score", ["match", "objective"])
    parts = [
        f"at {words} {each(means[means['match'] == match])}"
        for match, words in MATCHES.items()
        if match in set(means["match"])
    ]
    return f"mean score at layer {layer}: {'; '.join(parts) or 'not measured'}{seeds(scored)}."


def power(shares: pd.DataFrame) -> str:
    """What the share of features that tell two synonyms apart can decide, and whether it can.

    shares: `ground_truth.kind_shares`, rows of the kind "one synonym" and others.
    """
    own = shares[shares["kind"] == SYNONYM] if len(shares) else shares
    if own.empty or not own["value"].notna().any():
        return "not said: no feature was held against the synonyms."
    if not own["value"].max() > 0:
        n = int(own["n"].sum()) if "n" in own else 0
        of = f" of {n:,}" if n else ""
        return (
            f"no feature{of} tells a synonym from its other form, with any objective: the "
            "comparison has no power, and says nothing for or against one."
        )
    values = each(own.assign(**{c: 100 * own[c] for c in ("value", "low", "high")}))
    overlap = own["low"].max() <= own["high"].min()
    return (
        f"features that tell a synonym from its other form, in per cent: {values}; the intervals "
        f"{'overlap' if overlap else 'lie apart'}."
    )


def latents(matches: pd.DataFrame, shares: pd.DataFrame) -> str:
    """Mean F1 at the middle layer, and the synonyms at all of them."""
    layer = middle_layer(matches)
    means = grouped_means(matches[matches["layer"] == layer], "f1", ["objective"])
    means = means.assign(objective=[name[0] if isinstance(name, tuple) else name for name in
                                    means["objective"]])  # fmt: skip
    layers = listed(str(one) for one in sorted(matches["layer"].unique()))
    return (
        f"mean F1 at layer {layer}: {each(means)}{seeds(matches)}; of layers {layers} together: "
        f"{power(shares)}"
    )


def faithfulness(differences: pd.DataFrame, layer: int) -> str:
    """Which objective stays closest to the clean model over all tasks, at one layer.

    differences: `agreement.tables.difference_table`.
    """
    own = differences[(differences["layer"] == layer) & (differences["task"] == "all")]
    own = own[own["value"].notna()]
    parts = []
    for row in own.itertuples():
        first, second = LABELS[row.first], LABELS[row.second]
        if not (known(row.low) and known(row.high)) or row.low <= 0 <= row.high:
            said = f"{first} and {second} not told apart"
        else:
            nearer, farther = (first, second) if row.value > 0 else (second, first)
            said = f"{nearer} nearer than {farther} by {number(abs(row.value), row.low, row.high)}"
        parts.append(f"{said} ({MATCHES.get(row.match, row.match)})")
    if not parts:
        return f"not said: at layer {layer} no two objectives share a seed and a task."
    where = f"distance of m from the clean model's, all tasks, layer {layer}"
    return f"{where}: {', '.join(parts)}{seeds(own)}."


def needed(table: pd.DataFrame) -> str:
    """Features for a faithfulness of 0.8, a median over tasks. table: `needed_table`."""
    parts = []
    for name in OBJECTIVES:
        own = table[table["objective"] == name]
        reached = own["needed_paper"].dropna()
        middle = number(float(reached.median())) if len(reached) else "not reached"
        tasks = f" ({len(reached)} of {len(own)} tasks reach it)" if len(reached) < len(own) else ""
        parts.append(f"{LABELS[name]} {middle + tasks if len(own) else 'not measured'}")
    return f"features for a faithfulness of 0.8, median over tasks: {', '.join(parts)}{ONE_SEED}."
