"""Which documents are held out of training.

By a digest of each, or, of rows that were cut through documents, by groups of rows that share none
with the rows beside them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal

import numpy as np

HELD_OUT_ONE_IN = 20  # documents or groups of rows, where one source serves for both
GROUP_ROWS, GROUP_ENDS = 8, 2  # at least, of a group
HELD_GROUP = 1  # which of every twenty: the second, so that few rows have one too
TELLING = 8  # tokens of a document that was cut
ROWS_JUDGED = 1000  # of a file: if no document ends in these, each row counts as one
Ids = np.ndarray[Any, np.dtype[np.integer[Any]]]
Document = str | list[int] | Ids  # a text, or token ids
Part = Literal["train", "held", "between"]  # between: has of a document that others have too


def digest(document: Document) -> bytes:
    """Of a text's letters, or of token ids whatever integer type holds them."""
    if isinstance(document, str):
        raw = document.encode("utf-8", "surrogatepass")
    else:
        raw = np.asarray(document).astype(np.int64, copy=False).tobytes()
    return hashlib.blake2b(raw, digest_size=16).digest()


def part(document: Document) -> Part:
    """Where a whole document belongs."""
    held = int.from_bytes(digest(document)[:8], "big") % HELD_OUT_ONE_IN == 0
    return "held" if held else "train"


def known_documents(document: Document, ends: Sequence[int]) -> list[Document]:
    """What may be met again elsewhere: a text itself, and the documents in a row of token ids.

    Of a text its words alone, for other files may space them otherwise. Of the first and the last
    document in a row, which may be cut, where enough is there to tell.

    >>> [d.tolist() for d in known_documents(np.array([5, 6, 0, 7, 8, 0, 9]), ends=[0])]
    [[7, 8]]
    """
    if isinstance(document, str):
        return [" ".join(document.split())]
    ids = np.asarray(document)
    pieces = np.split(ids, np.flatnonzero(np.isin(ids, list(ends))) + 1)
    found = [own[:-1] for own in pieces[1:-1] if len(own) > 1]
    found += [own for own in (pieces[0][:-1], pieces[-1]) if len(own) >= TELLING and pieces[1:]]
    return list(found) or [document]


def row_parts(rows: Iterable[Document], ends: Sequence[int]) -> Iterator[tuple[Document, Part]]:
    """Rows of token ids in their own order, each with where it belongs.

    Of every twenty groups of neighbouring rows one is held out, but for those of its rows that have
    of a document which rows of another group have too: a document ends where one of `ends` stands.
    Where none ever stands, each row counts as a document.

    >>> rows = [[0, 1, 2, 0] for _ in range(24)]
    >>> "".join(part[0] for _, part in row_parts(rows, ends=[0]))
    'tttttttthhhhhhhhtttttttt'
    """
    rows = iter(rows)
    first = list(islice(rows, ROWS_JUDGED))
    if not any(_ends(row, ends).any() for row in first):
        yield from ((row, part(row)) for row in chain(first, rows))
        return
    group: list[Document] = []
    found, index, clean = 0, 0, True
    for row in chain(first, rows):
        group.append(row)
        found += int(_ends(row, ends).sum())
        if len(group) >= GROUP_ROWS and found >= GROUP_ENDS:
            yield from _settled(group, ends, index == HELD_GROUP, clean)
            clean = bool(_ends(group[-1], ends)[-1])
            group, found, index = [], 0, (index + 1) % HELD_OUT_ONE_IN
    yield from _settled(group, ends, index == HELD_GROUP, clean)


def _settled(
    group: list[Document], ends: Sequence[int], held: bool, clean: bool
) -> Iterator[tuple[Document, Part]]:
    """The rows of one group; `clean`: a document begins with the first of them."""
    if not held:
        yield from ((row, "train") for row in group)
        return
    having = [i for i, row in enumerate(group) if _ends(row, ends).any()]
    first = 0 if clean else having[0] + 1 if having else len(group)
    done = bool(having) and bool(_ends(group[-1], ends)[-1])
    last = len(group) if done else having[-1] if having else 0
    for i, row in enumerate(group):
        yield row, "held" if first <= i < last else "between"


def _ends(row: Document, ends: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where documents end in a row; its first token says nothing, for it may begin every row."""
    found = np.isin(np.asarray(row), list(ends))
    found[:1] = False
    return found if found.size else np.zeros(1, bool)
