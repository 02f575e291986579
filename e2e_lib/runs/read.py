"""Reading run folders, which may be damaged: every fault is a ResultsError that names the file.

    results/<profile>/saes/<run>/          <run> = <objective>-<hook>-l<λ>-s<seed>-<hash>
        run.json       parameters, provenance, status; "ok" is what finished means
        metrics.json   metrics by hook, and of the later blocks
        rows.csv       metrics of each held-out row of text
        curve.csv      the training curve
        sae_weights.safetensors, cfg.json, sparsity.safetensors
A run with SAEs at several hooks keeps each in a sub-folder named after its hook. No torch here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from e2e_lib.errors import ResultsError, first_sentence
from e2e_lib.files import project_path, shown_path
from e2e_lib.names import layer_of

REFERENCE = "results/reference"
CURVE = ("step", "tokens", "loss", "l0", "ce_increase", "grad_norm", "lr")  # columns of curve.csv
HOOK = re.compile(r"[A-Za-z0-9_.]{1,200}")  # part of a path: no separators
# Of each SAE in metrics.json.
METRICS = (
    *("d_sae", "l0", "alive", "ce_clean", "ce_spliced", "ce_increase", "kl", "mse"),
    *("explained_variance", "top1_agreement", "grad_norm", "train_seconds", "train_tokens"),
)


class Results(NamedTuple):
    """Folders an analysis reads runs from and writes figures to."""

    read: Path
    write: Path


class Run(NamedTuple):
    """A finished run as its files describe it."""

    folder: Path
    config: dict[str, Any]
    origin: dict[str, Any]  # provenance: commit, versions, hardware
    cost: dict[str, Any]  # seconds and memory; {} in older folders
    metrics: dict[str, Any]  # saes: metrics by hook; blocks: a mapping for each later block

    @property
    def layer(self) -> int:
        """The block of the run's first hook."""
        return layer_of(self.config["hook_names"][0])


def finished(run_folder: Path) -> bool:
    """Whether run.json says so; the existence of files means nothing."""
    try:
        return json.loads((run_folder / "run.json").read_text("utf-8")).get("status") == "ok"
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def finished_runs(results: Path) -> Iterator[Path]:
    """Folders of the finished runs, by name."""
    folders = (results / "saes").glob("*/run.json")
    return (f.parent for f in sorted(folders) if finished(f.parent))


def open_results(folder: str) -> Results:
    """Where an analysis reads and writes.

    A folder with finished runs is both. Otherwise the committed results/reference is read and
    figures go to results/notebook, so that looking never changes the reference.

    Raises:
        ResultsError: neither the folder nor the reference holds a finished run.

    >>> open_results("results/reference").write.name
    'reference'
    """
    asked, reference = project_path(folder), project_path(REFERENCE)
    if any(finished_runs(asked)):
        return Results(asked, asked)
    if not any(finished_runs(reference)):
        raise ResultsError(
            f"results_folder is {folder!r}, but neither it nor {REFERENCE!r} holds a finished run: "
            "train some with `make run`, or run notebooks/10_train.ipynb."
        )
    print(f"{folder} holds no finished runs yet: reading {REFERENCE}, writing results/notebook.")
    return Results(reference, project_path("results/notebook"))


def run_config(results: Path, run: str | None = None) -> dict[str, Any]:
    """What run.json of a finished run says under `config`; without a name, of the first run.

    Raises:
        ResultsError: there is no such finished run, or it is damaged.
    """
    for folder in finished_runs(results):
        if run in (None, folder.name):
            config: dict[str, Any] = read_record(folder)["config"]
            return config
    what = "no finished run" if run is None else f"no finished run {run!r}"
    raise ResultsError(f"results folder {shown_path(results)!r} holds {what}.")


