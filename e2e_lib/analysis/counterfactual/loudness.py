"""How loud may be what the network does not use? SAEs beside a null channel of rising scale.

A null channel (`engine.model`) adds to what an SAE sees a part that the network never reads, of
a known share of the variance. What an objective spends on it, and what the output loses by that, is
compared at one L0 or at one CE increase: the curve of every objective, loudness and seed is
interpolated along its λ, linearly, in the logarithms of both. Outside a curve's range there is no
value.

| quantity | definition |
|---|---|
| unused | the channel's share of the total variance of what the SAE sees |
| wasted_l0 | share of L0 that falls to latents of whose direction, squared, most is the channel's |
| wasted_alive | the same of the alive latents |
| carried_function | S of `tables`: mean over the kinds that the network uses |
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from e2e_lib.analysis.counterfactual.examine import open_exam
from e2e_lib.analysis.counterfactual.measures import observe
from e2e_lib.analysis.counterfactual.swaps import code
from e2e_lib.analysis.counterfactual.tables import samples
from e2e_lib.analysis.matched import main_runs, sweep_runs
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.engine.model.null_channel import NULL_WIDTH, unrotated
from e2e_lib.names import null_channel
from e2e_lib.runs.load import SavedSAE, Subject, clean_activations
from e2e_lib.storyworld.pairs import PairRows

OWN = 0.5  # share of a latent's squared direction from which on the channel is what it stands for
# By what curves are compared at (as `matched`): the quantities there.
QUANTITIES = {
    "l0": ("ce_increase", "wasted_l0", "wasted_alive", "carried_function", "alive"),
    "ce_increase": ("l0", "wasted_l0", "wasted_alive", "carried_function", "alive"),
}
KEYS = ["layer", "objective", "null_scale"]


def dial_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs beside a null channel and the main runs of their layers, objectives and seeds.

    table: `metrics_table`. A further column `null_scale`, 0 for main runs; no rows where no run has
    a channel.
    """
    scales = table["hook"].map(lambda hook: null_channel(hook)[1]).astype(float)
    swept = sweep_runs(table.assign(null_scale=scales), "hook")
    swept = swept[swept["null_scale"] > 0].drop(columns="main")
    keys = ["layer", "objective", "seed"]
    main = main_runs(table.assign(null_scale=0.0)).merge(swept[keys].drop_duplicates(), on=keys)
    return pd.concat([main, swept], ignore_index=True)


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
        for run in own["run"]:
            numbers = {k: observe(site, code(site, saes[run].sae)) for k, site in sites.items()}
            carried = (
                samples(numbers, list(numbers), [])["carried_function", "all"]
                if numbers
                else [np.nan]
            )
            found.append(
                {"run": run, "unused": unused, "carried_function": float(carried[0])}
                | wasted(saes[run])
            )
    columns = ["run", "unused", "carried_function", "wasted_l0", "wasted_alive"]
    return known.merge(pd.DataFrame(found, columns=columns), on="run")


def shared(runs: pd.DataFrame, match: str) -> float:
    """The middle, as a ratio, of what all curves share of `match`; NaN if they share nothing.

    runs: of `dial`.
    """
    ends = runs.groupby([*KEYS, "seed"])[match].agg(["min", "max"])
    low, high = max(float(ends["min"].max()), 0.0), float(ends["max"].min())
    return float(np.sqrt(low * high)) if 0 < low < high else np.nan


def at_equal(runs: pd.DataFrame, match: str, at: float) -> pd.DataFrame:
    """Every quantity where `match` is `at`: mean over the seeds whose curve has it, t interval.

    runs: of `dial`. Columns: match, at, layer, objective, null_scale, unused, quantity, value, low,
    high, n_seeds; the interval is NaN for one seed, and the value too for none.
    """
    rows = []
    for labels, own in runs.groupby(KEYS):
        curves = [curve.sort_values(match) for _, curve in own.groupby("seed")]
        for quantity in QUANTITIES[match]:
            values = np.array([_at(curve, match, at, quantity) for curve in curves])
            values = values[np.isfinite(values)]
            interval = seed_interval(values)
            unused = own["unused"].iloc[0]
            rows.append((match, at, *labels, unused, quantity, *interval, len(values)))
    columns = ["match", "at", *KEYS, "unused", "quantity", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def _at(curve: pd.DataFrame, match: str, at: float, quantity: str) -> float:
    """A curve's quantity there; NaN beyond its ends."""
    curve = curve[curve[match] > 0]
    x, y = np.log(curve[match].to_numpy(float)), curve[quantity].to_numpy(float)
    logarithmic = quantity in QUANTITIES
    if not len(x) or not at > 0:
        return np.nan
    if logarithmic:  # beside a value that has no logarithm there is none, elsewhere there is
        y = np.log(y, out=np.full_like(y, np.nan), where=y > 0)
    found = np.interp(np.log(at), x, y, left=np.nan, right=np.nan)
    return float(np.exp(found) if logarithmic else found)
