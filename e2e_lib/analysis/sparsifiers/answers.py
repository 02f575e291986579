"""What the matrix answers, as a number with an interval and a verdict by the claims' rule.

Does the objective or the sparsifier matter more? Of one seed's matrix of log KL(clean ‖ spliced)
at one L0, rows sparsifiers and columns objectives (CE increase has no logarithm where it is 0 or
less, which only the best SAEs' is):

    R_objective    mean over rows of the range (largest minus smallest) over columns
    R_sparsifier   mean over columns of the range over rows

A range of more values is larger by chance alone, so both are over equally many: of the longer side,
the mean over all choices of as many as the shorter one has. R_objective − R_sparsifier above 0 says
that the objective matters more. Pandas and numpy only.
"""

from collections.abc import Iterator
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd

from e2e_lib.analysis.claims.ledger import Claim
from e2e_lib.analysis.claims.tables import Measurement, resampled
from e2e_lib.analysis.claims.verdicts import UNDECIDED, verdict
from e2e_lib.analysis.statistics import Array, Interval, seed_interval

AS_GOOD = 1.2  # times e2e's CE increase, up to which a fine-tuning is all one needs
OBJECTIVE_MATTERS = "the objective matters more than the sparsifier"
ENOUGH = "a short fine-tuning is all one needs"


def whole_matrix(found: pd.DataFrame) -> pd.DataFrame:
    """Log KL by (at, seed, sparsifier) and objective, without a gap.

    found: of `matrix.at_levels`. Of what has gaps the line (a sparsifier or an objective) with most
    of them goes first; sanity rows are left out.
    """
    own = found[(found["quantity"] == "kl") & (found["still"] == "none")]
    own = own.assign(log=np.log(own["value"].where(own["value"] > 0)))
    grid = own.pivot_table(
        "log", ["at", "seed", "sparsifier"], "objective", dropna=False, sort=False
    )
    if grid.empty:
        return grid
    every = [own[name].unique() for name in ("at", "seed", "sparsifier")]
    grid = grid.reindex(pd.MultiIndex.from_product(every, names=grid.index.names))
    while grid.isna().any(axis=None):
        by_row, by_column = (
            grid.isna().mean(axis=1).groupby("sparsifier").mean(),
            grid.isna().mean(),
        )
        if by_row.max() >= by_column.max():
            grid = grid.drop(by_row.idxmax(), level="sparsifier")
        else:
            grid = grid.drop(columns=by_column.idxmax())
    return grid


def mean_range(values: Array, count: int) -> float:
    """Mean over rows, and over all choices of `count` columns, of the largest minus the smallest.

    >>> mean_range(np.array([[0.0, 1.0, 3.0]]), 2)  # ranges of 1, 3 and 2
    2.0
    """
    chosen = [values[:, list(some)] for some in combinations(range(values.shape[1]), count)]
    return float(np.mean([np.ptp(some, axis=1) for some in chosen]))


def ranges(found: pd.DataFrame) -> pd.DataFrame:
    """Which matters more, a row an L0, and "all": of every seed the mean over L0.

    found: of `matrix.at_levels`. Columns: at, objective_range and sparsifier_range (factors of
    KL, means over seeds), value, low, high (R_objective − R_sparsifier, 95 % t over seeds),
    n_seeds, n_objectives, n_sparsifiers, verdict and why, of the claim `OBJECTIVE_MATTERS`,
    grid_low and grid_high (the smallest and largest value with one sparsifier or objective left
    out, of which at least two stay; NaN: none can go). A verdict that is another without one of
    them is undecided. No rows where there are not at least two of either.
    """
    columns = ["at", "objective_range", "sparsifier_range", "value", "low", "high", "n_seeds"]
    columns += ["n_objectives", "n_sparsifiers", "verdict", "why", "grid_low", "grid_high"]
    grid = whole_matrix(found)
    if not len(grid) or min(_sizes(grid)) < 2:
        return pd.DataFrame(columns=columns)
    left_out = {name: _by_level(rest) for name, rest in _without_one(grid)}
    rows = []
    for at, own in _by_level(grid).items():
        factors = np.exp(own[["objective", "sparsifier"]].mean())
        interval, word, why = _more(own)
        others = {name: _more(rest[at]) for name, rest in left_out.items()}
        turns = [f"{name} ({o[0].value:.2g}: {o[1]})" for name, o in others.items() if o[1] != word]
        if turns and word != UNDECIDED:
            word, why = UNDECIDED, f"the verdict is another without {', or without '.join(turns)}"
        values = [interval.value for interval, *_ in others.values()]
        ends = (min(values), max(values)) if values else (nan, nan)
        rows.append((at, *factors, *interval, len(own), *_sizes(grid), word, why, *ends))
    return pd.DataFrame(rows, columns=columns)


