"""Measures of dictionaries on exact pairs: against plain passes, by hand, and at the edges."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from e2e_lib.analysis.counterfactual import dictionaries, measures, scale, swaps, tables
from e2e_lib.analysis.statistics import percentiles
from e2e_lib.core.hooks import clean_pass
from e2e_lib.engine.model.probes import replaced_pass
from e2e_lib.errors import ModelError
from tests.helpers.tiny_models import (
    D_MODEL,
    D_VOCAB,
    assert_sentence,
    identity_sae,
    random_tokens,
    small_sae,
    tiny_model,
)

HOOK = "blocks.1.hook_resid_pre"
EMBEDDED = "blocks.0.hook_resid_pre"  # here an activation is a word's vector plus its position's


def made_site(hook=HOOK, kind="word", pairs=12, seed=0, among=(1, D_VOCAB), last=False):
    """Random rows; the partners differ in one token, drawn from the ids of `among`."""
    generator = torch.Generator().manual_seed(seed)
    rows = random_tokens(pairs, 10, seed).repeat_interleave(2, 0)
    at = torch.full((pairs,), 9) if last else torch.randint(2, 7, (pairs,), generator=generator)
    at = at.repeat_interleave(2)
    low, high = among
    value = torch.randint(low, high, (pairs,), generator=generator)
    other = low + (value - low + torch.randint(1, high - low, (pairs,), generator=generator)) % (
        high - low
    )
    rows[torch.arange(2 * pairs), at] = torch.stack([value, other], 1).flatten()
    return swaps.open_site(tiny_model(), hook, kind, rows, at, torch.full((2 * pairs,), 10))


def kl(first, second):
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def one(found, measure, kind="word"):
    return float(found[measure, kind][0])


def measured(sites, used, unused, coder, needed=False):
    made = {kind: measures.exchange(site, coder(site)) for kind, site in sites.items()}
    numbers = {kind: measures.observe(own) for kind, own in made.items()}
    curves = measures.necessities({k: made[k] for k in used}, seed=0) if needed else None
    return tables.samples(numbers, used, unused, curves)


def coder_of(dictionary):
    return lambda site: swaps.code(site, dictionary)


@torch.no_grad()
def test_observed_numbers_agree_with_plain_passes():
    site, sae, model = made_site(), small_sae(), tiny_model()
    found = measures.observe(measures.exchange(site, swaps.code(site, sae)))
    for pair in range(2):
        sums = {"missed": 0.0, "effect": 0.0, "response": 0.0, "kept": 0.0, "energy": 0.0}
        toggled = on = 0.0
        for row in (2 * pair, 2 * pair + 1):
            t = int(site.at[row])
            clean = clean_pass(model, site.tokens[[row, row ^ 1]], [HOOK])
            x = clean.activations[HOOK]
            x_hat, codes = sae(x)
            target, swapped = x[:1].clone(), x_hat[:1].clone()
            target[0, t], swapped[0, t] = x[1, t], x_hat[1, t]
            tokens = site.tokens[[row]]
            run = [replaced_pass(model, tokens, HOOK, new)[0, t:9] for new in (target, swapped)]
            spliced = replaced_pass(model, tokens, HOOK, x_hat[:1])[0, t:9]
            sums["missed"] += kl(run[0], run[1]).sum() / 2
            sums["effect"] += kl(run[0], clean.logits[0, t:9]).sum() / 2
            sums["response"] += kl(spliced, run[1]).sum() / 2
            dx, dx_hat = x[1, t] - x[0, t], x_hat[1, t] - x_hat[0, t]
            sums["kept"] += dx @ dx_hat / 2
            sums["energy"] += dx @ dx / 2
            fired = codes[:, t] > 0
            toggled += float((fired[0] & ~fired[1]).sum()) / 2
            on += float(fired[0].sum()) / 2
        for name, value in sums.items():
            assert getattr(found, name)[pair] == pytest.approx(float(value), rel=1e-3), name
        assert (found.toggled[pair], found.on[pair]) == (toggled, on)


def test_the_identity_passes_everything_on():
    sites = {"word": made_site(pairs=40), "other": made_site(kind="other", pairs=40, seed=1)}
    found = measured(sites, ["word"], ["other"], coder_of(identity_sae()))
    for name in ("carried_function", "pathway", "retention"):
        assert one(found, name) == pytest.approx(1, abs=1e-3), name
    assert one(found, "selectivity", "all") == pytest.approx(1, abs=1e-3)
    use = swaps.kl_sums(sites["other"], sites["other"].clean, sites["other"].target).mean()
    assert one(found, "spurious_response", "all") == pytest.approx(float(use), rel=1e-2)


def true_directions():
    """At the first hook Δx is the difference of two words' vectors."""
    words = torch.arange(D_VOCAB)[:, None]
    return clean_pass(tiny_model(), words, [EMBEDDED], logits=False).activations[EMBEDDED][:, 0]


