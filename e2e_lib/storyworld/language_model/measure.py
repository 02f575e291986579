"""What the language model knows: its loss against what the generator itself pays."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from e2e_lib.storyworld.corpus import RECALL_KINDS, TOKEN_IDS, check, encode, recalled
from e2e_lib.storyworld.grammar import Story, generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


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


def recall_by_kind(model: GPT2LMHeadModel, stories: list[Story]) -> pd.DataFrame:
    """What words cost that say something again, by what they recall (`RECALL_KINDS`, the index).

    Columns: `tokens`, how many; `generator` and `model`, nats a token, mean over those tokens, of
    the generator's own decisions and of the model; `excess`, their difference: nil if what the
    story said is remembered, and as large as a first mention costs if it is forgotten.
    """
    losses = story_losses(model, stories)
    tokens = pd.DataFrame({
        "kind": [kind for story in stories for kind in recalled(story)],
        "generator": [nats for story in stories for nats in story.labels["nats"]],
        "model": torch.cat([loss[:-1] for loss in losses]).tolist(),
    })  # fmt: skip
    groups = tokens.groupby("kind")[["generator", "model"]]
    table = groups.mean().reindex(RECALL_KINDS)
    table.insert(0, "tokens", groups.size().reindex(RECALL_KINDS, fill_value=0))
    return table.assign(excess=table["model"] - table["generator"])
