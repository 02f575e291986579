"""Models in GGUF files: read by transformers, kept as a folder, or refused in a sentence."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from e2e_lib.data import models
from e2e_lib.data.models import from_gguf, load_model, model_path
from e2e_lib.errors import ModelError
from pipeline.plan.model_size import model_shape
from tests.helpers.tiny_models import assert_sentence

WORDS = ["<|endoftext|>", "<|end|>", *"abcd", "ab", "cd"]
WIDTH, INNER, BLOCKS = 16, 24, 2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_gguf(file, seed=0):
    """A random LLaMA of two blocks; its tensors by name."""
    gguf = pytest.importorskip("gguf")
    file.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3] + [1] * (len(WORDS) - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output_norm": (WIDTH,), "output": (8, WIDTH)}
    for block in range(BLOCKS):
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        norms = dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,))
        wide = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{block}.{name}": s for name, s in (square | norms | wide).items()}
    rng = np.random.default_rng(seed)
    tensors = {f"{n}.weight": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_folder_with_a_gguf_file_is_a_model(tmp_path, cache):
    tensors = write_gguf(tmp_path / "own" / "m.gguf")
    model = load_model(str(tmp_path / "own"))
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.d_vocab) == (2, WIDTH, len(WORDS))
    [kept] = (cache / "e2e_lib").iterdir()
    weights = load_file(kept / "model.safetensors")
    for name, place in (("ffn_down", "mlp.down_proj"), ("attn_v", "self_attn.v_proj")):
        written = torch.from_numpy(tensors[f"blk.1.{name}.weight"])
        torch.testing.assert_close(weights[f"model.layers.1.{place}.weight"], written)
    assert model.tokenizer("abcd", add_special_tokens=False)["input_ids"] == [6, 7]
    assert model.tokenizer.eos_token == "<|end|>"
    assert model_shape(str(tmp_path / "own")) == (2, WIDTH, 32)
    assert model_path(str(tmp_path / "own")) == str(kept), "converted once"
    (tmp_path / "own" / "m.gguf").unlink()
    write_gguf(tmp_path / "other" / "m.gguf", seed=1)
    assert model_path(str(tmp_path / "other")) != str(kept), "by content, not by name"


def test_another_token_between_texts(tmp_path, cache):
    write_gguf(tmp_path / "own" / "m.gguf")
    model = load_model(str(from_gguf(tmp_path / "own" / "m.gguf", tmp_path / "x", WORDS[0])))
    assert model.tokenizer.eos_token_id == model.tokenizer.bos_token_id == 0


def test_gguf_files_that_are_no_model(tmp_path, cache):
    pytest.importorskip("gguf")
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF\x03\0\0\0")
        if name == "a":
            with pytest.raises(ModelError) as caught:
                load_model(str(tmp_path))
            assert_sentence(caught, "model", "a.gguf", "cannot read")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path))
    assert_sentence(caught, "model", "2 .gguf files", "one")
    assert not list(cache.rglob("*.safetensors"))


def test_without_the_package_it_is_said(tmp_path, cache, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(models, "find_spec", lambda n: None if n == "gguf" else real(n))
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path))
    assert_sentence(caught, "model", "m.gguf", "pip install gguf")
