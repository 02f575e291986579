"""What a decision of the generator changes in the clean model, and what the model makes of it.

A pair is two stories that one decision tells apart; t is the first token that differs. For the
residual stream x before a block:

    use       Σ over predictions from t on of KL(clean ‖ exchanged), nats; exchanged: the model on a
              member's text with its partner's x at t. Mean over both directions
    presence  ‖x − x′‖² at t over 2 Var x: 1 where the two differ as two random tokens do

No SAE is looked at. A kind of decision with much presence and no use is what the data contains and
the network ignores.

The **true L0** is the number of used decisions alive at a token, from the generator alone. A
decision is alive from the token that shows it to the last one that it changes, found by taking it
otherwise and replaying all others: as long as something ahead depends on it. What is not a decision
is not counted: where in a sentence the story is, what has been said, who speaks. So this is what a
dictionary needs at least to carry what pairs can ask for, not all that the network computes.
"""

from collections.abc import Collection, Sequence
from itertools import islice
from random import Random

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.analysis.statistics import (
    RESAMPLES,
    mean_and_resamples,
    mean_interval,
    percentiles,
)
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import token_kl
from e2e_lib.engine.model.probes import replaced_pass
from e2e_lib.errors import ConfigError, require
from e2e_lib.names import TransformerBridge, resid_pre
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.pairs import (
    Pair,
    PairRows,
    counterfactual,
    decisions_of,
    pair_rows,
    pairs,
)
from e2e_lib.storyworld.teller import Story

BATCH = 16  # pairs in a pass
UNUSED = 0.01  # of the mean kind's use: below it, with the whole interval, nothing uses a kind
COLUMNS = (
    *("kind", "layer", "use", "use_low", "use_high"),
    *("presence", "presence_low", "presence_high", "n_pairs", "threshold", "verdict"),
)


def exchanged(x: Float[Tensor, "row pos d"], at: Int[Tensor, " row"]) -> Float[Tensor, "row pos d"]:
    """Rows of pairs (2i and 2i + 1 are partners), each with its partner's activation at `at`."""
    row = torch.arange(len(x), device=x.device)
    new = x.clone()
    new[row, at] = x[row ^ 1, at]
    return new


def later(
    at: Int[Tensor, " row"], length: Int[Tensor, " row"], positions: int
) -> Bool[Tensor, "row pos"]:
    """Where the predictions are that count: from `at` to the last one that a story's end allows."""
    place = torch.arange(positions, device=at.device)
    return (place >= at[:, None]) & (place < length[:, None] - 1)


