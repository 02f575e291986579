"""What a dictionary does with single decisions, pair by pair: the numbers behind every measure.

`observe` gives for every pair of a site what `tables` makes into measures: ratios of sums over
pairs. `dedicated` says which latents stand for a value of a decision. Symbols as in `swaps`; Δx is
the difference of the two members' activations at t, Δx̂ that of the dictionary's outputs there.

`necessities` asks how few latents carry a decision's effect, and what else they do. Of a kind's
pairs the first half ranks the latents, the second half measures: the first k of the ranking are
swapped for the partner's, and

    share(k) = 1 − Σ KL(swapped ‖ k swapped) / Σ KL(swapped ‖ spliced)

says how much of the full swap that makes. N80 is the smallest k with a share of 0.8, interpolated
between the counts tried. Many latents for one decision: it was split. A large share of the full
swap of *other* kinds by the same latents: they are entangled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.analysis.counterfactual.swaps import (
    Coded,
    Site,
    by_pair,
    joined,
    kl_sums,
    padded,
    partners,
    run,
)
from e2e_lib.analysis.counterfactual.tables import ENOUGH, Necessity, PairNumbers, needed_latents
from e2e_lib.analysis.statistics import Array, auroc

DEDICATED = 0.95  # AUROC from which on a latent stands for a value
FEWEST = 5  # pairs with a value, without which nothing is dedicated to it
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FEW = 3  # pairs of every other kind on which side effects are measured


@torch.no_grad()
def observe(site: Site, coded: Coded) -> PairNumbers:
    """Two passes a member: everything spliced, and the same with the partner's codes at t."""
    swapped_outputs = coded.swapped(site.at)
    hidden, spliced = {}, {}
    for name, outputs in (("spliced", coded.outputs), ("swapped", swapped_outputs)):
        passed = run(site.model, site.hook, site.tokens, outputs, site.start, site.later)
        hidden[name], spliced[name] = passed
    dx, other = site.difference, partners(len(site.at))
    change = (coded.codes[other] - coded.codes) @ coded.directions
    fired = coded.codes > 0
    by_row = {
        "missed": kl_sums(site, site.target, hidden["swapped"]),
        "effect": site.effect,
        "response": kl_sums(site, hidden["spliced"], hidden["swapped"]),
        "kept": (change * dx).sum(-1),
        "energy": dx.square().sum(-1),
        "toggled": (fired & ~fired[other]).sum(-1).float(),
        "on": fired.sum(-1).float(),
        "pathway": _pathway(site, spliced["spliced"], spliced["swapped"]),
    }
    return PairNumbers(**{k: by_pair(v).double().cpu().numpy() for k, v in by_row.items()})


def _pathway(
    site: Site, spliced: Mapping[str, Tensor], swapped: Mapping[str, Tensor]
) -> Float[Tensor, "row block 3"]:
    """Per later block the three sums over the tokens after t."""
    after = site.counts.clone()
    after[torch.arange(len(site.at)), site.at] = False
    found = []
    for name, clean in zip(site.later, site.changes, strict=True):
        own = swapped[name] - spliced[name]
        own, clean = ((change * after[..., None]).flatten(1) for change in (own, clean))
        sums = ((own * clean).sum(1), own.square().sum(1), clean.square().sum(1))
        found.append(torch.stack(sums, dim=-1))
    return torch.stack(found, dim=1)


def dedicated(
    values: Int[Tensor, " row"],
    codes: Float[Tensor, "row latent"],
    level: float = DEDICATED,
    fewest: int = FEWEST,
) -> Bool[Tensor, " latent"]:
    """Latents that tell some value of a kind from its alternatives: AUROC of at least `level`.

    values, codes: at t; rows 2i and 2i + 1 are partners. The positives of a value are the members
    that have it, its negatives their own partners, so that the rest of the story is the same in
    both; values of fewer than `fewest` pairs are passed over.
    """
    other = partners(len(values))
    found = torch.zeros(codes.shape[1], dtype=torch.bool, device=codes.device)
    for value in values.unique():
        own = (values == value).nonzero().squeeze(1)
        if len(own) >= fewest:
            area = auroc(codes[own].cpu(), codes[other[own]].cpu())
            found |= torch.as_tensor(area >= level).to(found.device)
    return found


# ------------------------------------------------------------------ necessity
class FullSwap(NamedTuple):
    """All codes exchanged: what the swap of some is compared with."""

    site: Site
    coded: Coded
    hidden: Float[Tensor, "row pos d_model"]

    @property
    def change(self) -> Float[Tensor, "row latent"]:
        """The partner's codes minus the own."""
        return self.coded.codes[partners(len(self.coded.codes))] - self.coded.codes

    @torch.no_grad()
    def missed(self, which: Int[Tensor, " some"]) -> Float[Tensor, " pair"]:
        """KL(swapped ‖ the latents in `which` swapped)."""
        hidden = _hidden(self.site, self.coded.swapped(self.site.at, which))
        return by_pair(kl_sums(self.site, self.hidden, hidden))


