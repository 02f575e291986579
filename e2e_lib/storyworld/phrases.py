"""How StoryWorld's grammar names and describes: noun phrases, pronouns, places, to be."""

from __future__ import annotations

from e2e_lib.storyworld import choices as pick
from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.lexicon import Word
from e2e_lib.storyworld.teller import Choice, Entity, Teller, no_type_check


@no_type_check
def decide_who(t: Teller, who: Entity, other: Entity | None = None) -> None:
    """Make someone of a character, but not the `other` one."""
    among = t.choose(pick.CAST)
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
    t.word(t.choose(pick.TRAIT), "adjective", who)
    among = t.choose(pick.CAST)
    if among is pick.NAME:
        girl_or_boy = t.choose(pick.GIRL_OR_BOY)
        t.word(girl_or_boy, role, who, number="sg")
        t.say("named")
        among = pick.NAMES[girl_or_boy]
    who.become(t.choose(among.without(other.word) if other else among))
    head(t, who, role)


@no_type_check
def thing(t: Teller, slot: str, looks: Choice, nouns: Choice) -> Entity:
    """First mention of a thing: "a small red kite", "three small red kites"."""
    what = Entity(slot, plural=t.choose(pick.MANY))
    if what.number == "pl":
        what.count = t.choose(pick.COUNT)
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
    for among in (pick.SIZE, looks):
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
    if t.choose(pick.BY_NAME):
        definite(t, who)
    else:
        t.pronoun(who)


@no_type_check
def new_spot(t: Teller, landmark: Entity) -> Word:
    """Write "under the bridge" for the first time; returns the preposition."""
    preposition = t.choose(pick.PREPOSITION)
    t.word(preposition, "preposition", landmark)
    t.say("the")
    landmark.become(t.choose(pick.LANDMARK))
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
