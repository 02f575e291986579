"""How the language model is trained.

- fresh stories all the way: no story is seen twice, so there is nothing to overfit;
- Muon for the blocks' matrices, AdamW for embeddings, biases and norms: a lower loss than AdamW
  alone after as many tokens;
- words recalled from earlier in the story count more at first, the rarer the more: each kind of
  recall is learnt in one sudden step, which comes late or not at all if its few tokens count like
  all others. The last part of training is plain cross-entropy;
- float32, seeded, and reproducible for a given number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from e2e_lib.storyworld.corpus import CONTEXT, RECALL_KINDS, Batch, batches
from e2e_lib.storyworld.language_model.measure import evaluate_language_model
from e2e_lib.storyworld.language_model.model import LanguageModelConfig, build_model

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


def next_token_loss(
    logits: Float[Tensor, "batch position vocab"], batch: Batch, weights: Float[Tensor, " kind"]
) -> Float[Tensor, ""]:
    """Cross-entropy in nats, a weighted mean over all positions with a next token in their row.

    The weight of a next token is that of what it recalls: `weights[batch.recalled]`.
    """
    nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.tokens[:, 1:], reduction="none")
    chosen = weights[batch.recalled[:, 1:]]
    return (nats * chosen).sum() / chosen.sum()


def learning_rate_factor(step: int, config: LanguageModelConfig) -> float:
    """Linear warm-up to 1, then half a cosine down to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal by Newton-Schulz steps (Jordan et al. 2024).

    Matrices are taken in squares of one size (queries, keys and values apart), all in one product
    and in float32. `torch.optim.Muon` goes one by one in bfloat16, which many CPUs can only
    emulate: there it costs more than the rest of the step.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix in place."""
        for group in self.param_groups:
            momentum, matrices = group["momentum"], group["params"]
            grad = torch.stack([s for p in matrices for s in _squares(p.grad)])
            state = self.state[matrices[0]]
            average = state.setdefault("average", torch.zeros_like(grad)).lerp_(grad, 1 - momentum)
            update = _orthogonal(grad.lerp(average, momentum))  # Nesterov's
            squares = [s for p in matrices for s in _squares(p)]
            torch._foreach_mul_(squares, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(squares, list(update), alpha=-group["lr"])


def _squares(matrix: Float[Tensor, "row column"]) -> tuple[Tensor, ...]:
    """Views of a matrix, cut across its longer side."""
    rows, columns = matrix.shape
    return matrix.split(min(rows, columns), dim=int(columns > rows))


def _orthogonal(squares: Float[Tensor, "square d d"]) -> Float[Tensor, "square d d"]:
    """Nearly the orthogonal factors of the squares: most singular values become 0.7 to 1.2."""
    squares = squares / (squares.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = squares @ squares.mT
        squares = 3.4445 * squares + (2.0315 * gram @ gram - 4.775 * gram) @ squares
    return squares


def build_optimisers(
    model: GPT2LMHeadModel, config: LanguageModelConfig
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices within blocks, AdamW for everything else that is trained."""
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() == 2]},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    decay = config.weight_decay
    return [
        Muon(matrices, lr=config.matrix_lr, weight_decay=decay),
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
    equal = torch.ones(1 + len(RECALL_KINDS))
    first = torch.tensor([1.0, *(config.recall_weights[kind] for kind in RECALL_KINDS)])
    with tqdm(total=config.steps, unit="step", disable=not progress) as bar:
        for step, batch in zip(range(config.steps), stream, strict=False):
            weights = first if step < config.recall_share * config.steps else equal
            loss = next_token_loss(model(batch.tokens).logits, batch, weights)
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
