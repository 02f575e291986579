"""The tables made of all runs of a results folder, and what is wrong with an SAE at a glance.

No torch here.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from e2e_lib.errors import ResultsError
from e2e_lib.files import shown_path, write_text
from e2e_lib.names import layer_of
from e2e_lib.runs.read import CURVE, LATER, Run, finished_runs, read_run, read_table

METRICS_FIRST = [
    *("run", "model", "objective", "layer", "hook", "sparsity_coeff", "kl_coeff"),
    *("downstream_coeff", "seed", "dict_ratio", "d_sae", "train_tokens", "lr", "init_from"),
    *("l0", "alive", "ce_clean", "ce_spliced", "ce_increase", "kl", "mse", "explained_variance"),
    *("top1_agreement", "grad_norm", "train_seconds", "device", "sparsifier", "k", "variant"),
]
DEAD_BELOW = 0.1  # share of latents that fire on held-out text
DEAD, DENSE, UNKNOWN = "dead dictionary", "L0 beyond d_model", "loss unknown"


def metrics_table(results: Path) -> pd.DataFrame:
    """One row a SAE of every finished run; columns as in docs/metrics.md.

    Raises:
        ResultsError: no finished run, or a damaged one.

    >>> from e2e_lib import open_results
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
        shared |= {"sparsifier": config.get("sparsifier", "relu"), "k": config.get("k")}
        varied = (f"{key}={config[key]}" for key in LATER if key in config and key not in shared)
        shared["variant"] = ", ".join(sorted(varied))
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


def flagged(table: pd.DataFrame, dead_below: float = DEAD_BELOW) -> pd.DataFrame:
    """`table` (of `metrics_table`) with a last column `flags`, empty for a sound SAE.

    - dead dictionary: fewer than `dead_below` of its latents fire on any held-out token;
    - L0 beyond d_model: more latents fire on a token than the activation has dimensions (`d_in`),
      so that the code is no sparse one: the activation itself would be shorter;
    - loss unknown: the CE increase is no finite number.

    Several are joined by "; ". A table without `d_in`, of which older folders have some, is not
    checked for the second.
    """
    width = table["d_in"] if "d_in" in table else pd.Series(float("nan"), table.index)
    ce = table["ce_increase"].astype(float)
    found = {
        DEAD: table["alive"].astype(float) < dead_below * table["d_sae"],
        DENSE: table["l0"].astype(float) > width.astype(float),
        UNKNOWN: ~ce.between(-float("inf"), float("inf"), inclusive="neither"),
    }
    names = [
        "; ".join(name for name, wrong in zip(found, row, strict=True) if wrong)
        for row in zip(*found.values(), strict=True)
    ]
    return table.assign(flags=pd.Series(names, table.index, dtype=str))


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
    return _per_run(results, lambda run: read_table(run.folder / "curve.csv", CURVE))


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
    known: dict[str, str] = {}
    for run in found:  # a folder that was copied
        name = run.folder.name
        first = known.setdefault(json.dumps(run.config, sort_keys=True), name)
        if first != name:
            raise ResultsError(
                f"results folder {shown_path(results)!r} holds one run twice, as {first!r} and as "
                f"{name!r}, and it would count twice: move one of them elsewhere."
            )
    return found
