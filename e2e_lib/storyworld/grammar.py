"""The grammar of StoryWorld: what happens in a story, scene by scene.

    opening  setup  description?  meeting  talk  description or together?  payoff  ending  coda?

where talk is a remark of the helper about the world, or (after a greeting?) a question and its
answer. One of four plots runs from `setup` through the question to `payoff`: what was introduced
has to be recalled, exactly, later on. The scenes that no plot owns are in `scenes`, their noun
phrases and every choice with its odds in `phrases`. Every function writes from left to right and
decides as late as it can, and no text has two derivations; so the log-probability of a derivation
is that of its text, and its mean the entropy that no model can beat.

Everything is in the present tense, so every verb shows whether it agrees.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from hashlib import blake2b

from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld import phrases as pick
from e2e_lib.storyworld.lexicon import Word
from e2e_lib.storyworld.phrases import (
    be,
    definite,
    describe,
    he_or_she,
    head,
    indefinite,
    new_spot,
    spot,
    thing,
)
from e2e_lib.storyworld.scenes import Scenes
from e2e_lib.storyworld.teller import Choice, Entity, Story, Teller, no_type_check

SPLITS = ("train", "validation")
VALIDATION_EVERY = 10  # one story in ten, by digest, is held out
MAX_TOKENS = 126  # with <|endoftext|> before and after, a story fits a row of 128


@no_type_check
class Plot(Scenes):
    """One story: its scenes in the order in which they are told, and the four plots."""

    def tell(self) -> None:
        """The whole story."""
        t = self.t
        self.scene("opening", self.opening)
        setup, question, payoff = t.choose(PLOTS)
        self.scene("setup", lambda: setup(self))
        described = self.description()
        self.scene("meeting", self.meeting)
        talk = t.choose(pick.BUSINESS if described else pick.TALK)
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

    # Each plot: how it is set up, how the helper asks about it, how it turns out.
    def hide(self) -> None:
        t = self.t
        he_or_she(t, self.hero)
        t.verb(lex.CARRY, self.hero)
        self.treasure = thing(t, "treasure", pick.LOOK, pick.OBJECT)
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
        self.treasure = thing(t, "treasure", pick.LOOK, pick.OBJECT)
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
        self.treasure = Entity("treasure", plural=t.choose(pick.PLURAL))
        describe(t, self.treasure, pick.COLOUR)
        self.treasure.become(t.choose(pick.ANIMAL.without(self.hero.word)))
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
        t.word(t.choose(pick.TRAIT), "adjective", self.giver)
        self.giver.become(t.choose(pick.GROWNUP.without(self.hero.word)))
        head(t, self.giver, "subject")
        t.verb(lex.GIVE, self.giver)
        t.pronoun(self.hero, 1)
        self.treasure = thing(t, "treasure", pick.LOOK, pick.OBJECT)
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
