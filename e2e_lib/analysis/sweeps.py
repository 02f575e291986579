"""What one hyperparameter, or the seed, changes, and what training costs. No torch.

Source: the paper's appendices C, E and F: Figs 13-15 (learning rate), 16 (dictionary ratio), 17
(training tokens), 18 (seeds). Its figures show curves; the numbers here say how far apart they
lie, as `pareto.ratio_of_curves` of runs at the same λ. Tables of runs are `matched.sweep_runs`
and `matched.main_runs`. Cost: Table 6, and the three ways its authors name to make end-to-end
training cheaper: fewer tokens, a smaller dictionary, a start from a trained local SAE. Seconds are
the runs' own records; SAEs trained side by side share the clean passes, and each is charged an
equal part of them. They compare runs of one machine, not machines.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from e2e_lib.analysis.matched import in_order, stacked, sweep_runs
from e2e_lib.analysis.pareto import nothing, ratio_of_curves, summary_ratios
from e2e_lib.analysis.statistics import RESAMPLES, mean_interval, percentiles, seed_interval

COMMAND = "`make run PROFILE=storyworld`"  # trains one of each kind, for who has none
MIN_RUNS = 2  # λ that make a curve; sweeps are short
MOVES = (
    0.05  # change per doubling of the tokens beyond which a value, of which it is a share, moves
)
AT_EQUAL_L0 = "CE increase at equal L0"
QUANTITIES = {  # x at which the curves are compared, and y
    AT_EQUAL_L0: ("l0", "ce_increase"),
    "alive at equal CE increase": ("ce_increase", "alive"),
}
WAYS = {
    "fewer tokens": "train_tokens",
    "smaller dictionary": "dict_ratio",
    "warm start": "init_from",
}


def setting_of(column: str) -> str:
    """The column that tells a sweep's settings apart: warm starts differ in tokens trained since.

    >>> setting_of("lr"), setting_of("init_from")
    ('lr', 'train_tokens')
    """
    return "train_tokens" if column == "init_from" else column


def sweep_ratios(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    column: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Every setting of a sweep against the main runs of the same layer, objective, seeds and λ.

    runs: `sweep_runs(table, column)`; rows: `row_table`. CE increase at equal L0 and alive elements
    at equal CE increase, each over the main runs', with a 95 % interval over seeds and rows of text
    (alive elements are no mean over rows: their interval is that of where they are compared).

    Columns: layer, objective, column, setting, main (the main runs' setting), quantity and those of
    `ratio_of_curves`; `note` says why there is no value.
    """
    setting, table = setting_of(column), []
    swept = runs[~runs["main"]]
    for (layer, objective, value), own in swept.groupby(["layer", "objective", setting]):
        same = (runs["layer"] == layer) & (runs["objective"] == objective) & runs["main"]
        labels = {"layer": layer, "objective": objective, "column": column, "setting": value}
        labels |= {"main": runs.loc[same, setting].iloc[0] if same.any() else np.nan}
        for quantity in QUANTITIES:
            ratio = _ratio(own, runs[same], rows, quantity, resamples, seed)
            table.append(labels | {"quantity": quantity} | ratio)
    found = pd.DataFrame(table)
    return in_order(found, ["layer", "objective", "quantity", "setting"]) if table else found


def moved_per_doubling(by_tokens: Mapping[Any, float]) -> float:
    """By how much a value changes per doubling of the training tokens, as a share of it, between
    the two largest numbers of tokens at which it is known; NaN if it is known at one alone."""
    last = sorted(by_tokens.items())[-2:]
    if len(last) < 2 or not last[0][1]:
        return float("nan")
    (few, before), (many, after) = last
    return (after - before) / abs(before) / float(np.log2(many / few))


