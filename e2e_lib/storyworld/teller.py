"""How a story is told: every random decision, every token and its labels pass through here.

- `Teller.choose` is the only place where anything is decided; it adds up the exact log-probability.
- `Teller.surface` is the only place where a decoy's coin is thrown.
- `Teller.emit` is the only place where a token is written, with all its labels.

So the log-probability is exact, synonyms have identical futures, and labels cannot slip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar

from e2e_lib.storyworld.lexicon import FUNCTION_WORDS, PRONOUNS, Mood, Word

# What each label means and the values it takes; one entry a token, in this order.
LABELS: dict[str, str] = {
    "role": "template slot: name, subject, object, place, landmark, verb, speech_verb, "
    "relative_verb, relative_noun, copula, adjective, weather, feeling, time, count, adverb, "
    "pronoun, possessive, preposition, determiner, conjunction, question, noun, punctuation, quote",
    "entity": "the plot slot of who or what the token refers to: hero, helper, giver, treasure, "
    "hideout, landmark, crowd, other, both, setting, or '' for none",
    "kind": "child, animal, grownup, object, landmark, place, or ''",
    "number": "sg, pl, or '' (nouns, pronouns and verbs have one)",
    "gender": "f, m, n, or '' (nouns, names and pronouns of a single character or thing)",
    "place": "name of the place where the story is, '' until it is named",
    "mood": "merry, gloomy, spooky or dreamy: one for the whole story, '' until it shows",
    "scene": "opening, setup, scenery, sight, meeting, greeting, remark, question, together, "
    "payoff, ending, coda",
    "speaker": "the plot slot of who speaks: hero or helper inside quotation marks, '' outside",
    "seen": "whether the entity, or the word where there is none, occurred before in the story",
    "position_in_sentence": "0, 1, ... (a quotation and who says it are one sentence)",
    "decoy": "name of the synonym pair, e.g. 'big|large', '' for words with one surface",
    "nats": "natural-log cost of the decisions taken since the token before",
}


Checked = TypeVar("Checked")


def no_type_check(item: Checked) -> Checked:
    """Keep the tests' run-time type checks, which look for this name, off what is called often.

    They would make the generator fifty times slower. mypy still checks what is marked.
    """
    return item


@no_type_check
class Choice:
    """Alternatives with fixed probabilities; logs and cumulative sums are computed once.

    kind: what is decided, for `pairs`; empty where the shape of the story hangs on it.
    """

    __slots__ = ("_without", "cumulative", "kind", "logs", "options", "probabilities")

    def __init__(
        self,
        options: Sequence[Any],
        weights: Sequence[float] | Sequence[int] | None = None,
        kind: str = "",
    ) -> None:
        weights = [1.0] * len(options) if weights is None else weights
        total = math.fsum(weights)
        self.kind = kind
        self.options = tuple(options)
        self.probabilities = tuple(weight / total for weight in weights)
        self.logs = tuple(math.log(p) for p in self.probabilities)
        # Without the last sum: a rounding error there must not index past the end.
        self.cumulative = tuple(accumulate(self.probabilities))[:-1]
        self._without: dict[Any, Choice] = {}

    def without(self, option: Any) -> Choice:
        """The same choice with one alternative ruled out (all of them if it is not among them)."""
        if option not in self._without:
            kept = [(o, p) for o, p in self._pairs() if o != option]
            self._without[option] = Choice([o for o, _ in kept], [p for _, p in kept], self.kind)
        return self._without[option]

    def _pairs(self) -> Iterable[tuple[Any, float]]:
        return zip(self.options, self.probabilities, strict=True)


COIN = Choice((0, 1), kind="coin")


@no_type_check
class Entity:
    """Someone or something in a story: what it is called and how it is referred to."""

    __slots__ = ("attributes", "count", "gender", "kind", "number", "slot", "word")

    def __init__(self, slot: str, plural: bool = False) -> None:
        self.slot = slot
        self.number = "pl" if plural else "sg"
        self.word: Word | None = None
        self.count: Word | None = None
        self.attributes: list[Word] = []
        self.kind = self.gender = ""

    def become(self, word: Word) -> None:
        """Decide what it is."""
        self.word, self.kind = word, word.kind
        self.gender = "" if self.number == "pl" else word.gender


@dataclass
class Story:
    """One story. `labels[name][i]` describes `tokens[i]`; see `LABELS` for names and values."""

    tokens: list[str]
    labels: dict[str, list]
    logprob: float  # nats, of the whole derivation, the decision to stop included
    trace: tuple[int, ...] = field(repr=False, default=())  # the alternative taken, every decision
    choices: tuple[Choice, ...] = field(repr=False, default=())  # what each was taken from
    written: tuple[int, ...] = field(repr=False, default=())  # tokens before each
    canonical: str = field(repr=False, default="")  # the text with every coin showing heads

    @property
    def text(self) -> str:
        """Words joined by single spaces."""
        return " ".join(self.tokens)

    @property
    def coins(self) -> tuple[int, ...]:
        """Which decisions were decoys' coins."""
        return tuple(i for i, choice in enumerate(self.choices) if choice is COIN)


