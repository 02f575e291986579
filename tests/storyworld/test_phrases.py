"""Agreement of verbs, relatives and pronouns, checked on the surface."""

import re
from collections import Counter

from e2e_lib.storyworld import lexicon as lex
from tests.helpers.surface import (
    NEAR,
    NOUN,
    PLURAL,
    SINGULAR,
    VERB,
    either,
    forms,
    hero_of,
    violations,
)


def test_the_checker_itself_sees_violations():
    good = "the horses that the cat chases dance merrily ."
    assert violations(good) == ([], 2)
    for bad in (
        "the horses that the cat chases dances merrily .",
        "the horses that the cat chase dance merrily .",
        "the horse behind the gates dance merrily .",
        "the kings who likes the hen wait sadly .",
        "they is under the tree .",
        "mia walk to the sea .",
    ):
        assert violations(bad)[0], bad


def test_agreement_is_never_violated(texts):
    total = 0
    for text in texts:
        wrong, looked_at = violations(text)
        assert not wrong, (wrong, text)
        assert looked_at >= 7
        total += looked_at
    assert len(texts) == 3000 and total > 30_000


def test_every_kind_of_agreement_occurs(texts):
    text = " . ".join(texts)
    for number, other in ((SINGULAR, PLURAL), (PLURAL, SINGULAR)):
        n, o = either(number), either(other)
        assert re.search(rf"the {n} {NEAR} the {o} {VERB}", text)
        assert re.search(rf"the {n} (?:that|who) {VERB} the {o} {VERB}", text)
        assert re.search(rf"the {n} (?:that|who) the {o} {VERB} {VERB}", text)


def test_who_for_people_that_for_animals(stories):
    people = forms(lex.GROWNUPS, False) | forms(lex.GROWNUPS, True)
    for story in stories:
        for noun, relative in re.findall(r"(\S+) (who|that) ", story.text):
            assert (noun in people) == (relative == "who")


def test_gendered_pronouns_are_the_heros(stories):
    gender_of = {form: w.gender for w in (*lex.NAMES, *lex.GROWNUPS, *lex.ANIMALS)
                 for form in forms([w], False)}  # fmt: skip
    wrong_for = {
        "f": {"he", "him", "his", "its"},
        "m": {"she", "her", "its"},
        "n": {"he", "him", "his", "she", "her"},
    }
    met = Counter()
    for story in stories:
        gender = gender_of[hero_of(story)]
        assert not wrong_for[gender] & set(story.tokens), story.text
        met[gender] += 1
    assert min(met.values()) > 100


def test_things_are_it_or_them_by_number(stories):
    for story in stories:
        for noun, pronoun in re.findall(
            rf"carries [^.]*?({NOUN}) \. [^.]* hides (\S+) ", story.text
        ):
            assert pronoun == ("them" if noun in PLURAL else "it")
        for noun, pronoun in re.findall(rf"({NOUN}) , but (\S+) ", story.text):
            assert pronoun == ("they" if noun in PLURAL else "it")
        for noun, pronoun in re.findall(
            rf'({NOUN})(?: from)? \? " asks [^"]*" (it|they) ', story.text
        ):
            assert pronoun == ("they" if noun in PLURAL else "it")
