"""Choices: fair coins, log-probabilities, and one derivation for every text."""

import math
import random
from bisect import bisect
from collections import Counter

import pytest

from e2e_lib.storyworld import grammar, phrases
from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.lexicon import DECOYS
from e2e_lib.storyworld.teller import Choice, Entity, Teller


def replay(trace):
    """The story of a trace, and every choice met on the way with the alternative taken."""
    script, met = iter(trace), []

    def draw(choice):
        index = next(script)
        met.append((choice, index))
        return index

    story = grammar.tell(draw)
    assert next(script, None) is None
    return story, met


def test_a_flipped_coin_changes_one_word_and_nothing_else(stories):
    flipped = Counter()
    for story in stories[:400]:
        names = [name for name in story.labels["decoy"] if name]
        for name, coin in zip(names, story.coins, strict=True):
            if flipped[name] >= 10:
                continue
            trace = list(story.trace)
            trace[coin] = 1 - trace[coin]
            twin, _ = replay(trace)
            different = [i for i, (a, b) in enumerate(zip(story.tokens, twin.tokens, strict=True))
                         if a != b]  # fmt: skip
            assert len(different) == 1
            pair = DECOYS[story.labels["decoy"][different[0]]]
            assert {story.tokens[different[0]], twin.tokens[different[0]]} in [
                {forms[number] for forms in pair.forms} for number in (0, 1)
            ]
            assert twin.logprob == pytest.approx(story.logprob, abs=1e-9)
            assert twin.labels == story.labels
            assert grammar.split_of(twin) == grammar.split_of(story)
            flipped[name] += 1
    assert len(DECOYS) >= 8 and set(flipped) == set(DECOYS)


def test_coins_are_fair_and_words_know_their_synonyms(stories):
    counts = Counter(token for story in stories for token in story.tokens)
    for word in DECOYS.values():
        heads, tails = (sum(counts[form] for form in set(pair)) for pair in word.forms)
        assert abs(heads - tails) < 5 * math.sqrt(heads + tails)
    surfaces = [form for word in lex.CONCEPTS for pair in word.forms for form in set(pair)]
    repeated = {form for form, n in Counter(surfaces).items() if n > 1}
    assert repeated == {"hides", "golden"}, "words with two senses; no decoy may be one of them"


def test_logprob_is_the_sum_over_the_replayed_decisions(stories):
    for story in stories[:100]:
        twin, met = replay(story.trace)
        assert twin == story
        logprob = math.fsum(math.log(choice.probabilities[index]) for choice, index in met)
        assert story.logprob == pytest.approx(logprob, abs=1e-9)
        for choice, _ in met:
            assert math.fsum(choice.probabilities) == pytest.approx(1, abs=1e-12)
        # What is missing in the labels is the decision to stop, taken after the last token.
        stop = -story.logprob - math.fsum(story.labels["nats"])
        assert stop == pytest.approx(0 if story.tokens[-1] != "." else stop)
        assert stop >= -1e-9


def enumerate_texts(write):
    """Every (text, probability) of a part of the grammar."""
    out, script = [], []
    while True:
        position = 0

        def draw(choice):
            nonlocal position
            if position == len(script):
                script.append([0, len(choice.options)])
            position += 1
            return script[position - 1][0]

        teller = Teller(draw)
        write(teller)
        out.append((" ".join(r[0] for r in teller.records), math.exp(teller.logprob)))
        while script and script[-1][0] == script[-1][1] - 1:
            script.pop()
        if not script:
            return out
        script[-1][0] += 1


def small_plot(teller):
    plot = grammar.Plot(teller)
    teller.mood = lex.MOODS[0]
    plot.hero.become(lex.NAMES[0])
    plot.helper.become(lex.ANIMALS[2])
    return plot


@pytest.mark.parametrize(
    "write",
    [
        lambda t: phrases.introduce(t, Entity("hero"), "subject"),
        lambda t: phrases.thing(t, "treasure", phrases.LOOK, phrases.OBJECT),
        lambda t: small_plot(t).together(),
        lambda t: small_plot(t).ending(),
    ],
    ids=["introduce", "thing", "together", "ending"],
)
def test_enumerated_parts_sum_to_one_and_have_one_derivation(write):
    texts = enumerate_texts(write)
    assert math.fsum(p for _, p in texts) == pytest.approx(1, abs=1e-9)
    assert len({text for text, _ in texts}) == len(texts) > 10


def test_whole_stories_with_a_tiny_lexicon_have_one_derivation(monkeypatch):
    """All stories, when every lexical choice has a single word: only the structure varies."""
    names = [n for n, v in vars(phrases).items() if isinstance(v, Choice)]
    structural = {"OPENING", "CLAUSE", "DESCRIPTION", "TALK", "BUSINESS", "TOGETHER", "CODA",
                  "BY_NAME"}  # fmt: skip
    for name in names:
        if name not in structural:
            options = getattr(phrases, name).options
            monkeypatch.setattr(phrases, name, Choice(options[:1]))
    one = {mood: Choice(mood.weather[1:2]) for mood in lex.MOODS}
    monkeypatch.setattr(phrases, "WEATHER", one)
    for table, words in (("VERBS", "verbs"), ("ADVERBS", "adverbs"), ("FEELINGS", "feelings")):
        monkeypatch.setattr(
            phrases, table, {mood: Choice(getattr(mood, words)[-1:]) for mood in lex.MOODS}
        )
    monkeypatch.setattr(phrases, "CLAUSE", Choice(("simple",)))
    monkeypatch.setattr(phrases, "CROWD", Choice((Choice(lex.ANIMALS[:1]),)))
    monkeypatch.setattr(phrases, "SIGHT", Choice((Choice(lex.OBJECTS[:1]),)))
    # Who is "not the hero" needs someone else to choose from.
    monkeypatch.setattr(phrases, "CAST", Choice((Choice(lex.GIRLS[:2]),)))
    monkeypatch.setattr(phrases, "NAMES", {lex.GIRL: Choice(lex.GIRLS[:2])})
    monkeypatch.setattr(phrases, "GROWNUP", Choice(lex.GROWNUPS[:1]))
    monkeypatch.setattr(Teller, "surface", lambda self, word, plural=False: word.forms[0][plural])
    texts = enumerate_texts(lambda t: grammar.Plot(t).tell())
    assert math.fsum(p for _, p in texts) == pytest.approx(1, abs=1e-9)
    assert len({text for text, _ in texts}) == len(texts) > 500


def test_choice_draws_its_probabilities():
    choice = Choice("abc", (1, 2, 3))
    uniform = random.Random(0).random
    counts = Counter(choice.options[bisect(choice.cumulative, uniform())] for _ in range(6000))
    for option, probability in zip(choice.options, choice.probabilities, strict=True):
        assert abs(counts[option] / 6000 - probability) < 0.03
    assert choice.without("a").probabilities == pytest.approx((0.4, 0.6))
