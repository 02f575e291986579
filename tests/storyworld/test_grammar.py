"""Whole stories: the same for the same seed, labelled, short enough, split apart, and coherent."""

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice

from e2e_lib.storyworld import grammar
from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.grammar import MAX_TOKENS, generate
from e2e_lib.storyworld.lexicon import DECOYS
from e2e_lib.storyworld.teller import LABELS
from tests.helpers.surface import (
    ADJECTIVE,
    CANON,
    NAME_GENDER,
    NEAR,
    NOUN,
    SINGULAR,
    canon,
    either,
    forms,
    hero_of,
    numbers_of_nouns,
)


def test_same_seed_same_stories():
    first, again, other = (list(islice(generate(seed), 20)) for seed in (5, 5, 6))
    assert first == again
    assert [s.text for s in first] != [s.text for s in other]


def test_stories_do_not_depend_on_the_process():
    code = "from e2e_lib.storyworld import grammar\ns = next(grammar.generate(7))\n"
    code += "print(s.text, s.logprob)"
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    story = next(generate(7))
    assert out.stdout.strip() == f"{story.text} {story.logprob}", out.stderr


def test_labels_are_aligned_with_tokens(stories):
    for story in stories[:500]:
        assert set(story.labels) == set(LABELS)
        assert {len(values) for values in story.labels.values()} == {len(story.tokens)}
    decoy_surfaces = {
        form: name for name, word in DECOYS.items() for pair in word.forms for form in pair
    }
    singular, plural = numbers_of_nouns()
    for story in stories[:500]:
        for i, token in enumerate(story.tokens):
            label = {name: values[i] for name, values in story.labels.items()}
            assert label["decoy"] == decoy_surfaces.get(token, "")
            if token in singular and label["role"] not in ("adjective", "verb"):
                assert label["number"] in ("sg", ""), (token, label)
            if token in plural:
                assert label["number"] == "pl", (token, label)
            if token in NAME_GENDER:
                assert label["gender"] == NAME_GENDER[token]
            if token == '"':
                assert label["role"] == "quote"
            assert (label["role"] == "punctuation") == (token in ".,?!")


def test_values_of_labels_stay_small(stories):
    limits = {
        "role": 30, "entity": 12, "kind": 7, "number": 3, "gender": 4, "place": 15, "mood": 5,
        "scene": 12, "speaker": 3, "seen": 2, "position_in_sentence": 20, "decoy": len(DECOYS) + 1,
    }  # fmt: skip
    for name, limit in limits.items():
        assert len({value for story in stories for value in story.labels[name]}) <= limit, name


def test_speaker_is_known_inside_quotation_marks_and_only_there(stories):
    for story in stories[:500]:
        inside = False
        for token, speaker in zip(story.tokens, story.labels["speaker"], strict=True):
            if token == '"':
                assert speaker
                inside = not inside
            else:
                assert bool(speaker) == inside
        assert not inside


def test_length_never_exceeds_the_context(stories):
    """The longest scenes seen, put together in every order the grammar allows."""
    longest: Counter[str] = Counter()
    for story in stories:
        run: list[int] = []
        scenes = story.labels["scene"]
        for i, scene in enumerate(scenes):
            # A new sentence begins a new description; other scenes last until the name changes.
            fresh = i == 0 or scene != scenes[i - 1]
            if scene in ("scenery", "sight") and story.labels["position_in_sentence"][i] == 0:
                fresh = True
            run = [0] if fresh else run
            run[0] += 1
            longest[scene] = max(longest[scene], run[0])
    description = max(longest["scenery"], longest["sight"])
    frame = sum(longest[s] for s in ("opening", "setup", "meeting", "payoff", "ending", "coda"))
    talks = (
        description + longest["question"] + description,
        longest["greeting"] + longest["question"] + description,
        description + longest["remark"] + 2 * description,
    )
    assert frame + max(talks) <= MAX_TOKENS
    assert max(len(s.tokens) for s in stories) <= MAX_TOKENS
    assert 50 <= sum(len(s.tokens) for s in stories) / len(stories) <= 110


def test_splits_are_disjoint_whatever_the_seed():
    train = {s.text for seed in range(3) for s in islice(generate(seed, "train"), 500)}
    held = {s.text for seed in range(3) for s in islice(generate(seed, "validation"), 50)}
    assert len(train) == 1500 and len(held) == 150 and not train & held
    for seed, split in ((0, "train"), (1, "validation")):
        for story in islice(generate(seed, split), 50):
            assert grammar.split_of(story) == split


def test_what_was_introduced_is_recalled(stories):
    """Synonyms undone, the end of every plot repeats its beginning."""
    thing = rf"((?:{ADJECTIVE} ){{2}}{NOUN})"
    who = rf"((?:the )?{either(set(NAME_GENDER) | SINGULAR)})"
    plots = {
        "hide": (rf"carries (?:a|two|three|some) {thing} \. .* hides \S+ ({NEAR} the {NOUN}) \.",
                 rf"looks ({NEAR} the {NOUN}) and finds the {thing} \."),
        "wish": (rf"wishes for (?:a|two|three|some) {thing} \.",
                 rf"at last {who} gives \S+ the {thing} \."),
        "lose": (rf"looks for \S+ {thing} , but",
                 rf"at last the {thing} (?:come|comes) back to {who} "),
        "gift": (rf"({NOUN}) gives (?:her|him|it) (?:a|two|three|some) {thing} \.",
                 rf"at last \S*(?: \S+)? thanks the ({NOUN}) for the {thing} \."),
    }  # fmt: skip
    found = Counter()
    for story in stories:
        text = canon(story.text)
        for name, (early, late) in plots.items():
            begin, end = re.search(early, text), re.search(late, text)
            if not begin or text.startswith("at last", begin.start() - 20):
                continue
            if name == "gift" and "thanks the" not in text:
                continue  # "gives" of the wish plot
            assert end, (name, text)
            found[name] += 1
            hero = hero_of(story)
            helper = re.search(rf"meets a {ADJECTIVE} (?:(?:girl|boy) named )?(\S+) \.", text)[1]
            if name == "hide":
                assert (begin[1], begin[2]) == (end[2], end[1])
            elif name == "wish":
                assert begin[1] == end[2] and end[1].removeprefix("the ") == helper
            elif name == "lose":
                assert begin[1] == end[1] and end[2].removeprefix("the ") == CANON[hero]
            else:
                assert (begin[1], begin[2]) == (end[1], end[2])
        place = re.findall(rf"the ({either(w.name for w in lex.PLACES)}) ", text)
        assert len(set(place)) == 1
    assert sum(found.values()) == len(stories)
    assert min(found.values()) > 100


def test_mood_colours_the_ending(stories):
    mood_of = {form: mood.name for mood in lex.MOODS for form in forms(mood.weather, False)}
    feelings = {form: mood.name for mood in lex.MOODS for form in forms(mood.feelings, False)}
    for story in stories:
        weather = next(token for token in story.tokens if token in mood_of)
        ending = story.labels["scene"].index("ending")
        feeling = next(token for token in story.tokens[ending:] if token in feelings)
        assert mood_of[weather] == feelings[feeling] == story.labels["mood"][-1]
