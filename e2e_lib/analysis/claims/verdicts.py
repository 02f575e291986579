"""The claims ledger: the paper's claims as data, each measured on the tables of a results folder.

Source: claims C1-C12 of the paper. A claim says that a value lies above and/or below a
bound. It holds only if the value does and the 95 % interval does not contain a bound; a value on
the right side with an interval that includes a bound counts as not holding, and `how` says so.
What cannot be measured here has no verdict (null), with the reason. Nothing here needs torch.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from e2e_lib.analysis.claims.ledger import CLAIMS, Claim
from e2e_lib.analysis.claims.measures import WRITTEN, Measurement, NotTestableError, Tables
from e2e_lib.analysis.matched import main_runs
from e2e_lib.errors import ResultsError
from e2e_lib.files import replace_block, write_json
from e2e_lib.runs import tables as runs

VERDICT = {True: "holds", False: "does not hold", None: "not testable here"}


def verdict(claim: Claim, measured: Measurement) -> tuple[bool, str]:
    """Whether the claim holds, and a sentence to add to `how` where the interval decides."""
    above = -math.inf if claim.above is None else claim.above
    below = math.inf if claim.below is None else claim.below
    if not above < measured.value < below:
        return False, ""
    if measured.low is not None and measured.high is not None:
        for bound in (above, below):
            if measured.low <= bound <= measured.high:
                return False, f" The interval includes {bound:g}: not counted as holding."
    return True, ""


def ledger(tables: Tables, claims: Sequence[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """One entry a claim: id, claim, paper_value, value, low, high, n, holds, how."""
    entries: list[dict[str, Any]] = []
    holds: bool | None
    for claim in claims:
        try:
            measured = claim.measure(tables)
            holds, because = verdict(claim, measured)
        except NotTestableError as reason:
            measured = Measurement(math.nan, None, None, 0, f"Not testable here: {reason}.")
            holds, because = None, ""
        entries.append(
            {"id": claim.id, "claim": claim.claim, "paper_value": claim.paper_value}
            | {name: _rounded(getattr(measured, name)) for name in ("value", "low", "high")}
            | {"n": measured.n, "holds": holds, "how": f"{claim.how} {measured.note}{because}"}
        )
    return entries


def evaluate_claims(results: str | Path, figures: str | Path | None = None) -> list[dict[str, Any]]:
    """The ledger of a results folder.

    figures: the folder with the notebooks' tables (`measures.WRITTEN`); results/figures by default.
    A claim whose table is missing has no verdict.
    """
    results = Path(results)
    figures = Path(figures) if figures else results / "figures"
    return ledger(
        Tables(
            runs=main_runs(runs.metrics_table(results)),
            blocks=runs.block_table(results),
            rows=runs.row_table(results),
            written=dict(_written(figures)),
        )
    )


def write_claims(claims: list[dict[str, Any]], results: str | Path) -> Path:
    """Write results/claims.json."""
    path = Path(results) / "claims.json"
    write_json(path, claims)
    return path


def claims_frame(claims: list[dict[str, Any]]) -> pd.DataFrame:
    """The ledger as a table for the forest plot: with each claim's short name and bounds."""
    known = {claim.id: claim for claim in CLAIMS}
    frame = pd.DataFrame(claims)
    for column in ("short", "above", "below"):
        frame[column] = [getattr(known[claim], column) for claim in frame["id"]]
    numbers = ["value", "low", "high", "above", "below"]
    frame[numbers] = frame[numbers].astype(float)
    return frame


def claims_markdown(claims: list[dict[str, Any]]) -> str:
    """The README's table: one row a claim, with value, 95 % interval and verdict."""
    lines = [
        "| | claim | paper | here | 95 % interval | SAEs | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in claims:
        value = "–" if entry["value"] is None else f"{entry['value']:.3g}"
        interval = "–" if entry["low"] is None else f"{entry['low']:.3g} to {entry['high']:.3g}"
        lines.append(
            f"| {entry['id']} | {entry['claim']} | {entry['paper_value']} | {value} | {interval} "
            f"| {entry['n'] or '–'} | {VERDICT[entry['holds']]} |"
        )
    return "\n".join(lines)


def readme_block(results: str | Path, readme: str | Path) -> None:
    """Replace what stands between the two claims comments of the README with the ledger's table.

    Raises:
        ResultsError: claims.json is missing or unreadable, or the README lacks the comments.
    """
    source = Path(results) / "claims.json"
    try:
        claims = json.loads(source.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"Cannot read {source}: {error}.") from error
    replace_block(Path(readme), "claims", claims_markdown(claims))


def _rounded(value: float | None) -> float | None:
    """Six significant digits; what is not a finite number becomes null in the JSON."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _written(figures: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The notebooks' tables that are there, by name: beside figures, or in the folder tables."""
    for name in WRITTEN:
        for folder in (figures, figures.parent / "tables"):
            if (folder / f"{name}.csv").is_file():
                yield name, pd.read_csv(folder / f"{name}.csv")
                break
