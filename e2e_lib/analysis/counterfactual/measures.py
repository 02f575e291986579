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

A swap of codes that are the partner's already changes nothing, so that only rows in which some of
the swapped latents change have a pass of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.analysis.counterfactual.swaps import (
    Coded,
    Rows,
    Site,
    by_pair,
    joined,
    kl_between,
    kl_sums,
    padded,
    partners,
    predictions,
    run,
)
from e2e_lib.analysis.counterfactual.tables import ENOUGH, Necessity, PairNumbers, needed_latents
from e2e_lib.analysis.statistics import Array, auroc

DEDICATED = 0.95  # AUROC from which on a latent stands for a value
FEWEST = 5  # pairs with a value, without which nothing is dedicated to it
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FEW = 2  # pairs of every other kind on which side effects are measured


@dataclass(frozen=True)
class Exchange:
    """A site's members spliced, and the same with their partners' codes at t.

    Attributes:
        spliced, swapped: hidden states after the last norm.
        before, after: of these, the residual stream before every later block, and after the last.
    """

    site: Site
    coded: Coded
    spliced: Float[Tensor, "row pos d_model"]
    swapped: Float[Tensor, "row pos d_model"]
    before: Mapping[str, Float[Tensor, "row pos d_model"]]
    after: Mapping[str, Float[Tensor, "row pos d_model"]]

    def part(self, rows: Rows) -> "Exchange":
        """The same with some of the rows."""
        before, after = (
            {name: x[rows] for name, x in own.items()} for own in (self.before, self.after)
        )
        hidden = self.spliced[rows], self.swapped[rows]
        return Exchange(self.site.part(rows), self.coded.part(rows), *hidden, before, after)

    @cached_property
    def change(self) -> Float[Tensor, "row latent"]:
        """The partner's codes minus the own."""
        return self.coded.change

    @cached_property
    def wanted(self) -> Float[Tensor, "prediction vocab"]:
        """The predictions that count of the full swap."""
        with torch.no_grad():
            return predictions(self.site, self.swapped)

    @cached_property
    def apart(self) -> Float[Tensor, " row"]:
        """KL(swapped ‖ spliced)."""
        with torch.no_grad():
            return kl_between(self.site, self.wanted, predictions(self.site, self.spliced))

    @torch.no_grad()
    def missed(
        self,
        which: Int[Tensor, " some"],
        new: Int[Tensor, " few"] | None = None,
        before: Float[Tensor, " row"] | None = None,
    ) -> Float[Tensor, " row"]:
        """KL(swapped ‖ the latents in `which` swapped).

        new, before: which of them are new, and what it was without those.
        """
        moved = (self.change[:, which if new is None else new] != 0).any(1)
        outputs = self.coded.swapped(self.site.at, which)
        return _anew(
            self.site, self.wanted, self.apart if before is None else before, moved, outputs
        )


