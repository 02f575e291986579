"""Cosine similarity between dictionary elements: tensors in, tidy tables out.

Source: the paper's section 3.3, Figs 3, 7 and 8. Only alive elements count: those that fire
at least once on the evaluation text. Directions have unit length, so a cosine is a dot product.

SAEs that start from a trained local one (a suggestion of the paper that its authors did not try):
how far their features move, and whether seeds agree more. Row i of a warm-started dictionary grew
out of row i of the local one, so that rows can be compared one by one.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from e2e_lib.analysis.matched import stacked, warm_label
from e2e_lib.analysis.statistics import RESAMPLES, difference
from e2e_lib.runs.load import SavedSAE

CHUNK = 4096  # rows of the Gram matrix at a time; 4096 x 46,080 floats are 0.75 GB
LABELS = ["layer", "objective", "seed"]
SCRATCH, LOCAL = "from scratch", "the local starts"


def alive_directions(
    dictionary: Float[Tensor, "d_sae d_in"], frequency: Float[Tensor, " d_sae"]
) -> Float[Tensor, "alive d_in"]:
    """Unit decoder directions of the elements that fire at all (frequency > 0)."""
    alive = dictionary[frequency > 0].detach().float()
    return alive / alive.norm(dim=-1, keepdim=True)


def cross_max_cosine(
    first: Float[Tensor, "n d_in"], second: Float[Tensor, "m d_in"], chunk: int = CHUNK
) -> Float[Tensor, " n"]:
    """For each unit row of `first`, the largest cosine with a unit row of `second` (Fig 3b, c)."""
    if not len(first) or not len(second):
        return first.new_full((len(first),), torch.nan)
    return torch.cat([(rows @ second.T).amax(dim=1) for rows in first.split(chunk)])


def to_others(directions: Float[Tensor, "n d_in"], chunk: int = CHUNK) -> Iterator[Tensor]:
    """Cosines of unit rows with all rows, `chunk` rows at a time; −∞ with itself."""
    for start in range(0, len(directions), chunk):
        cosines = directions[start : start + chunk] @ directions.T
        cosines.diagonal(offset=start).fill_(-torch.inf)
        yield cosines


def within_max_cosine(
    directions: Float[Tensor, "n d_in"], chunk: int = CHUNK
) -> Float[Tensor, " n"]:
    """For each unit row, the largest cosine with any other row (Fig 3a); NaN if it is alone."""
    if len(directions) < 2:
        return directions.new_full((len(directions),), torch.nan)
    return torch.cat([cosines.amax(dim=1) for cosines in to_others(directions, chunk)])


def _table(run: Any, values: Tensor, **labels: object) -> pd.DataFrame:
    """One row a known value, with what tells its run (a row of the metrics table) from others."""
    known = {name: getattr(run, name) for name in LABELS} | labels
    return pd.DataFrame(known | {"max_cosine": values.cpu().numpy()}).dropna()


def _present(directions: Mapping[str, Tensor], runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["run"].isin(list(directions))]


def within_similarity(directions: Mapping[str, Tensor], runs: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element: layer, objective, seed, max_cosine within its own dictionary.

    directions: run → alive unit directions; runs: rows of the metrics table to look at.
    """
    present = _present(directions, runs).itertuples()
    tables = [_table(run, within_max_cosine(directions[run.run])) for run in present]
    return stacked(tables, [*LABELS, "max_cosine"])


def cross_seed_similarity(directions: Mapping[str, Tensor], runs: pd.DataFrame) -> pd.DataFrame:
    """Fig 3b. One row an alive element of a run and another seed of the same layer, objective, λ.

    Columns: layer, objective, seed, other_seed, max_cosine (with that other seed's elements).
    """
    tables = []
    groups = _present(directions, runs).groupby(["layer", "objective", "sparsity_coeff"])
    for _, group in groups:
        for a, b in permutations(group.itertuples(), 2):
            if a.seed != b.seed:
                values = cross_max_cosine(directions[a.run], directions[b.run])
                tables.append(_table(a, values, other_seed=b.seed))
    return stacked(tables, [*LABELS, "other_seed", "max_cosine"])


def cross_type_similarity(
    directions: Mapping[str, Tensor], runs: pd.DataFrame, target: str = "local"
) -> pd.DataFrame:
    """Figs 3c and 8. One row an alive element of an e2e or e2e+ds run: layer, objective, seed,
    max_cosine with the elements of the `target` run of the same layer and seed.
    """
    tables = []
    for _, group in _present(directions, runs).groupby(["layer", "seed"]):
        for goal in group[group["objective"] == target].itertuples():
            for run in group[group["objective"] != target].itertuples():
                values = cross_max_cosine(directions[run.run], directions[goal.run])
                tables.append(_table(run, values))
    return stacked(tables, [*LABELS, "max_cosine"])