@cache
@no_type_check
def _literal(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((word, FUNCTION_WORDS[word]) for word in text.split())


@no_type_check
class Teller:
    """A story in the making. `draw` maps a `Choice` to the index of the alternative taken."""

    def __init__(self, draw: Callable[[Choice], int]) -> None:
        self.draw = draw
        self.records: list[tuple] = []
        self.trace: list[int] = []
        self.choices: list[Choice] = []
        self.written: list[int] = []
        self.seen: set[Any] = set()
        self.logprob = self.pending = 0.0
        self.mood: Mood  # decided in the first sentence
        self.mood_name = self.place = self.scene = self.speaker = ""
        self.position = 0

    def choose(self, choice: Choice) -> Any:
        """Take one decision and account for its probability."""
        index = self.draw(choice)
        self.trace.append(index)
        self.choices.append(choice)
        self.written.append(len(self.records))
        self.logprob += choice.logs[index]
        self.pending -= choice.logs[index]
        return choice.options[index]

    def surface(self, word: Word, plural: bool = False) -> str:
        """The written form of a concept. The only place where a decoy's coin is thrown."""
        forms = word.forms
        if len(forms) == 1:
            return forms[0][plural]
        return forms[self.choose(COIN)][plural]

    def emit(
        self,
        form: str,
        role: str,
        key: Any,
        entity: str = "",
        kind: str = "",
        number: str = "",
        gender: str = "",
        decoy: str = "",
        canonical: str = "",
    ) -> None:
        """Write one token; `key` is what `seen` asks for, `canonical` the form without coins."""
        self.records.append((
            form, canonical or form, role, entity, kind, number, gender, self.place,
            self.mood_name, self.scene, self.speaker, key in self.seen, self.position, decoy,
            self.pending,
        ))  # fmt: skip
        self.seen.add(key)
        self.pending = 0.0
        self.position += 1

    def say(self, text: str) -> None:
        """Write function words, whose roles the lexicon knows."""
        for form, role in _literal(text):
            self.emit(form, role, form)
            if form == "." and not self.speaker:
                self.position = 0

    def word(
        self, word: Word, role: str, entity: Entity | None = None, plural: bool = False,
        number: str = "", head: bool = False,
    ) -> None:  # fmt: skip
        """Write a content word; as the `head` of its entity it carries kind, number and gender."""
        form = self.surface(word, plural)
        slot = entity.slot if entity else ""
        canonical, decoy = word.forms[0][plural], word.decoy if len(word.forms) > 1 else ""
        if head and entity:
            self.emit(form, role, entity, slot, word.kind, entity.number, entity.gender, decoy,
                      canonical)  # fmt: skip
        else:
            self.emit(form, role, word, slot, word.kind, number, "", decoy, canonical)

    def verb(self, word: Word, subject: Entity, role: str = "verb", base: bool = False) -> None:
        """Write a verb that agrees with its subject; `base` after "i", "you" and "to"."""
        plural = base or subject.number == "pl"
        self.word(word, role, subject, plural=plural, number=subject.number)

    def pronoun(self, entity: Entity, case: int = 0, person: str = "") -> None:
        """Write a pronoun; case 0 subject, 1 object, 2 possessive; person "1", "2" or third."""
        form = PRONOUNS[person or entity.gender, entity.number][case]
        role = "possessive" if case == 2 else "pronoun"
        self.emit(form, role, entity, entity.slot, entity.kind, entity.number, entity.gender)

    def finish(self) -> Story:
        """The story told so far."""
        columns = [list(column) for column in zip(*self.records, strict=True)]
        tokens, canonical = columns[:2]
        labels = dict(zip(LABELS, columns[2:], strict=True))
        return Story(tokens, labels, self.logprob, tuple(self.trace), tuple(self.choices),
                     tuple(self.written), " ".join(canonical))  # fmt: skip
