"""Exchanges at one token: what one decision does to the clean model and to a spliced one.

A pair is two stories that differ for one known cause; t is the first token that differs. A site
holds the pairs of one kind at one hook, a row for each member: rows 2i and 2i + 1 are the members
of pair i, each other's partners. All that is exchanged is what stands at (hook, t): between clean
members the activation, between spliced ones the codes, with everything else spliced as it was.

    target    the clean member with its partner's activation at t
    spliced   the member with the dictionary's output in place of every activation
    swapped   spliced, with its partner's codes at t (of all latents, or of some)

Every KL is summed over the predictions from t to the end of the member's story, in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.analysis.counterfactual.use import exchanged, later
from e2e_lib.core.hooks import clean_pass, later_blocks
from e2e_lib.core.losses import token_kl
from e2e_lib.engine.model.forward import Hook, run_hooked
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.engine.model.probes import check_hook
from e2e_lib.errors import ModelError
from e2e_lib.names import TransformerBridge, layer_of, resid_pre

ROWS = 64  # rows a pass; small models on CPUs are fastest while a pass fits the cache


Rows: TypeAlias = slice | Bool[Tensor, " row"]  # whole pairs


@runtime_checkable
class Dictionary(Protocol):
    """What is measured: an SAE, or anything that codes one token at a time and decodes linearly."""

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]: ...

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]: ...

    @property
    def dictionary(self) -> Float[Tensor, "d_sae d_in"]: ...


class Coded(NamedTuple):
    """A dictionary at a site."""

    outputs: Float[Tensor, "row pos d"]  # in place of the activations
    codes: Float[Tensor, "row latent"]  # at t
    directions: Float[Tensor, "latent d"]  # what a code of 1 adds to the output
    fired: Float[Tensor, " latent"]  # tokens from t on on which each is above 0

    def part(self, rows: Rows) -> "Coded":
        """The same with some of the rows; `fired` is still that of all."""
        return self._replace(outputs=self.outputs[rows], codes=self.codes[rows])

    @property
    def change(self) -> Float[Tensor, "row latent"]:
        """The partner's codes minus the own."""
        return self.codes[partners(len(self.codes))] - self.codes

    def swapped(
        self, at: Int[Tensor, " row"], which: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "row pos d"]:
        """The outputs, with the partners' codes at t: of all latents, or of those in `which`."""
        change, directions = self.change, self.directions
        if which is not None:
            change, directions = change[:, which], directions[which]
        outputs = self.outputs.clone()
        outputs[torch.arange(len(at)), at] += change @ directions
        return outputs


def partners(rows: int) -> Int[Tensor, " row"]:
    """The row of each row's partner: 1, 0, 3, 2, …"""
    return torch.arange(rows) ^ 1


@dataclass(frozen=True)
class Site:
    """The pairs of one kind at one hook; dictionaries at this hook share it.

    Attributes:
        counts: the predictions that are summed over: from t to the end of the member's story.
        activation, start: of the clean members at the hook, and before its block.
        clean, target: hidden states after the last norm, of the clean and the exchanged members.
        later: names of the residual stream before every later block, and after the last.
        changes: at each of these, the target's activation minus the clean one.
    """

    model: TransformerBridge
    hook: str
    kind: str
    tokens: Int[Tensor, "row pos"]
    at: Int[Tensor, " row"]
    counts: Bool[Tensor, "row pos"]
    activation: Float[Tensor, "row pos d"]
    start: Float[Tensor, "row pos d_model"]
    clean: Float[Tensor, "row pos d_model"]
    target: Float[Tensor, "row pos d_model"]
    later: tuple[str, ...]
    changes: tuple[Float[Tensor, "row pos d_model"], ...]

    def part(self, rows: Rows) -> "Site":
        """The same with some of the rows (whole pairs)."""
        cut = {name: getattr(self, name)[rows] for name in _BY_ROW}
        changes = tuple(change[rows] for change in self.changes)
        return Site(self.model, self.hook, self.kind, later=self.later, changes=changes, **cut)

    @property
    def difference(self) -> Float[Tensor, "row d"]:
        """Δx: the partner's activation at t minus the own."""
        own = self.activation[torch.arange(len(self.at)), self.at]
        return own[partners(len(own))] - own

    @cached_property
    def effect(self) -> Float[Tensor, " row"]:
        """Σ KL(target ‖ clean): what there is to transmit, whatever the dictionary."""
        return kl_sums(self, self.target, self.clean)

    @property
    def values(self) -> Int[Tensor, " row"]:
        """The token at t: what the decision became."""
        return self.tokens[torch.arange(len(self.at)), self.at]


_BY_ROW = ("tokens", "at", "counts", "activation", "start", "clean", "target")


def joined(sites: Sequence[Site]) -> Site:
    """All their rows as one site, padded to the longest: one pass instead of one for each."""
    found: dict[str, Any] = {
        name: padded([getattr(site, name) for site in sites]) for name in _BY_ROW
    }
    changes = tuple(padded(own) for own in zip(*(site.changes for site in sites), strict=True))
    return replace(sites[0], kind="all", changes=changes, **found)