def mean_similarity(directions: Mapping[str, Tensor], runs: pd.DataFrame) -> pd.DataFrame:
    """Fig 7. One row a run: the mean over its alive elements of the within-dictionary max cosine,
    beside L0, CE increase and number of alive elements."""
    kept = _present(directions, runs)
    means = [float(within_max_cosine(directions[run]).mean()) for run in kept["run"]]
    columns = ["run", "layer", "objective", "seed", "sparsity_coeff", "l0", "ce_increase", "alive"]
    return kept[columns].assign(mean_max_cosine=means).dropna().reset_index(drop=True)


def random_baseline(
    directions: Mapping[str, Tensor], runs: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Beside each run's mean within max cosine, that of as many random unit directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in _present(directions, runs).itertuples():
        own = directions[row.run].cpu()
        random = torch.randn(own.shape, generator=generator)
        random = random / random.norm(dim=-1, keepdim=True)
        means = [float(within_max_cosine(x).mean()) for x in (own, random)]
        rows.append((row.layer, row.objective, len(own), *means))
    columns = ["layer", "objective", "alive", "mean_max_cosine", "random"]
    return pd.DataFrame(rows, columns=columns)


def moved(saes: Mapping[str, SavedSAE], compared: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element of a warm-started SAE: its cosine with the row it started from.

    saes: by run; a run or start that is missing is left out. Columns: layer, objective, seed,
    sparsity_coeff, train_tokens, cosine, started_alive (whether that row fired in the local SAE).
    """
    labels = [*LABELS, "sparsity_coeff", "train_tokens"]
    tables = []
    for row in compared[compared["role"] == "warm"].to_dict("records"):
        if row["run"] not in saes or row["init_from"] not in saes:
            continue
        now, start = saes[row["run"]], saes[row["init_from"]]
        alive = now.frequency > 0
        cosine = (now.sae.dictionary * start.sae.dictionary).sum(dim=-1)[alive]
        table = pd.DataFrame({"cosine": cosine.detach().cpu().numpy()})
        started = (start.frequency > 0)[alive].cpu().numpy()
        tables.append(table.assign(started_alive=started, **{name: row[name] for name in labels}))
    return stacked(tables, [*labels, "cosine", "started_alive"])


def agreement_of_starts(saes: Mapping[str, SavedSAE], compared: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element and other seed: its largest cosine with that seed's elements.

    Between runs that differ in the seed alone: warm starts of the same number of tokens, the runs
    from scratch beside them, and the local SAEs that the former started from. Columns: layer,
    objective, seed, other_seed, max_cosine, start ("warm 50000" after as many tokens,
    SCRATCH or LOCAL).
    """
    directions = {
        run: alive_directions(saved.sae.dictionary, saved.frequency) for run, saved in saes.items()
    }
    warm = compared["role"] == "warm"
    kinds = {LOCAL: compared["role"] == "start", SCRATCH: compared["role"] == "scratch"}
    for tokens in sorted(compared.loc[warm, "train_tokens"].unique()):
        kinds[warm_label(int(tokens))] = warm & (compared["train_tokens"] == tokens)
    tables = [
        cross_seed_similarity(directions, compared[of_kind]).assign(start=kind)
        for kind, of_kind in kinds.items()
    ]
    return stacked(tables, [*LABELS, "other_seed", "max_cosine", "start"])


def agreement_gain(table: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Mean max cosine across seeds of warm starts minus that of runs from scratch.

    table: `agreement_of_starts`. Interval: 95 %, seeds left out one at a time; with two seeds there
    is none. Columns: layer, objective, start, mean, scratch, local (that of the local starts),
    difference, low, high.
    """
    rows = []
    local = table[table["start"] == LOCAL].groupby("layer")["max_cosine"].mean()
    for (layer, objective), own in table[table["start"] != LOCAL].groupby(["layer", "objective"]):
        for kind in sorted(set(own["start"]) - {SCRATCH}):
            found = difference(own, "max_cosine", (kind, SCRATCH), "start", resamples, seed)
            if found:
                labels = (layer, objective, kind, *found.means, local.get(layer, np.nan))
                rows.append((*labels, *found.interval))
    columns = ["layer", "objective", "start", "mean", "scratch", "local"]
    columns += ["difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
