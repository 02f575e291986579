"""Metrics against plain arithmetic on the concatenated data."""

import numpy as np
import pytest
import torch

from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.hooks import clean_pass, spliced_pass
from e2e_lib.engine.sums import Reconstruction
from tests.helpers.oracle import autoencode
from tests.helpers.tiny_models import (
    ARCHITECTURES,
    N_LAYERS,
    identity_sae,
    random_tokens,
    small_sae,
    tiny_model,
)

HOOK = "blocks.2.hook_resid_pre"
LAST = f"blocks.{N_LAYERS - 1}.hook_resid_post"


def test_explained_variance_is_a_ratio_of_sums_over_all_batches():
    batches = [(torch.randn(2, 5, 3) + i, torch.randn(2, 5, 3) * (i + 1) + 4) for i in range(3)]
    found = Reconstruction()
    for predicted, target in batches:
        found.add(predicted, target)
    p, t = (np.concatenate([b[i].double().numpy() for b in batches]) for i in (0, 1))
    p2, t2 = p.reshape(-1, 3), t.reshape(-1, 3)
    error, spread = ((p2 - t2) ** 2).sum(), ((t2 - t2.mean(0)) ** 2).sum()
    result = found.result()
    assert result["explained_variance"] == pytest.approx(1 - error / spread, rel=1e-6)
    assert result["mse"] == pytest.approx(((p - t) ** 2).mean(), rel=1e-6)
    assert result["mse_after_first"] == pytest.approx(((p - t)[:, 1:] ** 2).mean(), rel=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_papers_explained_variance(swapped):
    batches = [(torch.randn(2, 5, 3), torch.randn(2, 5, 3) * 2 + 1) for _ in range(3)]
    found, per_token = Reconstruction(), []
    for predicted, target in batches:
        found.add(predicted, target, swapped=swapped)
        p, t = (x.numpy().reshape(-1, 3) for x in (predicted, target))
        if swapped:
            p, t = t, p
        centre = t.mean(0)  # of this batch alone
        per_token += [
            1 - ((a - b) ** 2).sum() / ((b - centre) ** 2).sum() for a, b in zip(p, t, strict=True)
        ]
    assert found.result()["explained_variance_paper"] == pytest.approx(np.mean(per_token), rel=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1.7, 1e6])
@pytest.mark.parametrize("swapped", [False, True])
def test_what_has_no_spread_has_no_explained_variance(constant, swapped):
    """An activation that never moves; and a dead dictionary, whose output is the bias alone."""
    still = torch.full((2, 50, 3), constant) * torch.tensor([1.0, 0.3, -0.77])
    moving = torch.randn(2, 50, 3)
    for predicted, target in ((moving, still), (still, moving), (still, still + 1e-9)):
        found = Reconstruction()
        found.add(predicted, target, swapped=swapped)
        result = found.result()
        assert np.isfinite(result["mse"])
        without = "explained_variance" if target is not moving else "explained_variance_paper"
        if target is moving and not swapped:
            assert np.isfinite(list(result.values())).all()
        elif target is not moving or swapped:
            assert np.isnan(result[without])
        for value in result.values():
            assert np.isnan(value) or abs(value) < 1e13


def test_a_dead_dictionary_and_an_activation_of_zeros_are_evaluated():
    model, dead = tiny_model(), small_sae()
    with torch.no_grad():
        dead.b_enc.fill_(-1e9)
        dead.b_dec.uniform_(-1, 1)
    [found] = evaluate(model, [{HOOK: dead}], random_tokens(4))
    metrics = found.saes[HOOK]
    assert metrics["alive"] == metrics["l0"] == 0
    assert np.isnan(metrics["explained_variance_paper"])
    assert np.isfinite([metrics["explained_variance"], metrics["l2_ratio"]]).all()


def test_a_perfect_and_a_constant_prediction():
    target = torch.randn(2, 50, 3)
    perfect, constant = Reconstruction(), Reconstruction()
    perfect.add(target, target)
    constant.add(target.mean((0, 1)).expand_as(target), target)
    assert perfect.result()["explained_variance"] == 1
    assert constant.result()["explained_variance"] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def case():
    """An SAE evaluated on ten rows, and everything the metrics are made of, in one piece."""
    model, rows, sae = tiny_model(), random_tokens(10, 8), small_sae()
    [found] = evaluate(model, [{HOOK: sae}], rows, batch_size=4)
    clean = clean_pass(model, rows, [HOOK, "blocks.3.hook_resid_pre", LAST])
    run = spliced_pass(model, clean, {HOOK: sae}, ["blocks.3.hook_resid_pre", LAST])
    return rows, sae, found, clean, run


def numpy_log_softmax(logits: torch.Tensor) -> np.ndarray:
    x = logits.detach().double().numpy()
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_model_metrics(case):
    rows, _, found, clean, run = case
    p, q, t = numpy_log_softmax(clean.logits), numpy_log_softmax(run.logits), rows.numpy()
    ce = [-np.mean([x[b, i, t[b, i + 1]] for b in range(10) for i in range(7)]) for x in (p, q)]
    expected = {
        "ce_clean": ce[0],
        "ce_spliced": ce[1],
        "ce_increase": ce[1] - ce[0],
        "kl": (np.exp(p) * (p - q)).sum(-1).mean(),
        "top1_agreement": (p.argmax(-1) == q.argmax(-1)).mean(),
        "eval_tokens": 80,
    }
    assert found.model == pytest.approx(expected, rel=1e-4)
    assert 0 < expected["top1_agreement"] < 1


