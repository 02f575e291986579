"""Copy a finished results folder to results/reference, and its claims into the README.

    python -m pipeline.reference results/storyworld
    python -m pipeline.reference results/sparsifiers results/reference_sparsifiers

The copy has the size that git can carry: every run's record, metrics and curve, and every figure,
table and claim. Weights are kept of what the analyses look into: similar-CE and similar-L0 triples
of every seed, and the longest warm starts with their starts; not the dial's, which are large.
Executed notebooks are kept as pages. Of a study that stands beside it, as the second line's, no run
is kept: its figures, tables and pages, and metrics.csv with all that was measured.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

from e2e_lib.analysis.claims.tokens import LONGER, LONGER_RUNS
from e2e_lib.analysis.claims.verdicts import readme_block
from e2e_lib.analysis.matched import across_seeds, main_runs, similar, warm_start_runs
from e2e_lib.errors import ResultsError, command, require
from e2e_lib.files import project_path
from e2e_lib.runs.read import REFERENCE
from e2e_lib.runs.tables import metrics_table
from pipeline.plan.profile import ROOT

FOLDERS = ("figures", "tables", "skipped", "site", LONGER_RUNS)
FILES = ("metrics.csv", "claims.json", "profile.json", "index.html")
NOTEBOOK_LINK = re.compile(r" \(<a href='notebooks/[^']*\.ipynb'>\.ipynb</a>\)")  # not copied
WEIGHTS = ("sae_weights.safetensors", "cfg.json", "sparsity.safetensors")


def runs_with_weights(table: pd.DataFrame) -> set[str]:
    """Names of the runs whose weights are shipped."""
    main = main_runs(table)
    seed = int(main["seed"].min())
    matched = [across_seeds(main, similar(main, on, seed)) for on in ("ce_increase", "l0")]
    warm = warm_start_runs(table)
    longest = warm["train_tokens"] == warm.groupby("role")["train_tokens"].transform("max")
    kept = [*matched, warm[longest]]
    return {run for runs in kept for run in runs["run"]}


def copy_reference(source: Path, target: Path, runs: bool = True) -> None:
    """Replace `target` by what of `source` is shipped, its runs' records and weights if wanted.

    Raises:
        ResultsError: `source` is not a finished results folder.
    """
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise ResultsError(
            f"results folder {source.name!r} lacks {', '.join(missing)}: it must be finished."
        )
    kept = runs_with_weights(metrics_table(source)) if runs else set()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(source / name, target / name)
    if (source / LONGER).is_file():
        shutil.copy(source / LONGER, target)
    for name in FOLDERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    for run in sorted((source / "saes").iterdir()) if runs else ():
        without = () if run.name in kept else WEIGHTS
        shutil.copytree(run, target / "saes" / run.name, ignore=lambda _, names, w=without: w)
    for page in source.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        (target / page.name).write_text(NOTEBOOK_LINK.sub("", text), encoding="utf-8")
    (target / "notebooks").mkdir()
    for page in (source / "notebooks").iterdir():
        if page.suffix in (".html", ".css"):
            shutil.copy(page, target / "notebooks" / page.name)


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    allowed = "one finished results folder, and where its copy goes if not to results/reference"
    require(len(arguments) in (1, 2), "the command line", arguments, allowed)
    source, target = (project_path(name) for name in [*arguments, REFERENCE][:2])
    beside = target.parent == source.parent and target.name.startswith("reference_")
    own = target == project_path(REFERENCE)
    require(own or beside, "the copy", target.name, "reference, or reference_… beside the results")
    copy_reference(source, target, runs=own)
    if own:
        readme_block(target, ROOT / "README.md")


if __name__ == "__main__":
    sys.exit(main())
