"""The words of StoryWorld (words.yaml) as concepts.

A `Word` is a *concept* with one or more synonyms, each in a singular and a plural form. A concept
with two synonyms is a **decoy**: `teller.Teller.surface` throws a fair coin for which one is
written, at every mention anew, and nothing else in the story looks at the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

END_OF_TEXT = "<|endoftext|>"
TEXTS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """One concept. `forms[synonym]` is the pair (singular, plural)."""

    name: str
    forms: tuple[tuple[str, str], ...]
    kind: str = ""  # kind of character or thing, "" for what is neither
    gender: str = ""  # f, m, n; "" for words that no pronoun stands for
    preposition: str = ""  # places only: how one is there

    @property
    def decoy(self) -> str:
        """Name of the synonym pair, "" if the concept has a single surface."""
        return "|".join(singular for singular, _ in self.forms) if len(self.forms) > 1 else ""


@dataclass(frozen=True, slots=True, eq=False)
class Mood:
    """The words that a mood colours, from the first sentence to the last."""

    name: str
    weather: tuple[Word, ...]  # before the time of day
    verbs: tuple[Word, ...]  # what everyone does
    adverbs: tuple[Word, ...]  # how they do it
    feelings: tuple[Word, ...]  # predicative only: "unhappy" would want "an"
    speech: Word  # how one exclaims
    sky: str  # what is over the place at the end


def _words(words: str, **attributes: str) -> tuple[Word, ...]:
    found = []
    for text in words.split():
        singular, _, plural = text.partition("/")
        singulars, plurals = singular.split("|"), (plural or singular).split("|")
        forms = tuple(zip(singulars, plurals, strict=True))
        found.append(Word(singulars[0], forms, **attributes))
    return tuple(found)


def _mood(name: str, speech: str, sky: str, **words: str) -> Mood:
    return Mood(name, speech=_words(speech)[0], sky=sky, **{k: _words(w) for k, w in words.items()})


_OF = {
    group: _words(**spec)
    for part in ("characters", "things", "surroundings", "verbs")
    for group, spec in TEXTS[part].items()
}
GIRLS, BOYS, WOMEN, MEN = (_OF[group] for group in ("girls", "boys", "women", "men"))
NAMES, GROWNUPS = GIRLS + BOYS, WOMEN + MEN
ANIMALS, TRAITS, OBJECTS, SIZES = (_OF[g] for g in ("animals", "traits", "objects", "sizes"))
COLOURS, MATERIALS, COUNTS, TIMES = (_OF[g] for g in ("colours", "materials", "counts", "times"))
LANDMARKS, PREPOSITIONS, MOVES, TRANSITIVES = (
    _OF[group] for group in ("landmarks", "prepositions", "moves", "transitives")
)
[GIRL], [BOY], [PATH], [GIFT], [BE] = (_OF[g] for g in ("girl", "boy", "path", "gift", "be"))
PLACES = tuple(word for spec in TEXTS["places"] for word in _words(**spec))
CARRY, HIDE, FIND, LOOK, WISH, GIVE, MEET, SEE, THANK, COME, BEGIN, SAY, ASK, ANSWER = _OF["plot"]
MOODS = tuple(_mood(name, **texts) for name, texts in TEXTS["moods"].items())
FUNCTION_WORDS = {w: role for role, words in TEXTS["function_words"].items() for w in words.split()}
# (gender or person, number) -> subject, object, possessive
PRONOUNS: dict[tuple[str, str], tuple[str, ...]] = {
    (who, number): tuple(cases) for who, number, *cases in TEXTS["pronouns"]
}
CONCEPTS: tuple[Word, ...] = (
    *NAMES, GIRL, BOY, *GROWNUPS, *ANIMALS, *TRAITS, *OBJECTS, *SIZES, *COLOURS, *MATERIALS,
    *COUNTS, *PLACES, *LANDMARKS, *PREPOSITIONS, PATH, GIFT, *TIMES, BE, *MOVES, *_OF["plot"],
    *TRANSITIVES,
    *(word for mood in MOODS
      for word in (*mood.weather, *mood.verbs, *mood.adverbs, *mood.feelings, mood.speech)),
)  # fmt: skip
DECOYS: dict[str, Word] = {word.decoy: word for word in CONCEPTS if word.decoy}


def vocabulary() -> list[str]:
    """Every word the generator can write, sorted, without the special token."""
    words = {form for word in CONCEPTS for pair in word.forms for form in pair}
    words.update(FUNCTION_WORDS)
    words.update(form for cases in PRONOUNS.values() for form in cases if form)
    return sorted(words)
