"""Loading language models: sound folders, damaged ones, names without a network."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from e2e_lib.core.hooks import clean_pass
from e2e_lib.data.models import check_device, load_model, model_path
from e2e_lib.errors import ModelError
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from tests.helpers.tiny_models import (
    ARCHITECTURES,
    D_VOCAB,
    N_LAYERS,
    assert_sentence,
    copied_folder,
    model_folder,
    random_tokens,
    tiny_model,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_hub_model(architecture):
    tokens = random_tokens(3)
    expected = AutoModelForCausalLM.from_pretrained(model_folder(architecture)).eval()(tokens)
    found = tiny_model(architecture)(tokens)
    torch.testing.assert_close(found, expected.logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_processing_changes_the_basis_but_no_probability(architecture):
    tokens = random_tokens(3)
    raw, processed = tiny_model(architecture), tiny_model(architecture, processed=True)
    torch.testing.assert_close(
        F.log_softmax(processed(tokens), -1), F.log_softmax(raw(tokens), -1), rtol=1e-4, atol=1e-4
    )
    last = f"blocks.{N_LAYERS - 1}.hook_resid_post"
    streams = [m.run_with_cache(tokens)[1][last] for m in (raw, processed)]
    if architecture == "llama":  # RMSNorm does not centre, so nothing may be centred
        return
    assert not torch.allclose(*streams, atol=1e-3)
    torch.testing.assert_close(streams[1].mean(-1), torch.zeros(3, 10), rtol=0, atol=1e-4)


def test_a_loaded_model_is_frozen_and_in_evaluation_mode():
    model = tiny_model()
    assert not any(p.requires_grad for p in model.original_model.parameters())
    assert not any(module.training for module in model.original_model.modules())
    assert (model.cfg.n_layers, model.cfg.d_vocab) == (N_LAYERS, D_VOCAB)
    assert model.tokenizer("w3 w1", add_special_tokens=False)["input_ids"] == [3, 1]
    tokens = random_tokens(2)
    assert torch.equal(model(tokens), model(tokens)), "no dropout"


@pytest.mark.parametrize("processed", [False, True])
def test_random_weights_keep_sizes_and_lose_the_rest(processed):
    own = tiny_model(processed=processed)
    folder, tokens = str(model_folder("gpt2")), random_tokens(2)
    one, again, other = (
        load_model(folder, processed=processed, random_weights=seed) for seed in (1, 1, 2)
    )
    pairs = zip(one.original_model.parameters(), own.original_model.parameters(), strict=True)
    for shuffled, kept in pairs:
        assert not shuffled.requires_grad and shuffled.shape == kept.shape
        torch.testing.assert_close(shuffled.flatten().sort().values, kept.flatten().sort().values)
    assert torch.equal(one(tokens), again(tokens))
    for different in (other, own):
        assert not torch.allclose(one(tokens), different(tokens), atol=1e-2)
    found = clean_pass(one, tokens, []).logits
    torch.testing.assert_close(found, one(tokens), atol=1e-4, rtol=1e-4)


def test_half_precision_weights_are_widened(tmp_path):
    folder = copied_folder(tmp_path / "half")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert {p.dtype for p in load_model(str(folder)).original_model.parameters()} == {torch.float32}


def test_names():
    assert {name: model_path(name) for name in EMBEDDED_MODELS} == {
        name: str(folder) for name, folder in EMBEDDED_MODELS.items()
    }
    assert model_path("gpt2") == "gpt2"
    assert model_path("roneneldan/TinyStories-1M") == "roneneldan/TinyStories-1M"
    assert model_path(str(model_folder("gpt2"))) == str(model_folder("gpt2"))


@pytest.mark.parametrize(
    ("removed", "kind"),
    [
        (["tokenizer.json"], "tokenizer"),
        (["config.json"], "configuration"),
        (["model.safetensors"], "weights"),
    ],
)
def test_an_incomplete_folder(tmp_path, removed, kind):
    folder = copied_folder(tmp_path / "model")
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert_sentence(caught, "model", str(folder), f"no {kind}", removed[0])


@pytest.mark.parametrize("size", [0, 10, 5000, -10])
def test_truncated_weights(tmp_path, size):
    folder = copied_folder(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert_sentence(caught, "model", str(folder), "could not be loaded")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_json_file(tmp_path, name):
    folder = copied_folder(tmp_path / "model")
    (folder / name).write_text('{"model_type": ')
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert_sentence(caught, "model", str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "~/no/such/model", "some/deep/folder"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert_sentence(caught, "model", repr(name), "storyworld", "hub name")


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_a_hub_name_without_a_network(name):
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert_sentence(caught, "model", repr(name), "network")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu", ""])
def test_an_unknown_device(device):
    with pytest.raises(ModelError) as caught:
        load_model(str(model_folder("gpt2")), device)
    assert_sentence(caught, "device", repr(device), "cpu")


def test_known_devices():
    check_device("cpu")
    if torch.cuda.is_available():
        check_device("cuda")
        check_device("cuda:0")
