"""Stories as token ids: the tokenizer, a `datasets.Dataset`, training rows; the model's folder.

Neither torch nor transformers is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from e2e_lib.storyworld.grammar import SPLITS, generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT, vocabulary
from e2e_lib.storyworld.teller import LABELS

if TYPE_CHECKING:
    import datasets
    from jaxtyping import Bool, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

STORYWORLD_FOLDER = Path(__file__).parent / "model"  # the shipped language model
CONTEXT = 128  # positions of the language model
# `<|endoftext|>` is token 0; the words follow in alphabetical order.
TOKEN_IDS: dict[str, int] = {word: index for index, word in enumerate([END_OF_TEXT, *vocabulary()])}
# Slots of words for people, things and places: what a story repeats of itself.
RECALLED = frozenset(("adjective", "object", "landmark", "place", "subject", "name", "preposition"))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer: one token for each word, split at single spaces.

    `decode(encode(text)) == text` for every text made of words of the lexicon;
    `<|endoftext|>` serves as bos, eos, pad and unk, and is never added by itself.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(TOKEN_IDS, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # No decoder: a WordLevel model then joins its tokens by single spaces, just what is wanted.
    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def storyworld_dataset(split: str, n_stories: int, seed: int = 0) -> datasets.Dataset:
    """`n_stories` stories of one split, one a row.

    Columns: `text`; `input_ids`; `logprob` (nats, of the whole story, the decision to stop
    included); and one list for each label in `LABELS`, aligned with `input_ids`.

    Raises:
        ValueError: unknown split, or `n_stories` < 1.
    """
    import datasets

    check(split, n_stories)
    kinds = {"seen": "bool", "position_in_sentence": "int32", "nats": "float32"}
    features = datasets.Features(
        text=datasets.Value("string"),
        input_ids=datasets.List(datasets.Value("int32")),
        logprob=datasets.Value("float64"),
        **{name: datasets.List(datasets.Value(kinds.get(name, "string"))) for name in LABELS},
    )
    columns: dict[str, list[Any]] = {name: [] for name in features}
    for story in islice(generate(seed, split), n_stories):
        columns["text"].append(story.text)
        columns["input_ids"].append(encode(story.tokens))
        columns["logprob"].append(story.logprob)
        for name, values in story.labels.items():
            columns[name].append(values)
    return datasets.Dataset.from_dict(columns, features=features)


def check(split: str, n_stories: int) -> None:
    """Raise a ValueError that names the parameter if a request makes no sense."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(map(repr, SPLITS))}.")
    if n_stories < 1:
        raise ValueError(f"n_stories is {n_stories}; it must be at least 1.")


def encode(tokens: list[str]) -> list[int]:
    """Token ids of words that the generator wrote."""
    return [TOKEN_IDS[token] for token in tokens]


class Batch(NamedTuple):
    """Rows of text, and which of their tokens repeat what the story has said before."""

    tokens: Int[Tensor, "batch position"]
    recalled: Bool[Tensor, "batch position"]


def batches(seed: int, batch_size: int) -> Iterator[Batch]:
    """Rows of 128 tokens, in turn of two forms.

    Even rows are cut from a stream of stories wherever the cut falls, as readers of the model will
    cut them. Odd rows begin with a story, so that all of it can be learnt from its beginning.
    """
    import torch

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
