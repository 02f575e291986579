"""Principal directions of the clean activations: do SAEs keep them, and does the model need them?

Source: the paper's Figs 21-23 and appendix G.3. On GPT-2 at layer 10, direction 0 points to the
activations at position 0, which are some forty times as large as all others; local SAEs reproduce
it everywhere, e2e+ds SAEs only where it matters, at position 0. Whether direction 0 has that
meaning in another model, `direction_table` tells.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.analysis.activations import reconstruct
from e2e_lib.analysis.matched import stacked
from e2e_lib.analysis.statistics import (
    RESAMPLES,
    Array,
    Interval,
    mean_and_resamples,
    mean_interval,
    over_seeds,
    percentiles,
)
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import token_kl
from e2e_lib.core.sae import SAE
from e2e_lib.engine.model.probes import check_hook, replaced_pass
from e2e_lib.names import OBJECTIVES, TransformerBridge

KINDS = ("position 0", "end of text, later", "other")


def principal_directions(
    activations: Float[Tensor, "rows pos d"], n: int
) -> Float[Tensor, "kept d"]:
    """The n unit directions of largest variance of the centred activations, all positions counted
    alike (all d of them, if n is larger).

    An eigenvector has no sign of its own. Direction 0 points towards the mean activation at
    position 0; of every other, the component of largest magnitude is positive.
    """
    flat = activations.flatten(0, 1).double().cpu()
    centred = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
    directions = vectors.T.flip(0)[:n]  # eigh sorts upwards
    sign = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    towards = directions[0] @ activations[:, 0].double().cpu().mean(0)
    sign[0] = -1.0 if towards < 0 else 1.0
    return (directions * sign).to(activations)


def direction_table(
    activations: Float[Tensor, "rows pos d"], directions: Float[Tensor, "n d"]
) -> pd.DataFrame:
    """What each direction is. One row a direction:

    variance_share: its share of the variance, all positions. spread: standard deviation of the
    projection over tokens after position 0. first_cosine: its cosine with the mean activation at
    position 0 (direction 0 of the paper: about 1).
    """
    projected = (activations @ directions.T).double().cpu()
    total = activations.double().flatten(0, 1).var(0, correction=0).sum()
    first = activations[:, 0].mean(0)
    cosine = F.cosine_similarity(directions, first[None], dim=-1)
    return pd.DataFrame({
        "direction": np.arange(len(directions)),
        "variance_share": (projected.flatten(0, 1).var(0, correction=0) / total.cpu()).numpy(),
        "spread": projected[:, 1:].flatten(0, 1).std(0, correction=0).numpy(),
        "first_cosine": cosine.double().cpu().numpy(),
    })  # fmt: skip


def first_norm_ratio(activations: Float[Tensor, "rows pos d"]) -> float:
    """Mean norm at position 0 over the mean norm at all later ones (on GPT-2 about 40)."""
    norms = activations.double().norm(dim=-1)
    return float(norms[:, 0].mean() / norms[:, 1:].mean())


def projection_table(
    activations: Float[Tensor, "rows pos d"],
    direction: Float[Tensor, " d"],
    tokens: Int[Tensor, "rows pos"],
    end_of_text: int | None,
) -> pd.DataFrame:
    """Fig 22. One row a token: row, position, kind (one of `KINDS`) and its un-centred projection.

    end_of_text: that token's id; None where the tokenizer has none.
    """
    rows, positions = tokens.shape
    position = np.tile(np.arange(positions), rows)
    ends = (tokens == end_of_text).flatten().cpu().numpy() if end_of_text is not None else False
    kind = np.where(position == 0, KINDS[0], np.where(ends, KINDS[1], KINDS[2]))
    return pd.DataFrame({
        "row": np.repeat(np.arange(rows), positions), "position": position, "kind": kind,
        "projection": (activations @ direction).flatten().double().cpu().numpy(),
    })  # fmt: skip


def element_cosines(
    dictionaries: Mapping[str, Tensor], runs: pd.DataFrame, direction: Float[Tensor, " d"]
) -> pd.DataFrame:
    """Fig 21. One row an alive element: run, layer, objective, seed, cosine with the direction.

    dictionaries: run → alive unit directions; the elements keep their order.
    """
    labels = ["run", "layer", "objective", "seed"]
    tables = []
    for run in (run for run in runs.itertuples() if run.run in dictionaries):
        cosines = (dictionaries[run.run] @ direction).cpu().numpy()
        known = {name: getattr(run, name) for name in labels}
        tables.append(pd.DataFrame(known | {"cosine": cosines}))
    return stacked(tables, [*labels, "cosine"])


def correlations(
    before: Float[Tensor, "rows pos n"],
    after: Float[Tensor, "rows pos n"],
    weights: Float[np.ndarray, "samples rows"],
) -> Float[np.ndarray, "samples n"]:
    """Pearson's r over tokens of two projections, per direction and weighting of the rows.

    NaN where a projection is the same on every token, as at position 0 of rows that begin alike.
    """
    x, y = (t.double() - t.double().mean((0, 1)) for t in (before, after))
    xx, yy, xy = ((a * b).mean(1).cpu().numpy() for a, b in ((x, x), (y, y), (x, y)))
    mx, my = (weights @ t.mean(1).cpu().numpy() for t in (x, y))
    # What rounding leaves of the variance of a constant is no variance.
    floor = [1e-12 * float(t.double().square().mean()) for t in (before, after)]
    variance_x, variance_y = weights @ xx - mx**2, weights @ yy - my**2
    varies = (variance_x > floor[0]) & (variance_y > floor[1])
    scale = np.sqrt(np.where(varies, variance_x * variance_y, 1.0))
    return np.where(varies, (weights @ xy - mx * my) / scale, np.nan)


def correlation_samples(
    activations: Float[Tensor, "rows pos d"],
    saes: Mapping[str, SAE],
    runs: pd.DataFrame,
    directions: Float[Tensor, "n d"],
    *,
    first: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Array]:
    """By objective: r of an SAE's input and output along each direction, (1 + resamples, seeds, n).

    Over the tokens after position 0, or (first) those at position 0. Row 0 is the value itself; in
    each other row, rows of text are drawn with replacement, the same for every objective and seed,
    so that differences can be taken row by row. Only seeds of which every objective in `runs` has
    weights are counted.
    """
    present = runs[runs["run"].isin(list(saes))]
    seeds = sorted(
        s for s, own in present.groupby("seed")
        if own["objective"].nunique() == present["objective"].nunique()
    )  # fmt: skip
    if not seeds:
        return {}
    text = mean_and_resamples(len(activations), resamples, np.random.default_rng(seed))
    part = slice(0, 1) if first else slice(1, None)
    before = activations[:, part] @ directions.T
    samples = {}
    for objective in (o for o in OBJECTIVES if o in set(present["objective"])):
        own = present[present["objective"] == objective].set_index("seed")["run"]
        outputs = (reconstruct(saes[own[s]], activations[:, part]) for s in seeds)
        r = [correlations(before, x @ directions.T, text) for x in outputs]
        samples[objective] = np.stack(r, axis=1)
    return samples


def correlation_table(samples: Mapping[str, Array], at_first: Mapping[str, Array]) -> pd.DataFrame:
    """Fig 23a. One row an objective and direction: r after position 0 with its interval (value,
    low, high), and at position 0 (at_first), where both projections vary."""
    tables = []
    for objective, r in samples.items():
        table = pd.DataFrame(over_seeds(r)._asdict())
        labels = {"objective": objective, "direction": range(len(table))}
        tables.append(table.assign(**labels, at_first=at_first[objective][0].mean(axis=0)))
    return stacked(tables, ["objective", "direction", *Interval._fields, "at_first"])


def permuted_after_first(
    components: Float[Tensor, "rows pos n"], seed: int = 0
) -> Float[Tensor, "rows pos n"]:
    """Each direction's components after position 0, permuted over all rows and positions."""
    generator = torch.Generator().manual_seed(seed)
    late = components[:, 1:].flatten(0, 1)
    drawn = [
        late[torch.randperm(len(late), generator=generator).to(late.device), i]
        for i in range(late.shape[-1])
    ]
    permuted = torch.stack(drawn, dim=-1).reshape(components[:, 1:].shape)
    return torch.cat([components[:, :1], permuted], dim=1)


