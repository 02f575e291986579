"""Intervals against known ones and by simulation, p-values that can be counted, seeds by hand."""

import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from e2e_lib.analysis import statistics


def test_mean_interval_is_the_known_one():
    # Mean of n normal values: ± 1.96 σ / √n.
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = statistics.mean_interval(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_weights_resample_a_mean():
    rng = np.random.default_rng(0)
    weights = statistics.resample_weights(100, 3000, rng)
    assert weights.sum(axis=1) == pytest.approx(1)
    x = rng.normal(size=100)
    assert (weights @ x).std() == pytest.approx(x.std() / 10, rel=0.05)


# ------------------------------------------------------------------ over seeds
REPETITIONS = 4000


def coverage(found: statistics.Interval) -> float:
    """How often intervals of simulated data, whose truth is 0, hold it."""
    assert found.low.shape == (REPETITIONS,)
    return float(np.mean((found.low <= 0) & (found.high >= 0)))


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_seeds_hold_the_truth_as_often_as_they_say(seeds):
    """Seeds that differ by 1, and noise of that order from what was sampled within each."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(seeds, REPETITIONS))

    # Dictionary elements or features: every seed has others.
    elements = rng.normal(0, 5, (30, seeds, REPETITIONS)).mean(axis=0)
    assert 0.93 <= coverage(statistics.seed_interval(own + elements)) <= 0.97

    # Rows of text: one that is hard for one seed is hard for all.
    weights = statistics.mean_and_resamples(100, 60, rng)
    for hard in (0.3, 1, 4):
        rows = hard * rng.normal(0, 10, (100, 1, REPETITIONS))
        rows = rows + rng.normal(0, 3, (100, seeds, REPETITIONS))
        samples = own + np.tensordot(weights, rows, 1)
        assert 0.93 <= coverage(statistics.over_seeds(samples)) <= 0.97, hard

    # Pairs of seeds: each seed takes part in all of its pairs. Pseudo-values are linear in them.
    # What a pair has of its own, as a share of a seed's part, makes the jackknife cautious; among
    # five seeds of the reference it is 0.7 (claim C6a) and 1.1 (C6b).
    pairs = list(combinations(range(seeds), 2))
    index = pd.MultiIndex.from_tuples(pairs)
    unit = [statistics.pseudo_values(pd.Series(row, index)) for row in np.eye(len(pairs))]
    exact = np.array([own[a] + own[b] for a, b in pairs])
    apart = rng.normal(size=exact.shape)
    for share in (0, 0.5, {3: 0.75, 5: 1.1}[seeds]):
        values = np.transpose(unit) @ (exact + share * apart)
        assert 0.93 <= coverage(statistics.seed_interval(values)) <= 0.97, share
    values = np.transpose(unit) @ apart
    assert coverage(statistics.seed_interval(values)) > 0.98
    # So much too large is its variance then, on average, as `pseudo_values` says.
    variance = values.var(axis=0, ddof=1).mean() / seeds
    known = 2 * (seeds - 1) / (seeds - 2) / len(pairs)
    assert variance == pytest.approx(known, rel=0.05)

    # What all of these were before: percentiles of seeds drawn with replacement.
    drawn = statistics.resample_weights(seeds, 300, rng) @ own
    assert coverage(statistics.Interval(own.mean(axis=0), *statistics.percentiles(drawn))) < 0.87


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_truth_however_much_of_it_the_seeds_share(seeds):
    """What they share has a fiftieth to ten times the variance that their spread gives a mean."""
    rng = np.random.default_rng(0)
    for shared in (0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0):
        own = rng.normal(0, math.sqrt(seeds), (seeds, 10 * REPETITIONS))
        alike = rng.normal(0, math.sqrt(shared), 10 * REPETITIONS)
        found = statistics.seed_interval(own + alike, shared)
        held = float(np.mean((found.low <= 0) & (found.high >= 0)))
        assert 0.935 <= held <= 0.965, (shared, held)


def test_a_t_interval_by_hand():
    found = statistics.seed_interval([1.0, 2.0, 3.0])
    assert (found.value, found.high - found.value) == (
        2,
        pytest.approx(4.3027 / math.sqrt(3), 1e-4),
    )
    # As much variance again from what the seeds share: twice the degrees of freedom, 4.
    shared = statistics.seed_interval([1.0, 2.0, 3.0], shared=1 / 3)
    assert shared.high - 2 == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(2 / 3))
    known = stats.ttest_1samp([1.0, 2.0, 3.0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert statistics.seed_interval([2.0, 2.0]).high == 2
    several = statistics.seed_interval(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert several.value.tolist() == [2, 5] and several.low[1] == 5


def test_one_seed_has_the_interval_of_what_it_sampled():
    samples = np.linspace(0, 1, 1001)[:, None]
    found = statistics.over_seeds(np.concatenate([[[0.4]], samples]))
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.025, 0.975))
    assert math.isnan(statistics.seed_interval([0.4]).low)
    assert math.isnan(statistics.seed_interval([]).value)


def test_pairs_of_three_seeds_are_three_values_not_six():
    """h(a, b) = g(a) + g(b): then the interval is that of 2 g over the seeds, in either order."""
    own = {0: 1.0, 1: 2.0, 2: 4.0}
    for pairs in (combinations(own, 2), permutations(own, 2)):
        table = pd.Series({(a, b): own[a] + own[b] for a, b in pairs})
        values = statistics.pseudo_values(table)
        assert values.mean() == pytest.approx(table.mean())
        expected = statistics.seed_interval([2 * g for g in own.values()])
        assert statistics.seed_interval(values) == pytest.approx(expected)


def test_difference_of_means_over_seeds():
    rng = np.random.default_rng(0)
    values = {("first", s): rng.normal(1 + s, 0.1, 300) for s in (0, 1)}
    values |= {("second", s): rng.normal(0, 0.1, 300) for s in (0, 1, 2)}
    table = pd.concat(
        pd.DataFrame({"kind": kind, "seed": s, "x": x}) for (kind, s), x in values.items()
    )
    found = statistics.difference(table, "x", ("first", "second"), by="kind")
    gaps = [values["first", s].mean() - values["second", s].mean() for s in (0, 1)]
    assert found.interval == pytest.approx(statistics.seed_interval(gaps))
    assert found.n_seeds == 2  # the third has no partner
    alone = statistics.difference(table[table["seed"] == 0], "x", ("first", "second"), by="kind")
    assert alone.interval.high - alone.interval.low == pytest.approx(4 * 0.1 / math.sqrt(150), 0.1)
    assert statistics.difference(table, "x", ("first", "third"), by="kind") is None


def test_one_value_has_no_interval():
    interval = statistics.mean_interval([3.0])
    assert interval.value == 3
    assert np.isnan(interval.low)


def test_mean_differences_pair_seeds():
    table = pd.DataFrame(
        [(2, o, s, x + v) for o, v in (("local", 0.5), ("e2e", 0.1)) for s in (0, 1)
         for x in (0.0, 0.2)] + [(2, "local", 7, 0.9)],
        columns=["layer", "objective", "seed", "max_cosine"],
    )  # fmt: skip
    row = statistics.mean_differences(table, [("local", "e2e"), ("local", "e2e_ds")]).iloc[0]
    assert row["value"] == pytest.approx(0.4)  # seed 7 has no partner
    assert row["n_seeds"] == 2
    assert len(statistics.mean_differences(table, [("local", "e2e_ds")])) == 0


# ------------------------------------------------------------------ scores
def score_table(groups: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    rows = [
        ("l0", 6, objective, seed, score)
        for (objective, seed), values in groups.items() for score in values
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["match", "layer", "objective", "seed", "score"])


def test_differences_by_hand():
    groups = {("e2e_ds", 0): [0.5, 0.7], ("local", 0): [0.1, 0.3], ("e2e_ds", 1): [0.9, 0.9],
              ("local", 1): [0.5, math.nan], ("e2e_ds", 2): [1.0]}  # fmt: skip
    found = statistics.score_differences(score_table(groups), resamples=500)
    row = found.iloc[0]
    assert found["difference"].tolist() == ["e2e_ds - local"]
    assert row["value"] == pytest.approx((0.4 + 0.4) / 2)
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["n_seeds"], row["n_first"], row["n_second"]) == (2, 4, 3)
    assert not len(statistics.score_differences(score_table({("local", 0): [0.1]})))


def test_p_is_exact_where_it_can_be_counted():
    # Pool {0, 0, 1, 1}: means of two draws are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4, so
    # a difference as large as the observed 1 has probability 2/16.
    p = statistics.pooled_p([np.array([1.0, 1.0])], [np.array([0.0, 0.0])], resamples=20_000)
    assert p == pytest.approx(1 / 8, abs=0.01)
    assert statistics.pooled_p([np.array([0.3, 0.3])], [np.array([0.3])], resamples=10) == 1


def test_p_and_interval_agree_with_a_t_test_on_large_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.55, 0.3, 150), rng.normal(0.5, 0.3, 170)
    table = score_table({("e2e_ds", 0): a.tolist(), ("local", 0): b.tolist()})
    row = statistics.score_differences(table, resamples=8000).iloc[0]
    test = stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval()
    assert row["p"] == pytest.approx(test.pvalue, abs=0.015)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=0.006)


def test_grouped_means_are_over_features_then_seeds():
    table = score_table({("local", 0): [0.0, 0.0, 0.3], ("local", 1): [0.9, math.nan]})
    found = statistics.grouped_means(table, "score", ["layer", "objective"])
    row = found.iloc[0]
    assert (row["layer"], row["objective"], row["n"]) == (6, "local", 4)
    assert row["value"] == pytest.approx((0.1 + 0.9) / 2)
    assert (row["low"], row["high"]) == pytest.approx(
        (0.5 - 12.706 * 0.4, 0.5 + 12.706 * 0.4), 1e-3
    )
    alone = statistics.grouped_means(table[table["seed"] == 0], "score", ["layer"]).iloc[0]
    assert 0 <= alone["low"] < 0.1 < alone["high"] <= 0.3  # over its features
    assert not len(statistics.grouped_means(table.iloc[:0], "score", ["layer"]))


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 5, (20, 3)), rng.integers(0, 5, (31, 3))
    pairs = own[:, None] - others[None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean(axis=(0, 1))
    np.testing.assert_allclose(statistics.auroc(own, others), expected)
    assert np.isnan(statistics.auroc(own, others[:0])).all()
