"""Floors: dictionaries that learnt nothing, at an L0 that was asked for."""

import pytest
import torch

from e2e_lib.analysis.counterfactual import dictionaries, measures, tables
from e2e_lib.analysis.counterfactual.swaps import code
from tests.analysis.counterfactual.test_measures import made_site
from tests.helpers.tiny_models import D_MODEL


@pytest.fixture(scope="module")
def activations():
    torch.manual_seed(0)
    return torch.randn(500, 12) @ torch.randn(12, 12) + torch.randn(12)


@pytest.mark.parametrize("name", dictionaries.FLOORS)
def test_floors_have_the_l0_that_was_asked_for(name, activations):
    floor = dictionaries.floors(activations, 40, k=5)[name]
    l0 = (floor.encode(activations) > 0).sum(-1).float()
    assert (floor.encode(activations) >= 0).all()
    if name == "untrained":
        assert 10 < l0.mean() < 30
    else:
        assert l0.max() <= 5 and l0.mean() > 3.5


def test_floors_explain_what_they_can(activations):
    """A random dictionary chosen by pursuit and a solved decoder leave less than the mean does."""
    floors = dictionaries.floors(activations, 40, k=5)
    spread = (activations - activations.mean(0)).square().sum()

    def left(name):
        floor = floors[name]
        error = floor.decode(floor.encode(activations)) - activations
        return float(error.square().sum() / spread)

    assert left("pca") < left("frozen decoder") < 0.5
    assert left("frozen encoder") < 0.9


def test_pursuit_by_hand():
    directions = torch.eye(3)
    codes = dictionaries.pursuit(torch.tensor([[1.0, 3.0, 2.0], [-1.0, 0.0, 0.0]]), directions, 2)
    assert codes.tolist() == [[0, 3, 2], [0, 0, 0]]


def test_pca_gives_back_what_lies_in_its_plane():
    plane = torch.randn(100, 2) @ torch.randn(2, 6) + 1
    found = dictionaries.pca(plane, 2)
    torch.testing.assert_close(found.decode(found.encode(plane)), plane, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------ the control
def plain(sees):
    """A dictionary with a latent for either sign of some coordinates, each told by its own."""
    both = torch.cat([sees, -sees])
    return dictionaries.Linear(
        lambda x: (x @ both.T).clamp_min(0), both, both.new_zeros(both.shape[1])
    )


def test_the_control_by_hand():
    """Used kinds change coordinates 0 and 1, unused ones 2 and 3: by 1 and 2, in eight pairs."""
    row = torch.tensor([[3.0, 4.0, 3.0, 4.0]])
    ends = {"a": [1.0, 0, 0, 0], "b": [0, 1.0, 0, 0], "c": [0, 0, 1.0, 0], "d": [0, 0, 0, 1.0]}
    at = {k: torch.cat([row, row + torch.tensor([x])]).repeat(8, 1) for k, x in ends.items()}
    half = torch.diag(torch.tensor([1.0, 1.0, 0.5, 0.5])).sqrt()
    floors = {
        "all": plain(torch.eye(4)), "half of unused": plain(half), "three": plain(torch.eye(4)[:3]),
        "nothing": plain(torch.zeros(4, 4)),
    }  # fmt: skip
    table = dictionaries.control(floors, at, ["a", "b"], ["c", "d"]).set_index("dictionary")
    assert table.value.tolist()[:3] == pytest.approx([1, 2, 2])
    assert table.retention.tolist() == pytest.approx([1, 0.75, 0.75, 0])
    assert (table.n_pairs == 32).all()
    # Where the one unused kind that is dropped is all there is, the selectivity has no bound.
    assert table.passes.tolist() == ["yes", "no", "not known", "not known"]
    assert table.low["half of unused"] == pytest.approx(2) and table.low.isna()["three"]


def test_the_control_agrees_with_the_exam():
    """Selectivity and retention take the activations at t alone."""
    sites = {kind: made_site(kind=kind, pairs=40, seed=i) for i, kind in enumerate("ab")}
    half = plain(torch.eye(D_MODEL)[: D_MODEL // 2])
    numbers = {k: measures.observe(measures.exchange(s, code(s, half))) for k, s in sites.items()}
    found = tables.samples(numbers, ["a"], ["b"])
    at = {k: site.activation[torch.arange(len(site.at)), site.at] for k, site in sites.items()}
    table = dictionaries.control({"half": half}, at, ["a"], ["b"])
    assert table.value[0] == pytest.approx(found["selectivity", "all"][0], rel=1e-4)
    assert 0.1 < table.retention[0] < 0.9 and table.value[0] != pytest.approx(1, abs=1e-3)
    assert table.retention[0] == pytest.approx(found["retention", "all"][0], rel=1e-4)