@torch.no_grad()
def full_swap(site: Site, coded: Coded) -> FullSwap:
    """One pass a member."""
    return FullSwap(site, coded, _hidden(site, coded.swapped(site.at)))


def _hidden(site: Site, outputs: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d_model"]:
    return run(site.model, site.hook, site.tokens, outputs, site.start)[0]


def ranked(swap: FullSwap) -> Int[Tensor, " latent"]:
    """Latents by how much swapping each would bring the output towards the full swap.

    To first order, half-way between own and partner's codes, summed over the rows: one pass back.
    """
    site, coded, change = swap.site, swap.coded, swap.change
    half = (change / 2).requires_grad_()
    rows, outputs = torch.arange(len(site.at)), coded.outputs.clone()
    outputs[rows, site.at] = coded.outputs[rows, site.at] + half @ coded.directions
    distance = kl_sums(site, swap.hidden, _hidden(site, outputs)).sum()
    [gradient] = torch.autograd.grad(distance, half)
    return (gradient * change).sum(0).argsort(stable=True)  # what lowers the distance most first


def necessities(
    sites: Mapping[str, Site], coded: Mapping[str, Coded], seed: int = 0
) -> dict[str, Necessity]:
    """By kind, for sites of at least two pairs; about ten passes a member of the second half."""
    halves = {kind: 2 * (len(site.at) // 4) for kind, site in sites.items()}
    measuring = {
        kind: full_swap(*_part(site, coded[kind], slice(halves[kind], None)))
        for kind, site in sites.items()
    }
    few = [_part(own.site, own.coded, slice(0, 2 * FEW)) for own in measuring.values()]
    side_effect, found = _side_effects(few), {}
    for i, (kind, swap) in enumerate(measuring.items()):
        ranking = full_swap(*_part(sites[kind], coded[kind], slice(0, halves[kind])))
        order = ranked(ranking)
        changing = (ranking.change != 0).any(0) | (swap.change != 0).any(0)
        counts, missed = _curve(swap, order[changing[order]])
        [needed] = needed_latents(counts, missed.mean(1)[None])
        first = order[: 0 if np.isnan(needed) else int(np.ceil(needed))]
        drawn = swap.missed(_drawn(swap, len(first), seed)).double().cpu().numpy()
        found[kind] = Necessity(counts, missed, drawn, side_effect(i, first))
    return found


def _part(site: Site, coded: Coded, rows: slice) -> tuple[Site, Coded]:
    return site.part(rows), coded.part(rows)


def _curve(swap: FullSwap, order: Int[Tensor, " latent"]) -> tuple[Array, Array]:
    """Counts, and KL(swapped ‖ so many swapped) by pair, until well beyond `ENOUGH`.

    order: of all latents that change, so that swapping them all is the full swap.
    """
    counts, missed = [0], [swap.missed(order[:0])]
    for count in (c for c in COUNTS if c < len(order)):
        counts.append(count)
        missed.append(swap.missed(order[:count]))
        if missed[-1].sum() < (1 - ENOUGH) / 2 * missed[0].sum():
            break
    counts.append(max(len(order), 1))
    missed.append(torch.zeros_like(missed[0]))
    return np.array(counts, dtype=float), torch.stack(missed).double().cpu().numpy()


def _drawn(swap: FullSwap, count: int, seed: int) -> Int[Tensor, " some"]:
    """As many latents, drawn from those that change on these pairs."""
    changing = (swap.change != 0).any(0).nonzero().squeeze(1).cpu()
    generator = torch.Generator().manual_seed(seed)
    return changing[torch.randperm(len(changing), generator=generator)[:count]]


def _side_effects(few: Sequence[tuple[Site, Coded]]) -> Callable[[int, Tensor], float]:
    """How much of the full swaps of all but the i-th is made by some latents alone; NaN of nothing.

    Sums over the others of the mean over their pairs.
    """
    site, rows = joined([own for own, _ in few]), [len(own.at) // 2 for own, _ in few]

    @torch.no_grad()
    def hidden(which: Tensor | None) -> Tensor:
        return _hidden(site, padded([coded.swapped(own.at, which) for own, coded in few]))

    full = hidden(None)

    def missed(which: Tensor) -> Array:
        parts = by_pair(kl_sums(site, full, hidden(which))).double().split(rows)
        return np.array([float(part.mean()) for part in parts])

    nothing = missed(torch.zeros(0, dtype=torch.long))

    def share(i: int, which: Tensor) -> float:
        most = np.delete(nothing, i).sum()
        return 1 - np.delete(missed(which), i).sum() / most if most > 0 and len(which) else np.nan

    return share
