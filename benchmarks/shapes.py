"""The benchmark's shapes: a random language model of a known architecture, a batch and an SAE."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error


@dataclass(frozen=True)
class Shape:
    """What one training step sees."""

    config: PretrainedConfig
    rows: int  # of a batch
    context: int  # tokens in a row
    dict_ratio: float
    layer: int  # block whose input the SAE reads

    def changed(self, changes: dict[str, Any]) -> "Shape":
        """The same with other sizes: any field, or `vocabulary`, which another model has."""
        changes = dict(changes)
        config = copy.deepcopy(self.config)
        config.vocab_size = changes.pop("vocabulary", config.vocab_size)
        return replace(self, config=config, **changes)

    @property
    def hook(self) -> str:
        """The SAE's place."""
        return f"blocks.{self.layer}.hook_resid_pre"

    @property
    def width(self) -> int:
        """d_model."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model knows."""
        return int(self.config.vocab_size)

    @property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return int(self.config.num_hidden_layers)


# One block less than StoryWorld's shipped model.
STORYWORLD = GPT2Config(
    n_layer=4,
    n_embd=64,
    n_head=8,
    n_positions=128,
    vocab_size=512,
    activation_function="gelu_pytorch_tanh",
)
# The 260,000-parameter story teller of the llama2.c project.
LLAMA_260K = LlamaConfig(
    hidden_size=64,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    intermediate_size=172,
    vocab_size=512,
    max_position_embeddings=512,
)
SMOLLM2 = LlamaConfig(
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1536,
    vocab_size=49152,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
TINYSTORIES_1M = GPTNeoConfig(
    hidden_size=64,
    num_layers=8,
    attention_types=[[["global", "local"], 4]],
    num_heads=16,
    vocab_size=50257,
    max_position_embeddings=2048,
    window_size=256,
)


def shapes(device: str) -> dict[str, Shape]:
    """Every shape by name; GPT-2's batch is the paper's on an accelerator, and a small one on a
    CPU."""
    gpt2 = (2, 128) if device == "cpu" else (8, 1024)
    return {
        "storyworld": Shape(STORYWORLD, 16, 128, 20, 2),
        "llama-260k": Shape(LLAMA_260K, 8, 512, 50, 2),
        "tinystories-1m": Shape(TINYSTORIES_1M, 4, 512, 50, 4),
        "gpt2": Shape(GPT2Config(), *gpt2, 60, 6),
        "smollm2": Shape(SMOLLM2, 8, 128, 16, 15),
    }


def write_model(shape: Shape, folder: Path) -> Path:
    """A randomly initialised model in Hugging Face layout, the same at every call."""
    torch.manual_seed(0)
    disable_progress_bar()
    set_verbosity_error()  # end-of-text tokens of the usual vocabularies are beyond the small ones
    AutoModelForCausalLM.from_config(shape.config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(shape.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder)
    return folder
