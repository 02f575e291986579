"""Splicing: equal to two full hooked passes, but without the work that both passes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from e2e_lib.core.hooks import (
    apply_saes,
    clean_pass,
    hooks_to_keep,
    later_blocks,
    spliced_pass,
)
from e2e_lib.core.losses import Objective, compute
from e2e_lib.core.sae import SAE
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.engine.model.probes import hook_width, output_scores, replaced_pass
from e2e_lib.names import resid_pre
from tests.helpers import oracle
from tests.helpers.tiny_models import (
    ARCHITECTURES,
    D_MODEL,
    N_LAYERS,
    random_tokens,
    small_sae,
    tiny_model,
)

LATER = ("blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre")
HOOK_SETS = {
    "resid_pre": (("blocks.1.hook_resid_pre",), LATER),
    "first_resid_pre": (("blocks.0.hook_resid_pre",), LATER),
    "mlp_out": (("blocks.1.hook_mlp_out",), LATER),
    "attn_out": (("blocks.1.hook_attn_out",), LATER[1:]),
    "resid_post": (("blocks.1.hook_resid_post",), LATER[1:]),
    "three": (
        ("blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.2.hook_attn_out"),
        ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"),
    ),
}
OBJECTIVES = {
    "local": Objective(0.7, local_coeff=1.0),
    "local_p": Objective(0.7, local_coeff=2.0, p_norm=2.0),  # below 1: tests of coding
    "e2e": Objective(0.3, kl_coeff=1.0),
    "e2e_ds": Objective(0.3, kl_coeff=0.5, downstream_coeff=2.5),
    "ds_alone": Objective(0.3, downstream_coeff=2.5),
    "all_terms": Objective(0.3, 0.7, 0.5, 2.5, p_norm=1.5),
    "logged_only": Objective(0.0, local_coeff=0.0, kl_coeff=0.5, downstream_coeff=0.0),
}
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


def library_terms(model, saes, objective, tokens):
    """The loss terms by the library's own path."""
    needed = [*hooks_to_keep(model, saes), *objective.downstream_hooks]
    logits = objective.kl_coeff is not None
    clean = clean_pass(model, tokens, needed, logits=logits)
    p = objective.p_norm
    if objective.needs_splice:
        record = objective.downstream_hooks
        run = spliced_pass(model, clean, saes, record, logits=logits, p_norm=p)
    else:
        run = apply_saes(clean, saes, p_norm=p)
    [terms] = compute([objective], clean, [run])
    return terms


def oracle_weights(sae: SAE) -> oracle.Weights:
    return {n: getattr(sae, n).detach().clone().requires_grad_() for n in PARAMETERS}


@pytest.mark.parametrize("hook_set", HOOK_SETS)
@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_equal_the_oracle(architecture, processed, hook_set):
    model = tiny_model(architecture, processed)
    names, later = HOOK_SETS[hook_set]
    tokens = random_tokens(3)
    known = oracle.clean(model, tokens)
    for title, base in OBJECTIVES.items():
        wanted = later if base.downstream_coeff is not None else ()
        objective = Objective(**(vars(base) | {"downstream_hooks": wanted}))
        saes = {name: small_sae(seed=i) for i, name in enumerate(names)}
        weights = {name: oracle_weights(sae) for name, sae in saes.items()}
        terms = oracle.Terms(
            base.sparsity_coeff,
            base.local_coeff,
            base.kl_coeff,
            base.downstream_coeff,
            wanted,
            base.p_norm,
        )
        expected = oracle.losses(model, tokens, weights, terms, known)
        expected["loss"].backward()
        found = library_terms(model, saes, objective, tokens)
        found["loss"].backward()
        assert found.keys() == expected.keys(), title
        for name in expected:
            torch.testing.assert_close(
                found[name], expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
        for hook, sae in saes.items():
            for name in PARAMETERS:
                ours, theirs = getattr(sae, name).grad, weights[hook][name].grad
                if theirs is None:  # only the terms without weight would reach it
                    assert ours is None or not ours.any()
                    continue
                largest = float(theirs.abs().max())
                assert largest > 1e-4, "a comparison of zeros would show nothing"
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, largest))
    assert all(p.grad is None for p in model.original_model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spliced_pass_equals_the_oracle_everywhere(architecture):
    model, tokens = tiny_model(architecture), random_tokens(2)
    saes = {"blocks.2.hook_resid_pre": small_sae()}
    record = ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post", "blocks.2.hook_mlp_out")
    clean = clean_pass(model, tokens, [*saes, *record])
    logits, activations = oracle.clean(model, tokens)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-5)
    close(clean.logits, logits)
    for name in [*saes, *record]:
        close(clean.activations[name], activations[name])
    seen = oracle.splice(model, tokens, {n: oracle_weights(s) for n, s in saes.items()}, record)
    run = spliced_pass(model, clean, saes, record)
    close(run.logits, seen.logits)
    for name in record:
        close(run.activations[name], seen.recorded[name])
    assert not torch.allclose(run.logits, logits), "the SAE must change something"


