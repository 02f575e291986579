"""The null channel: what the SAE sees and the network does not."""

import pytest
import torch
from torch import nn

from e2e_lib import SAE, TrainConfig, clean_pass, evaluate, load_model, named_objective, train
from e2e_lib.core.hooks import later_blocks, spliced_pass
from e2e_lib.core.losses import compute
from e2e_lib.data.rows import load_rows
from e2e_lib.engine import device
from e2e_lib.engine.model.null_channel import NULL_WIDTH, nuisance, unrotated, widened
from e2e_lib.engine.model.probes import check_hook, hook_width, replaced_pass
from e2e_lib.errors import ConfigError, ModelError

BASE = "blocks.2.hook_resid_pre"
HOOK = f"{BASE}.null_8"


@pytest.fixture(scope="module")
def model():
    return load_model("storyworld")


@pytest.fixture(scope="module")
def rows(model):
    world = ("storyworld", "storyworld")
    return load_rows(model, *world, n_train=64, n_validation=6, context_size=64)


@pytest.fixture(scope="module")
def tokens(rows):
    return rows.validation


def test_the_rotation_keeps_lengths_and_comes_back(tokens) -> None:
    x = torch.randn(*tokens.shape, 64)
    wide = widened(x, tokens, 8.0)
    assert wide.shape[-1] == 64 + NULL_WIDTH
    back = unrotated(wide)
    torch.testing.assert_close(back[..., :64], x, atol=1e-4, rtol=0)
    torch.testing.assert_close(back[..., 64:], 8 * nuisance(tokens), atol=1e-4, rtol=0)
    torch.testing.assert_close(wide.norm(dim=-1), back.norm(dim=-1))


def test_the_nuisance_is_sparse_has_variance_1_and_says_nothing_about_the_token() -> None:
    tokens = torch.randint(451, (200, 64))
    n = nuisance(tokens).flatten(0, 1)
    assert n.var(0).sum() == pytest.approx(1, abs=0.03)
    assert (n == 0).all(-1).float().mean() == pytest.approx((1 - 3 / 64) ** 64, abs=0.01)
    seen = tokens.flatten().bincount().argsort(descending=True)[:30]
    means = torch.stack([n[tokens.flatten() == token].mean(0) for token in seen]) - n.mean(0)
    assert means.norm(dim=1).square().mean() < 3 / (len(n) / 451)  # what chance makes: 1 / count


def test_the_nuisance_follows_from_the_tokens_so_far(tokens) -> None:
    other = tokens.clone()
    other[:, 30] = (other[:, 30] + 1) % 451
    torch.testing.assert_close(nuisance(tokens[:, :40]), nuisance(tokens)[:, :40])
    changed = (nuisance(other) != nuisance(tokens)).any(-1)
    assert not changed[:, :30].any() and changed[:, 30:].float().mean() > 0.95
    swapped = tokens.clone()  # the same words in another order
    swapped[:, [10, 11]] = tokens[:, [11, 10]]
    told = tokens[:, 10] != tokens[:, 11]
    assert (nuisance(swapped) != nuisance(tokens))[told, 20:].any(-1).float().mean() > 0.9


def test_the_output_depends_on_the_part_of_x_alone(model, tokens) -> None:
    clean = clean_pass(model, tokens, [HOOK, BASE])
    wide = clean.activations[HOOK]
    torch.testing.assert_close(wide, widened(clean.activations[BASE], tokens, 8.0))
    # Anything may stand in the null channel.
    noisy = unrotated(wide) + torch.cat(
        [torch.zeros(*tokens.shape, 64), 50 * torch.randn(*tokens.shape, NULL_WIDTH)], dim=-1
    )
    noisy = noisy @ torch.linalg.inv(unrotated(torch.eye(64 + NULL_WIDTH)))
    torch.testing.assert_close(
        replaced_pass(model, tokens, HOOK, noisy), clean.logits, atol=2e-2, rtol=0
    )
    at_base = clean.activations[BASE] + 1
    moved = unrotated(wide) + (torch.arange(64 + NULL_WIDTH) < 64).float()
    moved = moved @ torch.linalg.inv(unrotated(torch.eye(64 + NULL_WIDTH)))
    torch.testing.assert_close(
        replaced_pass(model, tokens, HOOK, moved),
        replaced_pass(model, tokens, BASE, at_base), atol=2e-3, rtol=1e-3,
    )  # fmt: skip


