"""`make verify`: run the analyses of results/reference again and compare every number they give.

    python -m pipeline.verify
    python -m pipeline.verify --weights results/storyworld    # with weights that are not shipped

Nothing is trained: metrics.json, rows.csv and curve.csv of each run are records of its training,
and so is what notebooks 02 and 12 measure as they train, and what a longer study left of itself:
longer.json and the runs in longer/.
Everything made of them and of the shipped weights is made again in a scratch folder: figures' data
and texts, tables, metrics.csv, claims.json. Tolerances: pipeline/compare/tolerances.py. Exit
status 1 if a number differs.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from e2e_lib.analysis.claims.tables import WRITTEN
from e2e_lib.analysis.claims.tokens import LONGER, LONGER_RUNS
from e2e_lib.analysis.counterfactual.loudness import dial_runs
from e2e_lib.analysis.matched import across_seeds, main_runs, similar, warm_label, warm_start_runs
from e2e_lib.data.formats.saelens import SPARSITY, WEIGHTS
from e2e_lib.errors import E2EError, ResultsError, command, is_number
from e2e_lib.files import project_path
from e2e_lib.runs.read import REFERENCE
from e2e_lib.runs.tables import metrics_table, write_metrics_table
from pipeline.compare.differences import (
    FILES,
    Lacking,
    Outcome,
    compare_folders,
    matches,
    read_csv,
    read_text,
)
from pipeline.execution.executor import environment
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import ROOT, read_profile
from pipeline.plan.stages import BY_HAND, CLAIMS, FINETUNE, Stage, stages
from pipeline.run_notebook import run_notebook

SCRATCH = "build/verify"
LONG = ("41_functional_importance", "28_interpretability", "29_faithfulness")
TRAINING = (BY_HAND, FINETUNE)  # what they write is a record of training too
SHOWN = 100  # differences that are printed one by one
# What takes weights that are not shipped cannot come back in full: (files with rows about such
# runs, files with averages over them and others, files that are other ones without them). Always:
# the mean similarity of every main run.
MAIN = ("figures/23_similarity_trends.csv",), ("figures/23_similarity_trends.json",)
WARM = (  # shorter warm starts
    (
        *("figures/30_moved_features.csv", "figures/30_seed_agreement.csv"),
        "tables/30_agreement_gain.csv",
    ),
    ("figures/30_moved_features.json", "figures/30_seed_agreement.json"),
)
DIAL = ("tables/42_runs.csv",), (), ("figures/42_loudness.*", "tables/42_dial.*")
SEEDS = (  # matched runs
    (
        *("figures/23_*.csv", "tables/24_counted_again.csv", "figures/28_*.csv"),
        *("tables/41_measures.csv", "tables/41_kinds.csv"),
    ),
    (
        *("figures/23_*.json", "figures/25_*.*", "tables/25_*.*", "figures/26_correlation.*"),
        *("tables/26_first_direction.*", "tables/28_differences.*", "figures/28_*.json"),
        *("figures/29_faithfulness.*", "tables/29_table7.*", "tables/29_differences.*"),
        *("figures/41_summary.*", "tables/41_differences.*"),
    ),
)
LATER = ("claims.json", "figures/9*.*", "tables/9*.*", "skipped/9*.json")  # made of the others


def verify(reference: Path, scratch: Path, weights: Path | None = None) -> Outcome:
    """Make everything again that the analyses make of `reference`'s runs, and compare it.

    Raises:
        ResultsError: `reference` holds no finished runs or no profile.
    """
    prepare(reference, scratch, weights)
    lacking = lacking_weights(scratch)
    todo = analyses(scratch)
    failures = run_stages([stage for stage in todo if stage.name != CLAIMS], scratch)
    write_metrics_table(scratch)
    first = [pattern.replace("/", "/[!9]") for pattern in FILES if pattern not in LATER]
    outcome = compare_folders(reference, scratch, lacking, first)
    carry_over(reference, scratch, lacking)
    failures += run_stages([stage for stage in todo if stage.name == CLAIMS], scratch)
    compare_folders(reference, scratch, lacking, LATER, outcome)
    for failure in failures:
        outcome.add(failure, "", "", "ran", "failed", "every notebook must run again")
    return outcome


def prepare(reference: Path, scratch: Path, weights: Path | None = None) -> None:
    """A scratch folder with the reference's records and profile, and further weights if given.

    Records are its runs, what notebooks measured as they trained, and the runs and values of a
    longer study.

    Raises:
        ResultsError: the reference is none.
    """
    if not (reference / "profile.json").is_file():
        raise ResultsError(f"results folder {reference.name!r} has no profile.json to run again.")
    shutil.rmtree(scratch, ignore_errors=True)
    for name in ("saes", LONGER_RUNS):
        if (reference / name).is_dir():
            shutil.copytree(reference / name, scratch / name)
    for kind in ("", "figures", "tables", "skipped"):
        for file in (f for name in TRAINING for f in (reference / kind).glob(f"{name[:3]}*")):
            (scratch / kind).mkdir(exist_ok=True)
            shutil.copy(file, scratch / kind)
    for name in ("profile.json", LONGER):
        if (reference / name).is_file():
            shutil.copy(reference / name, scratch)
    for run in (scratch / "saes").iterdir() if weights else ():
        for name in (WEIGHTS, "cfg.json", SPARSITY):
            source = (weights or scratch) / "saes" / run.name / name
            if source.is_file() and not (run / name).is_file():
                shutil.copy(source, run / name)


def analyses(results: Path) -> list[Stage]:
    """The stages of the folder's profile that read runs and write results, the longest first."""
    profile, _ = read_profile(results / "profile.json")
    todo = stages(profile, os.path.relpath(results, ROOT))
    reads = [  # without the longer study's folder, whose values are in the reference
        stage._replace(parameters={k: v for k, v in stage.parameters.items() if k != "longer"})
        for stage in todo
        if not stage.saes and "results_folder" in stage.parameters
    ]
    return sorted(
        (s for s in reads if s.notebook not in TRAINING), key=lambda stage: stage.name not in LONG
    )


