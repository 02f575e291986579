"""Reading run folders, which may be damaged: every fault is a ResultsError that names the file.

    results/<profile>/saes/<run>/          <run> = <objective>-<hook>-l<λ>-s<seed>-<hash>
        run.json       parameters, provenance, status; "ok" is what finished means
        metrics.json   metrics by hook, and of the later blocks
        rows.csv       metrics of each held-out row of text
        curve.csv      the training curve
        sae_weights.safetensors, cfg.json, sparsity.safetensors
A run with SAEs at several hooks keeps each in a sub-folder named after its hook. No torch here.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from e2e_lib.core.config import TrainConfig
from e2e_lib.errors import ResultsError, reworded
from e2e_lib.files import project_path, shown_path
from e2e_lib.names import layer_of

REFERENCE = "results/reference"
# Parameters that 0.1.0 did not have.
LATER = {
    *("sparsifier", "penalty", "target_l0", "sparsity_warmup", "auxk_coeff", "dead_share"),
    *("still", "k", "fisher_coeff", "balanced", "random_weights", "skip"),
}
CURVE = ("step", "tokens", "loss", "l0", "ce_increase", "grad_norm", "lr")  # columns of curve.csv


Number = float | None  # None is an unknown one
Hook = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.>]{1,200}$")]  # part of a path: no separators
Size = Field(gt=-(2**63), lt=2**63)


class Facts(BaseModel, strict=True, extra="allow", protected_namespaces=()):
    """What a mapping must hold; it may hold more."""


class Objective(Facts):
    sparsity_coeff: float = Size
    kl_coeff: Number
    downstream_coeff: Number


class Config(Facts):
    model: str
    objective_name: str
    objective: Objective
    hook_names: list[Hook] = Field(min_length=1)
    seed: int = Size
    dict_ratio: float = Size
    lr: float = Size
    device: str
    init_from: dict[str, str] = {}
    contents: dict[str, Any] = {}
    context_size: Annotated[int, Size] = 2  # this one and the next stand in every run trained here
    processed: bool = False


class Origin(Facts):
    packages: dict[str, Any] = {}


class Record(Facts):
    """run.json."""

    config: Config
    provenance: Origin = Origin()
    cost: dict[str, Number] = {}


class Measured(Facts):
    """An SAE's metrics."""

    __pydantic_extra__: dict[str, Number]
    d_sae: Number
    l0: Number
    alive: Number
    ce_clean: Number
    ce_spliced: Number
    ce_increase: Number
    kl: Number
    mse: Number
    explained_variance: Number
    top1_agreement: Number
    grad_norm: Number
    train_seconds: Number
    train_tokens: Number


class Block(Facts):
    __pydantic_extra__: dict[str, Number]
    hook: Hook


class Metrics(Facts):
    """metrics.json."""

    saes: dict[Hook, Measured] = Field(min_length=1)
    blocks: list[Block]


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


def config_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values, in the order that run.json keeps.

    What came after the first release is left out where it has its default: it names no run anew.
    """
    values = asdict(config)
    usual = {own.name: own.default for own in fields(config)}
    values = {k: v for k, v in values.items() if k not in LATER or v != usual[k]}
    weights = values["objective"]
    values["objective"] = {k: v for k, v in weights.items() if k not in LATER or v}
    # Folders of a machine do not belong in results.
    values["init_from"] = {hook: Path(folder).name for hook, folder in config.init_from.items()}
    first, last = (
        {key: values.pop(key) for key in keys}
        for keys in (
            ("objective", "hook_names"),
            ("init_from", "frozen", "downstream_last_block", "precision"),
        )
    )
    return first | values | last


def run_name(config: Mapping[str, Any]) -> str:
    """`<objective>-<hook>-l<λ>-s<seed>-<hash>`; the hash covers every value of `config`.

    Where a number k of latents is held, it stands there after the sparsifier's name.
    """
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4)
    hooks = "+".join(config["hook_names"])
    k, coeff = config.get("k"), config["objective"]["sparsity_coeff"]
    size = f"l{coeff:g}" if k is None else f"{config['sparsifier']}{k:g}"
    slug = f"{config['objective_name']}-{hooks}-{size}-s{config['seed']}"
    return re.sub(r"[^\w.+-]", "_", slug) + f"-{digest.hexdigest()}"


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


def has_weights(results: Path, run: str) -> bool:
    """Whether `sae_folder` finds a run's weights."""
    try:
        return bool(sae_folder(results, run))
    except ResultsError:
        return False


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a finished run, with a checked `config`; `provenance` and `cost` are mappings.

    Raises:
        ResultsError: the file cannot be read, or lacks what every run has.
    """
    return {"provenance": {}, "cost": {}} | _read_facts(folder / "run.json", Record)


def read_run(folder: Path) -> Run:
    """A finished run.

    Raises:
        ResultsError: run.json or metrics.json cannot be read or lacks what every run has.
    """
    record, metrics = read_record(folder), _read_facts(folder / "metrics.json", Metrics)
    return Run(folder, record["config"], record["provenance"], record["cost"], metrics)


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV of numbers that has at least `columns`.

    Raises:
        ResultsError: it cannot be read, lacks a column, or a column holds anything but numbers.
    """
    with reworded(ResultsError, _damaged(path, "cannot be read")):
        table = pd.read_csv(path)
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its last line is cut")
    if lacking := [name for name in columns if name not in table]:
        raise ResultsError(f"{_damaged(path, f'lacks the columns {lacking}')}.")
    kinds = {name: table[name].dtype for name in table}
    others = [str(name)[:40] for name, kind in kinds.items() if kind.kind not in "iufb"]
    if others and len(table):
        raise ResultsError(f"{_damaged(path, f'holds more than numbers in {others[:5]}')}.")
    return table


def _read_facts(path: Path, kind: type[Facts]) -> dict[str, Any]:
    """A JSON file as it is, once it is seen to be one of `kind`."""
    with reworded(ResultsError, _damaged(path, "cannot be read")):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        kind.model_validate(found)
    except ValidationError as error:
        faults = [
            (".".join(map(str, fault["loc"]))[:80] or "content", fault["msg"].split(" or inst")[0])
            for fault in error.errors()[:5]
        ]
        wrong = ", ".join(f"{place} ({message})" for place, message in faults)
        raise ResultsError(f"{_damaged(path, f'has no usable {wrong}')}.") from error
    return found


def _damaged(path: Path, what: str) -> str:
    place = f"{path.parent.name}/{path.name}"
    return f"results file {place!r} {what}: delete its folder and train it again"
