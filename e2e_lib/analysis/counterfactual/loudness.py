"""How loud may be what the network does not use? SAEs beside a null channel of rising scale.

A null channel (`engine.model`) adds to what an SAE sees a part that the network never reads, of
a known share of the variance. What an objective spends on it, and what the output loses by that, is
compared at one L0 or at one CE increase: the curve of every sparsifier, objective, loudness and
seed is interpolated along its λ, linearly, in the logarithms of both. Outside a curve's range there
is no value; a sparsifier that holds its L0 is a single point, which counts where it is as good as
there (`SLACK`).

| quantity | definition |
|---|---|
| unused | the channel's share of the total variance of what the SAE sees |
| wasted_l0 | share of L0 that falls to latents of whose direction, squared, most is the channel's |
| wasted_alive | the same of the alive latents |
| carried_function | S of `tables`: mean over the kinds that the network uses |
| wasted_unused | waste_l0 of `tables`: mean over the world's own unused kinds; without a channel |
| wasted_coin | the same of the synonyms' coin alone |
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from e2e_lib.analysis.counterfactual.examine import open_exam
from e2e_lib.analysis.counterfactual.measures import exchange, observe
from e2e_lib.analysis.counterfactual.swaps import Dictionary, Site, code, partners
from e2e_lib.analysis.counterfactual.tables import samples
from e2e_lib.analysis.matched import main_runs, sweep_runs
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.engine.model.null_channel import NULL_WIDTH, unrotated
from e2e_lib.names import FINE_TUNED, null_channel
from e2e_lib.runs.load import SavedSAE, Subject, clean_activations
from e2e_lib.storyworld.pairs import PairRows

OWN = 0.5  # share of a latent's squared direction from which on the channel is what it stands for
# By what curves are compared at (as `matched`): the quantities there.
DECOYS = ("wasted_unused", "wasted_coin")  # known without a channel
QUANTITIES = {
    "l0": ("ce_increase", "wasted_l0", "wasted_alive", "carried_function", "alive", *DECOYS),
    "ce_increase": ("l0", "wasted_l0", "wasted_alive", "carried_function", "alive", *DECOYS),
}
LOGARITHMIC = (*QUANTITIES, "kl")  # of which curves are interpolated by logarithms
KEYS = ["layer", "sparsifier", "objective", "null_scale"]
SLACK = 1.1  # factor by which what is compared at may lie beyond the end of a curve that allows it


def dial_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs beside a null channel and those of their layers, objectives and seeds without one.

    Of main runs every λ; of other sparsifiers and of what was fine-tuned the same sparsifier and k.

    table: `metrics_table`. A further column `null_scale`, 0 without a channel; no rows where no run
    has one.
    """
    if "sparsifier" not in table:  # of older tables all are ReLU's
        table = table.assign(sparsifier="relu", k=np.nan, variant="")
    scales = table["hook"].map(lambda hook: null_channel(hook)[1]).astype(float)
    table = table.assign(null_scale=scales, init_from=table["init_from"].fillna(""))
    swept = sweep_runs(table, "hook")
    swept = swept[swept["null_scale"] > 0].drop(columns="main")
    keys = ["layer", "objective", "seed"]
    main = main_runs(table[table["null_scale"] == 0]).merge(swept[keys].drop_duplicates(), on=keys)
    alone = ~table["run"].duplicated(keep=False) & (table["variant"].fillna("") == "")
    held = table["k"].notna() & (table["init_from"] == "")
    others = table[alone & (held | table["objective"].isin(FINE_TUNED))]
    loud, keys = others[others["null_scale"] > 0], [*keys, "sparsifier", "k"]
    quiet = others[others["null_scale"] == 0].merge(loud[keys].drop_duplicates(), on=keys)
    return pd.concat([t for t in (main, swept, quiet, loud) if len(t)] or [main], ignore_index=True)


def channel_share(vectors: Float[Tensor, "... wide"]) -> Float[Tensor, "..."]:
    """Share of the squared length of vectors of the wide space that lies in the channel.

    NaN of a vector of no length.
    """
    square = unrotated(vectors).square()
    return square[..., -NULL_WIDTH:].sum(-1) / square.sum(-1)


def unused_share(subject: Subject, hook: str) -> float:
    """The channel's share of the total variance at a hook, over all tokens of the rows."""
    if not null_channel(hook)[1]:
        return 0.0
    variance = unrotated(clean_activations(subject, hook)).flatten(0, -2).double().var(0)
    return float(variance[-NULL_WIDTH:].sum() / variance.sum())


def wasted(saved: SavedSAE) -> dict[str, float]:
    """Shares of L0 and of the alive latents that the channel has; NaN where none fires."""
    frequency = saved.frequency.double()
    own = torch.zeros_like(frequency, dtype=torch.bool)
    if null_channel(saved.hook)[1]:
        own = channel_share(saved.sae.dictionary) > OWN
    alive = frequency > 0
    shares = {"wasted_l0": (frequency * own, frequency), "wasted_alive": (alive & own, alive)}
    return {
        name: float(part.sum() / whole.sum()) if whole.sum() else np.nan
        for name, (part, whole) in shares.items()
    }


