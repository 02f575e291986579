"""What the machine-learning reproducibility checklist asks, answered from the run folders.

Source: the checklist of NeurIPS (Pineau et al. 2021, "Improving reproducibility in machine learning
research"): computing infrastructure and its use, the parameters considered and how any were chosen,
the number of runs, seeds, code and data. Every answer is read from what the runs recorded; "not
recorded" is one too. No torch here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from e2e_lib.errors import is_number
from e2e_lib.runs.read import Run, finished, finished_runs, read_run
from e2e_lib.runs.tables import DEAD, DEAD_BELOW, DENSE, UNKNOWN, flagged, metrics_table

UNKNOWN_VALUE = "not recorded"
LISTED = 12  # values of a parameter that are written out
_TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SELECTION: dict[str, str] = _TEXTS["selection"]
MACHINE: dict[str, list[str]] = _TEXTS["machine"]
DATA: list[str] = _TEXTS["data"]


def checklist(results: Path) -> pd.DataFrame:
    """The answers: columns section (compute, code, data, parameters, …), item and value, as text.

    Raises:
        ResultsError: no finished run, or a damaged one.
    """
    table = flagged(metrics_table(results))  # raises where there is nothing to describe
    runs = [read_run(folder) for folder in finished_runs(results)]
    sections = {
        "runs": _counts(results, table),
        "seeds": _seeds(runs),
        "selection": iter(SELECTION.items()),
        "compute": _compute(runs),
        "code": _code(runs),
        "data": _parameters(runs, data=True),
        "parameters": _parameters(runs, data=False),
    }
    rows = [(section, *pair) for section, pairs in sections.items() for pair in pairs]
    return pd.DataFrame(rows, columns=["section", "item", "value"])


def compute_table(results: Path) -> pd.DataFrame:
    """What training took, one row for each objective, layer, number of tokens and dictionary ratio.

    Columns after those: runs, seeds (how many), hours (of all, together, waits for a busy
    machine included), seconds_min,
    seconds_median, seconds_max (of a run: its equal share of what SAEs trained side by side share)
    and peak_memory_mb (the largest process; NaN in older folders).
    """
    rows = []
    for run in map(read_run, finished_runs(results)):
        metrics, config = next(iter(run.metrics["saes"].values())), run.config
        memory = run.cost.get("peak_memory_mb")
        rows.append({
            "objective": config["objective_name"], "layer": run.layer, "seed": config["seed"],
            "train_tokens": metrics["train_tokens"], "dict_ratio": config["dict_ratio"],
            "seconds": metrics["train_seconds"], "memory": memory if is_number(memory) else None,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table[["seconds", "memory"]] = table[["seconds", "memory"]].astype(float)
    by = ["objective", "layer", "train_tokens", "dict_ratio"]
    return table.groupby(by, as_index=False, dropna=False).agg(
        runs=("seed", "size"),
        seeds=("seed", "nunique"),
        hours=("seconds", lambda s: s.sum(min_count=1) / 3600),
        seconds_min=("seconds", "min"),
        seconds_median=("seconds", "median"),
        seconds_max=("seconds", "max"),
        peak_memory_mb=("memory", "max"),
    )


def failures(results: Path) -> list[tuple[str, str]]:
    """Name and error of every notebook that failed and was not run again with success."""
    found = []
    for path in sorted((results / "failed").glob("*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            found.append((path.stem, str(facts["error"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found.append((path.stem, "its record is damaged"))
    return found


def _counts(results: Path, table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    folders = [f for f in sorted((results / "saes").glob("*")) if f.is_dir()]
    done = [finished(f) for f in folders]
    yield "finished", f"{sum(done)} runs, {len(table)} SAEs"
    yield "unfinished", f"{len(done) - sum(done)} run folders"
    failed = failures(results)
    words = "; ".join(f"{name}: {error}" for name, error in failed)
    yield "failed", f"{len(failed)} notebooks{': ' if words else ''}{words}"
    aside = len(list((results / "set_aside").glob("*/run.json")))
    yield "set aside", f"{aside} runs of settings that are no longer asked for"
    for flag, words in (
        (DEAD, f"fewer than {DEAD_BELOW:.0%} of the latents fire"),
        (DENSE, "more latents fire on a token than the activation has dimensions"),
        (UNKNOWN, "no finite CE increase"),
    ):
        yield f"flagged: {flag}", f"{table['flags'].str.contains(flag).sum()} SAEs ({words})"


def _seeds(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    seeds = pd.Series([run.config["seed"] for run in runs]).value_counts().sort_index()
    yield "seeds", ", ".join(f"{seed} ({count} runs)" for seed, count in seeds.items())
    yield "a seed decides", "initial weights and the order of the training text"


def _compute(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    origins = [run.origin for run in runs]
    for item, keys in MACHINE.items():
        yield item, _listed([_first(origin, keys) for origin in origins])
    saes = [next(iter(run.metrics["saes"].values())) for run in runs]
    seconds = np.array([s["train_seconds"] for s in saes], dtype=float)
    seconds = seconds[np.isfinite(seconds)]
    hours = f"{seconds.sum() / 3600:.3g}" if len(seconds) else UNKNOWN_VALUE
    yield "training of all runs, hours (recorded seconds, waits for a busy machine included)", hours
    if len(seconds):
        low, middle, high = np.percentile(seconds, [0, 50, 100])
        yield "training of a run, seconds", f"{low:.3g} to {high:.3g}, median {middle:.3g}"
    for item, key in (("", "peak_memory_mb"), ("GPU ", "peak_gpu_memory_mb")):
        known = [run.cost[key] for run in runs if is_number(run.cost.get(key))]
        unused = bool(runs) and all(key in run.cost for run in runs)
        none = "none used" if unused else UNKNOWN_VALUE
        yield f"peak {item}memory of a process, MB", f"{max(known):.0f}" if known else none


def _code(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    origins = [run.origin for run in runs]
    yield "commit", _listed([str(o.get("commit") or UNKNOWN_VALUE)[:10] for o in origins])
    clean = sum(origin.get("clean_tree") is True for origin in origins)
    yield "clean tree", f"{clean} of {len(runs)} runs"
    yield "digest of the library", _listed([_first(o, ("code",)) for o in origins])
    yield "Python", _listed([_first(o, ("python",)) for o in origins])
    known = [p for o in origins if isinstance(p := o.get("packages"), dict)]
    for name in sorted({name for p in known for name in p}):
        yield str(name), _listed([_first(p, (name,)) for p in known])


def _parameters(runs: Sequence[Run], data: bool) -> Iterator[tuple[str, str]]:
    """Every parameter of the runs with all its values."""
    flat = [_flat(run.config) for run in runs]
    for name in dict.fromkeys(name for values in flat for name in values):
        if (name.split(".")[0] in DATA) is data and name != "seed":
            yield name, _listed([values.get(name, "–") for values in flat])
    if data:
        known = [_flat(c) for r in runs if isinstance(c := r.origin.get("hub_commits"), dict)]
        for name in sorted({name for c in known for name in c if c[name] is not None}):
            yield f"commit of {name}", _listed([c.get(name) for c in known])


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names of nested values joined by points, in their order; an empty mapping says nothing."""
    [record] = pd.json_normalize({"": dict(values)}).to_dict("records")
    return {str(name).removeprefix("."): value for name, value in record.items()}


def _first(facts: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first of `keys` that is known; a GPU that is known to be absent is `none`."""
    for key in keys:
        if facts.get(key) is not None:
            return facts[key]
    return "none" if any(key in facts for key in keys) else UNKNOWN_VALUE


def _listed(values: Sequence[Any]) -> str:
    """The different values, numbers by size, and how many where that is more than `LISTED`."""
    different = {json.dumps(v, sort_keys=True, default=str): v for v in values}
    ordered = sorted(
        different.values(), key=lambda v: (not is_number(v), v if is_number(v) else 0, str(v))
    )
    text = [_shown(value) for value in ordered]
    if len(text) > LISTED:
        return f"{text[0]} to {text[-1]} ({len(text)} values)"
    return ", ".join(text) or UNKNOWN_VALUE


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
