"""Exact counterfactual pairs: two stories that differ in one decision of the generator.

A story is replayed from its trace with one decision changed; every later decision stays what it
was. Where the rest no longer fits (another number of alternatives, or a word that is among them
but no longer in its place, so that a second thing would change), the pair is rejected. So what
differs between the two texts has one known cause.

    story   once upon a grey morning , a kind girl named mia walks to the hill . ...
    other   once upon a grey morning , a kind boy named tom walks to the hill . ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from e2e_lib.errors import ConfigError, is_integer, require, require_known
from e2e_lib.storyworld.corpus import TOKEN_IDS, encode
from e2e_lib.storyworld.grammar import SPLITS, generate, tell
from e2e_lib.storyworld.lexicon import END_OF_TEXT
from e2e_lib.storyworld.teller import Choice, Story, no_type_check

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Int
    from torch import Tensor

# What a pair's decision was about. What is `passing` belongs to someone or something that the
# story never names again; the kind without the word, to what it comes back to.
KINDS = (
    *("coin", "adverb", "feeling", "verb", "move", "trait", "time", "weather"),
    *("name-or-pronoun", "company", "crowd", "number", "count", "size", "colour", "look"),
    *("object", "animal", "grown-up", "name", "boy-or-girl"),
    *("preposition", "landmark", "place", "mood"),
    *("passing-number", "passing-size", "passing-colour", "passing-object", "passing-animal"),
    *("passing-grown-up", "passing-preposition", "passing-landmark"),
)
# The kind of the choice, and the plot slot that it is about -> the kind of the decision.
_BY_SLOT = {
    (kind.removeprefix("passing-"), slot): kind
    for kind in KINDS
    for slot in ("other", "crowd", "landmark")
    if kind.startswith("passing-")
} | {
    ("number", "crowd"): "crowd",  # the main verb agrees with it
    ("number", "other"): "",  # in one clause a verb agrees with it, in another none does
}
STORIES_A_PAIR = 50  # most stories looked through for each pair, and at least ten times as many


@dataclass(frozen=True)
class Pair:
    """A story, and the same with one decision changed.

    decision: its index in both traces. first: index of the first token that differs, in both.
    """

    kind: str
    story: Story
    other: Story
    decision: int
    first: int
    same_length: bool


class PairRows(NamedTuple):
    """Pairs as rows of tokens, each story behind one `<|endoftext|>` and padded with more."""

    tokens: Int[Tensor, "pair 2 position"]
    at: Int[Tensor, " pair"]  # position of the first token that differs
    length: Int[Tensor, "pair 2"]  # positions that count: up to and with the `<|endoftext|>` after
    kind: list[str]

    def part(self, start: int, stop: int) -> PairRows:
        """The pairs from `start` to before `stop`."""
        own = slice(start, stop)
        return PairRows(self.tokens[own], self.at[own], self.length[own], self.kind[own])

    def to(self, device: Any) -> PairRows:
        """The same on another device."""
        tokens, at, length = (values.to(device) for values in self[:3])
        return PairRows(tokens, at, length, self.kind)


def pairs(
    kinds: Iterable[str] = KINDS,
    n: int = 30,
    seed: int = 0,
    split: str = "validation",
    *,
    same_length: bool = True,
) -> dict[str, list[Pair]]:
    """`n` pairs of each kind, at most one of a kind from a story; the first member is in `split`.

    The decision is any of its kind in the story, the other alternative any of those left; a pair
    that is rejected makes room for the next story's. The same seed gives the same pairs, whatever
    other kinds are asked for.

    same_length: only pairs whose positions correspond, so that what stands at one is the other's
    counterpart; else also such as "he" in place of "the fox".

    Raises:
        ConfigError: unknown kind or split, n below 1, or a kind that too few stories contain.
    """
    kinds = list(dict.fromkeys(kinds))
    for kind in kinds:
        require_known(kind, KINDS, "kind of decision")
    require(is_integer(n) and n >= 1, "n", n, "a whole number of at least 1")
    require(split in SPLITS, "split", split, f"one of {', '.join(SPLITS)}")
    found: dict[str, list[Pair]] = {kind: [] for kind in kinds}
    randoms = {kind: Random(f"{seed} {kind}") for kind in kinds}
    most = STORIES_A_PAIR * max(n, 10)
    for number, story in enumerate(generate(seed, split)):
        missing = [kind for kind in kinds if len(found[kind]) < n]
        if not missing:
            break
        if number == most:
            few = ", ".join(f"{kind} ({len(found[kind])})" for kind in missing)
            raise ConfigError(f"{most} stories hold fewer than {n} pairs of these kinds: {few}.")
        decisions = decisions_of(story)
        for kind in missing:
            if kind not in decisions:
                continue
            pair = _draw(story, kind, decisions[kind], randoms[kind])
            if pair and (pair.same_length or not same_length):
                found[kind].append(pair)
    return found


@no_type_check
def decisions_of(story: Story) -> dict[str, list[int]]:
    """The decisions of a story that may be changed, by kind."""
    found: dict[str, list[int]] = {}
    slots = story.labels["entity"]
    for index, (choice, written) in enumerate(zip(story.choices, story.written, strict=True)):
        kind = choice.kind and _BY_SLOT.get((choice.kind, slots[written]), choice.kind)
        if kind:
            found.setdefault(kind, []).append(index)
    return found


@no_type_check
def _draw(story: Story, kind: str, decisions: list[int], random: Random) -> Pair | None:
    """A pair from one of the decisions, to one of the other alternatives; None: rejected."""
    decision = random.choice(decisions)
    alternative = random.randrange(len(story.choices[decision].options) - 1)
    alternative += alternative >= story.trace[decision]
    other = counterfactual(story, decision, alternative)
    if other is None:
        return None
    both = zip(story.tokens, other.tokens, strict=False)
    first = next((i for i, (one, two) in enumerate(both) if one != two), None)
    if first is None:  # one story is the beginning of the other
        return None
    same_length = len(story.tokens) == len(other.tokens)
    return Pair(kind, story, other, decision, first, same_length)


class _Misfit(Exception):
    """A later decision can no longer be what it was."""


@no_type_check
def counterfactual(story: Story, decision: int, alternative: int) -> Story | None:
    """`story` with one decision changed and all others kept; None if they no longer fit."""
    trace = [*story.trace[:decision], alternative, *story.trace[decision + 1 :]]
    script = iter(zip(trace, story.choices, strict=True))

    def draw(choice: Choice) -> int:
        index, before = next(script, (0, None))
        if before is None or not _keeps(before, choice, index):
            raise _Misfit
        return index

    try:
        other = tell(draw)
    except _Misfit:
        return None
    return other if len(other.trace) == len(trace) else None


@no_type_check
def _keeps(before: Choice, after: Choice, index: int) -> bool:
    """Whether taking the same alternative by number takes the same word, or its only counterpart.

    The words of another mood have nothing in common with the old ones: they are counterparts. But
    where the list of animals now lacks another one, the same number is another animal.
    """
    if after is before:
        return True
    old, new = before.options, after.options
    return len(old) == len(new) and (old[index] == new[index] or set(old).isdisjoint(new))


def pair_rows(pairs: Sequence[Pair]) -> PairRows:
    """The pairs as token ids, all rows as long as the longest needs.

    Raises:
        ConfigError: no pair.
    """
    import torch

    require(len(pairs) > 0, "pairs", [], "at least one pair")
    end = TOKEN_IDS[END_OF_TEXT]
    rows = [
        [[end, *encode(member.tokens), end] for member in (pair.story, pair.other)]
        for pair in pairs
    ]
    longest = max(len(row) for both in rows for row in both)
    padded = [[row + [end] * (longest - len(row)) for row in both] for both in rows]
    return PairRows(
        torch.tensor(padded),
        torch.tensor([pair.first + 1 for pair in pairs]),
        torch.tensor([[len(row) for row in both] for both in rows]),
        [pair.kind for pair in pairs],
    )


def pair_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row a pair: kind, where, which word became which, and both stories with their nats."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "kind": pair.kind,
                "scene": pair.story.labels["scene"][pair.first],
                "entity": pair.story.labels["entity"][pair.first],
                "decision": pair.decision,
                "first": pair.first,
                "word": pair.story.tokens[pair.first],
                "other_word": pair.other.tokens[pair.first],
                "same_length": pair.same_length,
                "logprob": pair.story.logprob,
                "other_logprob": pair.other.logprob,
                "story": pair.story.text,
                "other": pair.other.text,
            }
            for pair in pairs
        ]
    )
