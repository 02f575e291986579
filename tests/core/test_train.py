"""The training loop: equal to a hand-written one, whatever is trained beside it."""

import math
import re

import pytest
import torch

from e2e_lib.core.config import TrainConfig, learning_rate_factor
from e2e_lib.core.losses import Objective, named_objective
from e2e_lib.core.sae_run import build_saes
from e2e_lib.core.train import train
from e2e_lib.engine.records import DivergedError, paper_window
from e2e_lib.errors import ConfigError, ModelError
from e2e_lib.names import EVERY_OBJECTIVE
from tests.helpers.oracle import Adam, Terms, clipped, cosine_rate
from tests.helpers.oracle import losses as oracle_losses
from tests.helpers.tiny_models import D_MODEL, assert_sentence, random_tokens, small_sae, tiny_model

HOOK = "blocks.1.hook_resid_pre"
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")
SMALL = {"dict_ratio": 2.0, "batch_size": 4, "micro_batch_size": 4, "lr": 0.01}


def config(objective=None, hooks=(HOOK,), **values) -> TrainConfig:
    return TrainConfig(objective or named_objective("e2e", 0.3), hooks, **(SMALL | values))


def trained(configs, rows, **values):
    return train(tiny_model(), configs, rows, progress=False, **values)


def weights_of(run, hook=HOOK):
    return {n: getattr(run.saes[hook], n).detach().clone() for n in PARAMETERS}


def assert_same_weights(first, second, **tolerance):
    for name in PARAMETERS:
        torch.testing.assert_close(first[name], second[name], **tolerance)


# ------------------------------------------------------------------ the whole loop
@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_training_equals_a_hand_written_loop(name):
    model, rows, steps, clip = tiny_model(), random_tokens(24, 10), 6, 0.05
    run_config = config(
        named_objective(name, 0.3), micro_batch_size=2, grad_clip=clip, warmup_fraction=0.4, seed=5
    )
    weights = {
        n: getattr(build_saes(model, run_config)[HOOK], n).detach().clone().requires_grad_()
        for n in PARAMETERS
    }
    later = {"downstream_hooks": ("blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre")}
    terms = {
        "local": Terms(0.3, local=1.0),
        "e2e": Terms(0.3, kl=1.0),
        "e2e_ds": Terms(0.3, kl=0.5, downstream=2.5, **later),
        "finetune": Terms(0.3, local=1.0, kl=1.0, balanced=True),
        "finetune_ds": Terms(0.3, local=1.0, kl=1.0, downstream=2.5, balanced=True, **later),
        "gradmse": Terms(0.3, local=1.0, fisher=1.0, balanced=True),
    }[name]
    adam, norms = Adam(list(weights.values())), []
    for step in range(steps):
        sums = [torch.zeros_like(w) for w in weights.values()]
        for half in (0, 2):  # two micro-batches of two rows
            tokens, terms.draw = rows[4 * step + half : 4 * step + half + 2], 4 * step + half // 2
            loss = oracle_losses(model, tokens, {HOOK: weights}, terms)["loss"]
            for total, gradient in zip(
                sums, torch.autograd.grad(loss, list(weights.values())), strict=True
            ):
                total += gradient / 2
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in sums)))
        rate = cosine_rate(step, steps, 0.01, warmup=2, floor=0.1)  # 0.4 · 6 = 2 whole steps
        adam.step(clipped(sums, clip), rate)
    assert max(norms) > clip, "clipping must have happened"
    [run] = trained([run_config], rows, logs=steps)
    assert_same_weights(
        weights_of(run), {n: w.detach() for n, w in weights.items()}, rtol=1e-5, atol=1e-5
    )
    assert [e["grad_norm"] for e in run.curve] == pytest.approx(norms, rel=1e-4)
    moved = weights_of(run)["W_enc"] - build_saes(model, run_config)[HOOK].W_enc.detach()
    assert moved.abs().max() > 0.005, "a comparison of untrained weights would show nothing"


def test_a_list_gives_what_each_gives_alone():
    rows = random_tokens(20)
    configs = [
        config(named_objective("local", 0.3)),
        config(named_objective("e2e", 0.1), lr=0.003),
        config(named_objective("e2e_ds", 0.3), seed=3),
        config(Objective(0.1, 0.5, 0.5, 1.0), grad_clip=None, schedule="linear"),
        config(named_objective("e2e", 0.1), hooks=("blocks.2.hook_mlp_out",)),
    ]
    together = trained(configs, rows)
    for one, run in zip(configs, together, strict=True):
        [alone] = trained([one], rows)
        hook = one.hook_names[0]
        assert_same_weights(weights_of(run, hook), weights_of(alone, hook), rtol=0, atol=0)
        assert run.curve == alone.curve
        assert run.alive_paper == alone.alive_paper


