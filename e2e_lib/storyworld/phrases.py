"""Every choice with its odds; how the grammar names and describes: noun phrases, places, to be."""

from __future__ import annotations

from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.lexicon import Word
from e2e_lib.storyworld.teller import Choice, Entity, Teller, no_type_check

MOOD = Choice(lex.MOODS, kind="mood")
WEATHER = {mood: Choice(mood.weather, kind="weather") for mood in lex.MOODS}
VERBS = {mood: Choice(mood.verbs, kind="verb") for mood in lex.MOODS}
ADVERBS = {mood: Choice(mood.adverbs, kind="adverb") for mood in lex.MOODS}
FEELINGS = {mood: Choice(mood.feelings, kind="feeling") for mood in lex.MOODS}
NAME, GROWNUP = Choice(lex.NAMES, kind="name"), Choice(lex.GROWNUPS, kind="grown-up")
ANIMAL, OBJECT = Choice(lex.ANIMALS, kind="animal"), Choice(lex.OBJECTS, kind="object")
GIRL_OR_BOY = Choice((lex.GIRL, lex.BOY), kind="boy-or-girl")
NAMES = {lex.GIRL: Choice(lex.GIRLS, kind="name"), lex.BOY: Choice(lex.BOYS, kind="name")}
TRAIT, TIME = Choice(lex.TRAITS, kind="trait"), Choice(lex.TIMES, kind="time")
PLACE, MOVE = Choice(lex.PLACES, kind="place"), Choice(lex.MOVES, kind="move")
SIZE, COUNT = Choice(lex.SIZES, kind="size"), Choice(lex.COUNTS, kind="count")
COLOUR = Choice(lex.COLOURS, kind="colour")
LOOK = Choice(lex.COLOURS + lex.MATERIALS, kind="look")
LANDMARK = Choice(lex.LANDMARKS, kind="landmark")
PREPOSITION = Choice(lex.PREPOSITIONS, kind="preposition")
TRANSITIVE = Choice(lex.TRANSITIVES, kind="verb")
CAST = Choice((NAME, ANIMAL, GROWNUP), (3, 1, 1))
CROWD = Choice((ANIMAL, GROWNUP), (2, 1))
PLURAL = Choice((False, True), kind="number")
BOTH = Choice((False, True), kind="company")
MANY = Choice((False, True), (2, 1))  # of no kind: several need a count as well
# A name instead of a pronoun, where both would be clear.
BY_NAME = Choice((False, True), (3, 1), kind="name-or-pronoun")
OPENING = Choice(("one", "once", "it"))
CLAUSE = Choice(("simple", "phrase", "subject relative", "object relative"))
SIGHT = Choice((OBJECT, ANIMAL))
DESCRIPTION = Choice(("none", "scenery", "sight"), (2, 4, 2))
TALK = Choice(("question", "remark", "greeting"), (1, 2, 1))
# Where there is no room for both pleasantries and a description.
BUSINESS = TALK.without("greeting")
TOGETHER = Choice(("none", "walk", "begin"), (1, 1, 2))
CODA = Choice(("none", "sky", "end"))


@no_type_check
def decide_who(t: Teller, who: Entity, other: Entity | None = None) -> None:
    """Make someone of a character, but not the `other` one."""
    among = t.choose(CAST)
    who.become(t.choose(among.without(other.word) if other else among))


@no_type_check
def head(t: Teller, who: Entity, role: str) -> None:
    """The noun or name itself."""
    assert who.word is not None
    role = "name" if who.kind == "child" else role
    t.word(who.word, role, who, plural=who.number == "pl", head=True)


@no_type_check
def definite(t: Teller, who: Entity, role: str = "subject", attributes: int = 0) -> None:
    """Write "mia", "the fox", or with its last attributes "the red kite"."""
    if who.kind != "child":
        t.say("the")
    for word in who.attributes[len(who.attributes) - attributes :]:
        t.word(word, "adjective", who)
    head(t, who, role)


@no_type_check
def introduce(t: Teller, who: Entity, role: str, other: Entity | None = None) -> None:
    """First mention of a character: "a clever girl named mia", "a polite baker"."""
    t.say("a")
    t.word(t.choose(TRAIT), "adjective", who)
    among = t.choose(CAST)
    if among is NAME:
        girl_or_boy = t.choose(GIRL_OR_BOY)
        t.word(girl_or_boy, role, who, number="sg")
        t.say("named")
        among = NAMES[girl_or_boy]
    who.become(t.choose(among.without(other.word) if other else among))
    head(t, who, role)


@no_type_check
def thing(t: Teller, slot: str, looks: Choice, nouns: Choice) -> Entity:
    """First mention of a thing: "a small red kite", "three small red kites"."""
    what = Entity(slot, plural=t.choose(MANY))
    if what.number == "pl":
        what.count = t.choose(COUNT)
        t.word(what.count, "count", what)
    else:
        t.say("a")
    describe(t, what, looks)
    what.become(t.choose(nouns))
    head(t, what, "object")
    return what


@no_type_check
def describe(t: Teller, what: Entity, looks: Choice) -> None:
    """Give it a size and a look."""
    for among in (SIZE, looks):
        what.attributes.append(t.choose(among))
        t.word(what.attributes[-1], "adjective", what)


@no_type_check
def indefinite(t: Teller, what: Entity) -> None:
    """Repeat the first mention of a thing in full."""
    if what.count:
        t.word(what.count, "count", what)
    else:
        t.say("a")
    for word in what.attributes:
        t.word(word, "adjective", what)
    head(t, what, "object")


@no_type_check
def he_or_she(t: Teller, who: Entity) -> None:
    """A subject that the sentence before was about: mostly a pronoun."""
    if t.choose(BY_NAME):
        definite(t, who)
    else:
        t.pronoun(who)


@no_type_check
def new_spot(t: Teller, landmark: Entity) -> Word:
    """Write "under the bridge" for the first time; returns the preposition."""
    preposition = t.choose(PREPOSITION)
    t.word(preposition, "preposition", landmark)
    t.say("the")
    landmark.become(t.choose(LANDMARK))
    head(t, landmark, "landmark")
    return preposition


@no_type_check
def spot(t: Teller, preposition: Word, landmark: Entity) -> None:
    """Write "under the bridge" again."""
    t.word(preposition, "preposition", landmark)
    definite(t, landmark, "landmark")


@no_type_check
def be(t: Teller, subject: Entity) -> None:
    """Write "is" or "are"."""
    t.verb(lex.BE, subject, "copula")
