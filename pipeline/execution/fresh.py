"""Which stages need not run again: those whose marker says what would be said of them today.

A marker done/NAME.json is written whole, after everything else that its stage writes, and holds a
digest of the code and one of the plan (parameters, and the stages that it reads). So it tells a
finished stage from any other, whatever was killed at whatever moment; of the order in time,
Snakemake takes care. started/NAME.json says what the stage was last begun with, finished or not.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e_lib.source_code import notebook_digest
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.stages import Stage

CODE = "its code changed"
PLAN = "its parameters changed, or what it reads"


def plan_digest(stage: Stage) -> str:
    """A digest of a stage's parameters and of the names of the stages whose results it reads."""
    plan = json.dumps([stage.notebook, stage.parameters, stage.after], sort_keys=True)
    return hashlib.sha256(plan.encode()).hexdigest()[:16]


def facts(results: Path, kind: str, name: str) -> Mapping[str, Any]:
    """What a marker of this kind (done, started) holds; nothing if there is none."""
    try:
        return dict(json.loads((results / kind / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def stale(results: Path, todo: list[Stage], notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Why each finished stage that must run again must do so, by its name."""
    reasons = {}
    for stage in todo:
        if not (done := facts(results, "done", stage.name)):
            continue
        if done.get("code") != notebook_digest(notebooks / f"{stage.notebook}.ipynb"):
            reasons[stage.name] = CODE
        elif done.get("plan") != plan_digest(stage):
            reasons[stage.name] = PLAN
    return reasons


def of_other_code(results: Path, todo: list[Stage], notebooks: Path = NOTEBOOKS) -> set[str]:
    """Stages that were begun, and perhaps finished in part, with other code than today's."""
    codes = {stage.name: facts(results, "started", stage.name).get("code") for stage in todo}
    return {
        stage.name
        for stage in todo
        if codes[stage.name] not in (None, notebook_digest(notebooks / f"{stage.notebook}.ipynb"))
    }


def settle(results: Path, todo: list[Stage], notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Take back the markers of stale stages, and what a killed pipeline left half-made.

    Called before Snakemake starts, which then runs what lacks its marker and what comes after it.
    Markers of stages outside of `todo` go too: their runs may be set aside before they come back.
    Returns the reasons.
    """
    for old in (results / "running").glob("*.json"):
        (results / "notebooks" / f"{old.stem}.ipynb").unlink(missing_ok=True)
        old.unlink()
    for old in (results / "failed").glob("*.json"):
        old.unlink()
    reasons = stale(results, todo, notebooks)
    fresh = {stage.name for stage in todo} - reasons.keys()
    for marker in (results / "done").glob("*.json"):
        if marker.stem not in fresh:
            marker.unlink()
    return reasons


def drop_torn_copies(results: Path) -> None:
    """Delete executed copies that are no notebooks: a job was killed as it wrote, or before."""
    for copy in (results / "notebooks").glob("*.ipynb"):
        try:
            json.loads(copy.read_text(encoding="utf-8"))
        except ValueError:
            copy.unlink()


def in_words(reasons: Mapping[str, str]) -> list[str]:
    """A line for each reason: whose it is, or how many share it."""
    counts = Counter(reasons.values())
    names = {why: [n for n, w in reasons.items() if w == why] for why in counts}
    return [
        f"Runs again: {', '.join(some[:3])}{f' and {len(some) - 3} more' if some[3:] else ''} "
        f"({why})."
        for why, some in names.items()
    ]
