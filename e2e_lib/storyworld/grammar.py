"""The grammar of StoryWorld: what happens in a story, scene by scene.

    opening  setup  description?  meeting  talk  description or together?  payoff  ending  coda?

where talk is a remark of the helper about the world, or (after a greeting?) a question and its
answer. One of four plots runs from `setup` through the question to `payoff`: what was introduced
has to be recalled, exactly, later on. Every function below writes from left to right and decides
as late as it can, and no text has two derivations; so the log-probability of a derivation is that
of its text, and its mean the entropy that no model can beat.

Everything is in the present tense, so every verb shows whether it agrees.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from hashlib import blake2b

from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.lexicon import Word
from e2e_lib.storyworld.teller import Choice, Entity, Story, Teller, no_type_check

SPLITS = ("train", "validation")
VALIDATION_EVERY = 10  # one story in ten, by digest, is held out
MAX_TOKENS = 126  # with <|endoftext|> before and after, a story fits a row of 128

MOOD = Choice(lex.MOODS)
WEATHER = {mood: Choice(mood.weather) for mood in lex.MOODS}
VERBS = {mood: Choice(mood.verbs) for mood in lex.MOODS}
ADVERBS = {mood: Choice(mood.adverbs) for mood in lex.MOODS}
FEELINGS = {mood: Choice(mood.feelings) for mood in lex.MOODS}
NAME, GROWNUP, ANIMAL = Choice(lex.NAMES), Choice(lex.GROWNUPS), Choice(lex.ANIMALS)
GIRL_OR_BOY = Choice((lex.GIRL, lex.BOY))
NAMES = {lex.GIRL: Choice(lex.GIRLS), lex.BOY: Choice(lex.BOYS)}
TRAIT, TIME, PLACE, MOVE = map(Choice, (lex.TRAITS, lex.TIMES, lex.PLACES, lex.MOVES))
OBJECT, SIZE, COUNT = Choice(lex.OBJECTS), Choice(lex.SIZES), Choice(lex.COUNTS)
COLOUR, LOOK = Choice(lex.COLOURS), Choice(lex.COLOURS + lex.MATERIALS)
LANDMARK, PREPOSITION = Choice(lex.LANDMARKS), Choice(lex.PREPOSITIONS)
TRANSITIVE = Choice(lex.TRANSITIVES)
CAST = Choice((NAME, ANIMAL, GROWNUP), (3, 1, 1))
CROWD = Choice((ANIMAL, GROWNUP), (2, 1))
PLURAL = Choice((False, True))
MANY = Choice((False, True), (2, 1))
BY_NAME = Choice((False, True), (3, 1))  # instead of a pronoun, where both would be clear
OPENING = Choice(("one", "once", "it"))
CLAUSE = Choice(("simple", "phrase", "subject relative", "object relative"))
SIGHT = Choice((OBJECT, ANIMAL))
DESCRIPTION = Choice(("none", "scenery", "sight"), (2, 4, 2))
TALK = Choice(("question", "remark", "greeting"), (1, 2, 1))
BUSINESS = TALK.without(
    "greeting"
)  # where there is no room for both pleasantries and a description
TOGETHER = Choice(("none", "walk", "begin"), (1, 1, 2))
CODA = Choice(("none", "sky", "end"))


# --------------------------------------------------------------- noun phrases
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


# ---------------------------------------------------------------- the telling
@no_type_check
class Plot:
    """The cast of one story and its scenes, in the order in which they are told."""

    def __init__(self, t: Teller) -> None:
        self.t = t
        self.both = Entity("both", plural=True)
        self.hero, self.helper, self.giver = Entity("hero"), Entity("helper"), Entity("giver")
        self.hideout, self.setting = Entity("hideout"), Entity("setting")

    def tell(self) -> None:
        """The whole story."""
        t = self.t
        self.scene("opening", self.opening)
        setup, question, payoff = t.choose(PLOTS)
        self.scene("setup", lambda: setup(self))
        described = self.description()
        self.scene("meeting", self.meeting)
        talk = t.choose(BUSINESS if described else TALK)
        if talk == "remark":
            self.scene("remark", self.remark)
        elif talk == "greeting":
            self.scene("greeting", self.greeting)
        if talk != "remark":
            self.scene("question", lambda: question(self))
        if not self.description():
            self.scene("together", self.together)
        elif talk == "remark":
            self.description()
        self.scene("payoff", lambda: payoff(self))
        self.scene("ending", self.ending)
        self.scene("coda", self.coda)

    def scene(self, name: str, write: Callable[[], None]) -> None:
        """Write one scene under its label."""
        self.t.scene = name
        write()

    def opening(self) -> None:
        t = self.t
        form = t.choose(OPENING)
        t.say({"one": "one", "once": "once upon a", "it": "it is a"}[form])
        mood = t.mood = t.choose(MOOD)
        t.mood_name = mood.name
        self.weather = t.choose(WEATHER[mood])
        t.word(self.weather, "weather")
        self.time = t.choose(TIME)
        t.word(self.time, "time")
        if form == "it":
            place = t.choose(PLACE)
            t.say(place.preposition + " the")
            self.arrive(place)
            t.say(".")
        else:
            t.say(",")
        if form == "once":
            introduce(t, self.hero, "subject")
        else:
            decide_who(t, self.hero)
            definite(t, self.hero)
        t.verb(t.choose(MOVE), self.hero)
        if form == "it":
            self.along_the_path()
        else:
            t.say("to the")
            self.arrive(t.choose(PLACE))
        t.say(".")

    def arrive(self, place: Word) -> None:
        """Name the place; from its name on the story is there."""
        self.setting.become(place)
        self.t.place = place.name
        head(self.t, self.setting, "place")

    def along_the_path(self) -> None:
        self.t.say("along the")
        self.t.word(lex.PATH, "landmark")

    def description(self) -> bool:
        """What there is to see, or nothing."""
        kind = self.t.choose(DESCRIPTION)
        if kind == "scenery":
            self.scene("scenery", self.scenery)
            self.t.say(".")
        elif kind == "sight":
            self.scene("sight", self.sight)
        return kind != "none"

    def sight(self) -> None:
        t = self.t
        definite(t, self.hero)
        t.verb(lex.SEE, self.hero)
        thing(t, "other", COLOUR, t.choose(SIGHT))
        new_spot(t, Entity("landmark"))
        t.say(".")

    def scenery(self) -> None:
        """A sentence whose verbs agree with a subject near by or far away."""
        t = self.t
        t.say("the")
        clause, among = t.choose(CLAUSE), t.choose(CROWD)
        crowd = Entity("crowd", plural=t.choose(PLURAL))
        if clause == "simple":
            t.word(t.choose(TRAIT if among is GROWNUP else COLOUR), "adjective", crowd)
        crowd.become(t.choose(among))
        head(t, crowd, "subject")
        if clause == "phrase":
            new_spot(t, Entity("landmark", plural=t.choose(PLURAL)))
        elif clause != "simple":
            t.say("who" if crowd.kind == "grownup" else "that")
            if clause == "subject relative":
                t.verb(t.choose(TRANSITIVE), crowd, "relative_verb")
            t.say("the")
            other = Entity("other", plural=t.choose(PLURAL))
            other.become(t.choose(ANIMAL.without(crowd.word)))
            head(t, other, "relative_noun")
            if clause == "object relative":
                t.verb(t.choose(TRANSITIVE), other, "relative_verb")
        t.verb(t.choose(VERBS[t.mood]), crowd)
        t.word(t.choose(ADVERBS[t.mood]), "adverb")

    def meeting(self) -> None:
        t = self.t
        new_spot(t, Entity("landmark"))
        definite(t, self.hero)
        t.verb(lex.MEET, self.hero)
        introduce(t, self.helper, "object", other=self.hero)
        t.say(".")

    def quote(self, speaker: Entity, verb: Word, write: Callable[[], None], mark: str) -> None:
        """A turn of the dialogue: what is said, how, and by whom."""
        t = self.t
        t.speaker = speaker.slot
        t.say('"')
        write()
        t.say(mark + ' "')
        t.speaker = ""
        t.verb(verb, speaker, "speech_verb")
        definite(t, speaker)
        t.say(".")

    def remark(self) -> None:
        self.quote(self.helper, lex.SAY, self.scenery, ",")

    def greeting(self) -> None:
        t = self.t

        def exclamation() -> None:
            t.say("what a")
            t.word(self.weather, "weather")
            t.word(self.time, "time")

        self.quote(self.helper, t.mood.speech, exclamation, "!")

    def together(self) -> None:
        t = self.t
        kind = t.choose(TOGETHER)
        if kind == "none":
            return
        if kind == "walk":
            t.pronoun(self.both)
            t.verb(t.choose(MOVE), self.both)
            self.along_the_path()
        else:
            who = self.hero
            if t.choose(PLURAL):
                who = self.both
                t.pronoun(who)
            else:
                definite(t, who)
            t.verb(lex.BEGIN, who)
            t.say("to")
            t.verb(t.choose(VERBS[t.mood]), who, base=True)
        t.say(".")

    def ending(self) -> None:
        t = self.t
        definite(t, self.hero)
        be(t, self.hero)
        t.word(t.choose(FEELINGS[t.mood]), "feeling", self.hero)
        t.say("and")
        definite(t, self.helper)
        t.verb(t.choose(VERBS[t.mood]), self.helper)
        t.word(t.choose(ADVERBS[t.mood]), "adverb")
        t.say(".")

    def coda(self) -> None:
        t = self.t
        kind = t.choose(CODA)
        if kind == "sky":
            t.say(t.mood.sky)
            definite(t, self.setting, "place")
            t.say(".")
        elif kind == "end":
            t.say("the end .")

    # Each plot: how it is set up, how the helper asks about it, how it turns out.
    def hide(self) -> None:
        t = self.t
        he_or_she(t, self.hero)
        t.verb(lex.CARRY, self.hero)
        self.treasure = thing(t, "treasure", LOOK, OBJECT)
        t.say(".")
        he_or_she(t, self.hero)
        t.verb(lex.HIDE, self.hero)
        t.pronoun(self.treasure, 1)
        self.where = new_spot(t, self.hideout)
        t.say(".")

    def ask_hideout(self) -> None:
        t = self.t

        def question() -> None:
            t.say("where")
            be(t, self.treasure)
            definite(t, self.treasure, "subject", attributes=1)

        def answer() -> None:
            t.pronoun(self.treasure)
            be(t, self.treasure)
            spot(t, self.where, self.hideout)

        self.quote(self.helper, lex.ASK, question, "?")
        self.quote(self.hero, lex.ANSWER, answer, ",")

    def find(self) -> None:
        t = self.t
        t.say("at last")
        definite(t, self.hero)
        t.verb(lex.LOOK, self.hero)
        spot(t, self.where, self.hideout)
        t.say("and")
        t.verb(lex.FIND, self.hero)
        definite(t, self.treasure, "object", attributes=2)
        t.say(".")

    def wish(self) -> None:
        t = self.t
        t.say("more than anything ,")
        he_or_she(t, self.hero)
        t.verb(lex.WISH, self.hero)
        t.say("for")
        self.treasure = thing(t, "treasure", LOOK, OBJECT)
        t.say(".")

    def ask_for(self, verb: Word, particle: str) -> None:
        """ "what do you wish for ?" and the answer."""
        t = self.t

        def question() -> None:
            t.say("what do")
            t.pronoun(self.hero, person="2")
            t.verb(verb, self.hero, base=True)
            t.say(particle)

        def answer() -> None:
            t.pronoun(self.hero, person="1")
            t.verb(verb, self.hero, base=True)
            t.say(particle)
            if verb is lex.LOOK:
                t.pronoun(self.hero, 2, person="1")
                for word in self.treasure.attributes:
                    t.word(word, "adjective", self.treasure)
                head(t, self.treasure, "object")
            else:
                indefinite(t, self.treasure)

        self.quote(self.helper, lex.ASK, question, "?")
        self.quote(self.hero, lex.ANSWER, answer, ",")

    def grant(self) -> None:
        t = self.t
        t.say("at last")
        definite(t, self.helper)
        t.verb(lex.GIVE, self.helper)
        t.pronoun(self.hero, 1)
        definite(t, self.treasure, "object", attributes=2)
        t.say(".")

    def lose(self) -> None:
        t = self.t
        he_or_she(t, self.hero)
        t.verb(lex.LOOK, self.hero)
        t.say("for")
        t.pronoun(self.hero, 2)
        self.treasure = Entity("treasure", plural=t.choose(PLURAL))
        describe(t, self.treasure, COLOUR)
        self.treasure.become(t.choose(ANIMAL.without(self.hero.word)))
        head(t, self.treasure, "object")
        t.say(", but")
        t.pronoun(self.treasure)
        be(t, self.treasure)
        t.say("lost .")

    def come_back(self) -> None:
        t = self.t
        t.say("at last")
        definite(t, self.treasure, "subject", attributes=2)
        t.verb(lex.COME, self.treasure)
        t.say("back to")
        definite(t, self.hero, "object")
        t.say(".")

    def receive(self) -> None:
        t = self.t
        t.say("a")
        t.word(t.choose(TRAIT), "adjective", self.giver)
        self.giver.become(t.choose(GROWNUP.without(self.hero.word)))
        head(t, self.giver, "subject")
        t.verb(lex.GIVE, self.giver)
        t.pronoun(self.hero, 1)
        self.treasure = thing(t, "treasure", LOOK, OBJECT)
        t.say(".")

    def ask_giver(self) -> None:
        t = self.t

        def question() -> None:
            t.say("where")
            be(t, self.treasure)
            definite(t, self.treasure, "subject", attributes=1)
            t.say("from")

        def answer() -> None:
            t.pronoun(self.treasure)
            be(t, self.treasure)
            t.say("a")
            t.word(lex.GIFT, "object", self.treasure)
            t.say("from")
            definite(t, self.giver, "object")

        self.quote(self.helper, lex.ASK, question, "?")
        self.quote(self.hero, lex.ANSWER, answer, ",")

    def give_thanks(self) -> None:
        t = self.t
        t.say("at last")
        definite(t, self.hero)
        t.verb(lex.THANK, self.hero)
        definite(t, self.giver, "object")
        t.say("for")
        definite(t, self.treasure, "object", attributes=2)
        t.say(".")


PLOTS = Choice((
    (Plot.hide, Plot.ask_hideout, Plot.find),
    (Plot.wish, lambda plot: plot.ask_for(lex.WISH, "for"), Plot.grant),
    (Plot.lose, lambda plot: plot.ask_for(lex.LOOK, "for"), Plot.come_back),
    (Plot.receive, Plot.ask_giver, Plot.give_thanks),
))  # fmt: skip


@no_type_check
def tell(draw: Callable[[Choice], int]) -> Story:
    """One story; `draw` takes every decision, by chance or by replaying a `Story.trace`."""
    teller = Teller(draw)
    Plot(teller).tell()
    return teller.finish()


@no_type_check
def split_of(story: Story) -> str:
    """The split a story belongs to: a digest of its text with every decoy's coin showing heads.

    A function of the text alone, so no story can be in both splits whatever the seed. Undoing the
    coins keeps paraphrases in one split, and keeps synonyms' futures equal within a split.
    """
    digest = blake2b(story.canonical.encode(), digest_size=8).digest()
    return SPLITS[int.from_bytes(digest, "big") % VALIDATION_EVERY == 0]


def generate(seed: int, split: str = "train") -> Iterator[Story]:
    """Endless stories of one split; the same seed gives the same stories, on any machine.

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(map(repr, SPLITS))}.")
    return _generate(random.Random(seed).random, split)


@no_type_check
def _generate(uniform: Callable[[], float], split: str) -> Iterator[Story]:
    def draw(choice: Choice) -> int:
        return bisect(choice.cumulative, uniform())

    while True:
        story = tell(draw)
        if split_of(story) == split:
            yield story
