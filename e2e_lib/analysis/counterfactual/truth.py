"""The true L0: how many used variables are alive at a token, from the generator alone.

A variable is one decision of a story, of a kind that the network uses. It is alive from the token
that shows it to the last one that it changes, found by taking the decision otherwise and replaying
all others: as long as something ahead depends on it. What is not a decision is not counted: where
in a sentence the story is, what has been said, who speaks. So this is what a dictionary needs at
least to carry what pairs can ask for, not all that the network computes.
"""

from collections.abc import Collection
from itertools import islice

import pandas as pd

from e2e_lib.errors import require
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.pairs import counterfactual, decisions_of
from e2e_lib.storyworld.teller import Story


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
