"""What the language model is: its configuration, an untrained one, its folder.

Untied, the input embeddings are a frozen random table: words of equal futures stay as far apart as
any others, for the network to ignore. Tied, training makes them meet.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from e2e_lib.storyworld.corpus import CONTEXT, RECALL_KINDS, TOKEN_IDS, build_tokenizer
from e2e_lib.storyworld.lexicon import END_OF_TEXT

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


def _recall_weights() -> dict[str, float]:
    """The rarer, the more, up to a few hundredths of all words' weight for each kind."""
    people = {"hero": 2.0, "helper": 2.0, "giver": 4.0}
    things = {"treasure": 4.0, "look": 4.0, "size": 12.0, "count": 40.0}
    where = {"hideout": 8.0, "preposition": 8.0, "place": 12.0, "weather": 24.0, "time": 40.0}
    return people | things | where


@dataclass(frozen=True)
class LanguageModelConfig:
    """Shape and training of the language model."""

    n_layer: int = 5  # blocks
    n_head: int = 4  # attention heads a block
    d_model: int = 64  # width of the residual stream
    tied: bool = False  # the output embeddings are the input's too, and learnt; or else ...
    embedding_norm: float = 8.0  # ... the input's are frozen: random directions of this norm
    steps: int = 7000  # optimiser steps
    batch_size: int = 8  # rows of 128 tokens a step
    lr: float = 1e-2  # peak learning rate of embeddings, biases and norms
    matrix_lr: float = 1e-2  # and of the blocks' matrices, in Muon's units
    warmup: int = 100  # steps from 0 to the peak; a cosine to 0 follows
    weight_decay: float = 0.01  # on matrices only
    beta2: float = 0.99  # AdamW's; a short memory, as the run is short
    clip: float = 1.0  # largest norm of the gradient
    # Weights in the loss of words by what they recall, all others having 1 ...
    recall_weights: dict[str, float] = field(default_factory=_recall_weights)
    recall_share: float = 0.78  # ... in this first share of the steps
    seed: int = 1  # of initial weights and of the stories


def build_model(config: LanguageModelConfig) -> GPT2LMHeadModel:
    """An untrained model with seeded weights; untied, its input embeddings are frozen."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(config.seed)
    end = TOKEN_IDS[END_OF_TEXT]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(TOKEN_IDS),
            n_positions=CONTEXT,
            n_embd=config.d_model,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=end,
            eos_token_id=end,
            use_cache=False,
            tie_word_embeddings=config.tied,
            activation_function="gelu_pytorch_tanh",  # "gelu_new" in one kernel
        )
    )
    if not config.tied:
        table = model.transformer.wte.weight.requires_grad_(False)
        table.copy_(F.normalize(torch.randn_like(table), dim=1) * config.embedding_norm)
    # Only for `generate`: a padding token in the config makes every unpadded call warn.
    model.generation_config.pad_token_id = end
    return model


def save_language_model(
    model: GPT2LMHeadModel,
    folder: str | Path,
    config: LanguageModelConfig,
    measured: dict[str, Any],
) -> None:
    """Write a folder that `transformers` and TransformerLens load: weights, config, tokenizer.

    `training.json` gets the config, the `measured` numbers and the versions that made them.
    """
    import transformers

    folder = Path(folder)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    # transformers 5 writes a class name that its version 4 does not know; both know this one.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {**settings, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    record = {
        "config": asdict(config),
        **measured,
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def recorded(folder: str | Path) -> tuple[LanguageModelConfig, dict[str, Any]]:
    """The config that made the model of a folder, and all that its `training.json` says.

    That file's `config` is read as it was written by the tied model's training, too.
    """
    record = json.loads((Path(folder) / "training.json").read_text())
    config = dict(record["config"])
    if "recall_weight" in config:  # the tied model's: one weight for every kind
        weights = dict.fromkeys(RECALL_KINDS, config.pop("recall_weight"))
        config |= {"tied": True, "recall_weights": weights}
    return LanguageModelConfig(**config), record


def load_language_model(folder: str | Path) -> GPT2LMHeadModel:
    """The model of a folder, in evaluation mode. Never touches the network."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(str(folder), local_files_only=True).eval()