def sae_folder(results: Path, run: str, hook: str | None = None) -> Path:
    """The folder that holds a run's weights.

    Raises:
        ResultsError: the weights are not there (results/reference ships the matched runs' alone).
    """
    folder = results / "saes" / run
    nested = folder / hook if hook is not None and (folder / hook).is_dir() else folder
    if not (nested / "sae_weights.safetensors").is_file():
        raise ResultsError(
            f"run {run!r} has no weights in {shown_path(results)!r}: the reference ships those of "
            "the matched runs only; train it again with `make run PROFILE=storyworld`."
        )
    return nested


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a finished run, with a checked `config`; `provenance` and `cost` are mappings.

    Raises:
        ResultsError: the file cannot be read, or lacks what every run has.
    """
    record = _read_mapping(folder / "run.json")
    config = record.get("config")
    objective = config.get("objective") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(objective, dict):
        raise _damaged(folder / "run.json", "has no config with an objective")
    names = {key: config.get(key) for key in ("model", "objective_name", "device")}
    wrong = [key for key, value in names.items() if not isinstance(value, str)]
    numbers = {key: config.get(key) for key in ("dict_ratio", "lr")}
    numbers["sparsity_coeff"] = objective.get("sparsity_coeff")
    wrong += [key for key, value in numbers.items() if not _number(value) or value is None]
    weights = {key: objective.get(key) for key in ("kl_coeff", "downstream_coeff")}
    wrong += [key for key, value in weights.items() if not _number(value)]
    if type(config.get("seed")) is not int or abs(config["seed"]) >= 2**63:
        wrong.append("seed")
    hooks, starts = config.get("hook_names"), config.get("init_from", {})
    if not (isinstance(hooks, list) and hooks and all(map(_hook, hooks))):
        wrong.append("hook_names")
    if not (isinstance(starts, dict) and all(isinstance(v, str) for v in starts.values())):
        wrong.append("init_from")
    if wrong:
        raise _damaged(folder / "run.json", f"has no usable {', '.join(wrong)}")
    for key in ("provenance", "cost"):
        if not isinstance(record.setdefault(key, {}), dict):
            raise _damaged(folder / "run.json", f"has a {key} that is no mapping")
    return record


def read_run(folder: Path) -> Run:
    """A finished run.

    Raises:
        ResultsError: run.json or metrics.json cannot be read or lacks what every run has.
    """
    record = read_record(folder)
    path = folder / "metrics.json"
    metrics = _read_mapping(path)
    saes, blocks = metrics.get("saes"), metrics.get("blocks")
    if not (isinstance(saes, dict) and saes and isinstance(blocks, list)):
        raise _damaged(path, "has no metrics of an SAE, or no list of blocks")
    for hook, values in saes.items():
        if not (_hook(hook) and isinstance(values, dict) and all(map(_number, values.values()))):
            raise _damaged(path, "has metrics that are no numbers")
        if lacking := [name for name in METRICS if name not in values]:
            raise _damaged(path, f"lacks {', '.join(lacking)}")
    for block in blocks:
        values = dict(block) if isinstance(block, dict) else {}
        if not (_hook(values.pop("hook", None)) and all(map(_number, values.values()))):
            raise _damaged(path, "has a block that is no mapping of a hook and numbers")
    return Run(folder, record["config"], record["provenance"], record["cost"], metrics)


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV of numbers that has at least `columns`.

    Raises:
        ResultsError: it cannot be read, lacks a column, or a column holds anything but numbers.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError, OverflowError) as error:
        raise _damaged(path, f"cannot be read ({first_sentence(error)})") from error
    if lacking := [name for name in columns if name not in table]:
        raise _damaged(path, f"lacks the columns {', '.join(lacking)}")
    kinds = {name: table[name].dtype for name in table}
    others = [str(name)[:40] for name, kind in kinds.items() if kind.kind not in "iufb"]
    if others and len(table):
        raise _damaged(path, f"holds more than numbers in {', '.join(others[:5])}")
    return table


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise _damaged(path, "is no mapping")
    return found


def _damaged(path: Path, what: str) -> ResultsError:
    place = f"{path.parent.name}/{path.name}"
    return ResultsError(f"results file {place!r} {what}: delete its folder and train it again.")


def _number(value: Any) -> bool:
    """A number that float64 holds, or None, which is an unknown one."""
    if value is None or isinstance(value, bool | float):
        return True
    return isinstance(value, int) and abs(value) < 2**63


def _hook(value: Any) -> bool:
    return isinstance(value, str) and HOOK.fullmatch(value) is not None


def origins(runs: list[Mapping[str, Any]], key: str) -> list[str]:
    """The different values of `key` in the provenance of several runs, as text, in order."""
    return sorted({str(origin[key]) for origin in runs if origin.get(key) is not None})