@pytest.fixture(scope="module")
def worlds():
    """Both kinds at the hook of words; the words of the unused kind mean nothing to the oracle."""
    among = {"word": (1, 9), "other": (9, 17)}
    return {
        kind: made_site(EMBEDDED, kind, 60, seed, among[kind])
        for seed, kind in enumerate(("word", "other"))
    }


def test_a_dictionary_made_from_the_truth_scores_one_and_a_shuffled_one_nothing(worlds):
    right = true_directions()
    wrong = right.clone()
    wrong[1:9] = right[torch.tensor([5, 6, 7, 8, 1, 2, 3, 4])]

    def knowing(directions):
        return lambda site: dictionaries.oracle(site, directions if site.kind == "word" else None)

    true, shuffled = (
        measured(worlds, ["word"], ["other"], knowing(own), needed=True) for own in (right, wrong)
    )
    assert one(true, "carried_function", "all") == pytest.approx(1, abs=1e-4)
    assert one(true, "pathway", "all") == pytest.approx(1, abs=1e-4)
    assert one(true, "spurious_response", "all") == pytest.approx(0, abs=1e-6)
    assert one(true, "selectivity", "all") == math.inf
    assert math.isnan(one(true, "waste_l0", "all"))  # nothing is on for what is not used
    assert one(true, "necessity", "all") <= 8  # eight words, a latent each
    assert one(shuffled, "carried_function", "all") < 0.1
    table = scale.measure_table(true, {"shuffled": shuffled}, true).set_index("measure")
    assert table.loc["carried_function", "scaled"].tolist() == [1, 1]
    same = scale.measure_table(shuffled, {"shuffled": shuffled}, true).set_index("measure")
    assert same.loc["carried_function", "scaled"].tolist() == [0, 0]


def test_the_oracle_s_directions_are_found_from_other_pairs(worlds):
    other = made_site(EMBEDDED, "word", 60, 7, (1, 9))
    at = other.activation[torch.arange(120), other.at]
    found = dictionaries.value_directions(other.values, at, D_VOCAB)
    right = true_directions()
    wanted = right[1:9] - right[1:9].mean(0)
    torch.testing.assert_close(found[1:9] - found[1:9].mean(0), wanted, atol=0.02, rtol=0.02)
    assert found[9:].abs().max() < 1e-6
    coded = dictionaries.oracle(worlds["word"], found)
    numbers = {"word": measures.observe(measures.exchange(worlds["word"], coded))}
    assert one(tables.samples(numbers, ["word"], []), "carried_function") > 0.99


def test_what_knows_no_function_selects_nothing():
    """On a random model, with kinds that differ by name alone, selectivity is 1."""
    sites = {k: made_site(kind=k, pairs=60, seed=i) for i, k in enumerate(("word", "other"))}
    text = torch.cat([site.activation.flatten(0, 1) for site in sites.values()])
    floors = dictionaries.floors(text, 40, k=4)
    for name in ("frozen decoder", "frozen encoder", "pca"):
        found = measured(sites, ["word"], ["other"], coder_of(floors[name]))["selectivity", "all"]
        low, high = percentiles(found[1:])
        assert low < 1 < high < 2, name