@torch.no_grad()
def exchange(
    model: TransformerBridge, rows: PairRows, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """Use and presence of every pair at every layer (of residual streams before blocks).

    layers: all, if None. The variance is that of all tokens of all rows but the padding. One row a
    pair and layer: kind, pair, layer, use, presence (NaN where the activation does not vary).

    Raises:
        ConfigError: a layer that the model lacks, or stories longer than its context.
    """
    layers, cfg = range(model.cfg.n_layers) if layers is None else layers, model.cfg
    for layer in layers:
        require(0 <= layer < cfg.n_layers, "layer", layer, f"from 0 to {cfg.n_layers - 1}")
    tokens, first, length, kinds = rows
    if tokens.shape[-1] > cfg.n_ctx:
        raise ConfigError(
            f"a pair of stories takes {tokens.shape[-1]} tokens, but the model's context is "
            f"{cfg.n_ctx}."
        )
    hooks = {layer: resid_pre(layer) for layer in layers}
    moments = {layer: _Moments() for layer in layers}
    use, energy = (np.zeros((len(hooks), len(kinds))) for _ in range(2))
    for part in length.amax(1).argsort(stable=True).split(BATCH):  # of like length: less padding
        longest = int(length[part].max())
        own, ends = tokens[part, :, :longest].flatten(0, 1), length[part].flatten()
        at = first[part].repeat_interleave(2)
        counts = later(at, ends, longest)
        told = torch.arange(longest, device=at.device) < ends[:, None]
        clean = clean_pass(model, own, list(hooks.values()))
        logits = clean.logits
        assert logits is not None
        for i, (layer, hook) in enumerate(hooks.items()):
            x = clean.activations[hook]
            new = exchanged(x, at)
            kl = (token_kl(logits, replaced_pass(model, own, hook, new)) * counts).sum(-1)
            use[i, part] = kl.view(-1, 2).mean(-1).cpu()
            energy[i, part] = (new - x)[::2].double().square().sum((-1, -2)).cpu()
            moments[layer].add(x[told])
    scale = np.array([2 * moments[layer].variance() or np.nan for layer in hooks])
    index = pd.MultiIndex.from_product([hooks, range(len(kinds))], names=["layer", "pair"])
    values = {"use": use.ravel(), "presence": (energy / scale[:, None]).ravel()}
    table = pd.DataFrame(values, index=index).reset_index()
    return table.assign(kind=kinds * len(hooks))[["kind", *table]]


class _Moments:
    """Sums over tokens, in float64."""

    def __init__(self) -> None:
        self.n, self.square = 0, 0.0
        self.total: Tensor | float = 0.0

    def add(self, x: Float[Tensor, "token d"]) -> None:
        x = x.double()
        self.n += len(x)
        self.square += float(x.square().sum())
        self.total = self.total + x.sum(0)

    def variance(self) -> float:
        """E‖x − mean‖²; 0 where all are alike up to rounding."""
        mean = torch.as_tensor(self.total) / self.n
        power = self.square / self.n
        variance = power - float(mean.square().sum())
        return variance if variance > 1e-12 * power else 0.0


def use_table(per_pair: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`exchange`'s means per kind and layer, with 95 % bootstrap over pairs, and the verdict.

    The threshold of a layer is `UNUSED` of the mean over kinds of their use there. `unused`: the
    whole interval of use lies below it; `used`: above it; else, or with one pair, `undecided`.
    """
    records = []
    for (kind, layer), own in per_pair.groupby(["kind", "layer"], sort=False):
        use, presence = (mean_interval(own[column], seed=seed) for column in ("use", "presence"))
        records.append((kind, layer, *use, *presence, len(own)))
    table = pd.DataFrame(records, columns=list(COLUMNS[:-2]))
    table["threshold"] = UNUSED * table.groupby("layer")["use"].transform("mean")
    below, above = table["use_high"] < table["threshold"], table["use_low"] > table["threshold"]
    verdict = np.select([below, above], ["unused", "used"], default="undecided")
    return table.assign(verdict=verdict).sort_values("layer", kind="stable", ignore_index=True)


def kinds_by_verdict(table: pd.DataFrame, layer: int) -> dict[str, list[str]]:
    """The kinds that are used, unused and undecided at a layer, by `use_table`'s verdict."""
    own = table[table["layer"] == layer]
    verdicts = ("used", "unused", "undecided")
    return {name: own.loc[own["verdict"] == name, "kind"].tolist() for name in verdicts}


# ------------------------------------------------------------------ a coin beside a concept
def beside_coins(
    used: Collection[str], n_coins: int = 600, seed: int = 0
) -> list[tuple[Pair, Pair]]:
    """Of the coin's pairs those at whose word a decision of a used kind falls too, both pairs.

    Both have one story in common, and first differ at the same token of it: "a big coat" beside
    "a large coat" and beside "a small coat". Where several decisions do, one is drawn.

    n_coins: how many pairs of the coin are looked through; about one in eight has such a partner.
    """
    random, found, concepts = Random(f"{seed} beside coins"), [], {*used} - {"coin"}
    for coin in pairs(["coin"], n_coins, seed)["coin"]:
        of_used = [
            (kind, decision)
            for kind, decisions in decisions_of(coin.story).items()
            for decision in decisions
            if kind in concepts and coin.story.written[decision] <= coin.first
        ]
        rivals = [pair for own in of_used for pair in _at_token(coin.story, *own, coin.first)]
        if rivals:
            found.append((coin, random.choice(rivals)))
    return found


def _at_token(story: Story, kind: str, decision: int, first: int) -> list[Pair]:
    """The pairs of this decision that first differ at this token, and are as long as the story."""
    others = (
        counterfactual(story, decision, alternative)
        for alternative in range(len(story.choices[decision].options))
        if alternative != story.trace[decision]
    )
    return [
        Pair(kind, story, other, decision, first, same_length=True)
        for other in others
        if other and len(other.tokens) == len(story.tokens)
        if _common(story.tokens, other.tokens) == first
    ]


def coin_over_concept(
    model: TransformerBridge, layer: int, used: Collection[str], n_coins: int = 600, seed: int = 0
) -> pd.DataFrame:
    """How much a coin changes beside a concept at the same token: the one definition of it.

    Over the pairs of `beside_coins`: the coin's mean over the concept's, of ‖Δx‖² ("presence") and
    of the change of all later predictions ("use", see `exchange`). 95 % bootstrap over the tokens.
    A row each, the index; columns value, low, high (NaN without tokens; of one, without ends), n.

    Raises:
        ConfigError: as `exchange`.
    """
    both = beside_coins(used, n_coins, seed)
    table = pd.DataFrame(np.nan, ["presence", "use"], ["value", "low", "high"]).assign(n=len(both))
    if both:
        rows = pair_rows([pair for own in zip(*both, strict=True) for pair in own])
        measured = exchange(model, rows, [layer])
        weights = mean_and_resamples(len(both), RESAMPLES, np.random.default_rng(seed))
        for name in table.index:
            coin, concept = measured[name].to_numpy().reshape(2, -1) @ weights.T
            ratio = coin / np.where(concept > 0, concept, np.nan)
            ends = percentiles(ratio[1:]) if len(both) > 1 else (np.nan, np.nan)
            table.loc[name, ["value", "low", "high"]] = (ratio[0], *ends)
    return table


# ------------------------------------------------------------------ the true L0
def true_l0(used: Collection[str], n_stories: int = 100, seed: int = 0) -> pd.DataFrame:
    """One row a kind of `used`, and "all": mean number of its variables alive at a token.

    Mean over the tokens of held-out stories. A decision of which no alternative fits the rest of
    the story lives as long as those of its kind that do, on average. Columns: kind, l0, decisions
    (a story), tokens (that one is alive), measured (share of decisions of which one fits).

    Raises:
        ConfigError: n_stories below 1.
    """
    require(n_stories >= 1, "n_stories", n_stories, "at least 1")
    stories = list(islice(generate(seed, "validation"), n_stories))
    lives: dict[str, list[int | None]] = {kind: [] for kind in used}
    for story in stories:
        for kind, decisions in decisions_of(story).items():
            if kind in lives:
                lives[kind] += [_life(story, decision) for decision in decisions]
    tokens = sum(len(story.tokens) for story in stories)
    rows = []
    for kind, every in lives.items():
        known = [life for life in every if life is not None]
        mean = sum(known) / len(known) if known else float("nan")
        alive = len(every) * mean / tokens if every else 0.0
        share = len(known) / len(every) if every else float("nan")
        rows.append((kind, alive, len(every) / n_stories, mean, share))
    table = pd.DataFrame(rows, columns=["kind", "l0", "decisions", "tokens", "measured"])
    total = {"kind": "all", "l0": table["l0"].sum(), "decisions": table["decisions"].sum()}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def _life(story: Story, decision: int) -> int | None:
    """Tokens from the first that the decision changes up to the last; None: no alternative fits."""
    for alternative in range(len(story.choices[decision].options)):
        if alternative != story.trace[decision]:
            other = counterfactual(story, decision, alternative)
            if other is not None:
                return _changed(story.tokens, other.tokens)
    return None


def _changed(one: list[str], two: list[str]) -> int:
    """Tokens between the first and the last in which `one` differs from `two`."""
    first = _common(one, two)
    last = len(one) - 1 - _common(one[::-1], two[::-1])
    return max(0, last - first)


def _common(one: list[str], two: list[str]) -> int:
    """Tokens that both begin with."""
    both = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), min(len(one), len(two)))
