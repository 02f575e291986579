"""What is wrong with an SAE at a glance: flags on the table of runs."""

import pandas as pd

DEAD_BELOW = 0.1  # share of latents that fire on held-out text
DEAD, DENSE, UNKNOWN = "dead dictionary", "L0 beyond d_model", "loss unknown"


def flagged(table: pd.DataFrame, dead_below: float = DEAD_BELOW) -> pd.DataFrame:
    """`table` (of `runs.metrics_table`) with a last column `flags`, empty for a sound SAE.

    - dead dictionary: fewer than `dead_below` of its latents fire on any held-out token;
    - L0 beyond d_model: more latents fire on a token than the activation has dimensions (`d_in`),
      so that the code is no sparse one: the activation itself would be shorter;
    - loss unknown: the CE increase is no finite number.

    Several are joined by "; ". A table without `d_in`, of which older folders have some, is not
    checked for the second.
    """
    width = table["d_in"] if "d_in" in table else pd.Series(float("nan"), table.index)
    ce = table["ce_increase"].astype(float)
    found = {
        DEAD: table["alive"].astype(float) < dead_below * table["d_sae"],
        DENSE: table["l0"].astype(float) > width.astype(float),
        UNKNOWN: ~ce.between(-float("inf"), float("inf"), inclusive="neither"),
    }
    names = [
        "; ".join(name for name, wrong in zip(found, row, strict=True) if wrong)
        for row in zip(*found.values(), strict=True)
    ]
    return table.assign(flags=pd.Series(names, table.index, dtype=str))
