"""The shipped language model: near the bound, whole, and trained by what stands here."""

import json

import pytest

from e2e_lib.storyworld.corpus import STORYWORLD_FOLDER, TOKEN_IDS, build_tokenizer
from e2e_lib.storyworld.grammar import generate


@pytest.fixture(scope="module")
def language_model():
    return pytest.importorskip("e2e_lib.storyworld.language_model")


def test_shipped_model_is_within_five_percent_of_the_bound(language_model):
    model = language_model.load_language_model(STORYWORLD_FOLDER)
    shipped = json.loads((STORYWORLD_FOLDER / "training.json").read_text())
    measured = language_model.evaluate_language_model(model, shipped["stories"])
    assert 0.99 < measured["ratio"] <= 1.05
    assert measured["ce"] == pytest.approx(shipped["ce"], abs=1e-4)  # the file tells the truth
    # Other stories agree within the sampling error of a few hundred.
    others = language_model.evaluate_language_model(model, n_stories=200, seed=21)
    assert abs(others["excess"] - shipped["excess"]) < 4 * others["excess_stderr"]


def test_shipped_tokenizer_is_the_built_one():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(str(STORYWORLD_FOLDER))
    text = next(generate(0)).text
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert shipped.decode(shipped(text)["input_ids"]) == text
    assert shipped.eos_token == shipped.pad_token == "<|endoftext|>"


def test_shipped_model_boots_in_transformer_lens(language_model, monkeypatch):
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bridge = TransformerBridge.boot_transformers(str(STORYWORLD_FOLDER), device="cpu")
    model = language_model.load_language_model(STORYWORLD_FOLDER)
    tokens = torch.tensor([[0, *(TOKEN_IDS[t] for t in next(generate(2)).tokens)]])
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(tokens, return_type="logits")
        expected = model(tokens).logits
    assert torch.allclose(logits, expected, atol=1e-4)
    assert cache["blocks.2.hook_resid_pre"].shape == (1, tokens.shape[1], model.config.n_embd)


def test_a_few_steps_reduce_the_loss_and_are_reproducible(language_model):
    config = language_model.LanguageModelConfig(
        steps=12, batch_size=4, n_layer=2, d_model=32, n_head=2, warmup=2
    )
    _, losses = language_model.train_language_model(config, progress=False)
    _, again = language_model.train_language_model(config, progress=False)
    assert losses == again
    assert losses[-1] < losses[0] - 0.3


def test_training_refuses_no_steps(language_model):
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        language_model.train_language_model(language_model.LanguageModelConfig(steps=0))