def test_accumulated_gradients_equal_one_batch():
    rows = random_tokens(32)
    whole, halves = (
        weights_of(trained([config(batch_size=8, micro_batch_size=m)], rows)[0]) for m in (8, 4)
    )
    assert_same_weights(whole, halves, rtol=1e-4, atol=1e-5)


def test_the_seed_decides():
    rows = random_tokens(12)
    first, again, other = (weights_of(trained([config(seed=s)], rows)[0]) for s in (1, 1, 2))
    assert_same_weights(first, again, rtol=0, atol=0)
    assert not torch.allclose(first["W_enc"], other["W_enc"])


def test_global_randomness_is_neither_used_nor_moved():
    torch.manual_seed(8)
    state = torch.get_rng_state()
    first = weights_of(trained([config()], random_tokens(8))[0])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    assert_same_weights(first, weights_of(trained([config()], random_tokens(8))[0]), rtol=0, atol=0)


def test_training_lowers_the_loss_and_leaves_the_model_alone():
    model = tiny_model()
    before = {n: p.clone() for n, p in model.original_model.state_dict().items()}
    rows = random_tokens(4).repeat(60, 1)
    [run] = trained([config(named_objective("local", 0.01))], rows)
    assert run.curve[-1]["loss"] < 0.5 * run.curve[0]["loss"]
    after = model.original_model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in model.original_model.parameters())


# ------------------------------------------------------------------ what a run records
def test_the_curve_and_the_callback():
    seen = []
    rows = random_tokens(42)  # ten steps of four rows, and a remainder
    runs = trained(
        [config(), config(seed=1)], rows, logs=5, on_log=lambda i, entry: seen.append((i, entry))
    )
    assert [e["step"] for e in runs[0].curve] == [0, 2, 4, 6, 8, 9]
    assert [e["tokens"] for e in runs[0].curve] == [40, 120, 200, 280, 360, 400]
    assert runs[0].train_tokens == 400
    assert {"step", "tokens", "loss", "sparsity", "kl", "l0", "ce_increase", "grad_norm", "lr"} == (
        set(runs[0].curve[0])
    )
    assert [entry for i, entry in seen if i == 1] == runs[1].curve
    for entry in runs[0].curve:
        assert entry["loss"] == pytest.approx(0.3 * entry["sparsity"] + entry["kl"], rel=1e-5)
    norms = [e["grad_norm"] for e in runs[0].curve if e["step"] > 0]
    assert runs[0].grad_norm == pytest.approx(sum(norms) / len(norms))
    assert runs[0].train_seconds > 0


def test_a_coefficient_of_zero_logs_without_training():
    rows = random_tokens(12)
    plain = config(Objective(0.3, local_coeff=1.0))
    logged = config(Objective(0.3, local_coeff=1.0, kl_coeff=0.0, downstream_coeff=0.0))
    one, two = trained([plain, logged], rows)
    assert_same_weights(weights_of(one), weights_of(two), rtol=1e-5, atol=1e-6)
    assert {"kl", "downstream"} <= set(two.curve[0])
    assert not {"kl", "downstream"} & set(one.curve[0])
    assert two.curve[0]["kl"] > 0


def test_alive_paper_counts_the_late_window(monkeypatch):
    assert paper_window(25_000, 16 * 1024) == range(22_775, 22_806)
    assert paper_window(10, 40) == range(9, 10)
    [run] = trained([config()], random_tokens(40))
    assert run.alive_window_tokens == 40
    assert 0 < run.alive_paper[HOOK] <= 2 * D_MODEL


# ------------------------------------------------------------------ several hooks, warm starts
def test_frozen_saes_do_not_change_and_others_do(tmp_path):
    first, second = HOOK, "blocks.2.hook_resid_pre"
    saved = small_sae(18, seed=4)
    saved.save(tmp_path)
    run_config = config(hooks=(first, second), init_from={first: str(tmp_path)}, frozen=(first,))
    start = build_saes(tiny_model(), run_config)
    [run] = trained([run_config], random_tokens(20))
    for name in PARAMETERS:
        assert torch.equal(getattr(run.saes[first], name), getattr(start[first], name))
    assert not torch.allclose(run.saes[second].W_enc, start[second].W_enc)
    torch.testing.assert_close(start[first].W_enc.detach(), saved.W_enc.detach())
    x = torch.randn(3, D_MODEL)
    torch.testing.assert_close(start[first](x).output, saved(x).output)


def test_a_warm_start_trains_on(tmp_path):
    [run] = trained([config(named_objective("local", 0.01))], random_tokens(40))
    run.saes[HOOK].save(tmp_path)
    warm = config(named_objective("local", 0.01), init_from={HOOK: str(tmp_path)})
    [more] = trained([warm], random_tokens(40))
    assert more.curve[0]["loss"] < run.curve[0]["loss"]
    assert not torch.allclose(more.saes[HOOK].W_enc, run.saes[HOOK].W_enc)


