"""What an SAE's measures lie between: dictionaries that learnt nothing, and one that knows all.

Floors, for an SAE of width d_sae and a mean of k latents on a token:

    untrained        an SAE as training would start it
    frozen decoder   random directions; k of them chosen one after the other by matching pursuit
    frozen encoder   random directions to read along, the k largest count; decoder by least squares
    pca              the k leading principal components, each sign a latent of its own

The frozen ones need no training: what is not frozen is solved for. The oracle is told by the
generator which value a decision took. It has a latent for every value of every used kind, whose
direction is fitted to Δx over other pairs, and none for unused kinds; the rest of the activation it
leaves as it is.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.analysis.counterfactual.scale import measure_table
from e2e_lib.analysis.counterfactual.swaps import Coded, Dictionary, Site, by_pair, partners
from e2e_lib.analysis.counterfactual.tables import Kept, selectivity_samples
from e2e_lib.core.sae import SAE

FLOORS = ("untrained", "frozen decoder", "frozen encoder", "pca")
RIDGE = 1e-3  # of the mean squared code or count, so that rare latents and values stay small


@dataclass(frozen=True)
class Linear:
    """A dictionary with any encoder: output = codes · dictionary + bias."""

    encode: Callable[[Tensor], Tensor]
    dictionary: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_in"]

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        return codes @ self.dictionary + self.bias


@torch.no_grad()
def floors(
    activations: Float[Tensor, "token d"], d_sae: int, k: int, seed: int = 0
) -> dict[str, Dictionary]:
    """Dictionaries by name of `FLOORS`, fitted to the activations of ordinary text."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, d_sae, activations.shape[1], generator=generator)
    written, read = F.normalize(draws, dim=-1).to(activations)
    mean = activations.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = SAE(activations.shape[1], d_sae).requires_grad_(False).to(activations.device)
    return {
        "untrained": untrained,
        "frozen decoder": Linear(lambda x: pursuit(x - mean, written, k), written, mean),
        "frozen encoder": _least_squares(lambda x: largest((x - mean) @ read.T, k), activations),
        "pca": pca(activations, k),
    }


def largest(codes: Float[Tensor, "... latent"], k: int) -> Float[Tensor, "... latent"]:
    """The k largest codes of every token, where they are above 0; the others 0."""
    values, where = codes.topk(min(k, codes.shape[-1]), dim=-1)
    return torch.zeros_like(codes).scatter(-1, where, values.clamp_min(0))


def pursuit(
    x: Float[Tensor, "... d"], directions: Float[Tensor, "latent d"], k: int
) -> Float[Tensor, "... latent"]:
    """Matching pursuit: k times, the direction along which most is left takes all of it."""
    codes, rest = x.new_zeros(*x.shape[:-1], len(directions)), x
    for _ in range(k):
        value, where = (rest @ directions.T).max(-1)
        value = value.clamp_min(0)
        codes.scatter_add_(-1, where[..., None], value[..., None])
        rest = rest - value[..., None] * directions[where]
    return codes


def pca(activations: Float[Tensor, "token d"], k: int) -> Linear:
    """The k leading principal components as 2k latents: one for each sign."""
    mean = activations.mean(0)
    components = torch.linalg.svd(activations - mean, full_matrices=False).Vh[:k]
    both = torch.cat([components, -components])
    return Linear(lambda x: F.relu((x - mean) @ both.T), both, mean)


def _least_squares(
    encode: Callable[[Tensor], Tensor], activations: Float[Tensor, "token d"]
) -> Linear:
    """The decoder that makes the least squared error of these codes, a little ridge included."""
    mean, codes = activations.mean(0), encode(activations).double()
    square = codes.T @ codes
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
    decoder = torch.linalg.solve(square, codes.T @ (activations - mean).double())
    return Linear(encode, decoder.to(activations), mean)


def value_directions(
    values: Int[Tensor, " row"], activation: Float[Tensor, "row d"], vocabulary: int
) -> Float[Tensor, "vocabulary d"]:
    """A direction for each value: Δx is nearly that of the partner's value minus that of the own.

    values: the token at t; activation: of the clean model there; rows 2i and 2i + 1 are partners.
    Values that no row has get 0.
    """
    row, other = torch.arange(len(values)), partners(len(values))
    signs = torch.zeros(len(values), vocabulary, dtype=torch.double)
    signs[row, values[other].cpu()] += 1
    signs[row, values.cpu()] -= 1
    change = (activation[other] - activation).double().cpu()
    square = signs.T @ signs
    square += RIDGE * max(float(square.diagonal().max()), 1.0) * torch.eye(vocabulary).double()
    return torch.linalg.solve(square, signs.T @ change).to(activation)


def oracle(site: Site, directions: Float[Tensor, "vocabulary d"] | None) -> Coded:
    """A site's pairs as one sees them who knows both values; None: of a kind that is not used.

    Its output is the activation itself, whose part along the value's direction its code makes.
    """
    width = site.activation.shape[-1]
    codes = site.activation.new_zeros(len(site.at), 1)
    if directions is None:
        directions = codes.new_zeros(1, width)
    else:
        codes = F.one_hot(site.values, len(directions)).to(codes)
    return Coded(site.activation, codes, directions, codes.sum(0))


# ------------------------------------------------------------------ a control
@torch.no_grad()
def control(
    floors: Mapping[str, Dictionary],
    at: Mapping[str, Float[Tensor, "row d"]],
    used: Collection[str],
    unused: Collection[str],
    seed: int = 0,
) -> pd.DataFrame:
    """Selectivity of dictionaries that know no function, from the activations at t alone.

    at: by kind, clean activations at t; rows 2i and 2i + 1 are partners. Columns: dictionary,
    value, low, high (95 % over pairs and kinds), retention (mean over kinds: of what keeps next to
    nothing the selectivity is a ratio of noise, which may have no bound), n_pairs, passes (whether
    1 lies within, or "not known").
    """
    tables = []
    for name, own in floors.items():
        kept = {kind: _kept(own, at[kind]) for kind in (*used, *unused)}
        drawn = selectivity_samples(kept, used, unused, seed)
        whole = [x.kept.sum() / x.energy.sum() for x in kept.values() if x.energy.any()]
        row = measure_table({("selectivity", "all"): drawn}, {}, {})[["value", "low", "high"]]
        row.insert(0, "dictionary", name)
        n_pairs = sum(len(x.kept) for x in kept.values())
        tables.append(row.assign(retention=np.mean(whole or [np.nan]), n_pairs=n_pairs))
    table = pd.concat(tables, ignore_index=True)
    within = np.where((table["low"] <= 1) & (table["high"] >= 1), "yes", "no")
    return table.assign(passes=np.where(table["low"].isna(), "not known", within))


def _kept(dictionary: Dictionary, x: Float[Tensor, "row d"]) -> Kept:
    """As `measures.observe` has it of a site."""
    codes, other = dictionary.encode(x), partners(len(x))
    change = (codes[other] - codes) @ dictionary.dictionary
    products = (change * (x[other] - x)).sum(-1), (x[other] - x).square().sum(-1)
    return Kept(*(by_pair(values).double().cpu().numpy() for values in products))