def test_latent_metrics(case):
    _, sae, found, clean, _run = case
    output, codes = autoencode(dict(sae.named_parameters()), clean.activations[HOOK])
    active = (codes > 0).numpy()
    metrics = found.saes[HOOK]
    assert metrics["l0"] == pytest.approx(active.sum(-1).mean(), rel=1e-5)
    assert metrics["alive"] == active.any((0, 1)).sum()
    np.testing.assert_allclose(found.frequency[HOOK].numpy(), active.mean((0, 1)), rtol=1e-5)
    ratio = (output.norm(dim=-1) / clean.activations[HOOK].norm(dim=-1)).detach().numpy()
    assert metrics["l2_ratio"] == pytest.approx(ratio.mean(), rel=1e-5)
    assert metrics["l2_ratio_first"] == pytest.approx(ratio[:, 0].mean(), rel=1e-5)
    assert metrics["l2_ratio_after_first"] == pytest.approx(ratio[:, 1:].mean(), rel=1e-5)
    error = (output - clean.activations[HOOK]).detach().numpy()
    assert metrics["mse"] == pytest.approx((error**2).mean(), rel=1e-5)


def test_the_papers_explained_variance_is_swapped_at_the_sae(case):
    _, sae, found, clean, _ = case
    output, _ = autoencode(dict(sae.named_parameters()), clean.activations[HOOK])
    per_token = []
    for x, x_hat in zip(clean.activations[HOOK].split(4), output.detach().split(4), strict=True):
        spread = (x_hat - x_hat.mean((0, 1))).square().sum(-1)
        per_token += (1 - (x - x_hat).square().sum(-1) / spread).flatten().tolist()
    assert found.saes[HOOK]["explained_variance_paper"] == pytest.approx(
        np.mean(per_token), rel=1e-4
    )


def test_block_metrics(case):
    _, _, found, clean, run = case
    table = found.blocks.set_index("block")
    assert table.hook.to_dict() == {2: HOOK, 3: "blocks.3.hook_resid_pre", 4: LAST}
    for block, hook in ((3, "blocks.3.hook_resid_pre"), (4, LAST)):
        p, t = (x.activations[hook].detach().numpy().reshape(80, -1) for x in (run, clean))
        spread = ((t - t.mean(0)) ** 2).sum()
        assert table.mse[block] == pytest.approx(((p - t) ** 2).mean(), rel=1e-4)
        assert table.explained_variance[block] == pytest.approx(
            1 - ((p - t) ** 2).sum() / spread, rel=1e-4
        )


def test_row_metrics_average_to_the_models(case):
    rows, _, found, *_ = case
    assert list(found.rows.columns) == ["row", "ce_clean", "ce_increase", "kl", "l0"]
    assert len(found.rows) == len(rows)
    assert found.rows.dtypes.drop("row").map(lambda d: d.kind).eq("f").all()
    for name in ("ce_clean", "ce_increase", "kl"):
        assert found.rows[name].mean() == pytest.approx(found.model[name])
    assert found.rows.l0.mean() == pytest.approx(found.saes[HOOK]["l0"], rel=1e-6)


def test_alive_is_a_count_of_latents_that_fire_at_least_once():
    sae = small_sae()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.b_enc[3] = 1e6
    [found] = evaluate(tiny_model(), [{HOOK: sae}], random_tokens(3))
    assert found.saes[HOOK]["alive"] == 1
    assert found.saes[HOOK]["l0"] == 1
    assert found.frequency[HOOK].tolist() == [float(i == 3) for i in range(20)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("hook", [HOOK, "blocks.1.hook_mlp_out"])
def test_the_identity_changes_nothing(architecture, hook):
    model, rows, sae = tiny_model(architecture), random_tokens(4), identity_sae()
    [found] = evaluate(model, [{hook: sae}], rows)
    assert found.model["ce_increase"] == pytest.approx(0, abs=1e-5)
    assert found.model["kl"] == pytest.approx(0, abs=1e-6)
    assert found.model["top1_agreement"] == 1
    assert found.blocks.mse.max() < 1e-8
    assert found.blocks.explained_variance.min() > 1 - 1e-6
    assert found.saes[hook]["l2_ratio"] == pytest.approx(1, abs=1e-5)
    clean = clean_pass(model, rows, [hook])
    torch.testing.assert_close(spliced_pass(model, clean, {hook: sae}).logits, clean.logits)


def test_batches_and_neighbours_do_not_matter():
    model, rows = tiny_model(), random_tokens(7)
    sets = [{HOOK: small_sae(seed=0)}, {"blocks.1.hook_mlp_out": small_sae(seed=1)}]
    together = evaluate(model, sets, rows, batch_size=3)
    for one, found in zip(sets, together, strict=True):
        [alone] = evaluate(model, [one], rows, batch_size=7)
        assert found.model == pytest.approx(alone.model, rel=1e-4)
        for hook, metrics in found.saes.items():
            ours = {k: v for k, v in metrics.items() if not k.endswith(("_paper", "_layernorm"))}
            assert ours == pytest.approx({k: alone.saes[hook][k] for k in ours}, rel=1e-4)


def test_several_saes_at_once():
    saes = {"blocks.1.hook_resid_post": small_sae(seed=0), "blocks.2.hook_mlp_out": small_sae(30)}
    [found] = evaluate(tiny_model(), [saes], random_tokens(4))
    assert set(found.saes) == set(found.frequency) == set(saes)
    blocks = dict(zip(found.blocks.hook, found.blocks.block, strict=True))
    assert blocks["blocks.1.hook_resid_post"] == 2, "resid_post of block 1 is the stream before 2"
    assert blocks[LAST] == N_LAYERS


def test_an_sae_at_the_very_end():
    [found] = evaluate(tiny_model(), [{LAST: identity_sae()}], random_tokens(2))
    assert found.blocks.hook.tolist() == [LAST]
    assert found.model["kl"] == pytest.approx(0, abs=1e-6)