def test_several_hooks_are_trained_at_once():
    hooks = (HOOK, "blocks.2.hook_mlp_out", "blocks.3.hook_attn_out")
    [run] = trained([config(hooks=hooks)], random_tokens(8))
    assert set(run.saes) == set(run.alive_paper) == set(hooks)


@pytest.mark.parametrize("content", [None, "other width"])
def test_a_warm_start_that_cannot_be(tmp_path, content):
    if content:
        small_sae(10, d_in=7).save(tmp_path)
    with pytest.raises((ModelError, ConfigError)) as caught:
        trained([config(init_from={HOOK: str(tmp_path)})], random_tokens(8))
    assert_sentence(caught, str(tmp_path))


# ------------------------------------------------------------------ the learning rate
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.0, 0.5, 1.0, 0.2 + 0.4 * (1 + math.cos(math.pi / 8)), 0.6, 0.2]),
        ("linear", [0.0, 0.5, 1.0, 0.2 + 0.8 * 7 / 8, 0.6, 0.2]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate(schedule, expected):
    c = config(schedule=schedule, warmup_fraction=0.2, min_lr_factor=0.2)
    found = [learning_rate_factor(step, 10, c) for step in (0, 1, 2, 3, 6, 10)]
    assert found == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate_factor(0, 10, config(warmup_fraction=0.0)) == pytest.approx(1.0)


def test_the_rate_is_the_one_used():
    [run] = trained([config(warmup_fraction=0.5)], random_tokens(16), logs=4)
    assert [e["lr"] for e in run.curve] == pytest.approx([0.0, 0.005, 0.01, 0.0055])


# ------------------------------------------------------------------ bad input
def test_divergence_is_said():
    with pytest.raises(DivergedError) as caught:
        trained(
            [config(named_objective("local", 0.3), lr=1e30, warmup_fraction=0.0)],
            random_tokens(40),
            logs=10,
        )
    assert re.search(r"(nan|inf)", str(caught.value))
    assert_sentence(caught, "lr below 1e+30", "sparsity_coeff 0.3", "local", "step")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"dict_ratio": 0.0}, ("dict_ratio", "0.0", "above 0")),
        ({"batch_size": 0}, ("batch_size", "0", "at least 1")),
        ({"micro_batch_size": 3}, ("micro_batch_size", "3", "divisor of batch_size (4)")),
        ({"micro_batch_size": 0}, ("micro_batch_size", "0", "divisor")),
        ({"lr": 0.0}, ("lr", "0.0", "above 0")),
        ({"lr": -1.0}, ("lr", "-1.0", "above 0")),
        ({"warmup_fraction": 1.0}, ("warmup_fraction", "1.0", "[0, 1)")),
        ({"schedule": "exponential"}, ("schedule", "'exponential'", "cosine", "linear")),
        ({"min_lr_factor": 2.0}, ("min_lr_factor", "2.0", "[0, 1]")),
        ({"grad_clip": 0.0}, ("grad_clip", "0.0", "None or a number above 0")),
        ({"hooks": ()}, ("hook_names", "()", "at least one hook")),
        ({"frozen": (HOOK,)}, ("frozen", HOOK, "fewer than all")),
        ({"init_from": {"elsewhere": "x"}}, ("init_from", "elsewhere", HOOK)),
    ],
)
def test_parameters_that_are_not_allowed(values, parts):
    with pytest.raises(ConfigError) as caught:
        config(**values)
    assert_sentence(caught, *parts)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: trained([], random_tokens(4)), ("configs", "at least one")),
        (lambda: trained([config()], random_tokens(3)), ("rows", "3", "batch_size (4)")),
        (
            lambda: trained([config(), config(batch_size=8)], random_tokens(8)),
            ("batch_size", "[4, 8]", "the same"),
        ),
        (
            lambda: trained([config(dict_ratio=0.05)], random_tokens(8)),
            ("dict_ratio", "0.05", "d_sae >= 1"),
        ),
        (
            lambda: trained(
                [config(named_objective("e2e_ds", 1.0), hooks=("blocks.3.hook_resid_pre",))],
                random_tokens(8),
            ),
            ("layer", "blocks.3", "before the last block (3)"),
        ),
        (
            lambda: trained([config(hooks=("blocks.9.hook_resid_pre",))], random_tokens(8)),
            ("hook", "blocks.9.hook_resid_pre", "0 to 3"),
        ),
        (
            lambda: trained(
                [config(Objective(1.0, kl_coeff=1.0, downstream_coeff=1.0,
                                  downstream_hooks=("blocks.0.hook_resid_pre",)))],
                random_tokens(8),
            ),
            ("downstream_hooks", "blocks.0.hook_resid_pre", HOOK),
        ),
    ],
)  # fmt: skip
def test_training_that_cannot_be(make, parts):
    with pytest.raises((ConfigError, ModelError)) as caught:
        make()
    assert_sentence(caught, *parts)