@torch.no_grad()
def decoy_waste(
    unused: Mapping[str, Float[Tensor, "row d"]], dictionary: Dictionary
) -> dict[str, float]:
    """Share of the latents on at t that the other member turns off: of unused kinds, and the coin.

    unused: by kind, activations at t; rows 2i and 2i + 1 are partners. NaN where no latent is on,
    or where the coin is none of the kinds.
    """
    found = {}
    for kind, x in unused.items():
        on = dictionary.encode(x) > 0
        off = on & ~on[partners(len(on))]
        found[kind] = float(off.sum() / on.sum()) if on.any() else np.nan
    known = [share for share in found.values() if not np.isnan(share)]
    mean = float(np.mean(known)) if known else np.nan
    return dict(zip(DECOYS, (mean, found.get("coin", np.nan)), strict=True))


def _at_decision(site: Site) -> Float[Tensor, "row d"]:
    return site.activation[torch.arange(len(site.at)), site.at]


@torch.no_grad()
def dial(
    runs: pd.DataFrame, saes: Mapping[str, SavedSAE], subject: Subject, pairs: PairRows | None
) -> pd.DataFrame:
    """`runs` (of `dial_runs`) with the quantities above; those without weights are left out.

    pairs: of all kinds; S is NaN without them (a model that does not speak StoryWorld's language).

    Raises:
        DataError: the model uses none of the kinds of `pairs`, or all.
    """
    found = []
    known = runs[runs["run"].isin(list(saes))]
    for hook, own in known.groupby("hook", sort=False):
        unused = unused_share(subject, str(hook))
        exam = open_exam(subject.model, str(hook), pairs, pairs) if pairs is not None else None
        sites = {k: exam.sites[k] for k in exam.used} if exam else {}
        quiet = {k: _at_decision(exam.sites[k]) for k in exam.unused} if exam else {}
        for run in own["run"]:
            numbers = {
                k: observe(exchange(site, code(site, saes[run].sae))) for k, site in sites.items()
            }
            carried = (
                samples(numbers, list(numbers), [])["carried_function", "all"]
                if numbers
                else [np.nan]
            )
            decoys = {} if unused else decoy_waste(quiet, saes[run].sae)
            found.append(
                {"run": run, "unused": unused, "carried_function": float(carried[0])}
                | wasted(saes[run])
                | decoys
            )
    columns = ["run", "unused", "carried_function", "wasted_l0", "wasted_alive", *DECOYS]
    return known.merge(pd.DataFrame(found, columns=columns), on="run")


def shared(runs: pd.DataFrame, match: str) -> float:
    """The middle, as a ratio, of what all curves share of `match`; NaN if they share nothing.

    Of L0: that of the sparsifiers which hold it, where the curves reach as far.

    runs: of `dial`.
    """
    holds = runs["k"].notna() if "k" in runs else pd.Series(False, index=runs.index)
    ends = runs[~holds].groupby([*KEYS, "seed"])[match].agg(["min", "max", "size"])
    curves = ends[ends["size"] > 1] if (ends["size"] > 1).any() else ends
    low, high = max(float(curves["min"].max()), 0.0), float(curves["max"].min())
    held = runs.loc[holds, match]
    if match == "l0" and len(held) and not (held.max() < low or held.min() > high):
        return float(np.sqrt(held.min() * held.max()))
    return float(np.sqrt(low * high)) if 0 < low < high else np.nan


def at_equal(runs: pd.DataFrame, match: str, at: float) -> pd.DataFrame:
    """Every quantity where `match` is `at`: mean over the seeds whose curve has it, t interval.

    runs: of `dial`. Columns: match, at, layer, sparsifier, objective, null_scale, unused, quantity,
    value, low, high, n_seeds; the interval is NaN for one seed, and the value too for none.
    """
    rows = []
    for labels, own in runs.groupby(KEYS):
        for quantity in (name for name in QUANTITIES[match] if name in own):
            if quantity in DECOYS and own[quantity].isna().all():
                continue
            values = curve_values(own, match, at, quantity).to_numpy()
            values = values[np.isfinite(values)]
            interval = seed_interval(values)
            unused = own["unused"].iloc[0]
            rows.append((match, at, *labels, unused, quantity, *interval, len(values)))
    columns = ["match", "at", *KEYS, "unused", "quantity", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def curve_values(runs: pd.DataFrame, match: str, at: float, quantity: str) -> "pd.Series[float]":
    """By seed, the quantity of one objective's curve there; NaN beyond its ends.

    A single run is a point of its own: it counts where `match` is off by no more than `SLACK`.
    """
    found = {}
    for seed, curve in runs.groupby("seed"):
        slack = SLACK if len(curve) == 1 else 1.0
        found[seed] = at_value(curve, match, at, quantity, slack)
    return pd.Series(found, dtype=float)


def at_value(
    curve: pd.DataFrame, match: str, at: float, quantity: str, slack: float = 1.0
) -> float:
    """A curve's quantity there; NaN beyond its ends.

    Between two runs its logarithm is interpolated, and beside a value that has none (of a CE
    increase of 0 or less, an SAE as good as none at all) there is no value; a run's own stands as
    it is.

    slack: the factor by which `at` may lie beyond an end, whose value then stands for it.
    """
    curve = curve[curve[match] > 0].sort_values(match)
    x, y = np.log(curve[match].to_numpy(float)), curve[quantity].to_numpy(float)
    if not len(x) or not at > 0:
        return np.nan
    place = float(np.clip(np.log(at), x[0], x[-1]))
    if abs(place - np.log(at)) > np.log(slack) + 1e-12:
        return np.nan
    if (here := np.isclose(x, place, rtol=0, atol=1e-9)).any():
        return float(y[here][0])
    if quantity not in LOGARITHMIC:
        return float(np.interp(place, x, y))
    y = np.log(y, out=np.full_like(y, np.nan), where=y > 0)
    return float(np.exp(np.interp(place, x, y)))
