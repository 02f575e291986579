"""The ledger beside those of the studies that are shipped: the README's table and the report's.

Each has three columns of evidence: the paper, a language whose grammar is known, and a language
model of web text. Nothing here needs torch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e_lib.analysis.claims.ledger import CLAIMS
from e2e_lib.analysis.claims.tables import percent
from e2e_lib.analysis.claims.verdicts import moving
from e2e_lib.analysis.statistics import LEVEL
from e2e_lib.analysis.sweeps import MOVES, moved_per_doubling
from e2e_lib.errors import ResultsError, reworded
from e2e_lib.files import project_path, replace_block
from e2e_lib.names import VERDICTS
from e2e_lib.runs.read import REFERENCE

Ledger = Sequence[Mapping[str, Any]]  # entries, as `verdicts.ledger` gives them
STUDIES = {"StoryWorld": REFERENCE, "SmolLM2-135M": f"{REFERENCE}_smollm2"}  # the README's first
SAME = "the same"  # where two studies have one number
IN_SHORT = (
    "{} {}: the {level} interval is inside the bounds, and we know that neither what was "
    "varied nor two more doublings of the tokens turns that; {} {}: outside, likewise; "
    "{} {}: neither; {} {}: no premise, no number or a ceiling "
    "([the whole rule]({page}#claims))."
).format(
    *(part for word, sign in VERDICTS.items() for part in (sign, word)),
    level=percent(LEVEL),
    page=f"{REFERENCE}/index.html",
)


def read_ledger(results: str | Path) -> list[dict[str, Any]]:
    """The entries of results/claims.json.

    Raises:
        ResultsError: it is missing or unreadable.
    """
    with reworded(ResultsError, "claims.json cannot be read"):
        return json.loads((Path(results) / "claims.json").read_text(encoding="utf-8"))


def other_studies(claims: Ledger) -> dict[str, list[dict[str, Any]]]:
    """The ledgers of the shipped studies by name, but for one that is `claims` itself."""
    folders = {name: project_path(folder) for name, folder in STUDIES.items()}
    there = {name: read_ledger(f) for name, f in folders.items() if (f / "claims.json").is_file()}
    return {name: ledger for name, ledger in there.items() if ledger != claims}


def counted(claims: Ledger) -> str:
    """How many rows have each verdict, in words."""
    counts = [(sum(entry["verdict"] == word for entry in claims), word) for word in VERDICTS]
    return ", ".join(f"{n} {word}" for n, word in counts) + "."


def multiplicity(claims: Ledger) -> str:
    """What the number of rows does to the verdicts, and how many values have not come to rest."""
    judged = sum(entry["low"] is not None and entry["n_seeds"] != 1 for entry in claims)
    by_chance = f"{(1 - LEVEL) / 2 * judged:.1f}"
    known, move = moving(
        moved_per_doubling({float(t): v for t, v in entry["by_tokens"].items() if v is not None})
        for entry in claims
    )
    moved = f"{move} of {known} values still move" if known else "No value is known to move"
    return (
        f"{len(claims)} rows: {counted(claims)} {moved} by over {percent(MOVES)} per doubling of "
        f"tokens. {judged} can be decided; at their bounds, {by_chance} would hold and "
        f"{by_chance} be refuted by chance, not independently: rows share SAEs."
    )


def claims_markdown(claims: Ledger, others: Mapping[str, Ledger] | None = None) -> str:
    """The README's block: the rule in short, of every claim value, 95 % interval and verdict in
    every study, and what the number of rows does.

    claims: of the first of `STUDIES`, whose rows are shown. others: `other_studies` of it.
    """
    known, others = {claim.id: claim for claim in CLAIMS}, others or {}
    studies = [{entry["id"]: entry for entry in own} for own in (claims, *others.values())]
    heads = [next(iter(STUDIES)), *others]
    lines = [
        IN_SHORT,
        "",
        f"| {_row('measured', 'claim', *heads)}",
        "|-" * (3 + len(heads)) + "|",
    ]
    for entry in claims:
        claim = known[entry["id"]]
        first, *found = (_found(own.get(claim.id)) for own in studies)
        # C8's number is of a benchmark, and no study's own.
        found = [SAME if one == first and entry["value"] is not None else one for one in found]
        lines.append(_row(claim.id, entry["short"], claim.bounds, first, *found))
    counts = [f" {name}: {counted(own)}" for name, own in others.items()]
    return "\n".join([*lines, "", multiplicity(claims) + "".join(counts)])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _found(entry: Mapping[str, Any] | None) -> str:
    """Value, interval and the verdict's sign; the sign alone where a study has no number."""
    if entry is None:
        return ""
    sign = VERDICTS[entry["verdict"]]
    if entry["value"] is None:
        return sign
    ends = "" if entry["low"] is None else f" [{entry['low']:.3g}, {entry['high']:.3g}]"
    return f"{entry['value']:.3g}{ends} {sign}"


def readme_block(results: str | Path, readme: str | Path) -> None:
    """Replace what stands between the two claims comments of the README with the table.

    Raises:
        ResultsError: claims.json is missing or unreadable, or the README lacks the comments.
    """
    claims = read_ledger(results)
    replace_block(Path(readme), "claims", claims_markdown(claims, other_studies(claims)))