def test_an_sae_after_another_reads_the_changed_activation():
    model, tokens = tiny_model(), random_tokens(2)
    first, second = "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"
    saes = {first: small_sae(seed=0), second: small_sae(seed=1)}
    clean = clean_pass(model, tokens, [first, second])
    run = spliced_pass(model, clean, saes, [second])
    alone = spliced_pass(model, clean, {first: saes[first]}, [second])
    torch.testing.assert_close(run.inputs[second], alone.activations[second])
    assert not torch.allclose(run.inputs[second], clean.activations[second])
    assert torch.equal(run.activations[second], run.outputs[second])
    local = apply_saes(clean, saes)
    assert torch.equal(local.inputs[second], clean.activations[second])


# ------------------------------------------------------------------ what is not computed
@contextmanager
def counted_blocks(model) -> Iterator[list[int]]:
    """How often each block's MLP ran."""
    calls = [0] * N_LAYERS
    handles = []
    sites = runner(model, []).sites
    for i in range(N_LAYERS):

        def count(module, args, output, i=i):
            calls[i] += 1

        mlp = sites[f"blocks.{i}.hook_mlp_out"].module
        handles.append(mlp.register_forward_hook(count))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_before_the_first_sae_are_not_run_again(architecture):
    model, tokens, hook = tiny_model(architecture), random_tokens(2), "blocks.2.hook_resid_pre"
    saes = {hook: small_sae()}
    clean = clean_pass(model, tokens, [hook])
    spliced_pass(model, clean, saes)  # the first one looks once at what blocks return
    with counted_blocks(model) as calls:
        spliced_pass(model, clean, saes)
    assert calls == [0, 0, 1, 1]
    with counted_blocks(model) as calls:
        clean_pass(model, tokens)
    assert calls == [1, 1, 1, 1], "the model must be whole again"
    with counted_blocks(model) as calls:
        spliced_pass(model, clean_pass(model, tokens), saes)  # nothing kept to start from
    assert calls == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("hook", "ran"),
    [
        ("blocks.2.hook_resid_pre", [1, 1, 0, 0]),
        ("blocks.1.hook_mlp_out", [1, 1, 0, 0]),
        ("blocks.3.hook_resid_post", [1, 1, 1, 1]),
        ("blocks.0.hook_resid_pre", [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_pass_without_logits_stops_early(architecture, hook, ran):
    model, tokens = tiny_model(architecture), random_tokens(2)
    with counted_blocks(model) as calls:
        clean = clean_pass(model, tokens, [hook], logits=False)
    assert calls == ran
    assert clean.logits is None
    torch.testing.assert_close(clean.activations[hook], oracle.clean(model, tokens)[1][hook])


def test_a_spliced_pass_without_logits_stops_after_the_last_recorded_hook():
    model, tokens = tiny_model(), random_tokens(2)
    saes = {"blocks.1.hook_resid_pre": small_sae()}
    clean = clean_pass(model, tokens, list(saes))
    record = ["blocks.2.hook_resid_pre"]
    with counted_blocks(model) as calls:
        run = spliced_pass(model, clean, saes, record, logits=False)
    assert calls == [0, 1, 0, 0]
    assert run.logits is None
    torch.testing.assert_close(
        run.activations[record[0]], spliced_pass(model, clean, saes, record).activations[record[0]]
    )


@pytest.mark.parametrize("hook", ["ln_final.hook_normalized", "blocks.1.ln2.hook_normalized"])
def test_hooks_off_the_residual_stream_are_found(hook):
    model, tokens = tiny_model(), random_tokens(2)
    clean = clean_pass(model, tokens, [hook], logits=False)
    torch.testing.assert_close(clean.activations[hook], oracle.clean(model, tokens)[1][hook])
    assert hook_width(model, hook) == D_MODEL


class BrokenSAE(SAE):
    def autoencode(self, x, p_norm=1.0, *, target=None, count=True):
        raise RuntimeError("broken on purpose")


def hook_count(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo"])
def test_the_model_is_whole_again_after_an_exception(architecture):
    model, tokens, hook = tiny_model(architecture), random_tokens(2), "blocks.2.hook_resid_pre"
    run = runner(model, [hook])
    hooks_before, before = hook_count(run.model), clean_pass(model, tokens).logits
    clean = clean_pass(model, tokens, [hook])
    with pytest.raises(RuntimeError, match="broken on purpose"):
        spliced_pass(model, clean, {hook: BrokenSAE(D_MODEL, 5)})
    assert hook_count(run.model) == hooks_before
    assert all("forward" not in vars(block) for block in run.blocks)
    assert torch.equal(clean_pass(model, tokens).logits, before), (
        "the failing hook must be gone too"
    )


def test_gradients_reach_the_sae_but_nothing_frozen():
    model, tokens, hook = tiny_model(), random_tokens(2), "blocks.2.hook_resid_pre"
    clean = clean_pass(model, tokens, [hook])
    assert not clean.logits.requires_grad
    assert not any(a.requires_grad for a in clean.activations.values())
    sae = small_sae()
    spliced_pass(model, clean, {hook: sae}).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in sae.parameters())
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------ hook names
@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["blocks.1.hook_resid_pre"], [2, 3]),
        (["blocks.1.hook_mlp_out"], [2, 3]),
        (["blocks.0.hook_resid_pre", "blocks.2.hook_attn_out"], [3]),
        (["blocks.3.hook_resid_pre"], []),
        (["blocks.1.hook_resid_post"], [3]),  # resid_pre 2 is the SAE's own output
        (["ln_final.hook_normalized"], []),
    ],
)
def test_later_blocks(names, layers):
    assert later_blocks(tiny_model(), names) == tuple(resid_pre(k) for k in layers)