def test_selectivity_compares_changes_of_equal_size():
    """Retention is the size of the change here; matched, the two kinds are alike."""

    def numbers(energy):
        energy = np.array(energy)
        one, path = np.ones(len(energy)), np.ones((len(energy), 1, 3))
        return tables.PairNumbers(one, one, one, energy**2 / 100, energy, one, one, path)

    used, unused = {"a": numbers([9.0] * 6 + [70.0] * 6)}, {"b": numbers([9.0] * 6 + [2.2] * 6)}
    found = tables.samples(used | unused, ["a"], ["b"])
    plain = found["retention", "a"][0] / found["retention", "b"][0]
    assert plain > 5
    assert found["selectivity", "all"][0] == pytest.approx(1)
    far = tables.samples({"a": numbers([70.0] * 12)} | unused, ["a"], ["b"])
    assert math.isnan(far["selectivity", "all"][0])


def test_necessity_finds_the_latents_of_the_truth(worlds):
    """Eight words with a latent each: most of the swap takes most of the eight, at random more."""
    site = worlds["word"]
    coded = dictionaries.oracle(site, true_directions())
    made = measures.exchange(site, coded)
    [found] = measures.necessities({"word": made}).values()
    [needed] = tables.needed_latents(found.counts, found.missed.mean(1)[None])
    assert 3 < needed <= 8
    nothing = swaps.kl_sums(site, made.swapped, made.spliced)  # is swapped
    assert found.missed[0] == pytest.approx(swaps.by_pair(nothing)[30:].double().numpy(), rel=1e-3)
    assert math.isnan(found.side)  # there is no other kind


def test_necessity_of_one_latent_and_of_what_is_entangled():
    """All of a kind's change along one direction; a second kind along the same one."""
    sites = {k: made_site(EMBEDDED, k, 16, i, (1 + 8 * i, 3 + 8 * i)) for i, k in enumerate("ab")}
    directions = true_directions()
    one_way = F.normalize(directions[1] - directions[2], dim=0)

    def coded(site):
        codes = (site.values == site.values.min()).float()[:, None]
        outputs = site.activation.clone()
        outputs[torch.arange(len(codes)), site.at] += codes * one_way
        return swaps.Coded(outputs, codes, one_way[None], codes.sum(0))

    made = {kind: measures.exchange(site, coded(site)) for kind, site in sites.items()}
    found = measures.necessities(made)
    for own in found.values():
        [needed] = tables.needed_latents(own.counts, own.missed.mean(1)[None])
        assert needed == pytest.approx(tables.ENOUGH)  # of one latent
        assert own.side == pytest.approx(1)  # it is all that the other kind has


def test_needed_latents_by_hand():
    counts = np.array([0, 1, 2, 4.0])
    missed = np.array([[10, 6, 3, 0], [10, 1, 0, 0], [0, 0, 0, 0]], dtype=float)
    found = tables.needed_latents(counts, missed)
    assert found[:2] == pytest.approx([2 + 2 * (0.8 - 0.7) / 0.3, 0.8 / 0.9])
    assert math.isnan(found[2])


def test_a_latent_that_tells_two_words_apart_is_dedicated(worlds):
    site = worlds["word"]
    codes = F.one_hot(site.values, D_VOCAB).float()
    codes[:, 0] = torch.rand(len(codes))  # what has nothing to do with it
    found = measures.dedicated(site.values, codes)
    assert found.nonzero().squeeze(1).tolist() == list(range(1, 9))
    assert not measures.dedicated(site.values, codes, fewest=100).any()


