"""Which runs are compared: the main frame, similar-CE and similar-L0 triples, their seeds.

Source: the paper's filters for its performance plots, and Tables 1-3.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from e2e_lib.errors import ResultsError
from e2e_lib.files import project_path, shown_path
from e2e_lib.names import EVERY_OBJECTIVE, OBJECTIVES
from e2e_lib.plots.page import Page
from e2e_lib.runs.read import open_results
from e2e_lib.runs.tables import metrics_table

SWEPT = ("lr", "dict_ratio", "train_tokens", "init_from")  # columns that a sweep varies
COMPARED = ["l0", "alive", "grad_norm", "ce_increase"]  # columns of Tables 2 and 3


class Study(Page):
    """A results folder as an analysis opens it: which runs it has, and where its figures go.

    Attributes:
        read: folder of the runs; `write` is another only where it is the committed reference.
        runs, main: the metrics of all finished runs, and those of `main_runs`.
        triples, matched: the similar-CE runs of one seed, and those of all seeds with the same λ.
        pair: the local and the e2e one of the triple at the middle layer, if there is one.
        middle, depth: the middle layer (-1 if there is none), and every layer's `depth_names`.
    """

    def __init__(self, notebook: str, results_folder: str, match_seed: int = 0) -> None:
        """Read the runs of a results folder, or of the reference (`open_results`).

        Raises:
            ResultsError: neither holds a finished run.
        """
        results = open_results(results_folder)
        super().__init__(notebook, results.write)
        self.read = results.read
        pd.set_option("display.max_rows", 200, "display.max_columns", None)  # none cut out
        self.runs = metrics_table(self.read)
        self.main = main_runs(self.runs)
        self.triples = similar(self.main, "ce_increase", match_seed)
        self.matched = across_seeds(self.main, self.triples)
        self.depth = depth_names(self.main)
        self.middle = middle_layer(self.main)
        at_middle = self.triples["layer"] == self.middle
        self.pair = self.triples[at_middle & self.triples["objective"].isin(["local", "e2e"])]


def laid_over(study: Study, folder: str) -> pd.DataFrame:
    """Runs of another results folder that can be drawn over a study's: same model, same hooks.

    folder: as a notebook's `compare_with` names it, relative to the project; "": no rows. Returns
    rows of the folder's `metrics_table`, of the paper's objectives.

    Raises:
        ResultsError: it holds no finished run, or none of the study's model and hooks.
    """
    if not folder:
        return study.main.head(0)
    table = metrics_table(project_path(folder))
    own = study.main
    same = table["model"].isin(own["model"]) & table["hook"].isin(own["hook"])
    found = table[same & table["objective"].isin(OBJECTIVES)]
    if found.empty:
        raise ResultsError(
            f"compare_with={folder!r} has no run of local, e2e or e2e_ds with model and hook of "
            f"{shown_path(study.read)!r}: {sorted({*own['model'], *own['hook']})}."
        )
    return found.reset_index(drop=True)


def nearest(runs: pd.DataFrame, matched: pd.DataFrame, on: str = "ce_increase") -> pd.DataFrame:
    """Of each layer and objective the run nearest in log `on` to the matched ones of that layer.

    Runs with `on` ≤ 0, and layers without a match, are left out. Columns: those of `runs` and
    `match` = `on`.
    """
    level = np.log(matched[matched[on] > 0].groupby("layer")[on].median())
    usable = runs[(runs[on] > 0) & runs["layer"].isin(level.index)]
    away = (np.log(usable[on]) - usable["layer"].map(level)).abs()
    first = away.groupby([usable["layer"], usable["objective"]]).idxmin()
    return usable.loc[first].assign(match=on).reset_index(drop=True)


def main_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that differ only in layer, objective, λ and seed.

    As the paper's main frame (one ratio, one number of samples), but found instead of typed in:
    the most frequent model, kind of hook point and dictionary ratio; then, for each layer and
    objective, the most frequent number of training tokens, learning rate and coefficients of KL
    and of the downstream term (the paper chose these per objective and layer). Sweeps over those,
    runs that start from a saved SAE, and runs with several SAEs at once, are other analyses. Ties:
    the first in the alphabet.
    """
    kept = _comparable(table)
    kept = kept[kept["init_from"] == ""]
    if kept.empty:
        return kept
    kept = kept.assign(_kind=kept["hook"].str.replace(r"\bblocks\.\d+\.", "", regex=True), _all=0)
    for columns, groups in (
        (["model", "_kind", "dict_ratio"], ["_all"]),
        (["train_tokens", "lr", "kl_coeff", "downstream_coeff"], ["layer", "objective"]),
    ):
        for column in columns:
            text = kept[column].map(repr)  # a missing value counts as a value
            by_group = text.groupby([kept[name] for name in groups])
            usual = by_group.transform(lambda values: values.mode().iloc[0])
            kept = kept[text == usual]
    kept = kept.drop(columns=["_kind", "_all"])
    return in_order(kept, ["layer", "objective", "seed", "sparsity_coeff"])


