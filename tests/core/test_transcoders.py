"""Transcoders: what one hook has becomes what another has; against plain torch, and everywhere."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.hooks import apply_saes, clean_pass, hooks_to_keep, later_blocks, spliced_pass
from e2e_lib.core.losses import Objective, compute, named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.train import Trainer, train
from e2e_lib.data.formats.sae_files import read_sae, write_sae
from e2e_lib.engine.model.probes import check_hook, hook_widths, output_scores
from e2e_lib.errors import ConfigError, ModelError
from e2e_lib.finetune.calibrate import calibrate
from e2e_lib.names import EVERY_OBJECTIVE, SPARSIFIERS
from tests.helpers import oracle
from tests.helpers.tiny_models import D_MODEL, assert_sentence, random_tokens, tiny_model

READ, MADE = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
PAIR = f"{READ}>{MADE}"
PAIRS = {  # and how wide what they make is
    PAIR: D_MODEL,
    f"blocks.1.ln2.hook_normalized>{MADE}": D_MODEL,
    f"{READ}>blocks.1.mlp.hook_post": 4 * D_MODEL,
}
LATER = ("blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre")
OBJECTIVES = {
    "local": Objective(0.7, local_coeff=1.0),
    "e2e": Objective(0.3, kl_coeff=1.0),
    "all terms": Objective(0.3, 0.7, 0.5, 2.5, downstream_hooks=LATER),
}


def transcoder(d_out=D_MODEL, skip=True, **options) -> SAE:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sae = SAE(D_MODEL, 20, d_out=d_out, skip=skip, **options)
        if skip:
            torch.nn.init.normal_(sae.W_skip, std=0.3)
    return sae


def config(sparsifier="relu", objective="local", **values):
    k = 5 if SPARSIFIERS[sparsifier].holds_k else None
    values = {"dict_ratio": 4.0, "batch_size": 4, "micro_batch_size": 4, "lr": 1e-2} | values
    weighed = named_objective(objective, 0.0 if k else 0.1)
    return TrainConfig(weighed, (PAIR,), sparsifier=sparsifier, k=k, **values)


# ------------------------------------------------------------------ by hand
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("pair", PAIRS)
def test_losses_and_gradients_are_those_of_a_plain_loop(pair, skip):
    model, tokens = tiny_model(), random_tokens(3)
    for title, objective in OBJECTIVES.items():
        sae = transcoder(PAIRS[pair], skip)
        w = {n: p.detach().clone().requires_grad_() for n, p in sae.named_parameters()}
        assert len(w) == 4 + skip
        terms = oracle.Terms(
            objective.sparsity_coeff,
            objective.local_coeff,
            objective.kl_coeff,
            objective.downstream_coeff,
            objective.downstream_hooks,
        )
        expected = oracle.losses(model, tokens, {pair: w}, terms)
        expected["loss"].backward()
        saes = {pair: sae}
        clean = clean_pass(model, tokens, [*hooks_to_keep(model, saes), *LATER])
        if objective.needs_splice:
            run = spliced_pass(model, clean, saes, objective.downstream_hooks)
        else:
            run = apply_saes(clean, saes)
        [found] = compute([objective], clean, [run])
        found["loss"].backward()
        assert found.keys() == expected.keys(), title
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
        for name, parameter in sae.named_parameters():
            largest = float(w[name].grad.abs().max())
            assert largest > 1e-4, "a comparison of zeros would show nothing"
            torch.testing.assert_close(
                parameter.grad, w[name].grad, rtol=1e-5, atol=1e-5 * max(1, largest)
            )


def test_what_the_output_hears_of_the_second_hook_weighs_its_error():
    model, tokens = tiny_model(), random_tokens(2)
    saes = {PAIR: transcoder()}
    clean = clean_pass(model, tokens, hooks_to_keep(model, saes))
    scores, alone = (output_scores(model, tokens, clean.hidden, [h], 0) for h in (PAIR, MADE))
    torch.testing.assert_close(scores[PAIR], alone[MADE])
    clean.scores = scores
    run = apply_saes(clean, saes)
    [terms] = compute([named_objective("gradmse", 0.1)], clean, [run])
    error = run.outputs[PAIR] - clean.activations[MADE]
    along = (error * scores[PAIR]).sum(-1)
    torch.testing.assert_close(terms["fisher"], (1 + along**2).sqrt().mean() - 1)


def test_dead_latents_learn_what_skip_and_living_ones_leave_of_the_target():
    sae = transcoder(d_out=8, sparsifier="topk", k=3)
    sae.sparsifier.auxk_coeff, sae.sparsifier.dead_after = 0.5, 1.0
    sae.sparsifier.silent[:4] = 2.0
    x, y = torch.randn(6, D_MODEL), torch.randn(6, 8)
    coded = sae.autoencode(x, target=y)
    z = (x @ sae.W_enc + sae.b_enc)[:, :4]
    left = y - sae(x).output
    expected = F.mse_loss(z @ sae.dictionary[:4], left)
    torch.testing.assert_close(coded.auxiliary, 0.5 * expected)
    torch.testing.assert_close(coded.output, sae(x).output)
    coded.auxiliary.backward()
    assert sae.W_skip.grad is None  # the objective alone moves it


def test_metrics_are_of_what_is_made():
    model, tokens, sae = tiny_model(), random_tokens(4), transcoder().requires_grad_(False)
    [found] = evaluate(model, [{PAIR: sae}], tokens)
    _, clean = oracle.clean(model, tokens)
    error, y = sae(clean[READ]).output - clean[MADE], clean[MADE].flatten(0, 1)
    metrics = found.saes[PAIR]
    assert metrics["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    spread = (y - y.mean(0)).square().sum()
    expected = 1 - float(error.square().sum() / spread)
    assert metrics["explained_variance"] == pytest.approx(expected, rel=1e-5)
    sizes = sae(clean[READ]).output.norm(dim=-1) / clean[MADE].norm(dim=-1)
    assert metrics["l2_ratio"] == pytest.approx(float(sizes.mean()), rel=1e-5)
    assert list(found.blocks["hook"]) == [PAIR, *LATER, "blocks.3.hook_resid_post"]
    assert later_blocks(model, [PAIR]) == LATER


# ------------------------------------------------------------------ in a training
@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_every_objective_trains_every_sparsifier(sparsifier):
    model, rows = tiny_model(), random_tokens(40)
    configs = [config(sparsifier, name, skip=True) for name in EVERY_OBJECTIVE]
    starts = [run.saes[PAIR].state_dict() for run in Trainer(model, configs, rows).runs]
    starts = [{name: tensor.clone() for name, tensor in start.items()} for start in starts]
    for run, start in zip(train(model, configs, rows, progress=False), starts, strict=True):
        now, name = run.saes[PAIR].state_dict(), run.config.objective.name
        assert not start["W_skip"].any() and now["W_skip"].any(), name
        assert all(not torch.equal(now[n], start[n]) for n in ("W_enc", "W_dec", "b_dec")), name
        assert run.curve[-1]["loss"] < run.curve[1]["loss"] or name != "local"
        if SPARSIFIERS[sparsifier].calibrated:
            calibrate(model, run.saes, rows)
            [found] = evaluate(model, [run.saes], rows)
            assert found.saes[PAIR]["l0"] == pytest.approx(5, rel=0.01), name


def test_a_start_has_the_widths_and_the_skip_of_its_folder(tmp_path):
    model, rows = tiny_model(), random_tokens(4)
    transcoder().save(tmp_path, {"hook_name": PAIR})
    start = {"init_from": {PAIR: str(tmp_path)}}
    [run] = Trainer(model, [config(skip=True, **start)], rows).runs
    assert torch.equal(run.saes[PAIR].W_skip, SAE.load(tmp_path).W_skip)
    for values in (
        {"skip": False},
        {"skip": True, "hook_names": (f"{READ}>blocks.1.mlp.hook_post",)},
    ):
        wanted = replace(config(skip=True), **values)
        wanted = replace(wanted, init_from={wanted.hook_names[0]: str(tmp_path)})
        with pytest.raises(ConfigError) as caught:
            Trainer(model, [wanted], rows)
        assert_sentence(caught, "init_from", "d_out", "skip")


# ------------------------------------------------------------------ files
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("sparsifier", ["relu", "jumprelu"])
def test_a_folder_of_saelens_holds_it(tmp_path, sparsifier, skip):
    sae, x = transcoder(8, skip, sparsifier=sparsifier), torch.randn(5, D_MODEL)
    sae.save(tmp_path, {"hook_name": PAIR})
    stored = read_sae(tmp_path)
    words = "jumprelu_" * (sparsifier == "jumprelu") + "skip_" * skip + "transcoder"
    assert (stored.architecture, stored.hook, stored.config["d_out"]) == (words, PAIR, 8)
    assert (stored.metadata["hook_name"], stored.metadata["hook_name_out"]) == (READ, MADE)
    for made in (SAE.load(tmp_path), SAE.from_stored(stored)):
        torch.testing.assert_close(made(x).output, sae(x).output)
    write_sae(tmp_path / "again", stored)
    assert read_sae(tmp_path / "again").config == stored.config
    with pytest.raises(ModelError) as caught:
        write_sae(tmp_path / "other", stored, "sparsify")
    assert_sentence(caught, "sparsify", "transcoder")


def test_what_no_file_holds_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ModelError) as caught:
        transcoder(sparsifier="topk", k=3).save(tmp_path / "sae", {"hook_name": PAIR})
    assert_sentence(caught, "topk transcoder", "batchtopk")
    assert not (tmp_path / "sae").exists()


# ------------------------------------------------------------------ bad pairs
def test_pairs_that_are_none():
    model = tiny_model()
    assert hook_widths(model, f"{READ}>blocks.1.mlp.hook_post") == (D_MODEL, 4 * D_MODEL)
    for name, part in (
        (f"{MADE}>{READ}", "the first is not reached before the second"),
        (f"{READ}>{READ}", "two different ones"),
        (f"{PAIR}>{READ}", "one hook or two"),
        (f"{READ}>blocks.1.hook_mlp_ou", "names like"),
        (f"{READ}>blocks.2.attn.hook_pattern", "shape"),
    ):
        with pytest.raises((ModelError, ConfigError)) as caught:
            hook_widths(model, name)
        assert_sentence(caught, part)
    check_hook(model, PAIR)
    with pytest.raises(ConfigError) as caught:
        replace(config(), hook_names=(MADE,), skip=True)
    assert_sentence(caught, "skip", "IN>OUT")
