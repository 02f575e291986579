"""Loss terms on cases small enough to check by hand."""

import math

import pytest
import torch

from e2e_lib.core.losses import (
    Objective,
    downstream_loss,
    named_objective,
    reconstruction_loss,
    sparsity_loss,
    token_kl,
)
from e2e_lib.errors import ConfigError
from tests.helpers.tiny_models import assert_sentence


def test_sparsity_is_a_mean_over_tokens_divided_by_the_width():
    codes = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert float(sparsity_loss(codes.sum(-1), d_in=4)) == pytest.approx((4 + 2) / 2 / 4)


@pytest.mark.parametrize(
    ("p", "norms"), [(1.0, [7.0, 0.0]), (2.0, [5.0, 0.0]), (0.5, [(2 + math.sqrt(3)) ** 2, 0.0])]
)
def test_other_norms_keep_the_root(p, norms):
    power_sums = (torch.tensor([[3.0, 4.0], [0.0, 0.0]]) ** p).sum(-1)
    assert float(sparsity_loss(power_sums, 2, p)) == pytest.approx(sum(norms) / 2 / 2)


def test_reconstruction_is_a_mean_over_all_elements_and_does_not_train_the_target():
    output = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]], requires_grad=True)
    target = torch.tensor([[[0.0, 0.0], [0.0, 3.0]]], requires_grad=True)
    loss = reconstruction_loss(output, target)
    assert loss.item() == pytest.approx((1 + 4 + 9) / 4)
    loss.backward()
    assert target.grad is None
    torch.testing.assert_close(output.grad, torch.tensor([[[0.5, 1.0], [0.0, -1.5]]]))


def test_kl_goes_from_clean_to_spliced():
    p, q = [0.5, 0.5], [0.25, 0.75]
    clean, spliced = torch.tensor([p]).log(), torch.tensor([q]).log()
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    backward = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(forward - backward) > 0.01
    assert float(token_kl(clean, spliced)) == pytest.approx(forward, rel=1e-5)
    assert float(token_kl(spliced, clean)) == pytest.approx(backward, rel=1e-5)


def test_kl_is_one_value_a_token_and_ignores_constants():
    clean, spliced = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    p, q = clean.softmax(-1), spliced.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(token_kl(clean, spliced), expected)
    torch.testing.assert_close(token_kl(clean + 7, spliced - 3), expected)
    assert float(token_kl(clean, clean).abs().max()) == pytest.approx(0, abs=1e-6)


def test_kl_trains_the_spliced_side_only():
    clean, spliced = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    token_kl(clean, spliced).mean().backward()
    assert clean.grad is None
    torch.testing.assert_close(spliced.grad, (spliced.softmax(-1) - clean.softmax(-1)).detach() / 2)


def test_downstream_is_split_over_the_positions():
    clean = {"a": torch.zeros(1, 1, 2), "b": torch.zeros(1, 1, 2), "unused": torch.ones(1, 1, 2)}
    spliced = {"a": torch.full((1, 1, 2), 1.0), "b": torch.full((1, 1, 2), 3.0)}
    assert float(downstream_loss(spliced, clean, ("a", "b"))) == pytest.approx((1 + 9) / 2)
    assert float(downstream_loss(spliced, clean, ("b",))) == pytest.approx(9)


def test_the_total_is_the_weighted_sum():
    terms = {
        "sparsity": torch.tensor(2.0),
        "reconstruction": torch.tensor(3.0),
        "kl": torch.tensor(5.0),
        "downstream": torch.tensor(7.0),
    }
    assert float(Objective(0.1, 1.0).total(terms)) == pytest.approx(0.2 + 3)
    everything = Objective(0.1, 0.2, 0.3, 0.4)
    assert float(everything.total(terms)) == pytest.approx(0.2 + 0.6 + 1.5 + 2.8)
    assert float(Objective(0.0, 0.0, 0.5, 0.0).total(terms)) == pytest.approx(2.5)
    nan = terms | {"reconstruction": torch.tensor(math.nan)}
    assert float(Objective(0.0, 0.0, 0.5).total(nan)) == pytest.approx(2.5), "0 means untrained"


