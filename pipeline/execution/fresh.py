"""Which stages need not run again: those whose marker says what would be said of them today.

A marker done/NAME.json is written whole, after everything else that its stage writes, and holds a
digest of the code, one of the plan (parameters, and the stages that it reads), and one of each file
or folder that a parameter names: a finished stage counts for what lies there now. So it tells a
finished stage from any other, whatever was killed at whatever moment; of the order in time,
Snakemake takes care. started/NAME.json says what the stage was last begun with, finished or not.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from e2e_lib.core.config import Hyperparameters
from e2e_lib.errors import DataError
from e2e_lib.names import SPARSIFIERS
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest
from e2e_lib.source_code import notebook_digest
from pipeline.plan.grid import Job, jobs
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import Profile
from pipeline.plan.stages import CHECKLIST, PUBLISHED, TRAIN, Stage

CODE = "its code changed"
PLAN = "its parameters changed, or what it reads"
INPUTS = "inputs.json"  # in the results folder: what was found at the start, for all jobs
WORDS = {"model": "MODEL", "train_data": "TRAIN", "validation_data": "VALIDATION"}


def plan_digest(stage: Stage) -> str:
    """A digest of a stage's parameters and of the names of the stages whose results it reads."""
    plan = json.dumps([stage.notebook, stage.parameters, stage.after], sort_keys=True)
    return hashlib.sha256(plan.encode()).hexdigest()[:16]


def input_digests(todo: Sequence[Stage]) -> dict[str, str]:
    """The content of every file or folder on this disk that a stage's parameter names."""
    values = {v for stage in todo for k, v in stage.parameters.items() if _names_input(k, v)}
    found = {str(value): content_digest(str(value)) for value in values}
    return {value: digest for value, digest in found.items() if digest}


def inputs_of(stage: Stage, digests: Mapping[str, str]) -> dict[str, str]:
    """The content of each local input of a stage, by the parameter that names it."""
    named = {k: str(v) for k, v in stage.parameters.items() if _names_input(k, v)}
    return {key: digests[value] for key, value in named.items() if value in digests}


