"""Text to rows of tokens, through `datasets`: local files, hub data sets, or StoryWorld.

A source is `storyworld`, a file (.jsonl, .json, .txt, .parquet, .arrow), or a hub name, with either
a text column or ready-made `input_ids`. Texts are tokenised, joined by the end-of-text token and
cut to rows of `context_size` with no regard for where a text begins, as the authors' data was;
no beginning-of-text token is added unless asked for.

Training and held-out text cannot overlap: one source serving both is split by a digest of each
document, and with two sources every document of the held-out rows is kept out of training.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.errors import DataError, first_sentence, require

HELD_OUT_ONE_IN = 20  # documents held out when one source serves for training and validation
STORYWORLD_TOKENS_A_STORY = 40  # below any story's mean length, so that enough are drawn
READERS = {
    ".jsonl": "json",
    ".json": "json",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


@dataclass(frozen=True)
class TextSource:
    """Where text comes from and how it becomes rows."""

    name: str  # storyworld, a file, or a hub data set
    split: str = "train"  # split of a hub data set or of StoryWorld; local files have one
    context_size: int = 128  # tokens a row
    prepend_bos: bool = False  # start every row with the beginning-of-text token
    revision: str | None = None  # commit of a hub data set
    streaming: bool = True  # read a hub data set as it is needed instead of downloading it
    shuffle_buffer: int = 1000  # documents shuffled at a time, as in the authors' streams


@dataclass
class Rows:
    """Tokens for one experiment: `train` and `validation` never share a document."""

    train: Int[Tensor, "n_train pos"]
    validation: Int[Tensor, "n_validation pos"]
    # Rows drawn from the training text with another shuffle seed, the paper's kind of
    # evaluation set; its overlap with `train` is left to chance.
    paper: Int[Tensor, "n_paper pos"]


def load_rows(
    train: TextSource,
    validation: TextSource,
    tokenizer: Any,
    d_vocab: int,
    *,
    n_train: int,
    n_validation: int,
    n_paper: int = 0,
    seed: int = 0,
) -> Rows:
    """Rows for training (order by `seed`), held-out rows, and the paper's evaluation rows.

    Held-out rows are the same for every seed, so that metrics of different seeds are comparable.

    Raises:
        DataError: a source cannot be read, has no usable column, holds fewer tokens than asked
            for, or tokens that the model does not know.
    """
    same = (train.name, train.split) == (validation.name, validation.split)
    if same and train.name != "storyworld":
        held_out, kept = (lambda d: _held_out(d)), (lambda d: not _held_out(d))
    else:
        held_out, kept = (lambda d: True), (lambda d: True)
    seen: set[bytes] = set()

    def remember(document: Any) -> bool:
        keep = held_out(document)
        if keep:
            seen.add(_digest(document))
        return keep

    def unseen(document: Any) -> bool:
        return kept(document) and _digest(document) not in seen

    def take(source: TextSource, n: int, shuffle_seed: int, keep: Any) -> Tensor:
        documents = filter(keep, read_documents(source, shuffle_seed))
        return pack_rows(documents, tokenizer, d_vocab, source, n)

    held = take(validation, n_validation, 0, remember)
    paper = take(train, n_paper, seed + 42, unseen) if n_paper else held[:0]
    return Rows(take(train, n_train, seed, unseen), held, paper)


def read_documents(source: TextSource, seed: int) -> Iterator[str | list[int]]:
    """Documents of a source, shuffled by `seed`: texts, or lists of token ids.

    Raises:
        DataError: the source cannot be read, or has neither a `text` nor an `input_ids` column.
    """
    if source.name == "storyworld":
        from e2e_lib.storyworld import generate

        # An endless stream: the seed chooses other stories, not another order of the same ones.
        yield from (story.text for story in generate(seed, source.split))
        return
    dataset = _open(source)
    columns = dataset.column_names or list(next(iter(dataset), {}))
    column = next((c for c in ("input_ids", "text") if c in columns), None)
    if column is None:
        raise DataError(
            f"data {source.name!r} has the columns {', '.join(columns) or 'none'}, but one must be "
            "'text' or 'input_ids'."
        )
    if hasattr(dataset, "num_rows"):
        dataset = dataset.shuffle(seed=seed)
    else:
        dataset = dataset.shuffle(seed=seed, buffer_size=source.shuffle_buffer)
    try:
        for row in dataset:
            if not isinstance(row[column], str | list):
                raise DataError(
                    f"data {source.name!r} holds {row[column]!r} in the column {column!r}, but it "
                    "must hold a text or a list of token ids in every row."
                )
            yield row[column]
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(
            f"data {source.name!r} cannot be read to its end ({first_sentence(error)})."
        ) from error


def pack_rows(
    documents: Iterable[str | list[int]],
    tokenizer: Any,
    d_vocab: int,
    source: TextSource,
    n_rows: int,
) -> Int[Tensor, "n_rows pos"]:
    """The first `n_rows` rows of the packed stream of documents.

    Token lists that are exactly `context_size` long are rows already and are taken as they are.

    Raises:
        DataError: the documents end before `n_rows` rows are full, or hold tokens outside
            0..d_vocab-1.
    """
    require(source.context_size >= 2, "context_size", source.context_size, "at least 2")
    require(n_rows >= 1, "rows of text", n_rows, "at least 1")
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if eos is None:
        raise DataError(
            f"data {source.name!r} cannot be packed: the model's tokenizer has no end-of-text "
            "token (eos_token or bos_token in tokenizer_config.json), but one must separate texts."
        )
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else eos
    width = source.context_size - source.prepend_bos
    rows: list[list[int]] = []
    stream: list[int] = []
    for ids in _tokenised(documents, tokenizer):
        if len(ids) == source.context_size and not source.prepend_bos:
            rows.append(ids)  # ready-made rows already carry their separators
        else:
            stream += [*ids, eos]
            while len(stream) >= width:
                rows.append([bos] * source.prepend_bos + stream[:width])
                stream = stream[width:]
        if len(rows) >= n_rows:
            break
    if len(rows) < n_rows:
        raise DataError(
            f"data {source.name!r} holds {len(rows) * source.context_size:,} tokens in whole rows "
            f"of {source.context_size}, but {n_rows * source.context_size:,} are asked for: ask "
            "for fewer or give more text."
        )
    tokens = torch.tensor(rows[:n_rows], dtype=torch.long)
    if tokens.min() < 0 or tokens.max() >= d_vocab:
        raise DataError(
            f"data {source.name!r} holds token ids from {int(tokens.min())} to "
            f"{int(tokens.max())}, but the model's vocabulary is 0 to {d_vocab - 1}."
        )
    return tokens


def _tokenised(documents: Iterable[str | list[int]], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each document, without special tokens; texts are tokenised 500 at a time."""
    texts: list[str] = []

    def flush() -> list[list[int]]:
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        texts.clear()
        return ids

    for document in documents:
        if isinstance(document, str):
            texts.append(document)
            if len(texts) == 500:
                yield from flush()
        else:
            yield list(document)
    yield from flush()


