"""What the network uses: exchanges by hand, what is known of them, and the rule for the verdict."""

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib import load_model
from e2e_lib.analysis.counterfactual import use
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import token_kl
from e2e_lib.errors import ConfigError
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.storyworld.pairs import PairRows, pair_rows, pairs
from tests.helpers.tiny_models import assert_sentence, random_tokens, tiny_model

FEW = ("coin", "colour", "passing-colour", "name-or-pronoun")


@pytest.fixture(scope="module")
def model():
    return load_model("storyworld")


@pytest.fixture(scope="module")
def rows():
    return pair_rows([pair for own in pairs(FEW, 5).values() for pair in own])


@pytest.fixture(scope="module")
def per_pair(model, rows):
    return use.exchange(model, rows)


def test_by_hand(model, rows, per_pair):
    """One exchange at a time, with the model's own hooks."""
    hook, values = "blocks.2.hook_resid_pre", []
    pair = 7
    at, length = int(rows[1][pair]), rows.length[pair].tolist()
    kept = [
        model.run_with_cache(rows.tokens[pair, j][None], names_filter=[hook])[1][hook][0, at]
        for j in (0, 1)
    ]
    for j in (0, 1):

        def put(value, hook, new=kept[1 - j]):
            value = value.clone()
            value[0, at] = new
            return value

        row = rows.tokens[pair, j][None]
        changed = model.run_with_hooks(row, fwd_hooks=[(hook, put)])
        kl = token_kl(model(row), changed)[0]
        assert kl[:at].abs().max() < 1e-5
        values.append(float(kl[at : length[j] - 1].sum()))
    [found] = per_pair[(per_pair.layer == 2) & (per_pair.pair == pair)].itertuples()
    assert found.kind == "colour" and found.use == pytest.approx(np.mean(values), rel=1e-4)
    told = [
        model.run_with_cache(row[:n][None], names_filter=[hook])[1][hook][0]
        for both, ns in zip(rows.tokens, rows.length.tolist(), strict=True)
        for row, n in zip(both, ns, strict=True)
    ]
    variance = torch.cat(told).double().var(0, correction=0).sum()
    energy = (kept[0] - kept[1]).double().square().sum()
    assert found.presence == pytest.approx(float(energy / (2 * variance)), rel=1e-4)


def test_before_the_first_block_an_exchanged_token_is_the_other_story(model, rows, per_pair):
    """Where one token alone differs, its embedding is all there is to exchange."""
    for pair in range(5):
        assert (rows.tokens[pair, 0] != rows.tokens[pair, 1]).sum() == 1
        logits = clean_pass(model, rows.tokens[pair]).logits
        both = token_kl(logits, logits.flip(0))
        kl = [both[j, : int(rows.length[pair, j]) - 1].sum().item() for j in (0, 1)]
        [found] = per_pair[(per_pair.layer == 0) & (per_pair.pair == pair)].use
        assert found == pytest.approx(np.mean(kl), rel=1e-3, abs=1e-6)


def test_batches_change_nothing(model, rows, per_pair, monkeypatch):
    monkeypatch.setattr(use, "BATCH", 3)
    pd.testing.assert_frame_equal(use.exchange(model, rows), per_pair, rtol=1e-4, atol=1e-5)
    one = use.exchange(model, rows, [3]).reset_index(drop=True)
    whole = per_pair[per_pair.layer == 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, whole, rtol=1e-4, atol=1e-5)


def test_two_equal_stories_have_no_difference(model, rows):
    same = rows._replace(tokens=rows.tokens[:, :1].expand(-1, 2, -1), length=rows.length[:, [0, 0]])
    found = use.exchange(model, same, [1, 4])
    assert found.presence.abs().max() == 0 and found.use.abs().max() < 1e-4


def test_what_is_recalled_is_used_and_what_is_not_is_not(per_pair):
    verdicts = use.kinds_by_verdict(use.use_table(per_pair), 2)
    assert verdicts["used"] == ["colour"]
    assert verdicts["unused"] == ["coin", "passing-colour", "name-or-pronoun"]
    mean = per_pair[per_pair.layer == 2].groupby("kind").mean()
    assert mean.presence["name-or-pronoun"] > mean.presence["colour"], "a loud decoy"
    assert mean.presence[["passing-colour", "coin"]].min() > 0.3 * mean.presence["colour"]


def test_exchanged_twice_is_as_before():
    x = torch.randn(6, 5, 3)
    at = torch.tensor([1, 1, 4, 4, 0, 0])
    new = use.exchanged(x, at)
    assert torch.equal(new[2, 4], x[3, 4]) and torch.equal(new[3, 4], x[2, 4])
    assert (new != x).any(-1).sum() == 6
    assert torch.equal(use.exchanged(new, at), x)


