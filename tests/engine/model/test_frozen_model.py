"""The model rebuilt without hook points computes what the bridge does, with the same weights."""

import pytest
import torch

from e2e_lib.data.models import load_model
from e2e_lib.engine.model import frozen_model
from e2e_lib.engine.model.frozen_model import runner
from tests.helpers.tiny_models import (
    ARCHITECTURES,
    N_LAYERS,
    model_folder,
    random_tokens,
    tiny_model,
)

HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_logits_without_the_bridge(architecture, processed):
    model, tokens = tiny_model(architecture, processed), random_tokens(3, 20)
    run = runner(model, [f"blocks.{i}.{hook}" for i in range(N_LAYERS) for hook in HOOKS])
    assert not any("Bridge" in type(module).__name__ for module in run.model.modules())
    with torch.no_grad():
        found, expected = run.head(run.hidden(tokens)), model(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_shared_and_not_copied(architecture):
    model = tiny_model(architecture)
    theirs = {p.data_ptr() for p in model.original_model.parameters()}
    copied = {
        name for name, p in runner(model, []).model.named_parameters() if p.data_ptr() not in theirs
    }
    joint = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}.get(architecture)
    assert {name.split(".")[-2] for name in copied} == ({joint} if joint else set())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_is_fused(monkeypatch, architecture):
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(args) or real(*args, **kwargs),
    )
    runner(tiny_model(architecture), []).hidden(random_tokens(2, 20))
    assert len(calls) == N_LAYERS


def test_the_windows_of_gpt_neo_are_kept():
    """Twenty tokens, a window of four: the first token must not reach the last in block 1 alone."""
    model, tokens = tiny_model("gpt_neo"), random_tokens(1, 20)
    run = runner(model, [])
    seen = {}
    handles = [
        run.blocks[1].register_forward_hook(lambda m, a, out: seen.update(out=out[0].detach())),
        run.blocks[0].register_forward_hook(lambda m, a, out: (a[0], *out[1:])),  # block 0: off
    ]
    try:
        run.hidden(tokens)
        before = seen["out"]
        run.hidden(torch.cat([(tokens[:, :1] + 1) % 30, tokens[:, 1:]], dim=1))
    finally:
        for handle in handles:
            handle.remove()
    changed = (before - seen["out"]).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [True] * 4 + [False] * 16


@pytest.mark.parametrize("hook", ["ln_final.hook_normalized", "blocks.1.attn.hook_pattern"])
def test_hooks_inside_the_bridge_run_the_bridge(hook):
    run = runner(tiny_model(), [hook])
    assert run.model is tiny_model().original_model


def test_a_model_that_cannot_be_rebuilt_runs_as_it_is(monkeypatch, capsys):
    model = load_model(str(model_folder("gpt2")))
    real = frozen_model.rebuilt_model

    def wrong(*given):
        rebuilt = real(*given)
        layer = rebuilt.transformer.h[1].mlp.c_fc
        layer.weight = torch.nn.Parameter(layer.weight * 1.1, requires_grad=False)
        return rebuilt

    monkeypatch.setattr(frozen_model, "rebuilt_model", wrong)
    run = runner(model, ["blocks.1.hook_resid_pre"])
    assert run.model is model.original_model
    said = capsys.readouterr().out
    assert said.startswith("This model runs as TransformerBridge wraps it, which is slower: ")
    assert "its logits differ by" in said
    runner(model, [])
    assert capsys.readouterr().out == "", "said once"


def test_building_it_leaves_the_global_generator_alone():
    model = load_model(str(model_folder("llama")))
    state = torch.get_rng_state()
    runner(model, [])
    assert torch.equal(state, torch.get_rng_state())