# ------------------------------------------------------------------ gradients of the output
def test_scores_are_the_fisher_information():
    """½ (g · e)² is, over draws, the KL of a small error at a token, summed over all later ones."""
    model, hook = tiny_model(), "blocks.1.hook_resid_pre"
    tokens = random_tokens(3)
    clean = clean_pass(model, tokens, [hook])
    error = torch.zeros_like(clean.activations[hook])
    error[torch.arange(3), torch.tensor([2, 4, 6])] = torch.randn(3, D_MODEL) * 0.02
    changed = replaced_pass(model, tokens, hook, clean.activations[hook] + error)
    p, q = clean.logits.log_softmax(-1), changed.log_softmax(-1)
    expected = (p.exp() * (p - q)).sum((-1, -2))
    many = 50  # copies of the rows: so many draws in one pass
    given = model, tokens.repeat(many, 1), clean.hidden.repeat(many, 1, 1), [hook]
    draws = [output_scores(*given, draw)[hook] for draw in range(30)]
    products = torch.stack([g * error.repeat(many, 1, 1) for g in draws]).sum((-1, -2))
    found = products.reshape(-1, 3) ** 2 / 2  # draw, row
    assert len(found) == 1500
    margin = 4 * found.std(0) / len(found) ** 0.5 + 0.05 * expected
    assert ((found.mean(0) - expected).abs() < margin).all()
    assert (4 * found.std(0) / len(found) ** 0.5 < 0.25 * expected).all()  # the margin is narrow
    again = output_scores(*given, 7)[hook]
    assert torch.equal(again, draws[7]) and not torch.equal(again, draws[8])