def require_same(inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
    """Raise DataError unless model and texts are what `inputs_of` found when all began.

    Else stages before and after a change would be of two texts, and count as one result. Results of
    other runs, which `longer` and `compare_with` name, may grow meanwhile.
    """
    then = {key: inputs[key] for key in WORDS if key in inputs}
    now = {key: content_digest(str(parameters.get(key))) or "" for key in then}
    if changed := _changed(then, now):
        raise DataError(f"{_have_changed(changed)} since the pipeline began: start it again.")


def _have_changed(keys: Sequence[str]) -> str:
    words = " and ".join(WORDS.get(key, key) for key in keys)
    return f"{words} {'has' if len(keys) == 1 else 'have'} changed"


def _names_input(key: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not key.endswith("_folder")  # written to


def facts(results: Path, kind: str, name: str) -> Mapping[str, Any]:
    """What a marker of this kind (done, started, running) holds; nothing if there is none now."""
    try:
        return dict(json.loads((results / kind / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _codes(todo: list[Stage], notebooks: Path) -> dict[str, str]:
    """The digest of each stage's code as it is today, by the stage's name."""
    names = {stage.notebook for stage in todo}
    digests = {name: notebook_digest(notebooks / f"{name}.ipynb") for name in names}
    return {stage.name: digests[stage.notebook] for stage in todo}


def stale(results: Path, todo: list[Stage], notebooks: Path = NOTEBOOKS) -> dict[str, str]:
    """Why each finished stage that must run again must do so, by its name."""
    codes, digests, reasons = _codes(todo, notebooks), input_digests(todo), {}
    for stage in todo:
        if not (done := facts(results, "done", stage.name)):
            continue
        if done.get("code") != codes[stage.name]:
            reasons[stage.name] = CODE
        elif done.get("plan") != plan_digest(stage):
            reasons[stage.name] = PLAN
        elif changed := _changed(done.get("inputs", {}), inputs_of(stage, digests)):
            reasons[stage.name] = _have_changed(changed)
    return reasons


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in {*then, *now} if then.get(key) != now.get(key))


def of_other_code(results: Path, todo: list[Stage], notebooks: Path = NOTEBOOKS) -> set[str]:
    """Stages begun, and perhaps finished in part, with other code or inputs than today's."""
    codes, digests = _codes(todo, notebooks), input_digests(todo)
    begun = {stage.name: (stage, facts(results, "started", stage.name)) for stage in todo}
    return {
        name
        for name, (stage, old) in begun.items()
        if old
        and (old.get("code") != codes[name] or old.get("inputs", {}) != inputs_of(stage, digests))
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
    failed = [*(results / "failed").glob("*.json")]
    for old in failed:
        old.unlink()
    if failed:  # which it lists
        (results / "done" / f"{CHECKLIST}.json").unlink(missing_ok=True)
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
    sharing: dict[str, list[str]] = {}
    for name, why in reasons.items():
        sharing.setdefault(why, []).append(name)
    return [
        f"Runs again: {', '.join(some[:3])}{f' and {len(some) - 3} more' if some[3:] else ''} "
        f"({why})."
        for why, some in sharing.items()
    ]


def set_aside(
    results: Path, profile: Profile, outdated: Collection[str] = frozenset()
) -> list[str]:
    """Move runs that the profile no longer asks for out of the way of its figures.

    After a λ or a seed was changed, the SAEs of the old value would still be plotted. Called before
    the pipeline starts, so that no figure can see them. A finished training that lacks an SAE, for
    somebody deleted it, loses its marker: analyses would go on without that SAE in silence.

    Args:
        outdated: stages whose code or inputs have changed: their runs go too, or training would
            skip them.
    """
    from e2e_lib.runs.read import finished_runs, read_record  # with pandas: jobs do without
    from e2e_lib.runs.tables import metrics_table

    todo = jobs(profile)
    configs = {f.name: read_record(f)["config"] for f in finished_runs(results)}
    rows = metrics_table(results).to_dict("records") if configs else []
    made = {r["run"]: maker(r | {"config": configs[r["run"]]}, profile, todo) for r in rows}
    strangers = [run for run, stage in made.items() if stage in {"", *outdated}]
    left = Counter(stage for stage in made.values() if stage not in outdated)
    for job in () if profile.released else todo:
        if left[f"{TRAIN}-{job.label}"] < sum(map(len, job.training.grids.values())):
            (results / "done" / f"{TRAIN}-{job.label}.json").unlink(missing_ok=True)
    for run in strangers:
        (results / "set_aside").mkdir(exist_ok=True)
        shutil.rmtree(results / "set_aside" / run, ignore_errors=True)
        shutil.move(str(results / "saes" / run), str(results / "set_aside" / run))
    return strangers


def maker(row: Mapping[Hashable, Any], profile: Profile, todo: Sequence[Job]) -> str:
    """The stage that makes the SAE of this row, of the profile's jobs; "" if none.

    row: of `metrics_table`, with a further column `config`, what run.json says of its training.
    """
    if profile.released:  # they come as they are
        return PUBLISHED
    return next((f"{TRAIN}-{job.label}" for job in todo if _makes(job, row)), "")


def _makes(job: Job, row: Mapping[Hashable, Any]) -> bool:
    """Whether `job` trains the SAE of this row."""
    start, training = "", job.training
    held = SPARSIFIERS[training.sparsifier].holds_k  # then a grid's values are k, and λ is 0
    if job.start is not None:
        mark = training.sparsifier if held else "l"
        start = f"local-{training.hook}-{mark}{job.start:g}-s{training.seed}-"
    return (
        (tuple(row["config"]["hook_names"]), row["seed"]) == (training.hook_names, training.seed)
        and row["k" if held else "sparsity_coeff"] in training.grids.get(row["objective"], ())
        and row["train_tokens"] == training.train_rows * training.context_size
        and (row["dict_ratio"], row["lr"]) == (training.dict_ratio, training.lr)
        and bool(row["init_from"]) == bool(start)
        and row["init_from"].startswith(start)
        and _has(row["config"]["objective"], training.weights(row["objective"]))
        and _same_settings(row["config"], training)
    )


def _same_settings(config: Mapping[str, Any], training: Training) -> bool:
    """Whether every other parameter is the training's: what run.json tells, or leaves out as usual.

    A run of the usual value would else pass for one of any other, and figures would mix both.
    """
    from e2e_lib.runs.read import LATER  # with pandas, too

    usual = {f.name: f.default for f in fields(Hyperparameters) if f.name in LATER}
    told: dict[str, Any] = {**usual, **config}
    if "contents" in told:  # a start's weights are its run's, which `init_from` names
        told["contents"] = {k: v for k, v in told["contents"].items() if k != "init_from"}
    own = training.shared | {f.name: getattr(training, f.name) for f in fields(Hyperparameters)}
    by_device = ("auto", "native")  # precisions
    own = {key: value for key, value in own.items() if value not in by_device}
    if told.get("random_weights", 0) != training.random_weights:  # told only where it is not 0
        return False
    return all(told.get(key, value) == value for key, value in own.items())


def _has(objective: Mapping[str, Any], weights: Mapping[str, float]) -> bool:
    """Whether the objective of a run has these weights; a term that is not computed has 0.

    Weights that are no parameters, as fine-tuning's of KL, are what the objective's name says.
    """
    return all((objective.get(name) or 0.0) == weight for name, weight in weights.items())
