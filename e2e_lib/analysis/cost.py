"""What training costs, and what it costs to train for less: tables of runs in, tidy tables out.

Source: the paper's Table 6, and the three ways its authors name to make end-to-end training
cheaper: fewer tokens, a smaller dictionary, a start from a trained local SAE. Seconds are the
runs' own records; SAEs trained side by side share the clean passes, and each is charged an equal
part of them. They compare runs of one machine, not machines. No torch.
"""

import numpy as np
import pandas as pd

from e2e_lib.analysis.matched import OBJECTIVES, sweep_runs
from e2e_lib.analysis.statistics import RESAMPLES, mean_interval
from e2e_lib.analysis.sweeps import QUANTITIES, setting_of, sweep_ratios

WAYS = {
    "fewer tokens": "train_tokens",
    "smaller dictionary": "dict_ratio",
    "warm start": "init_from",
}


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


def training_cost(runs: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Table 6. One row a layer and objective, means over λ and seeds; runs: `main_runs`.

    Columns: layer, objective, train_tokens, seconds (an SAE), tokens_per_second, ratio (seconds a
    token over local's, mean over seeds), low, high (95 %, over seeds; NaN with one), n_seeds,
    n_runs. Runs without a record of seconds (released SAEs) are left out.
    """
    runs, ratios, table = _timed(runs), seconds_ratios(runs), []
    for layer, own in runs.groupby("layer"):
        for objective in (o for o in OBJECTIVES if o in set(own["objective"])):
            part = own[own["objective"] == objective]
            ratio = ratios.loc[layer, objective].dropna()
            interval = mean_interval(ratio.to_numpy(), resamples, seed)
            table.append(
                {
                    "layer": layer, "objective": objective,
                    "train_tokens": part["train_tokens"].mean(),
                    "seconds": part["train_seconds"].mean(),
                    "tokens_per_second": 1 / part["seconds_a_token"].mean(),
                    "ratio": interval.value, "low": interval.low, "high": interval.high,
                    "n_seeds": part["seed"].nunique(), "n_runs": len(part),
                }
            )  # fmt: skip
    columns = ["layer", "objective", "train_tokens", "seconds", "tokens_per_second"]
    columns += ["ratio", "low", "high", "n_seeds", "n_runs"]
    return pd.DataFrame(table, columns=columns)


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
        runs["with_start"] = runs["train_seconds"] + runs["init_from"].map(seconds).where(
            runs["init_from"] != "", 0
        )
        ratios = sweep_ratios(runs, rows, column, resamples, seed)
        ratios = ratios[ratios["quantity"] == next(iter(QUANTITIES))]
        ratios = ratios[(ratios["setting"] < ratios["main"]) | (column == "init_from")]
        parts.append(ratios.merge(_shares(runs, setting_of(column))).assign(way=way))
    columns = [
        "way", "layer", "objective", "setting", "tokens_share", "seconds_share",
        "seconds_share_with_start", "value", "low", "high", "n_seeds", "note",
    ]  # fmt: skip
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return found[columns]


def _shares(runs: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Cost of each setting over the main runs' at the same seeds and λ."""
    named = {
        "train_tokens": "tokens_share",
        "train_seconds": "seconds_share",
        "with_start": "seconds_share_with_start",
    }
    keys = ["layer", "objective", "seed", "sparsity_coeff"]
    main = runs[runs["main"]].groupby(keys)[["train_tokens", "train_seconds"]].mean()
    main = main.assign(with_start=main["train_seconds"])
    swept = runs[~runs["main"]].assign(setting=runs[setting])
    full = main.reindex(pd.MultiIndex.from_frame(swept[keys])).set_index(swept.index)
    shares = swept[[*named]] / full[[*named]]
    return (
        shares.rename(columns=named)
        .join(swept[["layer", "objective", "setting"]])
        .groupby(["layer", "objective", "setting"], as_index=False)
        .mean()
    )