def run_stages(todo: Sequence[Stage], results: Path) -> list[str]:
    """Run the notebooks, as many at a time as there are cores; the names of those that failed."""
    workers = max(1, min(os.cpu_count() or 1, len(todo)))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running = [pool.submit(_run, stage, results) for stage in todo]
        return [stage.name for stage, done in zip(todo, running, strict=True) if not done.result()]


def _run(stage: Stage, results: Path) -> bool:
    """Whether the notebook ran; if not, says why."""
    print(f"  {stage.name}", flush=True)
    try:
        run_notebook(NOTEBOOKS / f"{stage.notebook}.ipynb", results, stage.parameters, stage.name)
    except E2EError as error:
        print(f"  error: {error}", file=sys.stderr)
        return False
    return True


def lacking_weights(results: Path) -> Lacking:
    """What cannot be computed again: it takes weights that are not in `results`."""
    table = metrics_table(results)
    here = [(results / "saes" / run / WEIGHTS).is_file() for run in table["run"]]
    shipped = set(table.loc[here, "run"])
    main = main_runs(table)
    warm, dial = warm_start_runs(table), dial_runs(table)
    warm = warm[warm["role"] == "warm"]
    seeds, tokens = (
        _lacking(t, by, shipped) for t, by in ((matched(main), "seed"), (warm, "train_tokens"))
    )
    marks = {("run", run) for run in {*main["run"], *warm["run"], *dial["run"]} - shipped}
    marks |= {(column, str(one)) for one in seeds for column in ("seed", "other_seed")}
    marks |= {("train_tokens", str(one)) for one in tokens}
    marks |= {("start", warm_label(one)) for one in tokens}
    kinds: list[tuple[tuple[str, ...], ...]] = []
    kinds += [MAIN, *([WARM] if tokens else []), *([SEEDS] if seeds else [])]
    kinds += [] if set(dial["run"]) <= shipped else [DIAL]
    names = (tuple(n for own in part for n in own) for part in zip_longest(*kinds, fillvalue=()))
    return Lacking(frozenset(marks), *names)


def matched(main: pd.DataFrame) -> pd.DataFrame:
    """The similar-CE and the similar-L0 runs of all seeds; main: `main_runs`."""
    return pd.concat([across_seeds(main, similar(main, on)) for on in ("ce_increase", "l0")])