def padded(parts: Sequence[Tensor]) -> Tensor:
    """Their rows together; those of more than one dimension end in zeros up to the longest row."""
    if parts[0].ndim == 1:
        return torch.cat(list(parts))
    length = max(part.shape[1] for part in parts)
    inner = (0, 0) * (parts[0].ndim - 2)
    return torch.cat([F.pad(part, (*inner, 0, length - part.shape[1])) for part in parts])


@torch.no_grad()
def open_site(
    model: TransformerBridge,
    hook: str,
    kind: str,
    tokens: Int[Tensor, "row pos"],
    at: Int[Tensor, " row"],
    length: Int[Tensor, " row"],
) -> Site:
    """Run the clean members and exchange their activations at (hook, t).

    tokens: rows 2i and 2i + 1 are the members of pair i. at: t of each row. length: positions that
    count, padding behind them does not.
    """
    check_hook(model, hook)
    tokens = tokens[:, : int(length.max())].to(model.cfg.device)
    at, length = at.to(tokens.device), length.to(tokens.device)
    before, after = resid_pre(layer_of(hook)), _later(model, hook)
    kept = [clean_pass(model, own, [hook, before, *after]) for own in tokens.split(ROWS)]
    found = {
        name: torch.cat([own.activations[name] for own in kept]) for name in kept[0].activations
    }
    new = exchanged(found[hook], at)
    target, there = run(model, hook, tokens, new, found[before], after)
    return Site(
        model, hook, kind, tokens, at,
        later(at, length, tokens.shape[1]),
        found[hook], found[before],
        torch.cat([own.hidden for own in kept if own.hidden is not None]), target,
        after, tuple(there[name] - found[name] for name in after),
    )  # fmt: skip


def _later(model: TransformerBridge, hook: str) -> tuple[str, ...]:
    """The residual stream before every later block and after the last one."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    return tuple(name for name in (*later_blocks(model, [hook]), last) if name != hook)


def run(
    model: TransformerBridge,
    hook: str,
    tokens: Int[Tensor, "row pos"],
    activation: Float[Tensor, "row pos d"],
    start: Float[Tensor, "row pos d_model"],
    record: Sequence[str] = (),
) -> tuple[Float[Tensor, "row pos d_model"], dict[str, Float[Tensor, "row pos d_model"]]]:
    """Hidden states with `activation` in place of the model's own, and activations at `record`."""
    layer, parts = layer_of(hook), []
    for own, new, before in zip(
        tokens.split(ROWS), activation.split(ROWS), start.split(ROWS), strict=True
    ):
        seen: dict[str, Tensor] = {}
        hooks: dict[str, Hook] = {name: _keep(seen, name) for name in record}
        hooks[hook] = lambda value, new=new: new
        before = new if hook == resid_pre(layer) else before
        made = runner(model, [hook, *record])
        hidden = run_hooked(made, own, hooks, whole=True, first=layer, start=before)
        assert hidden is not None
        parts.append((hidden, seen))
    recorded = {name: torch.cat([seen[name] for _, seen in parts]) for name in record}
    return torch.cat([hidden for hidden, _ in parts]), recorded


def _keep(kept: dict[str, Tensor], name: str) -> Hook:
    def keep(value: Tensor) -> None:
        kept[name] = value

    return keep


def kl_sums(
    site: Site, first: Float[Tensor, "row pos d_model"], second: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, " row"]:
    """Σ KL(first ‖ second) over the predictions that count, of every row."""
    return kl_between(site, predictions(site, first), predictions(site, second))


def predictions(
    site: Site, hidden: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "prediction vocab"]:
    """Logits of the predictions that count, of all rows one after another."""
    head = runner(site.model, [site.hook]).head
    return head(hidden[site.counts][None])[0]


def kl_between(
    site: Site, first: Float[Tensor, "prediction vocab"], second: Float[Tensor, "prediction vocab"]
) -> Float[Tensor, " row"]:
    """`kl_sums` of `predictions`."""
    kl = token_kl(first, second)
    return kl.new_zeros(len(site.at)).index_add(0, site.counts.nonzero()[:, 0], kl)


@torch.no_grad()
def code(site: Site, dictionary: Dictionary) -> Coded:
    """Run a dictionary on a site's activations.

    Raises:
        ModelError: it reads another width than the hook's.
    """
    width, directions = site.activation.shape[-1], dictionary.dictionary
    if directions.shape[1] != width:
        raise ModelError(
            f"The dictionary reads activations of width {directions.shape[1]}, but those at "
            f"{site.hook!r} of this model have width {width}."
        )
    outputs, codes, fired = [], [], torch.zeros(len(directions), device=directions.device)
    parts = (site.activation.split(ROWS), site.at.split(ROWS), site.counts.split(ROWS))
    for rows, at, counts in zip(*parts, strict=True):
        every = dictionary.encode(rows)
        outputs.append(dictionary.decode(every))
        codes.append(every[torch.arange(len(at)), at])
        fired += (every[counts] > 0).sum(0)
    return Coded(torch.cat(outputs), torch.cat(codes), directions, fired)


def by_pair(values: Float[Tensor, "row *n"]) -> Float[Tensor, "pair *n"]:  # noqa: F821 (axes)
    """Mean over the two members of every pair, that is over both directions."""
    return values.unflatten(0, (-1, 2)).mean(1)
