"""Stories as token ids: the tokenizer, a `datasets.Dataset`, training rows; the model's folder.

Neither torch nor transformers is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from e2e_lib.storyworld.grammar import SPLITS, Story, generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT, SIZES, vocabulary
from e2e_lib.storyworld.teller import LABELS

if TYPE_CHECKING:
    import datasets
    from jaxtyping import Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

EMBEDDED_MODELS = {"storyworld": Path(__file__).parent / "model"}  # shipped, by name
STORYWORLD_FOLDER = EMBEDDED_MODELS["storyworld"]
CONTEXT = 128  # positions of the language model
# `<|endoftext|>` is token 0; the words follow in alphabetical order.
TOKEN_IDS: dict[str, int] = {word: index for index, word in enumerate([END_OF_TEXT, *vocabulary()])}
# What a story says again of itself, later and unasked: by the entity and the slot of a word.
_RECALL = {
    (entity, role): entity
    for entity in ("hero", "helper", "giver", "treasure")
    for role in ("subject", "object", "name")
} | {
    ("treasure", "adjective"): "look",  # or its size: the word tells which
    ("treasure", "count"): "count",
    ("hideout", "preposition"): "preposition",
    ("hideout", "landmark"): "hideout",
    ("setting", "place"): "place",
    ("", "weather"): "weather",
    ("", "time"): "time",
}
RECALL_KINDS = (*dict.fromkeys(_RECALL.values()), "size")
_SIZES = {form for word in SIZES for form, _ in word.forms}


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


def recalled(story: Story) -> list[str]:
    """Of each token, the kind (`RECALL_KINDS`) of what it says again; "" if it says nothing again.

    That is a word that stood before, for the same one thing, in a slot that the story fills twice:
    who remembers the story knows it but for a synonym's coin.
    """
    labels = story.labels
    kinds = []
    for token, entity, role, seen in zip(
        story.tokens, labels["entity"], labels["role"], labels["seen"], strict=True
    ):
        # "girl" and "boy" only lead up to a name.
        again = seen and token not in ("girl", "boy")
        kind = _RECALL.get((entity, role), "") if again else ""
        kinds.append("size" if kind == "look" and token in _SIZES else kind)
    return kinds


class Batch(NamedTuple):
    """Rows of text, and what their tokens recall: 0 for nothing, 1 + index in `RECALL_KINDS`."""

    tokens: Int[Tensor, "batch position"]
    recalled: Int[Tensor, "batch position"]


def batches(seed: int, batch_size: int) -> Iterator[Batch]:
    """Rows of 128 tokens, of two forms.

    The first row in four is cut from a stream of stories wherever the cut falls, as readers of the
    model will cut them. The others begin with a story, so that all of it can be learnt from its
    beginning.
    """
    import torch

    stream = _labelled_stream(seed)
    end = TOKEN_IDS[END_OF_TEXT]
    while True:
        rows = []
        for row in range(batch_size):
            if row % 4:
                while next(stream)[0] != end:
                    pass
                rows.append([(end, 0), *islice(stream, CONTEXT - 1)])
            else:
                rows.append(list(islice(stream, CONTEXT)))
        yield Batch(*torch.tensor(rows).unbind(-1))


def _labelled_stream(seed: int) -> Iterator[tuple[int, int]]:
    """Token ids of stories, one `<|endoftext|>` before each, and what each recalls."""
    numbers = {kind: number for number, kind in enumerate(("", *RECALL_KINDS))}
    for story in generate(seed):
        yield TOKEN_IDS[END_OF_TEXT], 0
        yield from zip(
            encode(story.tokens), (numbers[kind] for kind in recalled(story)), strict=True
        )
