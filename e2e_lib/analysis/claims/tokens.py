"""Whether a claim's value has come to rest, and whether it hangs on β or the learning rate.

The same measure at other numbers of training tokens, and at other weights of the downstream term.

Metrics alone give it for a sweep over them. What takes weights or another notebook's tables is
known where all analyses ran on two further folders, of the same λ and seeds, one trained on as many
tokens as the study and one on more, and `keep_longer` has noted their ledgers beside the study's.
The runs of the latter are the sweep's last number of tokens, too: `keep_runs` copies their records.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from e2e_lib.analysis.claims.ledger import CLAIMS, Claim, same_measure
from e2e_lib.analysis.claims.tables import (
    Measurement,
    NotTestableError,
    Tables,
    middle,
    ranged,
    written,
)
from e2e_lib.analysis.matched import main_runs, middle_layer, sweep_runs
from e2e_lib.analysis.pareto import summary_ratios
from e2e_lib.analysis.sweeps import AT_EQUAL_L0
from e2e_lib.errors import ResultsError, require, reworded
from e2e_lib.files import project_path, shown_path, write_json
from e2e_lib.names import OBJECTIVES
from e2e_lib.runs.read import REFERENCE, finished_runs
from e2e_lib.runs.tables import metrics_table

LONGER = "longer.json"
LONGER_RUNS = "longer"  # a folder of records, with runs in `saes` as any results folder
RECORDS = ("metrics.json", "rows.csv", "run.json")  # run.json last: it says "finished"


class Longer(NamedTuple):
    """Values by claim of two ledgers that differ in training tokens alone."""

    own_tokens: float  # as many as the study's main runs have
    tokens: float  # more
    own: Mapping[str, float]
    found: Mapping[str, float]

    def of(self, claim: Claim) -> dict[float, float]:
        """A claim's value by training tokens, empty if it is not known; claims that measure the
        same and differ in their bounds have one value."""
        for name in (claim.id, *(c.id for c in CLAIMS if same_measure(c, claim))):
            if name in self.own and name in self.found:
                return {self.own_tokens: self.own[name], self.tokens: self.found[name]}
        return {}


def by_tokens(
    table: pd.DataFrame, blocks: pd.DataFrame, rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """What each claim that the metrics alone decide comes to at each number of training tokens.

    table: `metrics_table`. The runs of the sweep over training tokens and the main runs beside
    them, at the same seeds and λ, so that every number is as coarse as the next. Claims that take
    weights or another notebook's tables are left out. Columns: id, train_tokens, value.
    """
    swept = sweep_runs(table, "train_tokens")
    swept = swept[swept["layer"] == middle_layer(main_runs(table))]  # where values are taken
    return _measured(swept.groupby("train_tokens"), "train_tokens", blocks, rows, claims)


def by_beta(
    table: pd.DataFrame, blocks: pd.DataFrame, rows: pd.DataFrame, claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """The same at each β of a sweep over it: e2e+ds's runs beside the main ones of local and e2e,
    of the same seeds. Columns: id, downstream_coeff, main (whether it is the main runs'), value.
    """
    main, swept = main_runs(table), sweep_runs(table, "downstream_coeff")
    swept = swept[(swept["layer"] == middle_layer(main)) & (swept["objective"] == "e2e_ds")]
    others = main[(main["objective"] != "e2e_ds") & (main["layer"] == middle_layer(main))]
    others = others[others["seed"].isin(swept["seed"])]
    groups = [(beta, pd.concat([others, own])) for beta, own in swept.groupby("downstream_coeff")]
    found = _measured(groups, "downstream_coeff", blocks, rows, claims)
    usual = swept.loc[swept["main"], "downstream_coeff"]
    return found.assign(main=found["downstream_coeff"].isin(usual))


def _measured(
    groups: Iterable[tuple[Any, pd.DataFrame]],
    setting: str,
    blocks: pd.DataFrame,
    rows: pd.DataFrame,
    claims: Sequence[Claim],
) -> pd.DataFrame:
    found = []
    for value, own in groups:
        written = {"summary_ratio": summary_ratios(own, rows, resamples=1)}
        tables = Tables(own, blocks, rows, written)
        for claim in claims:
            try:
                found.append((claim.id, value, claim.measure(tables).value))
            except NotTestableError:
                continue
    known = pd.DataFrame(found, columns=["id", setting, "value"])
    return known.dropna(subset=["value"]).reset_index(drop=True)


def of_beta(claim: Claim, measured: Measurement, tables: Tables, betas: pd.DataFrame | None) -> str:
    """The weight of the downstream term, and what a claim on e2e+ds comes to at others: whether one
    of them lies on another side of a bound than the main runs' does. betas: `by_beta`."""
    own = tables.runs.loc[tables.runs["objective"] == "e2e_ds", "downstream_coeff"].dropna()
    if own.empty or "e2e+ds" not in claim.claim or not measured.n_seeds:
        return ""
    words = f" β is {' and '.join(f'{beta:g}' for beta in sorted(own.unique()))} here"
    known = betas[betas["id"] == claim.id] if betas is not None else pd.DataFrame()
    if known.empty or not known["main"].any() or known["main"].all():
        return f"{words}; what another would do is not known."
    usual = known.loc[known["main"], "value"].iloc[0]
    others = known[~known["main"]]
    at = [f"{r.value:.3g} at {r.downstream_coeff:g}" for r in others.itertuples()]
    turned = [f"{beta:g}" for beta in turning_betas(claim, betas)]
    then = f"β {' and '.join(turned)} turns it" if turned else "none of these turns it"
    return f"{words}; at the sweep's λ and seeds it is {usual:.3g}, {', '.join(at)}: {then}."


def turning_betas(claim: Claim, betas: pd.DataFrame | None) -> list[float]:
    """At which other β a claim's value lies on another side of a bound than the main runs' does.
    betas: `by_beta`."""
    known = betas[betas["id"] == claim.id] if betas is not None else pd.DataFrame({"main": []})
    usual, others = known[known["main"].astype(bool)], known[~known["main"].astype(bool)]
    if usual.empty:
        return []
    side = claim.side(*2 * [float(usual["value"].iloc[0])])
    return [r.downstream_coeff for r in others.itertuples() if claim.side(r.value, r.value) != side]


def of_rate(claim: Claim, measured: Measurement, tables: Tables) -> str:
    """For which objectives that a claim names (all, where it names none) another learning rate is
    better at the middle layer, by an interval below 1; empty where the sweep finds none. Where one
    λ less would say otherwise, it only may be better."""
    try:
        table = middle(written(tables, "27_ratios"), tables.runs)
    except NotTestableError:
        return ""
    better = table[(table["column"] == "lr") & (table["quantity"] == AT_EQUAL_L0)]
    better = better[(better["high"] < 1) & (better["left_out"] == 0)]
    words = {name: name.replace("_", "+") for name in OBJECTIVES}
    named = [
        o for o, name in words.items() if re.search(rf"\b{re.escape(name)}(?![\w+])", claim.claim)
    ]
    parts = []
    for row in better.sort_values("value").drop_duplicates("objective").itertuples():
        if row.objective in (named or OBJECTIVES):
            seeds = "one seed" if row.n_seeds == 1 else f"{row.n_seeds} seeds"
            sure = "is not" if row.grid_high < 1 else "may not be"
            parts.append(
                f" At a rate of {row.setting:g} {words[row.objective]} has "
                f"{ranged(row.value, row.low, row.high)} times the CE increase at equal L0 "
                f"({seeds}; {row.grid_low:.3g} to {row.grid_high:.3g} with one inner λ left out): "
                f"it {sure} tuned best here."
            )
    return "".join(parts) * bool(measured.n_seeds)


def keep_longer(same: Path, longer: Path, results: Path) -> Path:
    """Write results/longer.json: the values of the ledgers of two folders, `same` with as many
    training tokens as `results` and `longer` with more.

    Raises:
        ResultsError: one of them has no ledger.
        ConfigError: its main runs are of another model or middle layer, or of other tokens; or the
            two differ in λ or seeds.
    """
    runs = [main_runs(metrics_table(folder)) for folder in (results, same, longer)]
    place, *there = [(set(own["model"]), middle_layer(own)) for own in runs]
    tokens, as_many, more = (float(own["train_tokens"].median()) for own in runs)
    keys = ["objective", "layer", "sparsity_coeff", "seed"]
    grids = [set(own[keys].itertuples(index=False, name=None)) for own in runs[1:]]
    for folder, found in zip((same, longer), there, strict=True):
        name = shown_path(folder)
        require(found == place, "longer", name, "of this study's model and middle layer")
    require(as_many == tokens, "longer", f"on {as_many:g} tokens", f"on {tokens:g}, then on more")
    require(more > tokens, "longer", f"on {more:g} tokens", f"on more than {tokens:g}")
    require(grids[0] == grids[1], "longer", shown_path(longer), "of the same λ and seeds as before")
    values = (_values(same), _values(longer))
    write_json(results / LONGER, Longer(tokens, more, *values)._asdict())
    return results / LONGER


def _values(folder: Path) -> dict[str, float]:
    with reworded(ResultsError, f"the ledger of {shown_path(folder)} cannot be read"):
        claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        return {claim["id"]: claim["value"] for claim in claims if claim["value"] is not None}


def keep_runs(longer: Path, results: Path) -> None:
    """Copy the records of another folder's main runs, on more tokens, into results/longer.

    So that folder is not asked for again, and neither are weights. `with_longer` reads them.

    Raises:
        ResultsError: it holds no finished run.
        ConfigError: its main runs are not some of the study's, trained on more tokens.
    """
    own, found = metrics_table(results), main_runs(metrics_table(longer))
    swept = sweep_runs(pd.concat([own[~own["run"].isin(found["run"])], found]), "train_tokens")
    usual, keys = swept[swept["main"]], ["layer", "objective", "sparsity_coeff", "seed"]
    place = set(usual[keys].itertuples(index=False, name=None))
    good = set(found["run"]) <= set(swept.loc[~swept["main"], "run"])
    good &= set(found[keys].itertuples(index=False, name=None)) <= place
    allowed = "a folder whose main runs are some of this study's, on more tokens"
    more = good and found["train_tokens"].min() > usual["train_tokens"].max()
    require(bool(more), "longer", shown_path(longer), allowed)
    shutil.rmtree(results / LONGER_RUNS, ignore_errors=True)
    for run in found["run"]:
        (results / LONGER_RUNS / "saes" / run).mkdir(parents=True)
        for name in RECORDS:
            shutil.copy(longer / "saes" / run / name, results / LONGER_RUNS / "saes" / run)


def fewer_tokens(runs: pd.DataFrame) -> str:
    """That main runs trained on fewer tokens than the reference's of the same model, in words;
    empty where they did not, or where there is no reference to know it from."""
    path = project_path(REFERENCE) / "metrics.csv"
    if runs.empty or not path.is_file():
        return ""
    texts = dict.fromkeys(("init_from", "variant"), str)  # a column without any is no number
    reference = main_runs(pd.read_csv(path, dtype=texts))
    own, its = (float(table["train_tokens"].median()) for table in (runs, reference))
    if set(runs["model"]) != set(reference["model"]) or not own < its:
        return ""
    return f"trained on {own:,.0f} of the reference's {its:,.0f} tokens"


def with_longer(read: Callable[[Path], pd.DataFrame], results: Path) -> pd.DataFrame:
    """A table of a folder's runs and of those that `keep_runs` kept there, if it did.

    read: `metrics_table`, `row_table` or `block_table`.
    """
    own, kept = read(results), results / LONGER_RUNS
    if not any(finished_runs(kept)):
        return own
    more = read(kept)
    return pd.concat([own, more[~more["run"].isin(own["run"])]], ignore_index=True)


def read_longer(results: Path) -> Longer | None:
    """What `keep_longer` wrote, if it did."""
    if not (results / LONGER).is_file():
        return None
    with reworded(ResultsError, f"{LONGER} cannot be read"):
        found = Longer(**json.loads((results / LONGER).read_text(encoding="utf-8")))
        assert math.log2(found.tokens / found.own_tokens) > 0
    return found
