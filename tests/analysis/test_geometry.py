"""Cosine similarities on dictionaries whose answers can be seen on paper; warm starts."""

import math

import pandas as pd
import pytest
import torch

from e2e_lib.analysis import geometry
from tests.helpers.sweep_tables import cos, plane


def angles(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane."""
    radians = torch.tensor(degrees) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def test_within_by_hand():
    found = geometry.within_max_cosine(angles(0, 30, 90, 180))
    assert found.tolist() == pytest.approx([cos(30), cos(30), cos(60), cos(90)], abs=1e-6)


def test_an_element_is_not_its_own_neighbour_but_its_copy_is():
    assert geometry.within_max_cosine(angles(0, 90)).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert geometry.within_max_cosine(angles(0, 0, 90))[0] == pytest.approx(1)
    assert geometry.within_max_cosine(angles(0)).isnan().all()


def test_cross_is_invariant_to_order_and_follows_a_rotation():
    first = angles(0, 90, 200)
    turned = angles(220, 20, 110)  # every element turned by 20 degrees, in another order
    assert geometry.cross_max_cosine(first, turned).tolist() == pytest.approx([cos(20)] * 3)
    assert geometry.cross_max_cosine(first, first.flip(0)).tolist() == pytest.approx([1] * 3)
    assert geometry.cross_max_cosine(first, first[:0]).isnan().all()


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_do_not_matter(chunk):
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(20, 5, generator=generator), dim=-1)
    gram = x @ x.T - 3 * torch.eye(20)
    assert torch.allclose(geometry.within_max_cosine(x, chunk), gram.amax(dim=1))
    y = x[:9]
    assert torch.allclose(geometry.cross_max_cosine(x, y, chunk), (x @ y.T).amax(dim=1))


def test_only_alive_elements_count():
    dictionary = 3 * angles(0, 10, 90)
    alive = geometry.alive_directions(dictionary, torch.tensor([0.5, 0.0, 1e-6]))
    assert torch.allclose(alive, angles(0, 90))


RUNS = pd.DataFrame(
    [("a0", "local", 0, 1.0), ("a1", "local", 1, 1.0), ("b0", "e2e", 0, 2.0),
     ("b1", "e2e", 1, 2.0), ("c0", "e2e_ds", 0, 3.0), ("other", "local", 1, 9.0)],
    columns=["run", "objective", "seed", "sparsity_coeff"],
).assign(layer=2, l0=10.0, ce_increase=0.1, alive=2)  # fmt: skip
DIRECTIONS = {
    "a0": angles(0, 90),
    "a1": angles(10, 100),
    "b0": angles(45, 135),
    "b1": angles(80, 170),
    "other": angles(0, 60),
}  # fmt: skip  (c0 has no weights)


def test_within_table():
    table = geometry.within_similarity(DIRECTIONS, RUNS)
    assert len(table) == 10
    assert "e2e_ds" not in set(table["objective"])
    assert table["max_cosine"].to_numpy()[:2] == pytest.approx([0, 0], abs=1e-6)


def test_cross_seed_pairs_runs_that_differ_in_the_seed_only():
    table = geometry.cross_seed_similarity(DIRECTIONS, RUNS)
    pairs = table[["objective", "seed", "other_seed"]].drop_duplicates()
    assert sorted(map(tuple, pairs.to_numpy().tolist())) == [
        ("e2e", 0, 1), ("e2e", 1, 0), ("local", 0, 1), ("local", 1, 0),
    ]  # fmt: skip
    means = table.groupby("objective")["max_cosine"].mean()
    assert means["local"] == pytest.approx(cos(10))
    # 45 and 135 degrees against 80 and 170: 35 degrees apart.
    assert means["e2e"] == pytest.approx(cos(35))


def test_cross_type_goes_to_local_of_the_same_seed():
    table = geometry.cross_type_similarity(DIRECTIONS, RUNS[RUNS["run"] != "other"])
    assert set(table["objective"]) == {"e2e"}
    means = table.groupby("seed")["max_cosine"].mean()
    # Seed 0: 45 and 135 to 0 and 90, 45 apart. Seed 1: 80 and 170 to 10 and 100: 20 and 70.
    assert means[0] == pytest.approx(cos(45))
    assert means[1] == pytest.approx((cos(20) + cos(70)) / 2)


def test_mean_similarity_and_random_baseline():
    means = geometry.mean_similarity(DIRECTIONS, RUNS).set_index("run")
    assert means.loc["other", "mean_max_cosine"] == pytest.approx(0.5)
    baseline = geometry.random_baseline(DIRECTIONS, RUNS)
    assert baseline["alive"].tolist() == [2] * 5
    assert baseline["random"].between(-1, 1).all()
    assert baseline.equals(geometry.random_baseline(DIRECTIONS, RUNS))


def test_nothing_to_compare_is_an_empty_table():
    for function in (geometry.within_similarity, geometry.cross_seed_similarity,
                     geometry.cross_type_similarity):  # fmt: skip
        table = function({}, RUNS)
        assert table.empty
        assert "max_cosine" in table


# ------------------------------------------------------------------ warm starts
def test_moved_features_by_hand():
    saes, compared = plane()
    table = geometry.moved(saes, compared)
    assert table["cosine"].tolist() == pytest.approx([cos(5), cos(30), cos(20)], abs=1e-6)
    assert table["started_alive"].tolist() == [True, False, True]
    assert set(table["train_tokens"]) == {200}
    del saes["local-s1-l2.0-"]
    assert len(geometry.moved(saes, compared)) == 2


def test_agreement_by_hand():
    saes, compared = plane()
    table = geometry.agreement_of_starts(saes, compared)
    means = table.groupby("start")["max_cosine"].mean()
    # Warm: 5 and 60 degrees to 30 alone, 30 to 5; the dead ones do not count.
    assert means["warm 200"] == pytest.approx((cos(25) + cos(30) + cos(25)) / 3)
    assert means[geometry.SCRATCH] == pytest.approx(cos(45))
    # The local starts: 0 degrees to 10, and 10 and 100 degrees to 0.
    assert means[geometry.LOCAL] == pytest.approx((cos(10) + cos(10) + cos(100)) / 3)
    [row] = geometry.agreement_gain(table).to_dict("records")
    by_pair = [(cos(25) + cos(30)) / 2, cos(25)]
    assert row["mean"] == pytest.approx(sum(by_pair) / 2)
    assert row["difference"] == pytest.approx(sum(by_pair) / 2 - cos(45))
    assert math.isnan(row["low"])  # two seeds are one pair, which says nothing of another
    alone = table[table["start"] != geometry.SCRATCH]
    assert geometry.agreement_gain(alone).empty