def _sizes(grid: pd.DataFrame) -> tuple[int, int]:
    """How many objectives, and how many sparsifiers."""
    return grid.shape[1], grid.index.get_level_values("sparsifier").nunique()


def _without_one(grid: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The matrix without each sparsifier, and without each objective, where two stay."""
    objectives, sparsifiers = _sizes(grid)
    for name in grid.index.get_level_values("sparsifier").unique() if sparsifiers > 2 else ():
        yield str(name), grid.drop(name, level="sparsifier")
    for name in grid.columns if objectives > 2 else ():
        yield str(name), grid.drop(columns=name)


def _by_level(grid: pd.DataFrame) -> dict[float | str, pd.DataFrame]:
    """Both ranges of every seed (columns objective, sparsifier), by L0 and their mean ("all")."""
    count = min(_sizes(grid))
    both = grid.groupby(["at", "seed"], sort=False).apply(
        lambda own: pd.Series(
            {
                "objective": mean_range(own.to_numpy(), count),
                "sparsifier": mean_range(own.to_numpy().T, count),
            }
        )
    )
    return {**dict(iter(both.groupby("at"))), "all": both.groupby("seed").mean()}


def _more(both: pd.DataFrame) -> tuple[Interval, str, str]:
    """By how much the objective matters more, and the verdict on it. both: of `_by_level`."""
    interval = seed_interval(both["objective"] - both["sparsifier"])
    return interval, *judged(OBJECTIVE_MATTERS, interval, len(both), above=0.0)


def judged(
    claim: str,
    interval: Interval,
    n_seeds: int,
    above: float | None = None,
    below: float | None = None,
) -> tuple[str, str]:
    """The verdict on one number, and why: the rule of the claims, bounds as there."""
    measured = Measurement(*interval, n_seeds, n_seeds, resampled(n_seeds))
    bounds = {"above": above, "below": below}
    return verdict(Claim("", claim, "", claim, "", lambda _: measured, **bounds), measured)


def fine_tuning(dial: pd.DataFrame) -> pd.DataFrame:
    """CE increase of what was fine-tuned over that of whole end-to-end trainings, at equal L0.

    dial: a row a sparsifier, objective, null_scale and seed: columns these, unused, tokens and
    ce_increase. Of each seed the ratio; mean of its logarithm over the seeds that have both. Where
    a seed's CE increase is 0 or less it has none, and there is no verdict without that seed.
    Columns: null_scale, unused, sparsifier, objective, against (e2e, e2e_ds), tokens (share of the
    whole training's, without the start's), value, low, high, n_seeds, verdict and why, of the claim
    `ENOUGH`: below `AS_GOOD`.
    """
    rows = []
    known = dial.dropna(subset=["ce_increase"])
    keys = ["null_scale", "sparsifier"]
    for labels, own in known.groupby(keys, sort=False):
        table = own.pivot_table("ce_increase", "seed", "objective")
        log = np.log(table.where(table > 0))
        tokens, unused = own.groupby("objective")["tokens"].mean(), own["unused"].mean()
        for name in [o for o in ("finetune", "finetune_ds") if o in log]:
            for against in [o for o in ("e2e", "e2e_ds") if o in log]:
                gap = (log[name] - log[against]).dropna()
                if len(gap):
                    ends = Interval(*(float(np.exp(x)) for x in seed_interval(gap)))
                    said = judged(ENOUGH, ends, len(gap), below=AS_GOOD)
                    if (table[[name, against]] <= 0).any(axis=None):
                        said = (UNDECIDED, "the CE increase of a seed is 0 or less: without ratio")
                    share = tokens[name] / tokens[against]
                    place = (labels[0], unused, labels[1], name, against, share)
                    rows.append((*place, *ends, len(gap), *said))
    columns = ["null_scale", "unused", "sparsifier", "objective", "against", "tokens"]
    return pd.DataFrame(
        rows, columns=[*columns, "value", "low", "high", "n_seeds", "verdict", "why"]
    )
