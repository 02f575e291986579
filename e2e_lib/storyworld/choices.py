"""Every choice that the grammar of StoryWorld makes, and how likely each outcome is."""

from __future__ import annotations

from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.teller import Choice

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
# Where there is no room for both pleasantries and a description.
BUSINESS = TALK.without("greeting")
TOGETHER = Choice(("none", "walk", "begin"), (1, 1, 2))
CODA = Choice(("none", "sky", "end"))
