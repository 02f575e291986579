"""Counterfactual pairs: one decision apart, their cost exact, and the same for the same seed."""

import math
from hashlib import blake2b
from itertools import islice

import pytest
import torch

from e2e_lib.errors import ConfigError
from e2e_lib.storyworld import grammar
from e2e_lib.storyworld import pairs as pairs_module
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.storyworld.pairs import KINDS, counterfactual, pair_rows, pair_table, pairs
from e2e_lib.storyworld.teller import COIN
from tests.helpers.tiny_models import assert_sentence


@pytest.fixture(scope="module")
def found():
    return pairs(n=8)


def flat(found):
    return [pair for own in found.values() for pair in own]


def test_the_text_and_its_cost_have_not_changed():
    """The reference's model was trained on these very stories."""
    digest = blake2b(digest_size=16)
    for story in islice(grammar.generate(0), 1000):
        digest.update(f"{story.text} {story.logprob:.9f}\n".encode())
    assert digest.hexdigest() == "7e2461f489da46f0f4a17604b33da6c9"


def test_as_many_of_every_kind_in_the_fixed_order(found):
    assert tuple(found) == KINDS
    for kind, own in found.items():
        assert [pair.kind for pair in own] == [kind] * 8
        assert len({pair.story.text for pair in own}) == 8


def test_a_pair_differs_in_one_decision_alone(found):
    for pair in flat(found):
        traces = enumerate(zip(pair.story.trace, pair.other.trace, strict=True))
        assert [i for i, (one, two) in traces if one != two] == [pair.decision]
        assert pair.story.choices[: pair.decision] == pair.other.choices[: pair.decision]
        # Whatever could stay the same word has stayed so.
        later = range(pair.decision + 1, len(pair.story.trace))
        for i in later:
            before, after = pair.story.choices[i], pair.other.choices[i]
            old, new = (c.options[pair.story.trace[i]] for c in (before, after))
            assert old is new or old not in after.options
        assert grammar.split_of(pair.story) == "validation"


def test_the_first_differing_token_is_the_first(found):
    for pair in flat(found):
        one, two = pair.story.tokens, pair.other.tokens
        assert one[: pair.first] == two[: pair.first]
        assert one[pair.first] != two[pair.first]
        assert pair.first >= pair.story.written[pair.decision]
        assert pair.same_length and len(one) == len(two)


def test_the_cost_is_that_of_the_choices_taken(found):
    """Recomputed from the probabilities; only what the decision changed may differ."""
    for pair in flat(found):
        for member in (pair.story, pair.other):
            taken = zip(member.choices, member.trace, strict=True)
            logprob = math.fsum(math.log(choice.probabilities[index]) for choice, index in taken)
            assert member.logprob == pytest.approx(logprob, abs=1e-9)
    even = [pair for pair in flat(found) if pair.kind not in ("name-or-pronoun", "mood")]
    for pair in even:  # all alternatives of these are equally likely
        assert pair.other.logprob == pytest.approx(pair.story.logprob, abs=1e-9)
    assert any(
        abs(pair.other.logprob - pair.story.logprob) > 0.5 for pair in found["name-or-pronoun"]
    )


def test_a_coin_changes_nothing_but_the_surface(found):
    for pair in found["coin"]:
        assert pair.story.choices[pair.decision] is COIN
        assert pair.decision in pair.story.coins
        assert pair.same_length and pair.story.canonical == pair.other.canonical
        assert pair.story.labels == pair.other.labels
        different = zip(pair.story.tokens, pair.other.tokens, strict=True)
        assert sum(one != two for one, two in different) == 1


def test_what_is_in_passing_is_never_named_again(found):
    passing = [kind for kind in KINDS if kind.startswith("passing-")]
    for kind in passing:
        for pair in found[kind]:
            changed = [
                i for i, (one, two) in enumerate(zip(pair.story.tokens, pair.other.tokens,
                strict=True)) if one != two
            ]  # fmt: skip
            assert changed == [pair.first], (kind, pair)
            assert pair.story.labels["entity"][pair.first] in ("other", "crowd", "landmark")
    recalled = [pair for kind in ("colour", "object", "look") for pair in found[kind]]
    treasure = [p for p in recalled if p.story.labels["entity"][p.first] == "treasure"]
    assert len(treasure) > 0.9 * len(recalled)
    for pair in treasure:
        both = zip(pair.story.tokens, pair.other.tokens, strict=True)
        assert sum(one != two for one, two in both) >= 2