def test_local_pays_for_the_channel_and_the_output_does_not(model, tokens) -> None:
    """The terms of the loss, by hand."""
    sae = SAE(64 + NULL_WIDTH, 200)
    nn.init.normal_(sae.b_dec, std=0.3)
    clean = clean_pass(model, tokens, [HOOK, BASE, "blocks.4.hook_resid_pre"])
    own = spliced_pass(model, clean, {HOOK: sae}, ["blocks.4.hook_resid_pre"])
    [terms] = compute([named_objective("local", 1.0)], clean, [own])
    wide = widened(clean.activations[BASE], tokens, 8.0)
    output = sae(wide).output
    assert terms["reconstruction"].item() == pytest.approx((output - wide).square().mean().item())
    narrow = unrotated(output)[..., :64]
    logits = replaced_pass(model, tokens, BASE, narrow)
    torch.testing.assert_close(own.logits, logits, atol=1e-4, rtol=1e-4)


def test_what_end_to_end_training_sees_of_the_channel_is_nothing(model, tokens) -> None:
    """Twice the scale of the nuisance and a decoder that writes none of it: the same gradient."""
    sae = SAE(64 + NULL_WIDTH, 200)
    clean = clean_pass(model, tokens, [HOOK, BASE])
    own = spliced_pass(model, clean, {HOOK: sae})
    [terms] = compute([named_objective("e2e", 0.0)], clean, [own])
    terms["loss"].backward()
    written = unrotated(sae.b_dec.grad)
    assert written[:64].norm() > 0
    assert written[64:].norm() < 1e-5 * written[:64].norm()


def test_training_and_evaluation_run_at_a_null_channel(monkeypatch, model, rows) -> None:
    monkeypatch.setattr(device, "bf16_pays", lambda name: True)
    saes = {}
    for name, coeff, precision in (("local", 0.3, "fp32"), ("e2e_ds", 1.0, "bf16")):
        config = TrainConfig(
            named_objective(name, coeff), (HOOK,), dict_ratio=2.0, lr=1e-2, batch_size=8,
            micro_batch_size=8, precision=precision,
        )  # fmt: skip
        [run] = train(model, [config], rows.train, progress=False)
        saes[name] = run.saes
        assert run.saes[HOOK].d_in == 64 + NULL_WIDTH
    for found in evaluate(model, list(saes.values()), rows.validation):
        assert found.saes[HOOK]["l0"] > 0 and found.model["kl"] > 0
        assert list(found.blocks.hook[:2]) == [HOOK, "blocks.3.hook_resid_pre"]


def test_width_and_unknown_hooks(model) -> None:
    assert hook_width(model, HOOK) == 80
    assert NULL_WIDTH == 16
    with pytest.raises(ModelError, match="no such hook"):
        check_hook(model, "blocks.9.hook_resid_pre.null_8")
    for scale in ("x", "0", "0.0", "-1", "1e999", ""):
        with pytest.raises(ModelError, match="no such hook"):
            check_hook(model, f"{BASE}.null_{scale}")
    with pytest.raises(ConfigError, match="of shape"):
        hook_width(model, "blocks.2.attn.hook_attn_scores.null_8")


def test_blocks_after_a_null_channel_are_those_after_its_hook(model, tokens) -> None:
    """After a block, the next one's input is what the SAE put there: nothing to compare."""
    for name in ("blocks.2.hook_resid_post", "blocks.2.hook_resid_pre"):
        assert later_blocks(model, [f"{name}.null_8"]) == later_blocks(model, [name])
    after = "blocks.2.hook_resid_post.null_8"
    [found] = evaluate(model, [{after: SAE(64 + NULL_WIDTH, 90)}], tokens)
    assert found.blocks.block.tolist() == [3, 4, 5]
