"""Documents to rows of tokens: tokenised, joined by the end-of-text token, cut.

Rows are cut with no regard for where a text begins, as the authors' data was; no token is put
before them unless asked for. `input_ids` carry their own separators: they are joined as they are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int32
from torch import Tensor
from tqdm import tqdm

from e2e_lib.data.held_out import Document, Ids
from e2e_lib.data.text import TextSource
from e2e_lib.errors import DataError, require, reworded

TEXTS_AT_ONCE = 500  # texts tokenised together


@dataclass
class Tally:
    """What became of a source's documents: how many tokens each of those had that were read."""

    lengths: list[int] = field(default_factory=list)  # the separator among them
    empty: int = 0  # left out, for there is nothing in them
    unknown: int = 0  # tokens of texts that stand for what the tokenizer does not know
    elsewhere: int = 0  # left out, for they are on the other side of what is held out


def pack_rows(
    documents: Iterable[Document],
    tokenizer: Any,
    d_vocab: int,
    source: TextSource,
    n_rows: int,
    tally: Tally | None = None,
    what: str = "",
) -> Int[Tensor, "n_rows pos"]:
    """The first `n_rows` rows, int32, of the packed stream of documents.

    Texts are separated by the end-of-text token; token ids are joined as they are, so that
    ready-made rows of `context_size` come back unchanged. A bar shows when it takes long.

    Args:
        tally: counts what is read.
        what: `held out` or `for training`, for the sentence that there are too few.

    Raises:
        DataError: the documents end before `n_rows` rows are full, or hold tokens outside
            0..d_vocab-1.
    """
    require(source.context_size >= 2, "context_size", source.context_size, "at least 2")
    require(n_rows >= 1, "rows of text", n_rows, "at least 1")
    tally = Tally() if tally is None else tally
    total = n_rows * (source.context_size - source.prepend_bos)
    # mininterval: executed notebooks keep every update. TQDM_DISABLE=1 switches the bar off.
    with tqdm(
        total=total, unit="tok", unit_scale=True, desc="reading text", delay=5, mininterval=1
    ) as bar:

        def counted() -> Iterator[Ids]:
            for ids in token_stream(documents, tokenizer, d_vocab, source, tally):
                yield ids
                bar.update(len(ids))

        rows = next(row_blocks(counted(), tokenizer, source, n_rows))
    if len(rows) < n_rows:
        raise DataError(_too_few(source, n_rows, len(rows), tally, what))
    return torch.from_numpy(rows)


def _too_few(source: TextSource, n_rows: int, found: int, tally: Tally, what: str) -> str:
    """Why there are too few rows: what there was, and what of it was left out."""
    width, there = source.context_size, len(tally.lengths)
    left_out = [
        f"{n:,} {words}"
        for n, words in (
            (tally.empty, "with nothing in them"),
            (tally.elsewhere, "on the other side of what is held out for evaluation"),
        )
        if n
    ]
    every = there + tally.empty + tally.elsewhere
    return (
        f"data {source.name!r} has {found * width:,} tokens in whole rows of {width}"
        f"{f' {what}' if what else ''}, of {every:,} document{'s' * (every != 1)}"
        f"{' (' + ', '.join(left_out) + ')' if left_out else ''}, "
        f"but {n_rows * width:,} are asked for: ask for fewer or give more text."
    )


def row_blocks(
    stream: Iterable[Ids], tokenizer: Any, source: TextSource, count: int
) -> Iterator[Int32[np.ndarray, "rows pos"]]:
    """The packed stream in arrays of `count` rows; the last has the rows that are left, if any.

    An array is good until the next is asked for: they share their memory.
    """
    width = source.context_size - source.prepend_bos
    what = f"data {source.name!r} is asked for {count:,} rows at a time, more than memory holds"
    with reworded(DataError, what):
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
    documents: Iterable[Document],
    tokenizer: Any,
    d_vocab: int,
    source: TextSource,
    tally: Tally | None = None,
) -> Iterator[Ids]:
    """Token ids of one document after another; a text ends in the end-of-text token.

    Documents with nothing in them are left out.

    Raises:
        DataError: ids that are no whole numbers in 0..d_vocab-1, or a text that the tokenizer
            cannot read.
    """
    tally = Tally() if tally is None else tally
    for document in _tokenised(documents, tokenizer, source, tally):
        ids = np.asarray(document)
        if ids.size == 0:
            tally.empty += 1
            continue
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise DataError(
                f"data {source.name!r} holds {str(document)[:60]} as token ids, but they must be "
                "a list of whole numbers."
            )
        if ids.min() < 0 or ids.max() >= d_vocab:
            own = bool(ids.max() == tokenizer.eos_token_id)
            raise DataError(
                f"data {source.name!r} holds token ids from {ids.min()} to {ids.max()}"
                f"{f', which is {tokenizer.eos_token!r} of its tokenizer' * own}, but the "
                f"model's vocabulary is 0 to {d_vocab - 1}."
            )
        tally.lengths.append(len(ids))
        yield ids


def _tokenised(
    documents: Iterable[Document], tokenizer: Any, source: TextSource, tally: Tally
) -> Iterator[list[int] | Ids]:
    """Texts tokenised, without special tokens, and ended by a separator; ids as they are.

    An empty text comes as no ids. What looks like a special token in a text is text like any other.
    Rows that begin with the token that every row is to begin with come without it.
    """
    texts: list[str] = []

    def flush() -> Iterator[list[int]]:
        if texts:
            eos = _eos(tokenizer, source)
            with reworded(DataError, f"data {source.name!r} has a text that cannot be tokenised"):
                found = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
            for ids in found["input_ids"]:
                tally.unknown += ids.count(tokenizer.unk_token_id)
                yield [*ids, eos] if len(ids) else []
        texts.clear()

    kinds: set[bool] = set()
    for document in documents:
        kinds.add(isinstance(document, str))
        if len(kinds) > 1:
            raise DataError(
                f"data {source.name!r} holds both texts and rows of token ids, of which nobody can "
                "say whether they are the same documents: one of the two must go."
            )
        if not isinstance(document, str):
            yield _without_first(document, tokenizer, source)
            continue
        texts.append(document if document.strip() else "")
        if len(texts) == TEXTS_AT_ONCE:
            yield from flush()
    yield from flush()


def _without_first(document: Any, tokenizer: Any, source: TextSource) -> Any:
    """A ready-made row without the token that `row_blocks` puts before it again."""
    ready = source.prepend_bos and len(document) == source.context_size
    return document[1:] if ready and document[0] == first_token(tokenizer, source) else document


def separators(tokenizer: Any) -> Sequence[int]:
    """Tokens at which a document of ready-made rows of ids begins or ends."""
    known = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    return sorted({int(token) for token in known if token is not None})


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
