"""A reader of stories' surface: which words are what, and whether verbs agree with subjects."""

import re

from e2e_lib.storyworld import lexicon as lex

NAME_GENDER = {w.name: w.gender for w in lex.NAMES}


def forms(words, plural):
    """The singular or the plural forms of words."""
    return {pair[plural] for word in words for pair in word.forms}


def numbers_of_nouns():
    """Every singular and every plural noun."""
    nouns = (*lex.GROWNUPS, *lex.ANIMALS, *lex.OBJECTS, *lex.LANDMARKS)
    return forms(nouns, False), forms(nouns, True)


def either(words):
    """A pattern of any of these words, the longest first."""
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


MOOD_VERBS = [verb for mood in lex.MOODS for verb in mood.verbs]
ALL_VERBS = (
    *MOOD_VERBS, *lex.MOVES, *lex.TRANSITIVES, lex.CARRY, lex.HIDE, lex.FIND, lex.LOOK, lex.WISH,
    lex.GIVE, lex.MEET, lex.SEE, lex.THANK, lex.COME, lex.BEGIN, lex.SAY, lex.ASK, lex.ANSWER,
    lex.BE, *(mood.speech for mood in lex.MOODS),
)  # fmt: skip
SINGULAR, PLURAL = numbers_of_nouns()
NOUN = either(SINGULAR | PLURAL)
ADJECTIVE = either(forms((*lex.TRAITS, *lex.SIZES, *lex.COLOURS, *lex.MATERIALS), False))
VERB = either(forms(ALL_VERBS, False) | forms(ALL_VERBS, True))
NEAR = either(forms(lex.PREPOSITIONS, False))
SUBJECT = (
    rf"(?:(?:the|a|three|two|some|his|her|its) (?:{ADJECTIVE} )*(?P<noun>{NOUN})"
    rf"|(?P<name>{either(NAME_GENDER)})|(?P<pronoun>she|he|it|they)|the (?:sun|rain|wind|moon))"
)
# What may stand between a subject and its verb, as a reader of the text would list it.
FORMS = [
    re.compile(rf" (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" {NEAR} the {NOUN} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) {VERB} the {NOUN} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) the {NOUN} {VERB} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" looks {NEAR} the {NOUN} and (?P<verb>finds)"),
]
VERB_FIRST = re.compile(rf'(?:where|[,?!.] ") ({VERB}) $')
BASE_FORM = re.compile(r"(?:^| )(?:to|i|do you) $")


def violations(text):
    """Verbs of `text` that disagree with their subject, and the number of verbs looked at."""
    singular_verbs, plural_verbs = forms(ALL_VERBS, False), forms(ALL_VERBS, True)
    subjects: dict[int, set[tuple[int, str]]] = {}
    for subject in re.finditer(rf"(?<!\S){SUBJECT}(?!\S)", text):
        number = "sg"
        if subject["noun"] in PLURAL or subject["pronoun"] == "they":
            number = "pl"
        for form in FORMS:
            if match := form.match(text, subject.end()):
                subjects.setdefault(match.start("verb"), set()).add((subject.start(), number))
        if match := VERB_FIRST.search(text, max(0, subject.start() - 20), subject.start()):
            subjects[match.start(1)] = {(subject.start(), number)}
    wrong, looked_at = [], 0
    for match in re.finditer(r"\S+", text):
        verb, at = match.group(), match.start()
        if verb not in singular_verbs | plural_verbs:
            continue
        looked_at += 1
        if BASE_FORM.search(text, max(0, at - 10), at):
            number = "pl"
        elif at in subjects:
            # Candidates that start later stand inside the subject's own phrase or clause.
            number = min(subjects[at])[1]
        else:
            wrong.append((text[max(0, at - 60) : at], verb, "no subject found"))
            continue
        if verb not in (plural_verbs if number == "pl" else singular_verbs):
            wrong.append((text[max(0, at - 60) : at], verb))
    return wrong, looked_at


def hero_of(story):
    """Word of the first character of the text."""
    characters = set(NAME_GENDER) | forms((*lex.GROWNUPS, *lex.ANIMALS), False)
    return next(token for token in story.tokens if token in characters)


CANON = {pair[n]: word.forms[0][n] for word in lex.CONCEPTS for pair in word.forms for n in (0, 1)}


def canon(text):
    """The text with synonyms undone."""
    return " ".join(CANON.get(token, token) for token in text.split())
