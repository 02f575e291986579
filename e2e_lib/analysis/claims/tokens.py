"""Whether a claim's value has come to rest: the same measure at every number of training tokens."""

from collections.abc import Sequence

import pandas as pd

from e2e_lib.analysis.claims.ledger import CLAIMS, Claim
from e2e_lib.analysis.claims.tables import NotTestableError, Tables
from e2e_lib.analysis.matched import sweep_runs
from e2e_lib.analysis.pareto import summary_ratios


def by_tokens(
    table: pd.DataFrame, blocks: pd.DataFrame, rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """What each claim that the metrics alone decide comes to at each number of training tokens.

    table: `metrics_table`. The runs of the sweep over training tokens and the main runs beside
    them, at the same seeds and λ, so that every number is as coarse as the next. Claims that take
    weights or another notebook's tables are left out. Columns: id, train_tokens, value.
    """
    found = []
    for tokens, own in sweep_runs(table, "train_tokens").groupby("train_tokens"):
        written = {"summary_ratio": summary_ratios(own, rows, resamples=1)}
        tables = Tables(own, blocks, rows, written)
        for claim in claims:
            try:
                found.append((claim.id, tokens, claim.measure(tables).value))
            except NotTestableError:
                continue
    known = pd.DataFrame(found, columns=["id", "train_tokens", "value"])
    return known.dropna(subset=["value"]).reset_index(drop=True)