def test_halves_are_made_equal_by_a_number():
    """λ 0.1, reconstruction 3, κ 0.5 · 8 and β 2 · 1: α = 3 / 6, the total 0.2 + ½ (3 + 3)."""
    terms = {"sparsity": 2.0, "reconstruction": 3.0, "kl": 8.0, "downstream": 1.0}
    terms = {name: torch.tensor(value, requires_grad=True) for name, value in terms.items()}
    total = Objective(0.1, 1.0, 0.5, 2.0, balanced=True).total(terms)
    assert total.item() == pytest.approx(3.2)
    total.backward()
    # Of α · κ / 2, α · β / 2: had α a gradient, those of kl and downstream would be 0.
    expected = {"sparsity": 0.1, "reconstruction": 0.5, "kl": 0.125, "downstream": 0.5}
    assert {name: float(term.grad) for name, term in terms.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("objective", "name", "splice"),
    [
        (Objective(1.0, 1.0), "local", False),
        (Objective(1.0, 1.0, 0.0), "local", True),  # the KL is logged, so it must be computed
        (Objective(1.0, None, 1.0), "e2e", True),
        (Objective(1.0, 0.0, 1.0), "e2e", True),
        (Objective(1.0, None, 0.5, 2.5), "e2e_ds", True),
        (Objective(1.0, 1.0, 1.0), "custom", True),
        (Objective(1.0, None, None, 1.0), "custom", True),
    ],
)
def test_names_follow_the_trained_terms(objective, name, splice):
    assert (objective.name, objective.needs_splice) == (name, splice)


def test_the_papers_objectives():
    assert named_objective("local", 4.0) == Objective(4.0, local_coeff=1.0)
    assert named_objective("e2e", 1.5) == Objective(1.5, kl_coeff=1.0)
    assert named_objective("e2e_ds", 50.0) == Objective(50.0, kl_coeff=0.5, downstream_coeff=2.5)
    assert named_objective("e2e_ds", 1.0, kl_coeff=0.2, downstream_coeff=0.05) == Objective(
        1.0, kl_coeff=0.2, downstream_coeff=0.05
    )
    assert all(named_objective(n, 1.0).name == n for n in ("local", "e2e", "e2e_ds"))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"sparsity_coeff": -0.5, "kl_coeff": 1.0}, ("sparsity_coeff", "-0.5", "at least 0")),
        ({"sparsity_coeff": math.nan, "kl_coeff": 1.0}, ("sparsity_coeff", "nan")),
        (
            {"sparsity_coeff": 1.0, "kl_coeff": -1.0},
            ("kl_coeff", "-1.0", "None or a number"),
        ),
        ({"sparsity_coeff": 1.0, "local_coeff": -2.0}, ("local_coeff", "-2.0")),
        ({"sparsity_coeff": 1.0, "downstream_coeff": -2.0}, ("downstream_coeff", "-2.0")),
        (
            {"sparsity_coeff": 1.0, "kl_coeff": 1.0, "p_norm": 0.0},
            ("p_norm", "0.0", "above 0"),
        ),
        ({"sparsity_coeff": 1.0}, ("local_coeff", "kl_coeff", "downstream_coeff", "above 0")),
        ({"sparsity_coeff": 1.0, "kl_coeff": 0.0}, ("kl_coeff", "above 0")),
    ],
)
def test_weights_that_are_not_allowed(values, parts):
    with pytest.raises(ConfigError) as caught:
        Objective(**values)
    assert_sentence(caught, *parts)


def test_an_unknown_objective():
    with pytest.raises(ConfigError) as caught:
        named_objective("e2e+ds", 1.0)
    assert_sentence(caught, "objective", "'e2e+ds'", "local, e2e, e2e_ds")
