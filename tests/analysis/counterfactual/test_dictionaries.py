"""Floors: dictionaries that learnt nothing, at an L0 that was asked for."""

import pytest
import torch

from e2e_lib.analysis.counterfactual import dictionaries


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