def in_order(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The table sorted by `columns`, objectives in the order of their names; rows counted anew."""

    def key(values: pd.Series) -> pd.Series:
        return values.map(EVERY_OBJECTIVE.index) if values.name == "objective" else values

    return table.sort_values(columns, key=key, ignore_index=True)


def stacked(tables: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """The tables below one another, these columns in this order; no rows where there are none."""
    kept = [table for table in tables if len(table)]
    found = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=[*columns])
    return found[[*columns]]


def sweep_runs(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The runs of one sweep, and the main runs of the same layers, objectives, seeds and λ.

    A run belongs to the sweep if `column`, one of SWEPT or downstream_coeff, is the only one of
    `main_runs`' columns in which it differs from the main runs of its layer and objective; a run
    that starts from a saved SAE (init_from) may also differ in training tokens and learning rate.

    Returns rows of `table` with a further column `main`; none where the sweep was not trained.
    """
    main, others = main_runs(table), _comparable(table)
    equal = ["model", "hook", *SWEPT, "kl_coeff", "downstream_coeff"]
    place = ["layer", "objective"]
    usual = main[[*place, *equal]].drop_duplicates(place)
    others = others[~others["run"].isin(main["run"])].merge(usual[place], on=place)
    usual = others[place].merge(usual, on=place, how="left")
    differs = pd.DataFrame({c: others[c].map(repr) != usual[c].map(repr) for c in equal})
    free = {column, "train_tokens", "lr"} if column == "init_from" else {column}
    same = ~differs[[c for c in equal if c not in free]].any(axis=1)
    swept = others[same & differs[column]]
    keys = [*place, "seed", "sparsity_coeff"]
    partners = main.merge(swept[keys].drop_duplicates(), on=keys)
    found = pd.concat([partners.assign(main=True), swept.assign(main=False)])
    found["main"] = found["main"].astype(bool)  # object where both are empty
    return found.sort_values([*place, column, "train_tokens", *keys[2:]], ignore_index=True)


def warm_label(tokens: int) -> str:
    """How tables call a start from a saved SAE that was trained on so many tokens since."""
    return f"warm {tokens}"


def warm_start_runs(table: pd.DataFrame) -> pd.DataFrame:
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


def _comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Runs of the paper's objectives, with one SAE and λ; `init_from` "": from scratch.

    Of one sparsifier and variant: those that most runs have, ReLU's where as many have another.
    """
    start = table["init_from"].fillna("") if "init_from" in table else ""
    alone = ~table["run"].duplicated(keep=False)
    kept = table.assign(init_from=start)[table["objective"].isin(OBJECTIVES) & alone]
    if "sparsifier" not in kept or kept.empty:  # of older tables all are ReLU's
        return kept
    kept = kept[kept["k"].isna()]
    kind = kept["sparsifier"] + " " + kept["variant"].fillna("")
    counts = kind.value_counts()
    usual = max(counts.index, key=lambda one: (counts[one], one == "relu "), default="")
    return kept[kind == usual]


def middle_layer(table: pd.DataFrame) -> int:
    """The middle one of the table's layers (the later of two), the paper's layer 6; -1 if empty."""
    layers = sorted(table["layer"].unique())
    return int(layers[len(layers) // 2]) if layers else -1


def depth_names(table: pd.DataFrame) -> dict[int, str]:
    """{layer: "early" | "middle" | "late"}; the paper's layers 2, 6 and 10 have these names."""
    middle = middle_layer(table)
    return {
        int(layer): "middle" if layer == middle else "early" if layer < middle else "late"
        for layer in sorted(table["layer"].unique())
    }


def similar(table: pd.DataFrame, on: str, seed: int | None = None) -> pd.DataFrame:
    """Per layer, one run of each objective, with as similar a value of `on` as there is.

    on: "ce_increase" (Tables 1 and 2) or "l0" (Table 3). Its value is the mean over the seeds of a
    λ, for one seed's is noise where it is small; the runs returned are those of the given seed, by
    itself that of the most layers, the smallest of several: some layers may have fewer seeds. The
    triple with the smallest spread max(log on) - min(log on); among equals the one with the smaller
    mean distance of log on from the layer's median, then the one with the lower mean L0. Where the
    mean is ≤ 0 there is no logarithm and no choice; a layer that lacks an objective is left out.

    Returns the chosen rows with a further column `match` = `on`.
    """
    chosen: list[int] = []
    if seed is None and len(table):
        seed = int(table.groupby("seed")["layer"].nunique().idxmax())
    means = table.groupby(["layer", "objective", "sparsity_coeff"])[on].transform("mean")
    for _, group in table[(table["seed"] == seed) & (means > 0)].groupby("layer"):
        names, log = group["objective"].to_numpy(), np.log(means[group.index].to_numpy())
        candidates = [np.flatnonzero(names == objective) for objective in OBJECTIVES]
        triples = np.stack(np.meshgrid(*candidates, indexing="ij"), axis=-1).reshape(-1, 3)
        if not len(triples):
            continue
        spread = np.ptp(log[triples], axis=1).round(9)
        distance = np.abs(log[triples] - np.median(log)).mean(axis=1).round(9)
        l0 = group["l0"].to_numpy()[triples].mean(axis=1)
        best = np.lexsort((l0, distance, spread))[0]  # the last key sorts first
        chosen.extend(int(i) for i in group.index[triples[best]])
    return table.loc[chosen].assign(match=on).reset_index(drop=True)


def across_seeds(table: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """The matched runs and, for every other seed, the run with the same layer, objective and λ.

    Matching again in each seed would compare different λ; the paper's seed comparison keeps λ.
    """
    keys = ["layer", "objective", "sparsity_coeff"]
    return table.merge(matched[[*keys, "match"]].drop_duplicates(), on=keys, how="inner")


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a layer and objective: mean, smallest and largest value over the seeds.

    Columns: match, layer, objective, sparsity_coeff, n_seeds and, for L0, alive elements, grad
    norm and CE increase, NAME, NAME_min, NAME_max.
    """
    keys = ["match", "layer", "objective", "sparsity_coeff"]
    ends = {"": "mean", "_min": "min", "_max": "max"}
    statistics = {c + end: (c, how) for c in COMPARED for end, how in ends.items()}
    groups = runs.groupby(keys, as_index=False)
    summary = groups.agg(n_seeds=("seed", "nunique"), **statistics)
    return in_order(summary, ["match", "layer", "objective"])


def with_range(summary: pd.DataFrame, digits: dict[str, int]) -> pd.DataFrame:
    """For reading: each mean as text, "mean (smallest-largest)" where there are several seeds."""

    def text(row: pd.Series, column: str, places: int) -> str:
        mean, low, high = (row[column + end] for end in ("", "_min", "_max"))
        alone = row["n_seeds"] < 2
        return f"{mean:.{places}f}" + ("" if alone else f" ({low:.{places}f}–{high:.{places}f})")

    readable = summary[["layer", "objective", "sparsity_coeff", "n_seeds"]].copy()
    for column, places in digits.items():
        readable[column] = [text(row, column, places) for _, row in summary.iterrows()]
    return readable


def last_block_ratios(blocks: pd.DataFrame) -> pd.DataFrame:
    """Per layer and seed: MSE after the last block over local's, and e2e+ds's pathway.

    Columns: layer, seed, e2e, e2e_ds (MSE over local's) and pathway: where log MSE of e2e+ds lies
    between local's (0) and e2e's (1); NaN where e2e's is not above local's.
    """
    last = blocks[blocks["block"] == blocks["block"].max()]
    mse = last.pivot_table(index=["layer", "seed"], columns="objective", values="mse")
    mse = mse.reindex(columns=list(OBJECTIVES)).dropna()
    ratio = mse[["e2e", "e2e_ds"]].div(mse["local"], axis=0)
    pathway = np.log(ratio["e2e_ds"]) / np.log(ratio["e2e"].where(ratio["e2e"] > 1))
    return ratio.assign(pathway=pathway).rename_axis(columns=None).reset_index()