@torch.no_grad()
def resample_ablation(
    model: TransformerBridge,
    rows: Int[Tensor, "rows pos"],
    hook: str,
    directions: Float[Tensor, "n d"],
    *,
    seed: int = 0,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Fig 23b. What resampling one direction's components does to the model's output.

    For one direction at a time, the component of the activation at `hook` along it is replaced, at
    every position after the first, by that of a random other such token (a permutation over all
    rows and positions). One row a direction and row of text, means over all its positions, the
    first included: kl = KL(clean ‖ ablated), and kl_paper = KL(ablated ‖ clean), which the
    authors' code computes.
    """
    check_hook(model, hook)
    components = torch.cat([
        clean_pass(model, tokens, [hook], logits=False).activations[hook] @ directions.T
        for tokens in rows.split(batch_size)
    ])  # fmt: skip
    shifts = permuted_after_first(components, seed) - components
    records = []
    for start in range(0, len(rows), batch_size):
        tokens = rows[start : start + batch_size]
        clean = clean_pass(model, tokens, [hook])
        assert clean.logits is not None
        for i, direction in enumerate(directions):
            shift = shifts[start : start + batch_size, :, i, None] * direction
            ablated = replaced_pass(model, tokens, hook, clean.activations[hook] + shift)
            kl, kl_paper = (
                token_kl(*pair).mean(-1).tolist()
                for pair in ((clean.logits, ablated), (ablated, clean.logits))
            )
            numbers = range(start, start + len(tokens))
            records += [(i, *row) for row in zip(numbers, kl, kl_paper, strict=True)]
    columns = ["direction", "row", "kl", "kl_paper"]
    return pd.DataFrame(records, columns=columns).sort_values(columns[:2], ignore_index=True)


def ablation_table(per_row: pd.DataFrame) -> pd.DataFrame:
    """One row a direction: mean over rows of text of kl and kl_paper, each with the ends of its
    bootstrap interval over rows (NAME_low, NAME_high)."""
    records = []
    for direction, own in per_row.groupby("direction"):
        record: dict[str, float | int] = {"direction": int(str(direction))}
        for column in ("kl", "kl_paper"):
            names = (column, f"{column}_low", f"{column}_high")
            record |= dict(zip(names, mean_interval(own[column]), strict=True))
        records.append(record)
    return pd.DataFrame(records)


def first_direction(
    samples: Mapping[str, Array], per_row: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Direction 0 against the rest, as the claims ledger reads it: quantity, value, low, high,
    n_seeds.

    correlation: r of e2e+ds along direction 0, minus the smaller of local's r along it and of the
    lowest r of e2e+ds along any other direction. Below 0: it is what e2e+ds keeps least, and keeps
    less than local. ablation: mean KL(clean ‖ ablated) of direction 0 over the smallest of any
    other direction, rows of text resampled; no SAE, so no seed. Below 1: none matters as little.
    A quantity whose SAEs have no
    weights is left out.
    """
    records = []
    if {"local", "e2e_ds"} <= set(samples):
        r = samples["e2e_ds"]
        others = np.fmin(np.nanmin(r[..., 1:], axis=-1), samples["local"][..., 0])
        gap = r[..., 0] - others
        records.append(("correlation", *over_seeds(gap), gap.shape[1]))
    kl = per_row.pivot_table(index="row", columns="direction", values="kl").to_numpy()
    means = mean_and_resamples(len(kl), resamples, np.random.default_rng(seed)) @ kl
    ratio = means[:, 0] / means[:, 1:].min(axis=1)
    records.append(("ablation", ratio[0], *percentiles(ratio[1:]), 0))
    return pd.DataFrame(records, columns=["quantity", *Interval._fields, "n_seeds"])
