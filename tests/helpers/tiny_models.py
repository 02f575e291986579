"""Tiny random language models in the hub's folder layout, and small helpers, for the tests."""

import atexit
import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from e2e_lib.core.sae import SAE
from e2e_lib.data.models import load_model

N_LAYERS, D_MODEL, D_VOCAB, N_CTX = 4, 12, 30, 24
WORDS = ["<|endoftext|>", *(f"w{i}" for i in range(1, D_VOCAB))]  # the word wN has the id N

_SHAPE = {"vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
_NEOX_SHAPE = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(n_layer=N_LAYERS, n_head=2, n_embd=D_MODEL, n_positions=N_CTX, **_SHAPE),
    "gpt_neo": GPTNeoConfig(
        num_layers=N_LAYERS,
        attention_types=[[["global", "local"], N_LAYERS // 2]],
        num_heads=2,
        hidden_size=D_MODEL,
        window_size=4,
        max_position_embeddings=N_CTX,
        **_SHAPE,
    ),
    "llama": LlamaConfig(
        **_NEOX_SHAPE,
        num_key_value_heads=1,
        intermediate_size=20,
        max_position_embeddings=N_CTX,
        **_SHAPE,
    ),
    "gpt_neox": GPTNeoXConfig(
        **_NEOX_SHAPE, intermediate_size=20, max_position_embeddings=N_CTX, **_SHAPE
    ),
}
ARCHITECTURES = tuple(CONFIGS)


def reader(tokenizer: PreTrainedTokenizerFast, d_vocab: int = D_VOCAB) -> SimpleNamespace:
    """What reading rows needs of a language model."""
    return SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(d_vocab=d_vocab))


def build_tokenizer(eos: bool = True) -> PreTrainedTokenizerFast:
    """Word-level tokenizer whose ids are the positions in WORDS."""
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": WORDS[0], "eos_token": WORDS[0]} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=WORDS[0], **special)


@cache
def model_folder(architecture: str) -> Path:
    """A folder with a random model; made once a process, removed at its end. Do not write to it."""
    folder = Path(tempfile.mkdtemp(prefix=f"tiny_{architecture}_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(CONFIGS[architecture])
        with torch.no_grad():  # trained models have biases and scales that are not 0 and 1
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@cache
def tiny_model(architecture: str = "gpt2", processed: bool = False) -> TransformerBridge:
    """The model of that folder, frozen, shared by all tests of a process."""
    return load_model(str(model_folder(architecture)), processed=processed)


def copied_folder(target: Path, architecture: str = "gpt2") -> Path:
    """A copy of the model's folder that a test may damage."""
    return Path(shutil.copytree(model_folder(architecture), target))


def random_tokens(rows: int, positions: int = 10, seed: int = 0) -> Tensor:
    """Token ids from 1 up."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, D_VOCAB, (rows, positions), generator=generator)


def small_sae(d_sae: int = 20, seed: int = 0, d_in: int = D_MODEL) -> SAE:
    """A random SAE; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SAE(d_in, d_sae)


def identity_sae(d_in: int = D_MODEL) -> SAE:
    """An SAE that returns its input: x = relu(x) - relu(-x)."""
    sae = SAE(d_in, 2 * d_in)
    eye = torch.eye(d_in)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye], dim=0) * 3)  # rows are scaled to unit length on use
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def assert_sentence(caught: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    """The message is one sentence that contains `parts`: parameter, value, what is allowed."""
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith("."), text
    assert not re.search(r"[a-z][.!?] [A-Z]", text), f"more than one sentence: {text}"
    assert len(text) < 600, text
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"
