"""SAEs that start from a trained local SAE: how far their features move, and whether seeds agree.

Source: a suggestion of the paper (train locally, then end-to-end) that its authors did not try.
Row i of a warm-started dictionary grew out of row i of the local one, so that rows can be compared
one by one. Only alive elements count: those that fire on the evaluation text.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from e2e_lib.analysis.geometry import alive_directions, cross_seed_similarity
from e2e_lib.analysis.matched import sweep_runs
from e2e_lib.analysis.statistics import RESAMPLES, difference_interval
from e2e_lib.runs.load import SavedSAE

SCRATCH, LOCAL = "from scratch", "the local starts"


def compared_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Runs whose features are compared: warm starts, the main runs beside them, their starts.

    table: `metrics_table`. Of the warm-started λ, the middle one of each layer and objective (the
    lower of two). Returns rows of `table` with a column `role`: warm, scratch or start.
    """
    runs = sweep_runs(table, "init_from")
    keys = ["layer", "objective"]
    usual = runs.groupby(keys)["sparsity_coeff"].transform(
        lambda coeffs: sorted(coeffs.unique())[(coeffs.nunique() - 1) // 2]
    )
    runs = runs[runs["sparsity_coeff"] == usual]
    role = runs["main"].map({True: "scratch", False: "warm"})
    starts = table[table["run"].isin(runs["init_from"])].assign(init_from="", role="start")
    return pd.concat([runs.drop(columns="main").assign(role=role), starts], ignore_index=True)


def moved(saes: Mapping[str, SavedSAE], compared: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element of a warm-started SAE: its cosine with the row it started from.

    saes: by run; a run or start that is missing is left out. Columns: layer, objective, seed,
    sparsity_coeff, train_tokens, cosine, started_alive (whether that row fired in the local SAE).
    """
    labels = ["layer", "objective", "seed", "sparsity_coeff", "train_tokens"]
    tables = []
    for row in compared[compared["role"] == "warm"].to_dict("records"):
        if row["run"] not in saes or row["init_from"] not in saes:
            continue
        now, start = saes[row["run"]], saes[row["init_from"]]
        alive = now.frequency > 0
        cosine = (now.sae.dictionary * start.sae.dictionary).sum(dim=-1)[alive]
        values = {
            "cosine": cosine.detach().cpu().numpy(),
            "started_alive": (start.frequency > 0)[alive].cpu().numpy(),
        }
        tables.append(pd.DataFrame({name: row[name] for name in labels} | values))
    columns = [*labels, "cosine", "started_alive"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def agreement(saes: Mapping[str, SavedSAE], compared: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element and other seed: its largest cosine with that seed's elements.

    Between runs that differ in the seed alone: warm starts of the same number of tokens, the runs
    from scratch beside them, and the local SAEs that the former started from. Columns: layer,
    objective, seed, other_seed, max_cosine, start ("warm, 50,000 tokens", SCRATCH or LOCAL).
    """
    directions = {
        run: alive_directions(saved.sae.dictionary, saved.frequency) for run, saved in saes.items()
    }
    warm = compared["role"] == "warm"
    kinds = {LOCAL: compared["role"] == "start", SCRATCH: compared["role"] == "scratch"}
    for tokens in sorted(compared.loc[warm, "train_tokens"].unique()):
        kinds[f"warm, {tokens:,} tokens"] = warm & (compared["train_tokens"] == tokens)
    tables = [
        cross_seed_similarity(directions, compared[of_kind]).assign(start=kind)
        for kind, of_kind in kinds.items()
    ]
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def agreement_gain(table: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Mean max cosine across seeds of warm starts minus that of runs from scratch.

    table: `agreement`. Interval: 95 %, over seeds and elements within. Columns: layer, objective,
    start, mean, scratch, local (that of the local starts), difference, low, high.
    """
    found = []
    local = table[table["start"] == LOCAL].groupby("layer")["max_cosine"].mean()
    for (layer, objective), own in table[table["start"] != LOCAL].groupby(["layer", "objective"]):
        groups = {kind: _by_seed(part) for kind, part in own.groupby("start")}
        scratch = groups.pop(SCRATCH, {})
        for kind, warm in groups.items():
            seeds = sorted(set(scratch) & set(warm))
            if not seeds:
                continue
            first, second = ([g[s] for s in seeds] for g in (warm, scratch))
            interval = difference_interval(first, second, resamples, seed)
            means = [float(np.mean([v.mean() for v in values])) for values in (first, second)]
            row = {"layer": layer, "objective": objective, "start": kind}
            row |= {"mean": means[0], "scratch": means[1], "local": local.get(layer, np.nan)}
            row |= {"difference": interval.value, "low": interval.low, "high": interval.high}
            found.append(row)
    columns = ["layer", "objective", "start", "mean", "scratch", "local"]
    columns += ["difference", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def _by_seed(table: pd.DataFrame) -> dict[int, np.ndarray]:
    groups = table.groupby("seed")["max_cosine"]
    return {int(one): values.to_numpy(dtype=float) for one, values in groups}
