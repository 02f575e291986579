"""The truth about every token of the held-out rows: StoryWorld's labels, packed as the text is.

Rows of text are cut from a stream of stories joined by `<|endoftext|>`. Here the same stories are
told again, and what is packed in place of their tokens is each token's number in the stream; so
tokens and labels go through one and the same packing and cannot slip against each other.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.data.packing import pack_rows
from e2e_lib.data.text import TextSource
from e2e_lib.storyworld.corpus import TOKEN_IDS, encode
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT
from e2e_lib.storyworld.teller import LABELS

# What `<|endoftext|>` has for labels; for those that are texts, "", as for "none".
END = {"seen": False, "position_in_sentence": -1, "nats": float("nan")}
HELD_OUT = ("validation", 0)  # split and seed of the held-out rows, as `data.load_rows` takes them


class LabelledRows(NamedTuple):
    """Rows of token ids and, by name of the label, an array of the same shape."""

    tokens: Int[Tensor, "rows pos"]
    labels: dict[str, np.ndarray]


def labelled_rows(n_rows: int, context_size: int) -> LabelledRows:
    """The first held-out rows of StoryWorld with the labels of `LABELS`.

    The tokens are those of `data.load_rows(...).validation` for the source `storyworld`. At
    `<|endoftext|>` the texts are "", `seen` is False, `position_in_sentence` -1 and `nats` NaN.

    Raises:
        ConfigError: fewer than one row, or rows of fewer than two tokens.
    """
    split, seed = HELD_OUT
    ids = [TOKEN_IDS[END_OF_TEXT]]  # the stream's number 0 is the end of text
    flat: dict[str, list] = {name: [END.get(name, "")] for name in LABELS}

    def numbered() -> Iterator[list[int]]:
        for story in generate(seed, split):
            first = len(ids)
            ids.extend(encode(story.tokens))
            for name, values in story.labels.items():
                flat[name].extend(values)
            yield [*range(first, len(ids)), 0]  # ids carry their own separator

    separator = SimpleNamespace(eos_token_id=0, bos_token_id=0)
    source = TextSource("storyworld", split, context_size)
    numbers = pack_rows(numbered(), separator, torch.iinfo(torch.long).max, source, n_rows)
    labels = {name: np.asarray(values)[numbers.numpy()] for name, values in flat.items()}
    return LabelledRows(torch.tensor(ids)[numbers], labels)


def labels_of(rows: Int[Tensor, "rows pos"]) -> dict[str, np.ndarray] | None:
    """The labels of `rows` if they are StoryWorld's first held-out rows; None if they are not."""
    n_rows, context_size = rows.shape
    for n in (1, n_rows):  # one row tells another text from StoryWorld at once
        tokens, labels = labelled_rows(n, context_size)
        if not torch.equal(tokens, rows[:n].cpu()):
            return None
    return labels
