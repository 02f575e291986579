"""Training text of the language model: rows of fresh stories, endlessly."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from e2e_lib.storyworld.corpus import CONTEXT, TOKEN_IDS, encode
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT

# Slots of words for people, things and places: what a story repeats of itself.
RECALLED = frozenset(("adjective", "object", "landmark", "place", "subject", "name", "preposition"))


class Batch(NamedTuple):
    """Rows of text, and which of their tokens repeat what the story has said before."""

    tokens: Int[Tensor, "batch position"]
    recalled: Bool[Tensor, "batch position"]


def batches(seed: int, batch_size: int) -> Iterator[Batch]:
    """Rows of 128 tokens, in turn of two forms.

    Even rows are cut from a stream of stories wherever the cut falls, as readers of the model will
    cut them. Odd rows begin with a story, so that all of it can be learnt from its beginning.
    """
    stream = _labelled_stream(seed)
    end = TOKEN_IDS[END_OF_TEXT]
    while True:
        rows = []
        for row in range(batch_size):
            if row % 2:
                while next(stream)[0] != end:
                    pass
                rows.append([(end, False), *islice(stream, CONTEXT - 1)])
            else:
                rows.append(list(islice(stream, CONTEXT)))
        tokens, recalled = torch.tensor(rows).unbind(-1)
        yield Batch(tokens, recalled.bool())


def _labelled_stream(seed: int) -> Iterator[tuple[int, bool]]:
    """Token ids of stories, one `<|endoftext|>` before each, and whether each is recalled."""
    for story in generate(seed):
        yield TOKEN_IDS[END_OF_TEXT], False
        labels = zip(story.labels["role"], story.labels["seen"], strict=True)
        for token, (role, seen) in zip(encode(story.tokens), labels, strict=True):
            yield token, seen and role in RECALLED
