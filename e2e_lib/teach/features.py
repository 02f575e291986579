"""W4, a feature hunt: a rule for what a latent fires on, judged on text that it was not made on.

StoryWorld's generator knows the truth about every token, so a rule can be graded, and laid beside
the best that any single label, or two together, can do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.analysis.interpret.ground_truth import Match, best_matches, judge, labellings
from e2e_lib.analysis.interpret.labels import LabelledRows, labelled_rows
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.observed import Observed, written

GOOD = 0.9  # of the best label's F1, from which on a rule fits
NAMED = 0.5  # F1 of a rule that says when a latent fires; where all labels are poor, so is GOOD
HIGH, LOW = 0.7, 0.4  # precision and recall that say what is wrong with one that does not
WORDS = {index: word for word, index in TOKEN_IDS.items()}


class Token(NamedTuple):
    """A token of a story as a rule sees it; values of the labels: `storyworld.teller.LABELS`."""

    word: str
    previous: str  # the words beside it; "" at a row's ends
    next: str
    role: str
    entity: str
    kind: str
    number: str
    gender: str
    place: str
    mood: str
    scene: str
    speaker: str
    seen: bool
    position_in_sentence: int
    decoy: str


class Score(NamedTuple):
    """How well "the rule says yes" tells "the latent fires"; all in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Hunt:
    """One latent on labelled text. Its first half is shown, the second half judges.

    codes: its activations on `text`.
    """

    text: LabelledRows
    codes: Float[Tensor, "rows pos"]

    @property
    def half(self) -> int:
        """Rows that are shown."""
        return len(self.codes) // 2

    @cached_property
    def tokens(self) -> list[list[Token]]:
        """Every token as a rule sees it."""
        return [
            [self._token(row, pos) for pos in range(self.codes.shape[1])]
            for row in range(len(self.codes))
        ]

    def _token(self, row: int, pos: int) -> Token:
        words = self.text.tokens[row].tolist()
        beside = (words[i] if 0 <= i < len(words) else None for i in (pos, pos - 1, pos + 1))
        own = (self.text.labels[name][row, pos].item() for name in Token._fields[3:])
        return Token(*(WORDS.get(word, "") for word in beside), *own)  # type: ignore[arg-type]

    def examples(self, n: int = 12, around: int = 6, weakest: bool = False) -> list[str]:
        """Places of the first half where it fires, one a line, the word in >brackets<.

        The strongest, or evenly over all strengths with `weakest`: rules made of the strongest
        alone miss most of what a latent does.
        """
        shown = self.codes[: self.half].flatten()
        order = shown.argsort(descending=True)[: int((shown > 0).sum())].tolist()
        step = max(1, len(order) // n) if weakest else 1
        return [self._line(place, around) for place in order[::step][:n]]

    def _line(self, place: int, around: int) -> str:
        row, pos = divmod(place, self.codes.shape[1])
        words = [WORDS[token] for token in self.text.tokens[row].tolist()]
        words[pos] = f">{words[pos]}<"
        start = max(0, pos - around)
        before, after = " ".join(words[start:pos]), " ".join(words[pos : pos + around // 2])
        return f"{self.codes[row, pos]:6.2f}  {before[-44:]:>44} {after}"

    def said(self, rule: Callable[[Token], Any]) -> Bool[Tensor, "rows pos"]:
        """Where a rule says yes, on the second half."""
        return torch.tensor([[bool(rule(t)) for t in row] for row in self.tokens[self.half :]])

    def score(self, rule: Callable[[Token], Any]) -> Score:
        """Of a rule, on the second half."""
        said, fires = self.said(rule), self.codes[self.half :] > 0
        hits = float((said & fires).sum())
        return Score(hits / max(1.0, float(said.sum())), hits / max(1.0, float(fires.sum())))

    @cached_property
    def best(self) -> tuple[str, float]:
        """The label's value, or two labels', that fits best on the first half: words, and its F1
        on the second."""
        if self._match is None:
            return "no label", 0.0
        found = judge(self.codes[self.half :, :, None], [self._match], self.half)
        return self._match.text, float(found.f1[0])

    @cached_property
    def _match(self) -> Match | None:
        among = labellings(self.text.tokens, self.text.labels, WORDS.__getitem__)
        return best_matches(self.codes[: self.half, :, None], among)[0]

    def best_rule(self, t: Token) -> bool:
        """The rule that `best` says in words."""
        if self._match is None:
            return False
        values = zip(
            self._match.labelling.labels, self._match.labelling.kinds[self._match.code], strict=True
        )
        return all(str(getattr(t, label)) == value for label, value in values)


def hunt(codes: Float[Tensor, "rows pos"], n_rows: int, context_size: int) -> Hunt:
    """A latent's activations on the first held-out rows, with those rows' labels."""
    return Hunt(_text(n_rows, context_size), codes)


@cache
def _text(n_rows: int, context_size: int) -> LabelledRows:
    return labelled_rows(n_rows, context_size)


def rule(t: Token) -> bool:
    """The rule of the exercise's own feature: it fires on names."""
    return t.role == "name"


@cache
def _names() -> Hunt:
    """A feature that fires on every name, most strongly on the one that is most frequent."""
    text = _text(64, 64)
    names = text.labels["role"] == "name"
    ids = text.tokens.numpy()
    often = np.bincount(ids[names]).argmax()
    codes = np.where(names, 1.0, 0.0) + np.where(ids == often, 3.0, 0.0)
    return Hunt(text, torch.tensor(codes, dtype=torch.float32))


@cache
def _most_frequent() -> frozenset[str]:
    strongest: Int[Tensor, " n"] = _names().text.tokens[_names().codes > 3]
    return frozenset(WORDS[int(token)] for token in strongest)


def _graded(answer: Callable[..., Any], case: Case) -> Observed:
    """One word: what is wrong with the rule, if anything is."""
    (hunt,) = case
    if all((says := answer(t)) is None or says is ... for t in hunt.tokens[hunt.half]):
        written(None)  # neither yes nor no, anywhere: not written yet
    said, score = hunt.said(answer), hunt.score(answer)
    if score.f1 >= max(NAMED, GOOD * hunt.best[1]):
        word = "fits"
    elif said.all():
        word = "says yes everywhere"
    elif not said.any():
        word = "never says yes"
    elif score.f1 >= GOOD * hunt.best[1] > 0:
        word = "as poor as the best label: perhaps no name fits it"
    elif score.precision >= HIGH and score.recall < score.precision:
        word = "is too narrow"
    elif score.recall >= HIGH and score.precision < score.recall:
        word = "is too wide"
    elif score.precision < LOW and score.recall < LOW:
        word = "is about other tokens"
    else:
        word = "is half right"
    return {"the rule": word}


def _report(answer: Callable[..., Any], case: Case) -> str:
    (hunt,) = case
    words, best = hunt.best
    try:
        own = hunt.score(answer)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever it is, it was said already
        return "" if hunt is _names() else f"  The best label here: {words}, F1 {best:.2f}."
    graded = (
        f"  On held-out text: precision {own.precision:.2f}, recall {own.recall:.2f}, F1 "
        f"{own.f1:.2f}."
    )
    if hunt is _names() and own.f1 < NAMED:
        return graded  # the label is the answer
    return f"{graded} The best label: {words}, F1 {best:.2f}."


RULE = Exercise(
    "rule",
    rule,
    lambda: [(_names(),)],
    (
        Mistake(
            "your rule is nearly always right where it says yes, but it misses much of what the "
            "latent does: that is the rule of its strongest examples only. Look at weak ones: "
            "examples(weakest=True).",
            lambda t: t.role == "name" and t.word in _most_frequent(),
        ),
        Mistake(
            "your rule finds what the latent fires on, and much else: add a condition (and …).",
            lambda t: t.role in ("name", "pronoun", "subject", "verb", "determiner"),
        ),
        Mistake(
            'it says yes everywhere: a rule compares something, as t.kind == "animal" does, on '
            "both sides of an `or` too, and ends without a comma.",
            lambda t: True,
        ),
        Mistake(
            "it never says yes: is the value spelled as the label has it? Print a few, for "
            "example made_up.tokens[0][:9].",
            lambda t: t.role == "names",
        ),
        Mistake(
            "it is about other tokens. The examples mark the very token that the latent fires on; "
            "is your rule about the one before or after, or turned round?",
            lambda t: t.role == "verb",
        ),
        Mistake(
            "half right: it misses some of what fires and takes in some of what does not.",
            lambda t: t.role in ("name", "subject") and t.word < "m",
        ),
    ),
    observe=_graded,
    report=_report,
)
