"""Every sparsifier with every objective, compared at equal L0.

What holds its number of latents (topk, and batchtopk and matryoshka by their thresholds) has it;
of the others, curves along λ are interpolated at it as `counterfactual.loudness` does. A curve that
ends short of an L0 by no more than `SLACK` counts there with its end. Measures of what an SAE keeps
of what the model uses are those of `counterfactual.tables`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from e2e_lib.analysis.counterfactual.examine import open_exam
from e2e_lib.analysis.counterfactual.loudness import SLACK, at_value, curve_values, unused_share
from e2e_lib.analysis.counterfactual.measures import exchange, observe
from e2e_lib.analysis.counterfactual.swaps import code
from e2e_lib.analysis.counterfactual.tables import samples
from e2e_lib.analysis.matched import in_order, main_runs
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.errors import DataError
from e2e_lib.names import EVERY_OBJECTIVE, FINE_TUNED, SPARSIFIERS, null_channel
from e2e_lib.runs.load import SavedSAE, Subject
from e2e_lib.storyworld.pairs import PairRows

MEASURES = ("carried_function", "spurious_response", "selectivity", "waste_l0")
QUANTITIES = ("ce_increase", "kl", "alive", *MEASURES)
CELL = ["sparsifier", "objective", "still"]
VARIANT = r"(?:target_l0=(?P<target>[0-9.]+)|still=(?P<still>\w+)|(?P<model>random_weights)=1|, )*"
SHUFFLED = "random_weights"


def matrix_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of other sparsifiers than the main runs', what was fine-tuned, and main runs there.

    table: `metrics_table`. Of each sparsifier and objective the most frequent learning rate and
    number of training tokens (ties: the smallest); of what was not fine-tuned, the main runs'
    tokens. Runs in which another parameter is not the usual one are left out. Further columns:
    `still`, the part that was not trained ("none", or a sanity row's: of the SAE, or
    `random_weights`, the language model), and `target`, the L0 that
    was aimed at (k, or what λ was steered to; NaN for neither). No rows where no run has another
    sparsifier.
    """
    main = main_runs(table)
    nothing = table.head(0).assign(still="", target=np.nan)
    if main.empty or "sparsifier" not in table:
        return nothing
    parts = table["variant"].fillna("").str.extract(f"^{VARIANT}$")
    known = table["variant"].fillna("").str.fullmatch(VARIANT)
    table = table.assign(
        still=parts["still"].fillna(parts["model"]).fillna("none"),
        target=table["k"].fillna(parts["target"].astype(float)),
    )
    tuned = table["objective"].isin(FINE_TUNED)
    fits = (
        ~table["run"].duplicated(keep=False)
        & known
        & (table["dict_ratio"] == main["dict_ratio"].iloc[0])
    )
    fits &= table["hook"].map(lambda hook: null_channel(hook)[1] == 0)
    fits &= tuned | (
        table["train_tokens"].isin(main["train_tokens"]) & (table["init_from"].fillna("") == "")
    )
    others = table[fits & (tuned | (table["sparsifier"] != main["sparsifier"].iloc[0]))]
    if not (others["sparsifier"] != main["sparsifier"].iloc[0]).any():
        return nothing
    for column in ("lr", "train_tokens"):
        usual = others.groupby(CELL)[column].transform(lambda values: values.mode().iloc[0])
        others = others[others[column] == usual]
    beside = main[main["hook"].isin(others["hook"]) & main["seed"].isin(others["seed"])]
    found = pd.concat([beside.assign(still="none", target=np.nan), others], ignore_index=True)
    order = {name: place for place, name in enumerate(SPARSIFIERS)}
    found = found.assign(_place=found["sparsifier"].map(order))
    keys = ["layer", "_place", "still", "objective", "l0", "seed"]
    return in_order(found, keys).drop(columns="_place")


def levels(runs: pd.DataFrame) -> list[float]:
    """The L0 that were aimed at, by k or by steering λ. runs: of `matrix_runs`."""
    aimed = runs.loc[(runs["still"] == "none") & runs["target"].notna(), "target"]
    return sorted(float(value) for value in aimed.unique())


