"""The bootstrap against known intervals, p-values that can be counted, seeds paired by hand."""

import math

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


def test_difference_of_means_over_seeds():
    rng = np.random.default_rng(0)
    first = [rng.normal(1 + s, 0.1, 300) for s in (0, 1)]
    second = [rng.normal(0, 0.1, 300) for _ in (0, 1)]
    found = statistics.difference_interval(first, second)
    assert found.value == pytest.approx(1.5, abs=0.02)
    # Two seeds, 1 and 2: drawn twice each time, so the interval is their range.
    assert (found.low, found.high) == pytest.approx((1, 2), abs=0.05)


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
    assert len(found) == 1
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
    assert row["low"] < 0.2 and row["high"] == pytest.approx(0.9)
    assert not len(statistics.grouped_means(table.iloc[:0], "score", ["layer"]))
