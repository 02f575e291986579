"""Run folders, their provenance, and the tables of all runs. No torch here.

    results/<profile>/saes/<run>/          <run> = <objective>-<hook>-l<λ>-s<seed>-<hash>
        run.json       parameters, provenance, status; "ok" is what finished means
        metrics.json   metrics by hook, and of the later blocks
        rows.csv       metrics of each held-out row of text
        curve.csv      the training curve
        sae_weights.safetensors, cfg.json, sparsity.safetensors
A run with SAEs at several hooks keeps each in a sub-folder named after its hook.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from e2e_lib.errors import ResultsError
from e2e_lib.files import write_json, write_text, writing
from e2e_lib.names import layer_of
from e2e_lib.runs.flags import flagged
from e2e_lib.runs.provenance import hub_commits, peak_memory, provenance, shown_path, this_code
from e2e_lib.runs.provenance import project_path as project_path  # notebooks import these from here
from e2e_lib.runs.provenance import source_path as source_path
from e2e_lib.runs.read import Run, origins, read_record, read_run, read_table
from e2e_lib.runs.read import finished as finished
from e2e_lib.runs.read import finished_runs as finished_runs

if TYPE_CHECKING:
    from e2e_lib.core.evaluate import Evaluation
    from e2e_lib.core.train import TrainedRun

REFERENCE = "results/reference"
METRICS_FIRST = [
    "run",
    "model",
    "objective",
    "layer",
    "hook",
    "sparsity_coeff",
    "kl_coeff",
    "downstream_coeff",
    "seed",
    "dict_ratio",
    "d_sae",
    "train_tokens",
    "lr",
    "init_from",
    "l0",
    "alive",
    "ce_clean",
    "ce_spliced",
    "ce_increase",
    "kl",
    "mse",
    "explained_variance",
    "top1_agreement",
    "grad_norm",
    "train_seconds",
    "device",
]

CURVE_FIRST = ["step", "tokens", "loss", "l0", "ce_increase", "grad_norm", "lr"]


class Results(NamedTuple):
    """Folders an analysis reads runs from and writes figures to."""

    read: Path
    write: Path


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


def run_name(config: Mapping[str, Any]) -> str:
    """`<objective>-<hook>-l<λ>-s<seed>-<hash>`; the hash covers every value of `config`."""
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4)
    hooks = "+".join(config["hook_names"])
    coeff = f"{config['objective']['sparsity_coeff']:g}"
    slug = f"{config['objective_name']}-{hooks}-l{coeff}-s{config['seed']}"
    return re.sub(r"[^\w.+-]", "_", slug) + f"-{digest.hexdigest()}"


def save_run(
    results: Path,
    config: Mapping[str, Any],
    trained: "TrainedRun",
    held_out: "Evaluation",
    paper: "Evaluation | None" = None,
    *,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Write everything about one finished run; run.json goes last and makes it count.

    Args:
        results: the results folder.
        config: every value that decides the result; names the run.
        trained, held_out: what `train` and `evaluate` returned; of an SAE that was not trained
            here, `released.as_trained`.
        paper: evaluation on the authors' kind of evaluation set, for the `_paper` columns.
        source: SAELens metadata: model_name, dataset_path, context_size, prepend_bos.

    Raises:
        ResultsError: the folder cannot be written to, or the disk is full; the run does not count.
    """
    folder = results / "saes" / run_name(config)
    with writing(folder / "run.json"):  # an older run stops counting before it changes
        (folder / "run.json").unlink(missing_ok=True)
    blocks = held_out.blocks.to_dict("records")
    metrics: dict[str, Any] = {"saes": {}, "blocks": blocks}
    for hook, sae in trained.saes.items():
        place = folder if len(trained.saes) == 1 else folder / hook
        sae.save(place, dict(source or {}) | {"hook_name": hook}, held_out.frequency[hook])
        metrics["saes"][hook] = (
            {"d_sae": sae.d_sae, "d_in": sae.d_in}
            | held_out.model
            | held_out.saes[hook]
            | _paper_metrics(trained, paper, hook)
            | {"grad_norm": trained.grad_norm, "train_seconds": trained.train_seconds}
            | {"train_tokens": trained.train_tokens}
        )
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "rows.csv", held_out.rows.to_csv(index=False, float_format="%.6g"))
    curve = pd.DataFrame(trained.curve or None, columns=None if trained.curve else CURVE_FIRST)
    write_text(folder / "curve.csv", curve.to_csv(index=False, float_format="%.6g"))
    record = {
        "status": "ok",
        "config": config,
        "provenance": provenance() | {"hub_commits": hub_commits(config)},
        "cost": {"train_seconds": trained.train_seconds} | peak_memory(),
    }
    write_json(folder / "run.json", record)
    return folder