def summaries_by_tokens(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Whether training has converged: every summary ratio at every number of training tokens.

    runs: `sweep_runs(table, "train_tokens")`, which have the same λ and seeds at every number;
    rows: `row_table`. Both curves of a ratio were trained on as many tokens. Columns: layer,
    quantity, compared, objective (over) reference, train_tokens, value, moved (per doubling, by
    `moved_per_doubling` from the number before; NaN for the first), n_seeds; ratios without a value
    are left out.
    """
    names = ["layer", "quantity", "compared", "objective", "reference"]
    columns = [*names, "train_tokens", "value", "moved", "n_seeds"]
    parts = [
        summary_ratios(own, rows, resamples=1).assign(train_tokens=tokens)
        for tokens, own in runs.groupby("train_tokens")
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    table = table.dropna(subset=["value"]).assign(moved=np.nan)
    for _, own in table.groupby(names):
        values = own.set_index("train_tokens")["value"].sort_index()
        for k, place in enumerate(own.sort_values("train_tokens").index):
            table.loc[place, "moved"] = moved_per_doubling(values.iloc[: k + 1].to_dict())
    return table.sort_values([*names, "train_tokens"], ignore_index=True)[columns]


def term_proportions(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """β · downstream over κ · KL, as the loss of e2e+ds weighs them: median over the logged steps
    of the last tenth of the tokens.

    runs: `main_runs`; curves: `curve_table`. Columns: layer, sparsity_coeff, proportion (median
    over seeds), lowest, highest, n_seeds.
    """
    keys, weights = ["layer", "sparsity_coeff"], ["kl_coeff", "downstream_coeff"]
    own = runs.loc[runs["objective"] == "e2e_ds", ["run", *weights]]
    points = curves.reindex(columns=["run", *keys, "tokens", "kl", "downstream"]).merge(own)
    points = points[points["tokens"] > 0.9 * points.groupby("run")["tokens"].transform("max")]
    kl = points["kl_coeff"] * points["kl"]
    ratio = points["downstream_coeff"] * points["downstream"] / kl.where(kl > 0)
    of_run = points.assign(ratio=ratio).groupby([*keys, "run"])["ratio"].median().dropna()
    named = {"proportion": "median", "lowest": "min", "highest": "max", "n_seeds": "count"}
    return of_run.groupby(keys).agg(**named).reset_index()


def gap_to_e2e(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    column: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """e2e over local at each setting of a sweep of local's: CE increase at equal L0 (C9). Below 1:
    local is behind. e2e's may be hardly above 0, so that it is not the one to divide by.

    runs: `sweep_runs(table, column)` with both objectives. `against` is "main" for e2e's main runs,
    those at the sweep's λ, so that both curves are equally coarse, and "equal" for e2e at the same
    setting. The main runs of local are the setting they have. Columns: layer, column, setting, main
    (whether it is the main setting), against and those of `ratio_of_curves`.
    """
    table = []
    for (layer, value), own in runs[runs["objective"] == "local"].groupby(["layer", column]):
        e2e = runs[(runs["layer"] == layer) & (runs["objective"] == "e2e")]
        labels = {"layer": layer, "column": column, "setting": value, "main": own["main"].all()}
        sides = {"main": e2e[e2e["main"]], "equal": e2e[e2e[column] == value]}
        for against, other in sides.items():
            ratio = _ratio(other, own, rows, AT_EQUAL_L0, resamples, seed)
            table.append(labels | {"against": against} | ratio)
    return pd.DataFrame(table)


def _ratio(
    first: pd.DataFrame,
    second: pd.DataFrame,
    rows: pd.DataFrame,
    quantity: str,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """`ratio_of_curves` over every seed in which both have enough runs."""
    counts = pd.concat([runs["seed"].value_counts() for runs in (first, second)], axis=1)
    seeds = counts.index[(counts >= MIN_RUNS).all(axis=1)].sort_values()
    if not len(seeds):
        return nothing(f"no seed has {MIN_RUNS} λ of both curves", 0)
    pairs = [(first[first["seed"] == one], second[second["seed"] == one]) for one in seeds]
    x, y = QUANTITIES[quantity]
    return ratio_of_curves(pairs, rows, x=x, y=y, resamples=resamples, seed=seed)


def seed_spread(runs: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Fig 18 in numbers: standard deviation over seeds as a share of the mean's size, averaged
    over λ.

    runs: `main_runs`. λ with one seed are left out. Interval: 95 %, λ resampled. Columns: layer,
    objective, metric (l0, ce_increase, alive), spread, low, high, n_coeffs, n_seeds.
    """
    metrics, table = ["l0", "ce_increase", "alive"], []
    for (layer, objective), own in runs.groupby(["layer", "objective"]):
        groups = own.groupby("sparsity_coeff")[metrics]
        shares = (groups.std(ddof=1) / groups.mean().abs()).dropna()
        for metric in metrics if len(shares) else ():
            interval = mean_interval(shares[metric].to_numpy(), resamples, seed)
            counts = (len(shares), own["seed"].nunique())
            table.append((layer, objective, metric, *interval, *counts))
    columns = ["layer", "objective", "metric", "spread", "low", "high", "n_coeffs", "n_seeds"]
    return pd.DataFrame(table, columns=columns)


def alive_trends(runs: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Appendix C: rank correlation of alive elements with gradient norm and with CE increase.

    Spearman's, over the runs of one layer and objective. Interval: 95 %, runs resampled. Columns:
    layer, objective, against, correlation, low, high, n_runs; a group of under three runs, or in
    which one of the two never varies, is left out.
    """
    rng, table = np.random.default_rng(seed), []
    for (layer, objective), own in runs.groupby(["layer", "objective"]):
        for against in ("grad_norm", "ce_increase"):
            known = own.dropna(subset=[against, "alive"])  # released SAEs have no gradient norm
            x, y = (known[name].to_numpy(dtype=float) for name in (against, "alive"))
            if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            chosen = rng.integers(0, len(x), (resamples, len(x)))
            value = float(_rank_correlation(x[None], y[None])[0])
            interval = percentiles(_rank_correlation(x[chosen], y[chosen]))
            table.append((layer, objective, against, value, *interval, len(x)))
    columns = ["layer", "objective", "against", "correlation", "low", "high", "n_runs"]
    return pd.DataFrame(table, columns=columns)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of x with that of y; NaN where a row is constant."""
    ranks = [rankdata(values, axis=1) for values in (x, y)]  # ties share their mean rank
    ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    norms = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return (ranks[0] * ranks[1]).sum(axis=1) / np.where(norms > 0, norms, np.nan)


def seconds_ratios(runs: pd.DataFrame) -> pd.DataFrame:
    """Training seconds a token over local's, each a mean over λ: a row a layer and seed, a column
    an objective; NaN where there is no record of either."""
    values = {"index": ["layer", "seed"], "columns": "objective", "values": "seconds_a_token"}
    a_token = _timed(runs).pivot_table(**values)
    return a_token.div(a_token.get("local", np.nan), axis=0)


def _timed(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with a record of seconds (released SAEs have none), and their seconds a token."""
    timed = runs.dropna(subset=["train_seconds", "train_tokens"])
    return timed.assign(seconds_a_token=timed["train_seconds"] / timed["train_tokens"])


def training_cost(runs: pd.DataFrame) -> pd.DataFrame:
    """Table 6. One row a layer and objective, means over λ and seeds; runs: `main_runs`.

    Columns: layer, objective, train_tokens, seconds (an SAE), tokens_per_second, ratio (seconds a
    token over local's, mean over seeds), low, high (95 %, t over seeds; NaN with one), n_seeds,
    n_runs. Runs without a record of seconds (released SAEs) are left out.
    """
    ratios, table = seconds_ratios(runs), []
    for (layer, objective), own in _timed(runs).groupby(["layer", "objective"]):
        ratio = ratios.loc[layer, objective].dropna()
        per_sae = [own[name].mean() for name in ("train_tokens", "train_seconds")]
        speed = 1 / own["seconds_a_token"].mean()
        interval = seed_interval(ratio)
        counts = (own["seed"].nunique(), len(own))
        table.append((layer, objective, *per_sae, speed, *interval, *counts))
    columns = ["layer", "objective", "train_tokens", "seconds", "tokens_per_second"]
    columns += ["ratio", "low", "high", "n_seeds", "n_runs"]
    return in_order(pd.DataFrame(table, columns=columns), ["layer", "objective"])


def cost_quality(
    table: pd.DataFrame, rows: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """The three ways to train e2e and e2e+ds for less, each setting against the full run.

    table: `metrics_table`; rows: `row_table`. Quality is CE increase at equal L0 over that of the
    main runs of the same seeds and λ (1: as good; above: worse). Cost is tokens and seconds over
    theirs; `seconds_share_with_start` adds the seconds of the local SAE that a warm start begins
    from (NaN where that run is not here), and equals `seconds_share` for the other ways.

    Columns: way, layer, objective, setting, tokens_share, seconds_share, seconds_share_with_start,
    value, low, high, n_seeds, note. Settings as dear as the full run or dearer are left out.
    """
    parts = []
    seconds = table.drop_duplicates("run").set_index("run")["train_seconds"]
    for way, column in WAYS.items():
        runs = sweep_runs(table, column)
        runs = runs[runs["objective"] != "local"].copy()
        if runs["main"].all():
            continue
        start = runs["init_from"].map(seconds).where(runs["init_from"] != "", 0)
        runs["with_start"] = runs["train_seconds"] + start
        ratios = sweep_ratios(runs, rows, column, resamples, seed)
        ratios = ratios[ratios["quantity"] == AT_EQUAL_L0]
        ratios = ratios[(ratios["setting"] < ratios["main"]) | (column == "init_from")]
        parts.append(ratios.merge(_shares(runs, setting_of(column))).assign(way=way))
    columns = [
        "way", "layer", "objective", "setting", "tokens_share", "seconds_share",
        "seconds_share_with_start", "value", "low", "high", "n_seeds", "note",
    ]  # fmt: skip
    return stacked(parts, columns)


def _shares(runs: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Cost of each setting over the main runs' at the same seeds and λ."""
    named = {"train_tokens": "tokens_share", "train_seconds": "seconds_share"}
    named |= {"with_start": "seconds_share_with_start"}
    keys = ["layer", "objective", "seed", "sparsity_coeff"]
    main = runs[runs["main"]].groupby(keys)[[*named]].mean()
    swept = runs[~runs["main"]].assign(setting=runs[setting])
    shares = swept[[*named]] / swept[keys].join(main, on=keys)[[*named]]
    labels = ["layer", "objective", "setting"]
    return shares.rename(columns=named).join(swept[labels]).groupby(labels, as_index=False).mean()