def test_a_changed_mood_colours_the_rest(found):
    for pair in found["mood"]:
        assert pair.story.labels["mood"][-1] != pair.other.labels["mood"][-1]
        assert pair.same_length
        both = zip(pair.story.tokens, pair.other.tokens, strict=True)
        assert sum(one != two for one, two in both) >= 4


def test_the_same_seed_gives_the_same_pairs_whatever_else_is_asked_for(found):
    again = pairs(["size", "coin"], 8)
    assert list(again) == ["size", "coin"]
    assert again == {kind: found[kind] for kind in again}
    assert pairs(["coin"], 8, seed=1)["coin"] != found["coin"]
    assert pairs(["coin"], 3)["coin"] == found["coin"][:3]


def test_what_no_longer_fits_is_rejected(stories):
    """A word with a synonym needs a coin more than one without."""
    rejected = 0
    for story in stories[:50]:
        for decision, choice in enumerate(story.choices):
            if choice.kind != "size":
                continue
            for alternative, word in enumerate(choice.options):
                other = counterfactual(story, decision, alternative)
                now = choice.options[story.trace[decision]]
                assert (other is None) == (len(word.forms) != len(now.forms))
                rejected += other is None
            assert counterfactual(story, decision, story.trace[decision]) == story
    assert rejected > 50


def test_rows(found):
    anyhow = pairs(["company"], 8, same_length=False)["company"]
    assert {pair.same_length for pair in anyhow} == {True, False}
    few = [*found["coin"][:3], *(pair for pair in anyhow if not pair.same_length)][:6]
    rows = pair_rows(few)
    assert rows.kind == ["coin"] * 3 + ["company"] * 3  # lengths differ
    assert rows.tokens.shape[:2] == (6, 2) and rows.tokens.shape[2] == rows.length.max() <= 128
    end = TOKEN_IDS["<|endoftext|>"]
    words = {index: word for word, index in TOKEN_IDS.items()}
    for i, pair in enumerate(few):
        for j, member in enumerate((pair.story, pair.other)):
            row, length = rows.tokens[i, j], int(rows.length[i, j])
            assert (row[0], row[length - 1]) == (end, end) and bool((row[length:] == end).all())
            assert [words[int(t)] for t in row[1 : length - 1]] == member.tokens
        at = int(rows.at[i])
        assert torch.equal(rows.tokens[i, 0, :at], rows.tokens[i, 1, :at])
        assert rows.tokens[i, 0, at] != rows.tokens[i, 1, at]
    part = rows.part(2, 4).to("cpu")
    assert part.kind == rows.kind[2:4] and torch.equal(part.tokens, rows.tokens[2:4])


def test_table(found):
    table = pair_table(flat(found))
    assert len(table) == 8 * len(KINDS)
    assert set(table[table.kind == "colour"].entity) == {"treasure"}
    assert (table.word != table.other_word).all()


def test_bad_requests():
    with pytest.raises(ConfigError) as error:
        pairs(["colr"])
    assert_sentence(error, "colr", "colour", "coin")
    for options in ({"n": 0}, {"n": True}, {"split": "test"}):
        with pytest.raises(ConfigError) as error:
            pairs(["coin"], **options)
        assert_sentence(error, next(iter(options)), "must be")
    with pytest.raises(ConfigError) as error:
        pair_rows([])
    assert_sentence(error, "pairs", "at least one")


def test_a_kind_that_too_few_stories_contain(monkeypatch, stories):
    without = [s for s in stories if "giver" not in s.labels["entity"]]
    without = [s for s in without if not any(c.kind == "grown-up" for c in s.choices)]
    monkeypatch.setattr(pairs_module, "generate", lambda seed, split: iter(without * 10))
    with pytest.raises(ConfigError) as error:
        pairs(["coin", "grown-up"], 2)
    assert_sentence(error, "500 stories", "fewer than 2 pairs", "grown-up (0)")
