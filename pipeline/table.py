"""Write metrics.csv of the results folder that the profile in the working directory names."""

import shutil
import sys
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

from e2e_lib.errors import E2EError
from e2e_lib.files import write_json
from e2e_lib.runs.read import finished_runs
from e2e_lib.runs.tables import metrics_table, write_metrics_table
from pipeline.plan.grid import Job, jobs, whole_batches
from pipeline.plan.profile import Profile
from pipeline.plan.stages import PUBLISHED, TRAIN


def wanted(row: Mapping[Hashable, Any], profile: Profile) -> bool:
    """Whether the profile asks for the SAE of this row of the table, in its grid or a sweep."""
    if profile.released:  # they come as they are
        return True
    return any(_made_by(job, row, profile) for job in jobs(profile))


def _stage(row: Mapping[Hashable, Any], profile: Profile) -> str:
    """The name of the stage that makes the SAE of this row; empty if none does."""
    if profile.released:
        return PUBLISHED
    makers = (job.label for job in jobs(profile) if _made_by(job, row, profile))
    return f"{TRAIN}-{label}" if (label := next(makers, "")) else ""


def _made_by(job: Job, row: Mapping[Hashable, Any], profile: Profile) -> bool:
    """Whether `job` trains the SAE of this row."""
    start = ""
    if job.start is not None:
        start = f"local-blocks.{job.layer}.{profile.hook_point}-l{job.start:g}-s{job.seed}-"
    return (
        (row["layer"], row["seed"]) == (job.layer, job.seed)
        and row["sparsity_coeff"] in job.grids.get(row["objective"], ())
        and row["train_tokens"] == whole_batches(job.train_tokens, profile)
        and (row["dict_ratio"], row["lr"]) == (job.dict_ratio, job.lr)
        and bool(row["init_from"]) == bool(start)
        and row["init_from"].startswith(start)
    )


def set_aside(
    results: Path, profile: Profile, outdated: Collection[str] = frozenset()
) -> list[str]:
    """Move runs that the profile no longer asks for out of the way of its figures.

    After a λ or a seed was changed, the SAEs of the old value would still be plotted. Called before
    the pipeline starts, so that no figure can see them.

    Args:
        outdated: stages whose code has changed: their runs go too, or training would skip them.
    """
    if not any(finished_runs(results)):
        return []
    table = metrics_table(results)
    strangers = [
        row["run"]
        for row in table.to_dict("records")
        if not wanted(row, profile) or _stage(row, profile) in outdated
    ]
    for run in strangers:
        (results / "set_aside").mkdir(exist_ok=True)
        shutil.rmtree(results / "set_aside" / run, ignore_errors=True)
        shutil.move(str(results / "saes" / run), str(results / "set_aside" / run))
    return strangers


def main() -> int:
    """The command line; returns the exit status."""
    results = Path()
    try:
        write_metrics_table(results.resolve())
    except E2EError as error:
        failure = {"name": "table", "notebook": "", "error": str(error)}
        write_json(results / "failed" / "table.json", failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
