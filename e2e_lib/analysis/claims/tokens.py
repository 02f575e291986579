"""Whether a claim's value has come to rest: the same measure at other numbers of training tokens.

Metrics alone give it for a sweep over them. What takes weights or another notebook's tables is
known where all analyses ran on a second folder, of the same study trained on more tokens, and
`keep_longer` has noted its ledger in the first.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from e2e_lib.analysis.claims.ledger import CLAIMS, Claim
from e2e_lib.analysis.claims.tables import NotTestableError, Tables
from e2e_lib.analysis.matched import main_runs, middle_layer, sweep_runs
from e2e_lib.analysis.pareto import summary_ratios
from e2e_lib.errors import ResultsError, require, reworded
from e2e_lib.files import shown_path, write_json
from e2e_lib.runs.tables import metrics_table

LONGER = "longer.json"


class Longer(NamedTuple):
    """A ledger of the same study on more training tokens."""

    own_tokens: float  # of the folder's main runs
    tokens: float  # of the other's
    found: Mapping[str, float]  # by claim


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


def keep_longer(longer: Path, results: Path) -> Path:
    """Write results/longer.json: the values of the ledger of the folder `longer`.

    Raises:
        ResultsError: that folder has no ledger, or its main runs are of another model or middle
            layer, or not trained on more tokens.
    """
    with reworded(ResultsError, f"the ledger of {shown_path(longer)} cannot be read"):
        claims = json.loads((longer / "claims.json").read_text(encoding="utf-8"))
        values = {claim["id"]: claim["value"] for claim in claims if claim["value"] is not None}
    own, other = (main_runs(metrics_table(folder)) for folder in (results, longer))
    place, there = ((set(runs["model"]), middle_layer(runs)) for runs in (own, other))
    require(place == there, "longer", shown_path(longer), "of this study's model and middle layer")
    tokens, more = (float(runs["train_tokens"].median()) for runs in (own, other))
    require(more > tokens, "longer", f"on {more:g} tokens", f"on more than {tokens:g}")
    write_json(results / LONGER, Longer(tokens, more, values)._asdict())
    return results / LONGER


def read_longer(results: Path) -> Longer | None:
    """What `keep_longer` wrote, if it did."""
    if not (results / LONGER).is_file():
        return None
    with reworded(ResultsError, f"{LONGER} cannot be read"):
        found = Longer(**json.loads((results / LONGER).read_text(encoding="utf-8")))
        assert math.log2(found.tokens / found.own_tokens) > 0
    return found