@torch.no_grad()
def exchange(site: Site, coded: Coded) -> Exchange:
    """A pass a member, and another where some code changes."""

    def passed(site: Site, outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return run(site.model, site.hook, site.tokens, outputs, site.start, site.later)

    spliced, before = passed(site, coded.outputs)
    swapped, after = spliced.clone(), {name: x.clone() for name, x in before.items()}
    moved = (coded.change != 0).any(1)
    if moved.any():
        swapped[moved], there = passed(site.part(moved), coded.swapped(site.at)[moved])
        for name, x in there.items():
            after[name][moved] = x
    return Exchange(site, coded, spliced, swapped, before, after)


@torch.no_grad()
def observe(swap: Exchange) -> PairNumbers:
    """The numbers of every pair of a site."""
    site, coded, dx = swap.site, swap.coded, swap.site.difference
    fired, other = coded.codes > 0, partners(len(site.at))
    swapped, spliced = (predictions(site, hidden) for hidden in (swap.swapped, swap.spliced))
    by_row = {
        "missed": kl_between(site, predictions(site, site.target), swapped),
        "effect": site.effect,
        "response": kl_between(site, spliced, swapped),
        "kept": ((swap.change @ coded.directions) * dx).sum(-1),
        "energy": dx.square().sum(-1),
        "toggled": (fired & ~fired[other]).sum(-1).float(),
        "on": fired.sum(-1).float(),
        "pathway": _pathway(site, swap.before, swap.after),
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
            fires = (codes[own] > 0).any(0)  # what never does is above nothing
            area = auroc(codes[own][:, fires].cpu(), codes[other[own]][:, fires].cpu())
            found[fires] |= torch.as_tensor(area >= level).to(found.device)
    return found


# ------------------------------------------------------------------ necessity
def _hidden(site: Site, outputs: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d_model"]:
    return run(site.model, site.hook, site.tokens, outputs, site.start)[0]


def _anew(
    site: Site,
    wanted: Float[Tensor, "prediction vocab"],
    missed: Float[Tensor, " row"],
    moved: Bool[Tensor, " row"],
    outputs: Float[Tensor, "row pos d"],
) -> Float[Tensor, " row"]:
    """KL(wanted ‖ with `outputs`) in the rows that moved; in the others it is still `missed`."""
    if not moved.any():
        return missed
    part, found = site.part(moved), missed.clone()
    own = wanted[moved[site.counts.nonzero()[:, 0]]]
    found[moved] = kl_between(part, own, predictions(part, _hidden(part, outputs[moved])))
    return found


def ranked(swap: Exchange) -> Int[Tensor, " latent"]:
    """Latents by how much swapping each would bring the output towards the full swap.

    To first order, half-way between own and partner's codes, summed over the rows: one pass back.
    """
    moved = (swap.change != 0).any(1)
    swap = swap.part(moved) if moved.any() else swap
    site, coded, change = swap.site, swap.coded, swap.change
    half = (change / 2).requires_grad_()
    rows, outputs = torch.arange(len(site.at)), coded.outputs.clone()
    outputs[rows, site.at] = coded.outputs[rows, site.at] + half @ coded.directions
    distance = kl_sums(site, swap.swapped, _hidden(site, outputs)).sum()
    [gradient] = torch.autograd.grad(distance, half)
    return (gradient * change).sum(0).argsort(stable=True)  # what lowers the distance most first


def necessities(swaps: Mapping[str, Exchange], seed: int = 0) -> dict[str, Necessity]:
    """By kind, for sites of at least two pairs; about ten passes a member of the second half."""
    halves = {kind: 2 * (len(swap.site.at) // 4) for kind, swap in swaps.items()}
    measuring = {kind: swap.part(slice(halves[kind], None)) for kind, swap in swaps.items()}
    side_effect, found = _side_effects([own.part(slice(2 * FEW)) for own in measuring.values()]), {}
    for i, (kind, swap) in enumerate(measuring.items()):
        ranking = swaps[kind].part(slice(halves[kind]))
        order = ranked(ranking)
        changing = (ranking.change != 0).any(0) | (swap.change != 0).any(0)
        counts, missed = _curve(swap, order[changing[order]])
        [needed] = needed_latents(counts, missed.mean(1)[None])
        first = order[: 0 if np.isnan(needed) else int(np.ceil(needed))]
        drawn = by_pair(swap.missed(_drawn(swap, len(first), seed))).double().cpu().numpy()
        found[kind] = Necessity(counts, missed, drawn, side_effect(i, first))
    return found


def _curve(swap: Exchange, order: Int[Tensor, " latent"]) -> tuple[Array, Array]:
    """Counts, and KL(swapped ‖ so many swapped) by pair, until well beyond `ENOUGH`.

    order: of all latents that change, so that swapping them all is the full swap.
    """
    counts, missed, rows = [0], [by_pair(swap.apart)], swap.apart
    for count in (c for c in COUNTS if c < len(order)):
        rows = swap.missed(order[:count], order[counts[-1] : count], rows)
        counts.append(count)
        missed.append(by_pair(rows))
        if missed[-1].sum() < (1 - ENOUGH) / 2 * missed[0].sum():
            break
    counts.append(max(len(order), 1))
    missed.append(torch.zeros_like(missed[0]))
    return np.array(counts, dtype=float), torch.stack(missed).double().cpu().numpy()


def _drawn(swap: Exchange, count: int, seed: int) -> Int[Tensor, " some"]:
    """As many latents, drawn from those that change on these pairs."""
    changing = (swap.change != 0).any(0).nonzero().squeeze(1).cpu()
    generator = torch.Generator().manual_seed(seed)
    return changing[torch.randperm(len(changing), generator=generator)[:count]]


def _side_effects(few: Sequence[Exchange]) -> Callable[[int, Tensor], float]:
    """How much of the full swaps of all but the i-th is made by some latents alone; NaN of nothing.

    Sums over the others of the mean over their pairs.
    """
    site, rows = joined([own.site for own in few]), [len(own.site.at) for own in few]
    wanted, apart = (torch.cat([getattr(own, x) for own in few]) for x in ("wanted", "apart"))

    def means(missed: Tensor) -> Array:
        return np.array([float(own.mean()) for own in missed.double().split(rows)])

    nothing = means(apart)

    @torch.no_grad()
    def share(i: int, which: Tensor) -> float:
        most = np.delete(nothing, i).sum()
        if not (most > 0 and len(which)):
            return np.nan
        moved = [(own.change[:, which] != 0).any(1) & (k != i) for k, own in enumerate(few)]
        outputs = padded([own.coded.swapped(own.site.at, which) for own in few])
        missed = means(_anew(site, wanted, apart, torch.cat(moved), outputs))
        return 1 - np.delete(missed, i).sum() / most

    return share