def examined(
    runs: pd.DataFrame, saes: Mapping[str, SavedSAE], subject: Subject, pairs: PairRows | None
) -> pd.DataFrame:
    """`runs` with the columns `MEASURES`: means over kinds of decision.

    NaN for who has no weights, or was trained on a language model of random ones.

    pairs: of all kinds; every measure is NaN without them (a model that does not speak StoryWorld's
    language), and where the model uses none of the kinds, or all.
    """
    rows = []
    measured = runs[runs["run"].isin(list(saes)) & (runs["still"] != SHUFFLED)]
    for hook, own in measured.groupby("hook", sort=False):
        if pairs is None:
            break
        try:
            exam = open_exam(subject.model, str(hook), pairs, pairs)
        except DataError as reason:
            print(f"Left out: {reason}")
            continue
        for run in own["run"]:
            sites = exam.sites.items()
            numbers = {k: observe(exchange(site, code(site, saes[run].sae))) for k, site in sites}
            found = samples(numbers, exam.used, exam.unused)
            rows.append({"run": run} | {m: float(found[m, "all"][0]) for m in MEASURES})
    return runs.merge(pd.DataFrame(rows, columns=["run", *MEASURES]), on="run", how="left")


def at_levels(table: pd.DataFrame, at: Sequence[float]) -> pd.DataFrame:
    """Every quantity of every cell and seed at these L0.

    table: of `examined`. Columns: layer, `CELL`, seed, at, quantity, value (NaN where a curve does
    not reach it), l0 (where on the curve the value is), n_runs (of the curve).
    """
    rows = []
    for labels, curve in table.groupby(["layer", *CELL, "seed"], sort=False):
        for level in at:
            place = float(np.clip(level, curve["l0"].min(), curve["l0"].max()))
            for name in QUANTITIES:
                value = at_value(curve, "l0", level, name, SLACK)
                rows.append((*labels, level, name, value, place, len(curve)))
    columns = ["layer", *CELL, "seed", "at", "quantity", "value", "l0", "n_runs"]
    return pd.DataFrame(rows, columns=columns)


def over_seeds(found: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds that have a value, with 95 % t intervals.

    found: of `at_levels`. Columns: layer, at, `CELL`, quantity, value, low, high, l0, n_seeds;
    cells without a value are left out.
    """
    rows = []
    known = found[np.isfinite(found["value"].astype(float))]
    for labels, own in known.groupby(["layer", "at", *CELL, "quantity"], sort=False):
        rows.append((*labels, *seed_interval(own["value"]), own["l0"].mean(), len(own)))
    columns = ["layer", "at", *CELL, "quantity", "value", "low", "high", "l0", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def dial_at(runs: pd.DataFrame, subject: Subject, at: float) -> pd.DataFrame:
    """CE increase at one L0 beside each null channel, for `answers.fine_tuning`.

    runs: of `loudness.dial_runs`. Columns: null_scale, unused (share of the variance), sparsifier,
    objective, seed, tokens (of training), ce_increase (NaN where a curve does not reach it).
    """
    rows = []
    keys = ["hook", "null_scale", "sparsifier", "objective"]
    unused = {hook: unused_share(subject, str(hook)) for hook in runs["hook"].unique()}
    for (hook, *labels), own in runs.groupby(keys, sort=False):
        tokens = own["train_tokens"].mean()
        for seed, value in curve_values(own, "l0", at, "ce_increase").items():
            rows.append((unused[hook], *labels, seed, tokens, value))
    columns = ["unused", "null_scale", "sparsifier", "objective", "seed", "tokens", "ce_increase"]
    return pd.DataFrame(rows, columns=columns)


def readable(summary: pd.DataFrame, at: float, still: str = "none") -> pd.DataFrame:
    """One L0's cells as text: a row a sparsifier and objective, a column a quantity."""
    own = summary[(summary["at"] == at) & (summary["still"] == still)]
    text = [
        f"{row.value:.3g}" + (f" [{row.low:.3g}, {row.high:.3g}]" if np.isfinite(row.low) else "")
        for row in own.itertuples()
    ]
    table = own.assign(text=text).pivot_table(
        "text", ["sparsifier", "objective"], "quantity", aggfunc="first"
    )
    order = [(s, o) for s in SPARSIFIERS for o in EVERY_OBJECTIVE if (s, o) in table.index]
    return table.loc[order, [q for q in QUANTITIES if q in table]].fillna("–")