def _paper_metrics(trained: "TrainedRun", paper: "Evaluation | None", hook: str) -> dict[str, Any]:
    values: dict[str, Any] = {"alive_paper": trained.alive_paper.get(hook)}
    values["alive_window_tokens"] = trained.alive_window_tokens
    if paper is not None:
        values |= {f"{k}_paper": paper.model[k] for k in ("ce_increase", "kl")}
        values["l0_paper"] = paper.saes[hook]["l0"]
    return values


def print_provenance(results: Path | None = None, names: Collection[str] = ()) -> None:
    """One line, the last of a notebook: which runs it read, by which code, and the code at work.

    Args:
        results: folder of the runs; None where a notebook reads none.
        names: of the runs that count; empty for all finished ones.
    """
    read = ""
    if results is not None:
        folders = [f for f in finished_runs(results) if not names or f.name in names]
        records = [read_record(f) for f in folders]
        found = [r["provenance"] for r in records]
        seeds = sorted({r["config"]["seed"] for r in records})
        commits = sorted({commit[:10] for commit in origins(found, "commit")})
        torches = sorted({str(p["packages"]["torch"]).split("+")[0] for p in found if _torch(p)})
        read = f"{len(records)} runs, seeds {', '.join(map(str, seeds))}, torch "
        read += f"{', '.join(torches) or 'unknown'}, commit {', '.join(commits) or 'unknown'}; "
    print(f"{read}this notebook: {this_code()}")


def _torch(origin: Mapping[str, Any]) -> bool:
    return isinstance(origin.get("packages"), dict) and "torch" in origin["packages"]


def metrics_table(results: Path) -> pd.DataFrame:
    """One row a SAE of every finished run; columns as in the README's table of metrics.

    Raises:
        ResultsError: no finished run, or a damaged one.

    >>> table = metrics_table(open_results("results/reference").read)
    >>> sorted(table.objective.unique())
    ['e2e', 'e2e_ds', 'local']
    """
    rows = []
    for run in _read_runs(results):
        config, objective = run.config, run.config["objective"]
        shared = {
            "run": run.folder.name,
            "model": config["model"],
            "objective": config["objective_name"],
            "sparsity_coeff": objective["sparsity_coeff"],
            "kl_coeff": objective["kl_coeff"],
            "downstream_coeff": objective["downstream_coeff"],
        } | {k: config[k] for k in ("seed", "dict_ratio", "lr", "device")}
        for hook, values in run.metrics["saes"].items():
            start = config.get("init_from", {}).get(hook, "")  # empty: from scratch
            place = {"hook": hook, "layer": layer_of(hook), "init_from": start}
            rows.append(values | shared | place)
    table = pd.DataFrame(rows)
    unknown = table.columns[table.isna().all()]  # by every run: what training alone knows
    table[unknown] = table[unknown].astype(float)  # NaN, and not None
    others = [c for c in table.columns if c not in METRICS_FIRST]
    order = ["layer", "hook", "objective", "seed", "sparsity_coeff", "run"]
    return table[[*METRICS_FIRST, *others]].sort_values(order).reset_index(drop=True)


def write_metrics_table(results: Path) -> Path:
    """Write metrics.csv: one row a SAE, and in `flags` what is wrong with it."""
    path = results / "metrics.csv"
    table = flagged(metrics_table(results))
    write_text(path, table.to_csv(index=False, float_format="%.8g"))
    return path


def block_table(results: Path) -> pd.DataFrame:
    """One row a SAE and position of the residual stream from the SAE on (`block` = n: last)."""
    return _per_run(results, lambda run: pd.DataFrame(run.metrics["blocks"]))


def row_table(results: Path) -> pd.DataFrame:
    """One row a run and held-out row of text: ce_clean, ce_increase, kl, l0."""
    columns = ("ce_clean", "ce_increase", "kl", "l0")
    return _per_run(results, lambda run: read_table(run.folder / "rows.csv", columns))


def curve_table(results: Path) -> pd.DataFrame:
    """The training curves of all runs."""
    columns = tuple(CURVE_FIRST)
    return _per_run(results, lambda run: read_table(run.folder / "curve.csv", columns))


def _per_run(results: Path, read: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    tables = []
    for run in _read_runs(results):
        keys = {"run": run.folder.name, "objective": run.config["objective_name"]}
        keys |= {"layer": run.layer, "seed": run.config["seed"]}
        keys |= {"sparsity_coeff": run.config["objective"]["sparsity_coeff"]}
        tables.append(read(run).assign(**keys))
    return pd.concat(tables, ignore_index=True)


def _read_runs(results: Path) -> list[Run]:
    found = [read_run(folder) for folder in finished_runs(results)]
    if not found:
        raise ResultsError(f"results folder {shown_path(results)!r} holds no finished run.")
    return found


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


def skip_figure(results: Path, name: str, reason: str) -> None:
    """Record, in one sentence, why a figure or table cannot be made from these runs."""
    print(f"{name} skipped: {reason}")
    for old in (results / "figures").glob(f"{name}.*"):
        old.unlink()
    write_json(results / "skipped" / f"{name}.json", {"name": name, "reason": reason})
