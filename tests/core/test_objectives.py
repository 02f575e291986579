"""Objectives whose halves are balanced, against a plain loop with the model's own hooks."""

import pytest
import torch

from e2e_lib.core.hooks import apply_saes, clean_pass, hooks_to_keep, spliced_pass
from e2e_lib.core.losses import Objective, compute
from e2e_lib.core.sae import SAE
from e2e_lib.engine.model.probes import output_scores
from tests.helpers import oracle
from tests.helpers.tiny_models import D_MODEL, random_tokens, tiny_model

LATER = ("blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre")
PLACES = {"sae": "blocks.1.hook_resid_pre", "transcoder": "blocks.1.mlp.hook_in>"}
PLACES["transcoder"] += "blocks.1.hook_mlp_out"
DRAW = 7
# Of each objective the library's weights and the oracle's, none of them the usual one.
OBJECTIVES = {
    "finetune": (
        Objective(0.3, 1.5, 0.7, balanced=True),
        oracle.Terms(0.3, local=1.5, kl=0.7, balanced=True),
    ),
    "finetune_ds": (
        Objective(0.3, 1.5, 0.7, 2.5, LATER, balanced=True),
        oracle.Terms(0.3, local=1.5, kl=0.7, downstream=2.5, downstream_hooks=LATER, balanced=True),
    ),
    "gradmse": (
        Objective(0.3, 1.5, fisher_coeff=0.7, balanced=True),
        oracle.Terms(0.3, local=1.5, fisher=0.7, draw=DRAW, balanced=True),
    ),
    "reconstruction and Fisher, summed": (
        Objective(0.3, 1.5, fisher_coeff=0.7),
        oracle.Terms(0.3, local=1.5, fisher=0.7, draw=DRAW),
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("title", OBJECTIVES)
def test_value_and_every_gradient_are_those_of_a_plain_loop(title, place):
    model, tokens, name = tiny_model(), random_tokens(3), PLACES[place]
    objective, terms = OBJECTIVES[title]
    assert objective.name == (title if terms.balanced else "custom")
    transcodes = place == "transcoder"
    sae = SAE(D_MODEL, 20, d_out=D_MODEL if transcodes else None, skip=transcodes)
    if transcodes:
        torch.nn.init.normal_(sae.W_skip, std=0.3)
    weights = {n: p.detach().clone().requires_grad_() for n, p in sae.named_parameters()}
    assert len(weights) == 4 + transcodes
    expected = oracle.losses(model, tokens, {name: weights}, terms)
    expected["loss"].backward()

    saes = {name: sae}
    clean = clean_pass(model, tokens, [*hooks_to_keep(model, saes), *LATER])
    if objective.fisher_coeff is not None:
        clean.scores = output_scores(model, tokens, clean.hidden, [name], DRAW)
    if objective.needs_splice:
        run = spliced_pass(model, clean, saes, objective.downstream_hooks)
    else:
        run = apply_saes(clean, saes)
    [found] = compute([objective], clean, [run])
    found["loss"].backward()
    assert found.keys() == expected.keys()
    for term in expected:
        torch.testing.assert_close(found[term], expected[term], rtol=1e-5, atol=1e-5)
        assert float(expected[term].detach()) > 0.01, "a comparison of zeros would show nothing"
    if terms.balanced:  # the halves are equal, so that their mean is one of them
        halves = found["loss"] - 0.3 * found["sparsity"]
        torch.testing.assert_close(halves, 1.5 * found["reconstruction"], rtol=1e-5, atol=1e-5)
    for key, parameter in sae.named_parameters():
        largest = float(weights[key].grad.abs().max())
        assert largest > 1e-3, "a comparison of zeros would show nothing"
        torch.testing.assert_close(
            parameter.grad, weights[key].grad, rtol=1e-5, atol=1e-5 * max(1, largest)
        )