def _lacking(table: pd.DataFrame, by: str, shipped: set[str]) -> list[int]:
    """Values of `by` of which some runs have no weights."""
    return sorted({int(v) for v in table.loc[~table["run"].isin(shipped), by]})


def carry_over(reference: Path, scratch: Path, lacking: Lacking) -> None:
    """Give the claims the reference's own tables where they could not be made again in full."""
    for name in WRITTEN if lacking.marks else ():
        for place in (f"figures/{name}.csv", f"tables/{name}.csv"):
            partial = matches(place, (*lacking.rows, *lacking.averages, *lacking.whole))
            if partial and (reference / place).is_file():
                shutil.copy(reference / place, scratch / place)


def longer_numbers(results: Path) -> dict[str, int]:
    """How many numbers the records of a longer study hold, by their name: its values and runs."""
    runs = results / LONGER_RUNS
    files = {LONGER: [results / LONGER], f"{LONGER_RUNS}/": [*runs.rglob("*.*")]}
    counts = {name: sum(map(_numbers_of, paths)) for name, paths in files.items()}
    return {name: n for name, n in counts.items() if n}


def _numbers_of(path: Path) -> int:
    if path.suffix == ".csv":
        return int(read_csv(path).select_dtypes("number").size)
    return _numbers(json.loads(read_text(path))) if path.is_file() else 0


def _numbers(value: object) -> int:
    """Numbers in what a JSON file holds."""
    if isinstance(value, (dict, list)):
        return sum(map(_numbers, value.values() if isinstance(value, dict) else value))
    return int(is_number(value))


def summary(
    outcome: Outcome, runs: int, shipped: int, longer: Mapping[str, int] | None = None
) -> str:
    """What was compared, carried and found different, in a few lines. longer: `longer_numbers`."""
    lines = [str(difference) for difference in outcome.differences[:SHOWN]]
    if len(outcome.differences) > SHOWN:
        lines.append(f"… and {len(outcome.differences) - SHOWN:,} more")
    compared, carried = (
        (sum(count.values()), sum(n > 0 for n in count.values()))
        for count in (outcome.compared, outcome.carried)
    )
    lines.append(
        f"{compared[0]:,} numbers of {compared[1]} files were made again and compared; "
        f"{outcome.pictures} pictures were made again, their data being among these."
    )
    if carried[0]:
        lines.append(
            f"{carried[0]:,} numbers of {carried[1]} files are carried over, not made again: they "
            f"take weights of more SAEs than the {shipped} of {runs} that are shipped. They are in:"
        )
        lines += [f"  {n:8,}  {name}" for name, n in sorted(outcome.carried.items()) if n]
    if outcome.new:
        lines.append(f"Not in the reference, so not compared: {', '.join(outcome.new)}.")
    lines.append(
        "metrics.json, rows.csv and curve.csv of each run are records, so are figures and tables "
        "of notebooks 02 and 12, which train: nothing was trained."
    )
    if longer:
        named = " and ".join(f"{name} ({n:,} numbers)" for name, n in longer.items())
        lines.append(f"So is what a longer study left: {named}. It is read, not made again.")
    found = len(outcome.differences)
    lines.append(f"{found:,} differ." if found else "None differs.")
    return "\n".join(lines)


@command
def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run the reference's analyses again and compare.")
    parser.add_argument("--reference", default=REFERENCE, help="results folder to verify")
    parser.add_argument("--scratch", default=SCRATCH, help="folder to make everything again in")
    parser.add_argument("--weights", default="", help="results folder with further runs' weights")
    given = parser.parse_args(arguments)
    reference, scratch = project_path(given.reference), project_path(given.scratch)
    os.environ |= environment()
    outcome = verify(reference, scratch, project_path(given.weights) if given.weights else None)
    runs = list((scratch / "saes").glob("*/run.json"))
    shipped = sum((run.parent / WEIGHTS).is_file() for run in runs)
    print(summary(outcome, len(runs), shipped, longer_numbers(scratch)))
    return 1 if outcome.differences else 0


if __name__ == "__main__":
    sys.exit(main())
