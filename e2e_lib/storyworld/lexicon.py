"""The words of StoryWorld, as plain data.

A `Word` is a *concept* with one or more synonyms, each in a singular and a plural form. A concept
with two synonyms is a **decoy**: `teller.Teller.surface` throws a fair coin for which one is
written, at every mention anew, and nothing else in the story looks at the outcome.

Notation below: `sg/pl` are the two numbers, `one|other` are synonyms. For verbs "singular" is the
third person ("walks") and "plural" the base form ("walk"). A word without `/` does not inflect.
"""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"


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


def _word(text: str, **attributes: str) -> Word:
    singular, _, plural = text.partition("/")
    singulars, plurals = singular.split("|"), (plural or singular).split("|")
    return Word(singulars[0], tuple(zip(singulars, plurals, strict=True)), **attributes)


def _words(text: str, **attributes: str) -> tuple[Word, ...]:
    return tuple(_word(item, **attributes) for item in text.split())


# ---------------------------------------------------------------- characters
GIRLS = _words(
    "mia lily anna ruby nora ella rosa ivy clara maya zoe june emma lucy iris tess",
    kind="child",
    gender="f",
)
BOYS = _words(
    "tom ben leo max sam finn jack otto hugo noah theo luke adam paul nils karl",
    kind="child",
    gender="m",
)
NAMES = GIRLS + BOYS
GIRL, BOY = _word("girl", kind="child", gender="f"), _word("boy", kind="child", gender="m")
# A grown-up's gender is a fact of this world that has to be learnt word by word.
WOMEN = _words(
    "queen/queens witch/witches doctor/doctors farmer/farmers captain/captains "
    "weaver/weavers painter/painters",
    kind="grownup",
    gender="f",
)
MEN = _words(
    "king/kings wizard/wizards baker/bakers teacher/teachers tailor/tailors "
    "miller/millers sailor/sailors",
    kind="grownup",
    gender="m",
)
GROWNUPS = WOMEN + MEN
ANIMALS = _words(
    "fox/foxes owl/owls rabbit|bunny/rabbits|bunnies bear/bears mouse/mice duck/ducks "
    "goat/goats frog/frogs cat/cats dog/dogs hen/hens horse/horses "
    "pony/ponies snail/snails crow/crows turtle/turtles",
    kind="animal",
    gender="n",
)
TRAITS = _words("kind clever curious shy gentle polite grumpy young tall funny friendly quick")

# -------------------------------------------------------------------- things
OBJECTS = _words(
    "kite/kites drum/drums key/keys ring/rings bell/bells book/books hat/hats cup/cups "
    "flute/flutes map/maps ball/balls doll/dolls lamp/lamps apple/apples button/buttons "
    "pot/pots box/boxes spoon/spoons basket/baskets "
    "coat|jacket/coats|jackets",
    kind="object",
    gender="n",
)
SIZES = _words("big|large small|little long round heavy shiny")
COLOURS = _words("red blue green yellow white black brown purple")
MATERIALS = _words("wooden golden silver glass paper velvet")
COUNTS = _words("two three some")

# -------------------------------------------------------------------- places
PLACES = (
    *_words("forest village garden castle meadow shop|store", kind="place", preposition="in"),
    *_words("river lake sea|ocean harbor", kind="place", preposition="by"),
    *_words("hill island farm beach", kind="place", preposition="on"),
)
LANDMARKS = _words(
    "bridge/bridges tree/trees gate/gates well/wells tower/towers wall/walls bench/benches "
    "fence/fences stone|rock/stones|rocks bush/bushes cart/carts boat|ship/boats|ships",
    kind="landmark",
    gender="n",
)
PREPOSITIONS = _words("under behind near|beside")
PATH = _word("path|trail", kind="landmark")
GIFT = _word("gift|present", kind="object")
TIMES = _words("morning afternoon evening night")

# --------------------------------------------------------------------- verbs
BE = _word("is/are")
MOVES = _words("walks/walk runs/run hurries/hurry wanders/wander skips/skip")
CARRY, HIDE, FIND, LOOK, WISH, GIVE, MEET, SEE, THANK, COME, BEGIN = _words(
    "carries hides finds looks/look wishes/wish gives meets sees thanks comes/come "
    "begins|starts/begin|start"
)
SAY, ASK, ANSWER = _words("says asks answers|replies")
TRANSITIVES = _words(
    "chases/chase follows/follow watches/watch likes/like helps/help fears/fear"
)  # verbs of the relative clauses


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


MOODS = (
    Mood(
        "merry",
        _words("sunny bright warm lovely golden"),
        _words("dances/dance sings/sing laughs/laugh plays/play jumps/jump claps/clap spins/spin"),
        _words("merrily gladly loudly proudly joyfully"),
        _words("happy|glad proud cheerful excited"),
        _word("cheers"),
        "the sun shines over",
    ),
    Mood(
        "gloomy",
        _words("rainy grey cold cloudy wet"),
        _words(
            "weeps/weep waits/wait frowns/frown stumbles/stumble yawns/yawn sniffs/sniff "
            "grumbles/grumble"
        ),
        _words("sadly slowly heavily alone wearily"),
        _words("sad|unhappy lonely tired gloomy"),
        _word("sighs"),
        "the rain falls on",
    ),
    Mood(
        "spooky",
        _words("dark foggy stormy strange ghostly"),
        _words(
            "trembles/tremble shivers/shiver listens/listen creeps/creep stares/stare "
            "hides/hide freezes/freeze"
        ),
        _words("nervously carefully secretly quickly silently"),
        _words("scared|afraid brave nervous alert"),
        _word("whispers"),
        "the wind howls around",
    ),
    Mood(
        "dreamy",
        _words("quiet|silent soft misty mild still"),
        _words("sleeps/sleep rests/rest dreams/dream hums/hum smiles/smile drifts/drift nods/nod"),
        _words("calmly softly peacefully gently lightly"),
        _words("sleepy peaceful calm content"),
        _word("murmurs"),
        "the moon floats above",
    ),
)

# ------------------------------------------------------------ function words
# word -> template slot. Words that the generator writes literally get their `role` from here.
FUNCTION_WORDS = {
    word: role
    for role, words in {
        "punctuation": ". , ? !",
        "quote": '"',
        "determiner": "the a one what",
        "preposition": "to in by on for from along over around above at",
        "conjunction": "and but that who",
        "question": "where",
        "adverb": "once upon last back lost more than anything",
        "pronoun": "it",
        "noun": "end sun rain wind moon",
        "verb": "named do shines falls howls floats is",
    }.items()
    for word in words.split()
}
# (gender or person, number) -> subject, object, possessive, as far as the stories need them
PRONOUNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("f", "sg"): ("she", "her", "her"),
    ("m", "sg"): ("he", "him", "his"),
    ("n", "sg"): ("it", "it", "its"),
    ("", "pl"): ("they", "them"),
    ("1", "sg"): ("i", "", "my"),
    ("2", "sg"): ("you",),
}

CONCEPTS: tuple[Word, ...] = (
    *NAMES, GIRL, BOY, *GROWNUPS, *ANIMALS, *TRAITS, *OBJECTS, *SIZES, *COLOURS, *MATERIALS,
    *COUNTS, *PLACES, *LANDMARKS, *PREPOSITIONS, PATH, GIFT, *TIMES, BE, *MOVES, CARRY, HIDE, FIND,
    LOOK, WISH, GIVE, MEET, SEE, THANK, COME, BEGIN, SAY, ASK, ANSWER, *TRANSITIVES,
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
