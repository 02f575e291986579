"""Documents to rows of tokens: tokenised, joined and cut; held-out rows that training never sees.

Texts are tokenised, joined by the end-of-text token and cut to rows of `context_size` with no
regard for where a text begins, as the authors' data was; no beginning-of-text token is added unless
asked for. `input_ids` carry their own separators: they are joined and cut as they are.

Training and held-out text cannot overlap: one source serving both is split by a digest of each
document, and with two sources every document of the held-out rows is kept out of training.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int32
from torch import Tensor
from tqdm import tqdm

from e2e_lib.data.text import Document, Ids, TextSource, read_documents, source_pair
from e2e_lib.errors import DataError, require

HELD_OUT_ONE_IN = 20  # documents held out when one source serves for training and validation
TEXTS_AT_ONCE = 500  # texts tokenised together


@dataclass
class Rows:
    """Tokens for one experiment: `train` and `validation` never share a document."""

    train: Int[Tensor, "n_train pos"]  # int32: the paper's 409.6 M tokens take 1.6 GB
    validation: Int[Tensor, "n_validation pos"]  # int64
    # Rows drawn from the training text with another shuffle seed, the paper's kind of
    # evaluation set; its overlap with `train` is left to chance. int64.
    paper: Int[Tensor, "n_paper pos"]


def load_rows(
    model: Any,
    train: str,
    validation: str,
    *,
    n_train: int,
    n_validation: int,
    n_paper: int = 0,
    seed: int = 0,
    context_size: int = 128,
    prepend_bos: bool = False,
    revision: str | None = None,
) -> Rows:
    """Rows for training (order by `seed`), held-out rows, and the paper's evaluation rows.

    Held-out rows are the same for every seed, so that metrics of different seeds are comparable.
    All rows are read before any is trained on: a source that is too short is an error now and not
    after hours, and reading the paper's 400,000 rows takes minutes where training takes hours.

    Args:
        model: what `load_model` gives: its tokenizer and the size of its vocabulary count.
        train, validation: two names, or the same twice, as `text.source_pair` takes them.
        context_size, prepend_bos, revision: of both, as in `text.TextSource`.

    Raises:
        DataError: a source cannot be read, has no usable column, holds fewer tokens than asked
            for, or tokens that the model does not know.

    >>> from e2e_lib import load_model
    >>> model, text = load_model("storyworld"), "storyworld"
    >>> rows = load_rows(model, text, text, n_train=8, n_validation=2)
    >>> rows.train.shape, rows.validation.shape
    (torch.Size([8, 128]), torch.Size([2, 128]))
    """
    sources = source_pair(train, validation, context_size, prepend_bos, revision)
    shared = _shared(*sources)
    seen: set[bytes] = set()

    def unseen(document: Document) -> bool:
        return not (shared and _held_out(document)) and _digest(document) not in seen

    def take(n: int, shuffle_seed: int) -> Tensor:
        documents = filter(unseen, read_documents(sources[0], shuffle_seed))
        return pack_rows(documents, model.tokenizer, model.cfg.d_vocab, sources[0], n)

    held = _held_out_rows(model, *sources, n_validation, seen)
    paper = take(n_paper, seed + 42).long() if n_paper else held[:0]
    return Rows(take(n_train, seed), held, paper)


def held_out_rows(
    model: Any, train: str, validation: str, n_rows: int, **source: Any
) -> Int[Tensor, "n_rows pos"]:
    """The first held-out rows alone, int64: those of `load_rows`. `train` is not read.

    source: context_size, prepend_bos and revision, as in `load_rows`.
    """
    return _held_out_rows(model, *source_pair(train, validation, **source), n_rows, set())


def _held_out_rows(
    model: Any, train: TextSource, validation: TextSource, n_rows: int, seen: set[bytes]
) -> Int[Tensor, "n_rows pos"]:
    """`seen` gets the digest of every document that was read for them."""
    shared = _shared(train, validation)

    def remember(document: Document) -> bool:
        keep = not shared or _held_out(document)
        if keep:
            seen.add(_digest(document))
        return keep

    documents = filter(remember, read_documents(validation, 0))
    return pack_rows(documents, model.tokenizer, model.cfg.d_vocab, validation, n_rows).long()


def _shared(train: TextSource, validation: TextSource) -> bool:
    """Whether one source serves both, so that a digest decides about each document."""
    same = (train.name, train.split) == (validation.name, validation.split)
    return same and train.name != "storyworld"


def pack_rows(
    documents: Iterable[Document],
    tokenizer: Any,
    d_vocab: int,
    source: TextSource,
    n_rows: int,
) -> Int[Tensor, "n_rows pos"]:
    """The first `n_rows` rows, int32, of the packed stream of documents.

    Texts are separated by the end-of-text token; token ids are joined as they are, so that
    ready-made rows of `context_size` come back unchanged. A bar shows when it takes long.

    Raises:
        DataError: the documents end before `n_rows` rows are full, or hold tokens outside
            0..d_vocab-1.
    """
    require(source.context_size >= 2, "context_size", source.context_size, "at least 2")
    require(n_rows >= 1, "rows of text", n_rows, "at least 1")
    total = n_rows * (source.context_size - source.prepend_bos)
    # mininterval: executed notebooks keep every update. TQDM_DISABLE=1 switches the bar off.
    with tqdm(
        total=total, unit="tok", unit_scale=True, desc="reading text", delay=5, mininterval=1
    ) as bar:

        def counted() -> Iterator[Ids]:
            for ids in token_stream(documents, tokenizer, d_vocab, source):
                yield ids
                bar.update(len(ids))

        rows = next(row_blocks(counted(), tokenizer, source, n_rows))
    if len(rows) < n_rows:
        raise DataError(
            f"data {source.name!r} holds {len(rows) * source.context_size:,} tokens in whole "
            f"rows of {source.context_size}, but {n_rows * source.context_size:,} are asked for: "
            "ask for fewer or give more text."
        )
    return torch.from_numpy(rows)


def row_blocks(
    stream: Iterable[Ids], tokenizer: Any, source: TextSource, count: int
) -> Iterator[Int32[np.ndarray, "rows pos"]]:
    """The packed stream in arrays of `count` rows; the last has the rows that are left, if any.

    An array is good until the next is asked for: they share their memory.
    """
    width = source.context_size - source.prepend_bos
    block, filled = np.empty(count * width, np.int32), 0

    def rows() -> Int32[np.ndarray, "rows pos"]:
        found = block[: filled // width * width].reshape(-1, width)
        if not source.prepend_bos:
            return found
        first = np.full((len(found), 1), first_token(tokenizer, source), np.int32)
        return np.concatenate([first, found], axis=1)

    for ids in stream:
        while len(ids):
            taken = ids[: len(block) - filled]
            block[filled : filled + len(taken)] = taken
            filled, ids = filled + len(taken), ids[len(taken) :]
            if filled == len(block):
                yield rows()
                filled = 0
    yield rows()


def token_stream(
    documents: Iterable[Document], tokenizer: Any, d_vocab: int, source: TextSource
) -> Iterator[Ids]:
    """Token ids of one document after another; a text ends in the end-of-text token.

    Raises:
        DataError: ids that are no whole numbers in 0..d_vocab-1.
    """
    for document in _tokenised(documents, tokenizer, source):
        ids = np.asarray(document)
        if ids.size == 0:
            continue
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(
                f"data {source.name!r} holds {str(document)[:60]} as token ids, but they must be "
                "a list of whole numbers."
            )
        if ids.min() < 0 or ids.max() >= d_vocab:
            raise DataError(
                f"data {source.name!r} holds token ids from {ids.min()} to {ids.max()}, but the "
                f"model's vocabulary is 0 to {d_vocab - 1}."
            )
        yield ids


def _tokenised(
    documents: Iterable[Document], tokenizer: Any, source: TextSource
) -> Iterator[list[int] | Ids]:
    """Texts tokenised, without special tokens, and ended by a separator; ids as they are."""
    texts: list[str] = []

    def flush() -> Iterator[list[int]]:
        if texts:
            eos = _eos(tokenizer, source)
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                yield [*ids, eos]
        texts.clear()

    for document in documents:
        if not isinstance(document, str):
            yield document
            continue
        texts.append(document)
        if len(texts) == TEXTS_AT_ONCE:
            yield from flush()
    yield from flush()


def _eos(tokenizer: Any, source: TextSource) -> int:
    """The token between two texts."""
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if eos is None:
        raise DataError(
            f"data {source.name!r} cannot be packed: the model's tokenizer has no end-of-text "
            "token (eos_token or bos_token in tokenizer_config.json), but one must separate texts."
        )
    return int(eos)


def first_token(tokenizer: Any, source: TextSource) -> int:
    """The token that starts a row, where one is asked for."""
    bos = tokenizer.bos_token_id
    return _eos(tokenizer, source) if bos is None else int(bos)


def _digest(document: Document) -> bytes:
    """Of a text's letters, or of token ids whatever integer type holds them."""
    if isinstance(document, str):
        raw = document.encode()
    else:
        raw = np.asarray(document, np.int64).tobytes()
    return hashlib.blake2b(raw, digest_size=16).digest()


def _held_out(document: Document) -> bool:
    return int.from_bytes(_digest(document)[:8], "big") % HELD_OUT_ONE_IN == 0
