"""The SAE's arithmetic in blocks: equal to the plain formulas, forward and backward."""

import pytest
import torch

from e2e_lib.core.losses import sparsity_loss
from e2e_lib.core.sae import SAE
from e2e_lib.engine import sae_kernel
from e2e_lib.engine.sae_kernel import autoencode
from tests.helpers import oracle
from tests.helpers.tiny_models import small_sae

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def test_by_hand():
    x = torch.tensor([[[1.0, 2.0], [-1.0, 0.5]]])
    W_enc = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    b_enc = torch.tensor([0.0, 0.0, -1.0])
    W_dec = torch.tensor([[2.0, 0.0], [0.0, -5.0], [3.0, 4.0]])  # unit: (1, 0), (0, -1), (.6, .8)
    b_dec = torch.tensor([10.0, 20.0])
    # codes: (1, 0, 1) and (0, 1, 0)
    found = autoencode(x, W_enc, b_enc, W_dec, b_dec, 2.0)
    torch.testing.assert_close(found.output, torch.tensor([[[11.6, 20.8], [10.0, 19.0]]]))
    assert found.penalty.tolist() == [[2.0, 1.0]]
    assert found.l0.tolist() == [[2.0, 1.0]]
    assert found.fired.tolist() == [1.0, 1.0, 1.0]
    uncounted = autoencode(x, W_enc, b_enc, W_dec, b_dec, count=False)
    assert torch.equal(uncounted.output, found.output)
    assert torch.isnan(uncounted.l0).all()
    assert (uncounted.fired > 0).tolist() == [True, True, True]


def loss_and_gradients(output, norms, x, weights):
    """A loss that weighs every part of the output and of the norms differently."""
    generator = torch.Generator().manual_seed(5)
    pull = torch.randn(output.shape, generator=generator)
    weight = torch.rand(norms.shape, generator=generator)
    loss = (output * pull).mean() + output.square().mean() + (norms * weight).mean()
    return loss, torch.autograd.grad(loss, [x, *weights])


@pytest.mark.parametrize("shift", [0.0, -1.0, -1e3], ids=["dense", "sparse", "nothing fires"])
@pytest.mark.parametrize("block", [1, 1 << 20], ids=["many blocks", "one block"])
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_equal_to_the_plain_formulas(monkeypatch, p, block, shift):
    monkeypatch.setattr(
        sae_kernel, "BLOCK_VALUES", block
    )  # at least 64 latents a block all the same
    sae = small_sae(d_sae=150, seed=3)
    with torch.no_grad():
        sae.b_enc += shift
        sae.W_dec *= torch.rand(150, 1) * 3 + 0.1
    x = torch.randn(4, 5, sae.d_in, requires_grad=True)
    ours = [getattr(sae, name) for name in NAMES]
    found = autoencode(x, *ours, p)
    norms = found.penalty ** (1 / p) if shift > -9 else found.penalty
    loss, gradients = loss_and_gradients(found.output, norms, x, ours)

    plain = {name: getattr(sae, name).detach().clone().requires_grad_() for name in NAMES}
    output, codes = oracle.autoencode(plain, x)
    norms = torch.linalg.vector_norm(codes, ord=p, dim=-1) if shift > -9 else codes.sum(-1)
    expected_loss, expected = loss_and_gradients(output, norms, x, list(plain.values()))
    torch.testing.assert_close(found.output, output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for name, mine, theirs in zip(("x", *NAMES), gradients, expected, strict=True):
        torch.testing.assert_close(
            mine, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n} {m}"
        )
    assert torch.equal(found.l0, (codes > 0).sum(-1).float())
    assert torch.equal(found.fired, (codes > 0).sum((0, 1)).float())


def test_latents_that_do_not_fire_cost_no_product(monkeypatch):
    """Their columns are left out, which is where sparse codes save work."""
    sae = small_sae(d_sae=100)
    with torch.no_grad():
        sae.b_enc[:80] = -1e3
    picked = []
    real = sae_kernel._in_use
    monkeypatch.setattr(
        sae_kernel, "_in_use", lambda fired: picked.append(real(fired)) or picked[-1]
    )
    sae.autoencode(torch.randn(50, sae.d_in)).output.sum().backward()
    assert [int(i) for i in picked[0]] == list(range(80, 100)), "all 20 of the others fire"
    assert not sae.W_enc.grad[:, :80].any() and not sae.W_dec.grad[:80].any()
    assert sae.W_enc.grad[:, 80:].any(0).all()


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_gradients_are_finite_where_all_codes_are_zero(p):
    sae = SAE(2, 3)
    with torch.no_grad():
        sae.b_enc[:] = torch.tensor([-1e3, -1e3, -1e3])
    found = sae.autoencode(torch.randn(4, 2), p)
    sparsity_loss(found.penalty, 2, p).backward()
    assert all(torch.isfinite(w.grad).all() and not w.grad.any() for w in (sae.W_enc, sae.b_enc))


def test_a_frozen_sae_passes_its_gradient_on():
    sae = small_sae().requires_grad_(False)
    x = torch.randn(3, sae.d_in, requires_grad=True)
    sae.autoencode(x).output.square().sum().backward()
    plain = x.detach().clone().requires_grad_()
    sae(plain).output.square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-5, atol=1e-5)


def test_without_gradient_nothing_is_kept():
    sae = small_sae()
    with torch.no_grad():
        assert sae.autoencode(torch.randn(3, sae.d_in)).output.grad_fn is None


def test_bfloat16_products_stay_close():
    sae, x = small_sae(d_sae=60), torch.randn(40, 12)
    plain = sae.autoencode(x).output
    with torch.autocast("cpu", torch.bfloat16):
        low = sae.autoencode(x)
    assert low.output.dtype == low.penalty.dtype == torch.float32
    assert (
        0
        < float((low.output - plain).detach().abs().max())
        < 0.05 * float(plain.detach().abs().max())
    )
    low.output.square().mean().backward()
    assert sae.W_enc.grad.dtype == torch.float32
