"""The scenes of StoryWorld that belong to no plot: opening, description, meeting, talk, ending."""

from __future__ import annotations

from collections.abc import Callable

from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld import phrases as pick
from e2e_lib.storyworld.lexicon import Word
from e2e_lib.storyworld.phrases import be, decide_who, definite, head, introduce, new_spot, thing
from e2e_lib.storyworld.teller import Entity, Teller, no_type_check


@no_type_check
class Scenes:
    """The cast of one story, and the scenes that any plot may have, as they follow each other."""

    def __init__(self, t: Teller) -> None:
        self.t = t
        self.both = Entity("both", plural=True)
        self.hero, self.helper, self.giver = Entity("hero"), Entity("helper"), Entity("giver")
        self.hideout, self.setting = Entity("hideout"), Entity("setting")

    def scene(self, name: str, write: Callable[[], None]) -> None:
        """Write one scene under its label."""
        self.t.scene = name
        write()

    def opening(self) -> None:
        t = self.t
        form = t.choose(pick.OPENING)
        t.say({"one": "one", "once": "once upon a", "it": "it is a"}[form])
        mood = t.mood = t.choose(pick.MOOD)
        t.mood_name = mood.name
        self.weather = t.choose(pick.WEATHER[mood])
        t.word(self.weather, "weather")
        self.time = t.choose(pick.TIME)
        t.word(self.time, "time")
        if form == "it":
            place = t.choose(pick.PLACE)
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
        t.verb(t.choose(pick.MOVE), self.hero)
        if form == "it":
            self.along_the_path()
        else:
            t.say("to the")
            self.arrive(t.choose(pick.PLACE))
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
        kind = self.t.choose(pick.DESCRIPTION)
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
        thing(t, "other", pick.COLOUR, t.choose(pick.SIGHT))
        new_spot(t, Entity("landmark"))
        t.say(".")

    def scenery(self) -> None:
        """A sentence whose verbs agree with a subject near by or far away."""
        t = self.t
        t.say("the")
        clause, among = t.choose(pick.CLAUSE), t.choose(pick.CROWD)
        crowd = Entity("crowd", plural=t.choose(pick.PLURAL))
        if clause == "simple":
            t.word(
                t.choose(pick.TRAIT if among is pick.GROWNUP else pick.COLOUR), "adjective", crowd
            )
        crowd.become(t.choose(among))
        head(t, crowd, "subject")
        if clause == "phrase":
            new_spot(t, Entity("landmark", plural=t.choose(pick.PLURAL)))
        elif clause != "simple":
            t.say("who" if crowd.kind == "grownup" else "that")
            if clause == "subject relative":
                t.verb(t.choose(pick.TRANSITIVE), crowd, "relative_verb")
            t.say("the")
            other = Entity("other", plural=t.choose(pick.PLURAL))
            other.become(t.choose(pick.ANIMAL.without(crowd.word)))
            head(t, other, "relative_noun")
            if clause == "object relative":
                t.verb(t.choose(pick.TRANSITIVE), other, "relative_verb")
        t.verb(t.choose(pick.VERBS[t.mood]), crowd)
        t.word(t.choose(pick.ADVERBS[t.mood]), "adverb")

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
        kind = t.choose(pick.TOGETHER)
        if kind == "none":
            return
        if kind == "walk":
            t.pronoun(self.both)
            t.verb(t.choose(pick.MOVE), self.both)
            self.along_the_path()
        else:
            who = self.hero
            if t.choose(pick.BOTH):
                who = self.both
                t.pronoun(who)
            else:
                definite(t, who)
            t.verb(lex.BEGIN, who)
            t.say("to")
            t.verb(t.choose(pick.VERBS[t.mood]), who, base=True)
        t.say(".")

    def ending(self) -> None:
        t = self.t
        definite(t, self.hero)
        be(t, self.hero)
        t.word(t.choose(pick.FEELINGS[t.mood]), "feeling", self.hero)
        t.say("and")
        definite(t, self.helper)
        t.verb(t.choose(pick.VERBS[t.mood]), self.helper)
        t.word(t.choose(pick.ADVERBS[t.mood]), "adverb")
        t.say(".")

    def coda(self) -> None:
        t = self.t
        kind = t.choose(pick.CODA)
        if kind == "sky":
            t.say(t.mood.sky)
            definite(t, self.setting, "place")
            t.say(".")
        elif kind == "end":
            t.say("the end .")
