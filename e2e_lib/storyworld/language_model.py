"""The tiny GPT-2 of StoryWorld: trained here, measured against the generator's own entropy.

- fresh stories all the way: no story is seen twice, so there is nothing to overfit;
- Muon for the blocks' matrices, AdamW for embeddings, biases and norms: a lower loss than AdamW
  alone after as many tokens;
- words recalled from earlier in the story count more at first: each kind of recall is learnt in
  one sudden step, which comes late or not at all if its few tokens count like all others. The last
  part of training is plain cross-entropy;
- float32, seeded, and reproducible for a given number of threads;
- held-out loss is compared with the exact log-probability of the held-out stories.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from e2e_lib.storyworld.corpus import (
    CONTEXT,
    TOKEN_IDS,
    Batch,
    batches,
    build_tokenizer,
    check,
    encode,
)
from e2e_lib.storyworld.grammar import Story, generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


@dataclass(frozen=True)
class LanguageModelConfig:
    """Shape and training of the language model."""

    n_layer: int = 5  # blocks
    n_head: int = 8  # attention heads a block: several kinds of recall side by side
    d_model: int = 64  # width of the residual stream
    steps: int = 6000  # optimiser steps
    batch_size: int = 8  # rows of 128 tokens a step
    lr: float = 1e-2  # peak learning rate of embeddings, biases and norms
    matrix_lr: float = 1e-2  # and of the blocks' matrices, in Muon's units
    warmup: int = 100  # steps from 0 to the peak; a cosine to 0 follows
    weight_decay: float = 0.01  # on matrices only
    beta2: float = 0.99  # AdamW's; a short memory, as the run is short
    clip: float = 1.0  # largest norm of the gradient
    recall_weight: float = 4.0  # of recalled words in the loss, all others having 1 ...
    recall_share: float = 0.6  # ... in this first share of the steps
    seed: int = 0  # of initial weights and of the stories


def build_model(config: LanguageModelConfig) -> GPT2LMHeadModel:
    """An untrained model with seeded weights and tied embeddings."""
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
            activation_function="gelu_pytorch_tanh",  # "gelu_new" in one kernel
        )
    )
    # Only for `generate`: a padding token in the config makes every unpadded call warn.
    model.generation_config.pad_token_id = end
    return model


def next_token_loss(
    logits: Float[Tensor, "batch position vocab"], batch: Batch, recall_weight: float = 1.0
) -> Float[Tensor, ""]:
    """Cross-entropy in nats, a weighted mean over all positions with a next token in their row.

    A recalled next token has the weight `recall_weight`, any other 1.
    """
    nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.tokens[:, 1:], reduction="none")
    weights = 1 + (recall_weight - 1) * batch.recalled[:, 1:]
    return (nats * weights).sum() / weights.sum()


def learning_rate_factor(step: int, config: LanguageModelConfig) -> float:
    """Linear warm-up to 1, then half a cosine down to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def build_optimisers(
    model: GPT2LMHeadModel, config: LanguageModelConfig
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices within blocks, AdamW for everything else."""
    blocks = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    embeddings = [model.transformer.wte.weight, model.transformer.wpe.weight]  # tied to the output
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": embeddings},
        {"params": vectors, "weight_decay": 0.0},
    ]
    decay = config.weight_decay
    return [
        torch.optim.Muon(blocks, lr=config.matrix_lr, weight_decay=decay),
        torch.optim.AdamW(
            groups, lr=config.lr, betas=(0.9, config.beta2), weight_decay=decay, fused=True
        ),
    ]


def train_language_model(
    config: LanguageModelConfig | None = None, progress: bool = True
) -> tuple[GPT2LMHeadModel, list[float]]:
    """Train on a stream of fresh stories.

    Returns the model in evaluation mode, and the training loss of every step (nats a token,
    weighted mean over the batch). Same config and same number of threads: same losses.

    Raises:
        ValueError: `steps` < 1.
    """
    config = config or LanguageModelConfig()
    if config.steps < 1:
        raise ValueError(f"steps is {config.steps}; it must be at least 1.")
    model = build_model(config).train()
    optimisers = build_optimisers(model, config)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(step, config))
        for o in optimisers
    ]
    losses: list[float] = []
    stream = batches(config.seed, config.batch_size)
    with tqdm(total=config.steps, unit="step", disable=not progress) as bar:
        for step, batch in zip(range(config.steps), stream, strict=False):
            weight = config.recall_weight if step < config.recall_share * config.steps else 1.0
            loss = next_token_loss(model(batch.tokens).logits, batch, weight)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            for optimiser, scheduler in zip(optimisers, schedulers, strict=True):
                optimiser.step()
                scheduler.step()
            losses.append(loss.item())
            if step % 10 == 0:
                bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
            bar.update()
    return model.eval(), losses


@torch.no_grad()
def story_losses(
    model: GPT2LMHeadModel, stories: list[Story], batch_size: int = 32
) -> list[Float[Tensor, " token"]]:
    """Cross-entropy in nats of every token of every story, and of the `<|endoftext|>` after it.

    Each story is alone in its row behind one `<|endoftext|>`; entry i of a story's tensor is the
    loss at predicting its token i.
    """
    end = TOKEN_IDS[END_OF_TEXT]
    losses: list[Tensor] = []
    for start in range(0, len(stories), batch_size):
        rows = [[end, *encode(s.tokens), end] for s in stories[start : start + batch_size]]
        width = max(map(len, rows))
        # Padding lies behind the story, where no causal prediction of it can look.
        tokens = torch.tensor([row + [end] * (width - len(row)) for row in rows])
        logits = model(tokens[:, :-1]).logits
        nats = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        losses += [nats[i, : len(row) - 1] for i, row in enumerate(rows)]
    return losses


def evaluate_language_model(
    model: GPT2LMHeadModel, n_stories: int = 1000, seed: int = 0, split: str = "validation"
) -> dict[str, Any]:
    """Held-out loss beside the lowest one that any model could expect.

    Returns `ce` (nats a token: mean over all tokens of all stories and the `<|endoftext|>` after
    each), `bound` (the derivations' -log-probability over the same tokens), `ratio` (ce / bound),
    `excess` (ce - bound), `excess_stderr` (over stories), `tokens`, `stories`.

    Raises:
        ValueError: unknown split, or `n_stories` < 1.
    """
    check(split, n_stories)
    stories = list(islice(generate(seed, split), n_stories))
    totals = [losses.double().sum().item() for losses in story_losses(model, stories)]
    predicted = sum(len(story.tokens) + 1 for story in stories)
    ce, bound = sum(totals) / predicted, -sum(story.logprob for story in stories) / predicted
    gaps = torch.tensor([total + s.logprob for total, s in zip(totals, stories, strict=True)])
    stderr = gaps.std(correction=0).item() * math.sqrt(len(stories)) / predicted
    return {
        "ce": ce, "bound": bound, "ratio": ce / bound, "excess": ce - bound,
        "excess_stderr": stderr, "tokens": predicted, "stories": len(stories),
    }  # fmt: skip


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


def load_language_model(folder: str | Path) -> GPT2LMHeadModel:
    """The model of a folder, in evaluation mode. Never touches the network."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(str(folder), local_files_only=True).eval()


def timed_training(
    config: LanguageModelConfig, n_stories: int = 1000, progress: bool = True
) -> tuple[GPT2LMHeadModel, list[float], dict[str, Any]]:
    """Train and evaluate; `evaluate_language_model`'s numbers and what the training cost.

    That is `train_seconds` by the clock, `train_cpu_seconds` of this process over all its threads
    (the better measure on a shared machine), and `train_tokens`.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    model, losses = train_language_model(config, progress)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    measured = evaluate_language_model(model, n_stories)
    measured |= {
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu_seconds, 1),
        "train_tokens": config.steps * config.batch_size * CONTEXT,
    }
    return model, losses, measured