def _open(source: TextSource) -> Any:
    """The `datasets` object behind a source that is not StoryWorld."""
    import datasets

    datasets.disable_progress_bars()
    path = Path(source.name).expanduser()
    if path.suffix in READERS:
        if not path.is_file():
            raise DataError(f"data is {source.name!r}, but there is no such file.")
        try:
            return datasets.load_dataset(
                READERS[path.suffix], data_files=str(path), split="train", streaming=False
            )
        except Exception as error:  # datasets wraps parser errors in many classes
            reason = first_sentence(error.__cause__ or error)
            raise DataError(f"data {source.name!r} cannot be read: {reason}.") from error
    if path.exists() or source.name.startswith((".", "/", "~")):
        raise DataError(
            f"data is {source.name!r}, but it must be 'storyworld', a file ending in "
            f"{', '.join(READERS)}, or the name of a hub data set."
        )
    try:
        return datasets.load_dataset(
            source.name, split=source.split, streaming=source.streaming, revision=source.revision
        )
    except Exception as error:
        raise DataError(
            f"data is {source.name!r}, but this hub data set (split {source.split!r}) cannot be "
            f"opened, which needs a network or a cached copy: {type(error).__name__}: "
            f"{first_sentence(error)}."
        ) from error


def _digest(document: str | list[int]) -> bytes:
    raw = document if isinstance(document, str) else " ".join(map(str, document))
    return hashlib.blake2b(raw.encode(), digest_size=16).digest()


def _held_out(document: str | list[int]) -> bool:
    return int.from_bytes(_digest(document)[:8], "big") % HELD_OUT_ONE_IN == 0


def source_pair(
    train_data: str, validation_data: str, context_size: int, prepend_bos: bool = False
) -> tuple[TextSource, TextSource]:
    """Sources for two data parameters; the held-out split is named `validation` where there is one.

    One hub name or file given twice is split by document digest.
    """
    train = TextSource(train_data, "train", context_size, prepend_bos)
    if validation_data == train_data and train_data != "storyworld":
        return train, train
    return train, replace(train, name=validation_data, split="validation")
