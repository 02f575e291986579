"""The claims ledger: the paper's claims as data, each measured on the tables of a results folder.

Source: claims C1-C12 of the paper; C0 is its thesis, measured on exact counterfactual pairs. The
rule of a verdict is `RULE` and the function `verdict`, and stands nowhere else: notebooks, report
and README print the one or the word that the other gave. Nothing here needs torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from e2e_lib.analysis.claims.ledger import CLAIMS, Claim
from e2e_lib.analysis.claims.tables import (
    Measurement,
    NotTestableError,
    Tables,
    benchmark_lines,
    percent,
    written_tables,
)
from e2e_lib.analysis.claims.tokens import (
    Longer,
    by_beta,
    by_tokens,
    fewer_tokens,
    of_beta,
    of_rate,
    read_longer,
    turning_betas,
    with_longer,
)
from e2e_lib.analysis.matched import main_runs
from e2e_lib.analysis.statistics import LEVEL
from e2e_lib.analysis.sweeps import MOVES, moved_per_doubling
from e2e_lib.files import write_json
from e2e_lib.names import VERDICTS
from e2e_lib.runs import tables as runs

HOLDS, REFUTED, UNDECIDED, NOT_TESTABLE = VERDICTS
AHEAD = 2  # doublings of the training tokens that a verdict has to survive
DRAW = 0.01  # of an interval's width: what another draw of what was resampled may move an end by

RULE = (
    f"**{HOLDS}**: the {percent(LEVEL)} interval is inside the bounds; **{REFUTED}**: outside; "
    f"**{UNDECIDED}**: across one (or nearer than {percent(DRAW)} of its width), of one seed or "
    "missing, or the verdict turns without one inner λ, with the sweep's λ and seeds, at another β "
    "of its sweep, or by two more doublings of the longest training, each "
    f"adding or multiplying like the last (up to {percent(MOVES)} counts as none), or nothing "
    f"tells; **{NOT_TESTABLE}**: no premise, no number, or a ceiling."
)


def verdict(
    claim: Claim,
    measured: Measurement,
    restless: str = "",
    own_tokens: float = math.nan,
    behind: str = "",
    turned: str = "",
) -> tuple[str, str]:
    """One of `VERDICTS` by `RULE`, and why.

    own_tokens: of the main runs' training; what `measured.by_tokens` has for them is of other λ and
    seeds, the sweep's.
    restless: why nobody knows whether a value is at rest that is known at one number of training
    tokens alone; empty if the others of its ledger are.
    behind: that the study trained on fewer tokens than the reference (`fewer_tokens`), which is
    said first of an undecided row; empty if it did not.
    turned: the β at which the value lies on another side of a bound (`turning_betas`); empty: none.
    """
    if not math.isfinite(measured.value):
        return NOT_TESTABLE, "the value is no number"
    doubts = []
    side = claim.side(measured.low, measured.high)
    if side is None:
        doubts.append("there is no interval")
    elif measured.n_seeds == 1:
        doubts.append("one seed says nothing of another")
    draw = DRAW * (measured.high - measured.low)
    if side == "across":
        doubts.append("the interval reaches across a bound")
    elif side and claim.side(measured.low - draw, measured.high + draw) != side:
        doubts.append("the interval ends at a bound, nearer than it is known")
    elif side and claim.side(*measured.grid) not in (None, side):
        doubts.append("with one λ left out of a curve the verdict would be another")
    again = measured.by_tokens.get(own_tokens, math.nan)
    other = claim.side(again, again) if math.isnan(measured.at_tokens) else None
    if side in ("inside", "outside") and other not in (None, side):
        doubts.append(f"with other λ and seeds on as many tokens it is {again:.3g}")
    if side in ("inside", "outside") and turned:
        doubts.append(f"at a β of {turned} the verdict would be another")
    at = own_tokens if math.isnan(measured.at_tokens) else measured.at_tokens
    moves = moved_per_doubling(measured.by_tokens)
    turns = [claim.side(*later) != side for later in _ahead(measured, at)]
    if side in ("inside", "outside") and abs(moves) > MOVES and any(turns):
        pace = "" if turns[0] else ", each by the same factor,"
        doubts.append(
            f"per doubling of the training tokens the value still moves by {percent(moves)}, and "
            f"two more such doublings{pace} would turn the verdict"
        )
    if restless and not math.isfinite(moves) and measured.n_seeds:
        doubts.append(f"whether it still moves with the training tokens is not known: {restless}")
    if doubts:
        told = [behind] if behind and measured.n_seeds else []
        return UNDECIDED, "; ".join([*told, *doubts])
    return (HOLDS if side == "inside" else REFUTED), f"the whole interval is {side}"


def _ahead(measured: Measurement, own_tokens: float) -> list[tuple[float, float]]:
    """The interval after `AHEAD` doublings beyond the longest training known, each like the last:
    by as much again, then, where all values are above 0 as a ratio's are, by the same factor again.
    A ratio that doubles each time has no steps of one size. Empty if it is known of one number."""
    last = sorted(measured.by_tokens.items())[-2:]
    if len(last) < 2:
        return []
    (few, before), (many, after) = last
    now, ahead = measured.by_tokens.get(own_tokens, after), AHEAD / math.log2(many / few)
    step = after - now + ahead * (after - before)
    found = [(measured.low + step, measured.high + step)]
    if min(now, before, after) > 0:
        factor = after / now * (after / before) ** ahead
        found.append((measured.low * factor, measured.high * factor))
    return found


def ledger(
    tables: Tables,
    claims: Sequence[Claim] = CLAIMS,
    sweep: pd.DataFrame | None = None,
    longer: Longer | None = None,
    betas: pd.DataFrame | None = None,
    behind: str = "",
) -> list[dict[str, Any]]:
    """One entry a claim: id, claim, paper_value, value, low, high, n, holds (true, false where it
    is refuted, else null), how, verdict, why, n_seeds, grid_low, grid_high, by_tokens, short.

    sweep: `by_tokens` of the claims, empty where the folder has no such sweep; None: whether values
    are at rest is not asked. longer: what claims without such a sweep come to on more tokens.
    betas: `by_beta` of the claims. behind: `fewer_tokens`.
    """
    found = [(claim, *_measured(claim, tables, sweep, longer)) for claim in claims]
    moves = {claim.id: moved_per_doubling(own.by_tokens) for claim, own, _ in found}
    restless = "" if sweep is None else _restless(moves)
    tokens = float(tables.runs["train_tokens"].median())
    asked = {"restless": restless, "own_tokens": tokens, "behind": behind}
    notes = [of_beta(c, own, tables, betas) + of_rate(c, own, tables) for c, own, _ in found]
    turned = [" and ".join(f"{b:g}" for b in turning_betas(claim, betas)) for claim in claims]
    return [
        _entry(claim, own._replace(note=own.note + note), reason, turned=turn, **asked)
        for (claim, own, reason), note, turn in zip(found, notes, turned, strict=True)
    ]


def _measured(
    claim: Claim, tables: Tables, sweep: pd.DataFrame | None, longer: Longer | None
) -> tuple[Measurement, str]:
    """The measurement, and why there is none."""
    try:
        measured = claim.measure(tables)
    except NotTestableError as reason:
        return Measurement(math.nan, math.nan, math.nan, 0, 0, ""), str(reason)
    if sweep is not None and not measured.by_tokens:
        own = sweep[sweep["id"] == claim.id].set_index("train_tokens")["value"]
        measured = measured._replace(by_tokens=own.to_dict())
    taken = measured.n_seeds and not measured.by_tokens  # no training takes part in some
    if longer and taken:
        measured = measured._replace(by_tokens=longer.of(claim))
    return measured, ""


def moving(moves: Iterable[float]) -> tuple[int, int]:
    """Of how many values the movement per doubling of the tokens is known; how many still move."""
    known = [move for move in moves if math.isfinite(move)]
    return len(known), sum(abs(move) > MOVES for move in known)


def _restless(moves: Mapping[str, float]) -> str:
    """What of a ledger still moves, or that nothing tells; empty if what is known is at rest."""
    known, many = moving(moves.values())
    if not known:
        return "no sweep over them tells"
    few = f"of {known} values of which it is, {many} move by more than {percent(MOVES)}"
    return f"{few} per doubling" if many else ""


def _entry(claim: Claim, measured: Measurement, reason: str, **asked: Any) -> dict[str, Any]:
    judged = (NOT_TESTABLE, reason) if reason else verdict(claim, measured, **asked)
    word, why = judged
    ends = dict(zip(("grid_low", "grid_high"), map(_rounded, measured.grid), strict=True))
    sentence = f"{word[0].upper()}{word[1:]}: {why}."
    return (
        {"id": claim.id, "claim": claim.claim, "paper_value": claim.paper_value}
        | {name: _rounded(getattr(measured, name)) for name in ("value", "low", "high")}
        | {"n": measured.n, "holds": {HOLDS: True, REFUTED: False}.get(word)}
        | {"how": _spelt(" ".join(filter(None, (claim.how, measured.note, sentence))))}
        | {"verdict": word, "why": _spelt(why), "n_seeds": measured.n_seeds, **ends}
        | {"by_tokens": {f"{t:g}": _rounded(v) for t, v in sorted(measured.by_tokens.items())}}
        | {"short": f"{claim.short} ({measured.aside})" if measured.aside else claim.short}
    )


def evaluate_claims(results: str | Path, figures: str | Path | None = None) -> list[dict[str, Any]]:
    """The ledger of a results folder.

    figures: the folder with the notebooks' tables (`WRITTEN`); results/figures by default. A claim
    whose table is missing is not testable.
    """
    results = Path(results)
    figures = Path(figures) if figures else results / "figures"
    table, blocks, rows = (
        with_longer(read, results)
        for read in (runs.metrics_table, runs.block_table, runs.row_table)
    )
    tables = Tables(
        main_runs(table), blocks, rows, dict(written_tables(figures)), benchmark_lines()
    )
    sweep, betas = (swept(table, blocks, rows) for swept in (by_tokens, by_beta))
    longer, behind = read_longer(results), fewer_tokens(tables.runs)
    return ledger(tables, sweep=sweep, longer=longer, betas=betas, behind=behind)


def write_claims(claims: list[dict[str, Any]], results: str | Path) -> Path:
    """Write results/claims.json."""
    path = Path(results) / "claims.json"
    write_json(path, claims)
    return path


def claims_frame(claims: list[dict[str, Any]]) -> pd.DataFrame:
    """The ledger as a table for the forest plot: with each claim's short name and bounds."""
    known = {claim.id: claim for claim in CLAIMS}
    frame = pd.DataFrame(claims)
    for column in ("above", "below"):
        frame[column] = [getattr(known[claim], column) for claim in frame["id"]]
    numbers = ["value", "low", "high", "grid_low", "grid_high", "above", "below"]
    frame[numbers] = frame[numbers].astype(float)
    return frame


def _spelt(text: str) -> str:
    return text.replace("e2e_ds", "e2e+ds")


def _rounded(value: float | None) -> float | None:
    """Six significant digits; what is not a finite number becomes null in the JSON."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