def test_predictions_count_from_the_exchange_to_the_end_of_the_story():
    counts = use.later(torch.tensor([2, 0]), torch.tensor([5, 2]), 6)
    assert counts.int().tolist() == [[0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_what_does_not_vary_has_no_presence():
    moments = use._Moments()
    moments.add(torch.full((40, 3), 0.1))
    assert moments.variance() == 0
    moments.add(torch.full((40, 3), 2.1))
    assert moments.variance() == pytest.approx(3, rel=1e-5)


def test_the_rule():
    """Threshold: a hundredth of the mean over kinds of use."""
    rng = np.random.default_rng(0)
    values = {
        "loud": rng.normal(8, 1, 20), "near": [0.0, 0.045] * 10,
        "quiet": np.full(20, 1e-4), "alone": [1.0],
    }  # fmt: skip
    frame = pd.concat([
        pd.DataFrame({"kind": kind, "layer": 1, "use": own, "presence": 0.5})
        for kind, own in values.items()
    ])  # fmt: skip
    table = use.use_table(frame).set_index("kind")
    assert list(table.reset_index()) == list(use.COLUMNS)
    mean = np.mean([np.mean(own) for own in values.values()])
    assert table.threshold.to_numpy() == pytest.approx(0.01 * mean)
    assert table.verdict.to_dict() == {
        "loud": "used", "near": "undecided", "quiet": "unused", "alone": "undecided"
    }  # fmt: skip
    assert table.n_pairs.tolist() == [20, 20, 20, 1]
    assert np.isnan(table.use_low["alone"])
    assert (table.use_low["loud"] < table.use["loud"] < table.use_high["loud"]) is np.True_


def test_bad_requests():
    small = tiny_model()
    tokens = random_tokens(4, small.cfg.n_ctx + 1).reshape(2, 2, -1)
    at, length = torch.tensor([3, 3]), torch.full((2, 2), tokens.shape[-1])
    with pytest.raises(ConfigError) as error:
        use.exchange(small, PairRows(tokens, at, length, ["coin"] * 2))
    assert_sentence(error, f"{tokens.shape[-1]} tokens", f"context is {small.cfg.n_ctx}")
    short = PairRows(tokens[..., :10], at, length.clamp(max=10), ["coin"] * 2)
    with pytest.raises(ConfigError) as error:
        use.exchange(small, short, [9])
    assert_sentence(error, "layer is 9", "from 0 to")
    assert len(use.exchange(small, short)) == 2 * small.cfg.n_layers


def test_a_coin_and_a_concept_stand_at_one_token_of_one_story():
    both = use.beside_coins(["size", "place"], 60, seed=1)
    assert {concept.kind for _, concept in both} == {"size", "place"}
    for coin, concept in both:
        story, t = coin.story, coin.first
        assert coin.kind == "coin" and concept.story is story and concept.first == t
        words = {own.tokens[t] for own in (story, coin.other, concept.other)}
        assert len(words) == 3 and concept.other.tokens[:t] == story.tokens[:t]
        decoy = story.labels["decoy"][t].split("|")  # both synonyms are the coin's
        assert story.tokens[t] in decoy and concept.other.tokens[t] not in decoy
    assert use.beside_coins(["coin"], 60, seed=1) == [], "the coin is no concept"
    assert use.beside_coins([], 5) == []


def test_a_coin_over_a_concept_by_hand(model):
    """Before the first block Δx is the difference of two words' embeddings, all of one norm."""
    table = use.coin_over_concept(model, 0, ["size"], 60, seed=1)
    both, embedding = use.beside_coins(["size"], 60, seed=1), model.embed.weight
    coins, concepts = (
        np.array([
            float((embedding[a] - embedding[b]).detach().square().sum())
            for pair in own
            for a, b in [(
                TOKEN_IDS[pair.story.tokens[pair.first]], TOKEN_IDS[pair.other.tokens[pair.first]]
            )]
        ])
        for own in zip(*both, strict=True)
    )  # fmt: skip
    row = table.loc["presence"]
    assert row.n == len(both) > 3
    assert row.value == pytest.approx(coins.mean() / concepts.mean(), rel=1e-4)
    ratios = coins / concepts
    assert ratios.min() < row.low <= row.value <= row.high < ratios.max()
    one = use.coin_over_concept(model, 0, ["size"], 6, seed=1)
    assert one.n.tolist() == [1, 1] and one.value.notna().all() and one.low.isna().all()
    nothing = use.coin_over_concept(model, 0, [], 6, seed=1)
    assert nothing.n.tolist() == [0, 0] and nothing.value.isna().all()