def test_numbers_without_meaning_are_nan():
    # The last token: nothing later that the pathway could show; its prediction is its own.
    late = made_site(last=True)
    found = measured({"word": late}, ["word"], [], coder_of(identity_sae()))
    assert math.isnan(one(found, "pathway"))
    assert math.isnan(one(found, "selectivity", "all"))
    # Both members alike: no change to keep, no effect to carry.
    same = made_site()
    tokens = same.tokens[::2].repeat_interleave(2, 0)
    same = swaps.open_site(tiny_model(), HOOK, "word", tokens, same.at, torch.full((24,), 10))
    found = measured({"word": same}, ["word"], [], coder_of(identity_sae()), needed=True)
    for name in ("retention", "carried_function", "pathway", "necessity", "side_effect"):
        assert math.isnan(one(found, name)), name
    # A dead dictionary: nothing is on, so nothing of it is wasted.
    dead = small_sae()
    with torch.no_grad():
        dead.b_enc.fill_(-1e3)
    sites = {"word": made_site(), "other": made_site(kind="other", seed=1)}
    found = measured(sites, ["word"], ["other"], coder_of(dead), needed=True)
    for name in ("waste_l0", "selectivity", "necessity", "pathway"):
        assert math.isnan(one(found, name, "all")), name
    assert one(found, "retention") == 0
    assert one(found, "spurious_response", "all") == 0


def test_scaled_values_and_where_there_is_no_scale():
    assert scale.scaled("carried_function", 0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert scale.scaled("waste_l0", 0.1, 0.4, 0.0) == pytest.approx(0.75)
    assert scale.scaled("selectivity", 2.0, 1.0, math.inf) == pytest.approx(0.5)
    assert math.isnan(scale.scaled("waste_l0", 0.1, 0.0, 0.4))  # the floor is better
    assert math.isnan(scale.scaled("necessity", 3.0, math.nan, 1.0))


def test_an_sae_of_another_width_and_an_unknown_hook_are_one_sentence():
    with pytest.raises(ModelError) as caught:
        swaps.code(made_site(), small_sae(d_in=D_MODEL + 1))
    assert_sentence(caught, str(D_MODEL + 1), HOOK, str(D_MODEL))
    with pytest.raises(ModelError) as caught:
        made_site("blocks.9.hook_resid_pre")
    assert_sentence(caught, "blocks.9.hook_resid_pre")


def test_an_interval_without_upper_end_is_none():
    """Where a tenth of the resamples has no bound, those that are left have no right ends."""
    values = np.concatenate([[2.0], np.linspace(1, 3, 900), np.full(100, np.inf)])
    few = np.concatenate([[2.0], np.linspace(1, 3, 990), np.full(10, np.inf)])
    for samples, known in ((values, False), (few, True)):
        table = scale.measure_table({("selectivity", "all"): samples}, {}, {})
        assert table["value"].item() == 2
        assert np.isfinite(table[["low", "high"]].to_numpy()).all() == known


def test_an_interval_over_kinds_draws_kinds_too():
    """One kind's pairs waste every latent, another's none: half, or all, or nothing by the draw."""
    one = np.ones(6)
    same = dict.fromkeys(("missed", "effect", "response", "kept", "energy", "on"), one)
    path = np.ones((6, 1, 3))
    numbers = {
        name: tables.PairNumbers(**same, toggled=share * one, pathway=path)
        for name, share in (("loud", 1.0), ("quiet", 0.0))
    }
    found = tables.samples(numbers, [], list(numbers))
    assert set(found["waste_l0", "loud"]) == {1.0} and set(found["waste_l0", "quiet"]) == {0.0}
    value, *drawn = found["waste_l0", "all"]
    shares = [np.mean(np.array(drawn) == x) for x in (0.0, 0.5, 1.0)]
    assert value == 0.5 and shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)
    again = tables.samples(dict(numbers), [], list(numbers))["waste_l0", "all"]
    assert np.array_equal(again, found["waste_l0", "all"]), "the same draws for every dictionary"
