"""Rows of tokens for one experiment: for training, and held-out rows that training never sees.

Training and held-out text cannot overlap: one source serving both is split by a digest of each
document, and with two sources every document of the held-out rows is kept out of training. Rows of
token ids that were cut through documents are split by groups: `held_out`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.data.described import as_described, check_description
from e2e_lib.data.held_out import Document, digest, known_documents
from e2e_lib.data.packing import Tally, first_token, pack_rows, separators
from e2e_lib.data.text import Opened, TextSource, open_source, source_pair
from e2e_lib.errors import DataError, require

NO_TEXT, SAID = 0.5, 0.01  # shares of tokens that are hardly text: refused above, said from
ROWS_LOOKED_AT = 4096  # for these shares


@dataclass
class Rows:
    """Tokens for one experiment: `train` and `validation` never share a document."""

    train: Int[Tensor, "n_train pos"]  # int32: the paper's 409.6 M tokens take 1.6 GB
    validation: Int[Tensor, "n_validation pos"]  # int64
    # Rows drawn from the training text with another shuffle seed, the paper's kind of
    # evaluation set; its overlap with `train` is left to chance. int64.
    paper: Int[Tensor, "n_paper pos"]
    calibration: Int[Tensor, "n_calibration pos"]  # held-out rows behind `validation`, int64
    read: tuple[str, ...] = ()  # what was read for `train` and `validation`, in words


def load_rows(
    model: Any,
    train: str,
    validation: str,
    *,
    n_train: int,
    n_validation: int,
    n_paper: int = 0,
    n_calibration: int = 0,
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
        ConfigError: a row would be longer than the model's context.
        DataError: a source cannot be read, has no usable column, holds fewer tokens than asked
            for, or tokens that the model does not know, or says of itself what does not fit.

    >>> from e2e_lib import load_model
    >>> model, text = load_model("storyworld"), "storyworld"
    >>> rows = load_rows(model, text, text, n_train=8, n_validation=2)
    >>> rows.train.shape, rows.validation.shape
    (torch.Size([8, 128]), torch.Size([2, 128]))
    >>> print(*rows.read, sep="\\n")
    training text storyworld: 11 documents of 100 tokens in the middle
    held-out text storyworld: 3 documents of 100 tokens in the middle
    """
    pair = _Pair(model, *source_pair(train, validation, context_size, prepend_bos, revision))
    held, held_tally = pair.held_out(n_validation + n_calibration)
    paper = pair.training(n_paper, seed + 42)[0].long() if n_paper else held[:0]
    rows, tally = pair.training(n_train, seed)
    words = [read_in_words(*one) for one in zip((tally, held_tally), pair.opened, strict=True)]
    words[0] += no_text(model.tokenizer, train, rows, tally) + pair.endless(0, rows)
    words[1] += no_text(model.tokenizer, validation, held, held_tally) + pair.endless(1, held)
    words[1] += pair.unlike()
    read = f"training text {words[0]}", f"held-out text {words[1]}"
    return Rows(rows, held[:n_validation], paper, held[n_validation:], read)


def held_out_rows(
    model: Any, train: str, validation: str, n_rows: int, **source: Any
) -> Int[Tensor, "n_rows pos"]:
    """The first held-out rows alone, int64: those of `load_rows`. `train` is not read.

    source: context_size, prepend_bos and revision, as in `load_rows`.
    """
    rows, tally = _Pair(model, *source_pair(train, validation, **source)).held_out(n_rows)
    no_text(model.tokenizer, validation, rows, tally)
    return rows


class _Pair:
    """Two sources that share no document in what is read of them, or one that is split in two."""

    def __init__(self, model: Any, train: TextSource, validation: TextSource) -> None:
        self.model, self.sources = model, (train, validation)
        longest = getattr(model.cfg, "n_ctx", None) or train.context_size
        allowed = f"at most the model's context of {longest}"
        require(train.context_size <= longest, "context_size", train.context_size, allowed)
        same = (train.name, train.split) == (validation.name, validation.split)
        self.shared = same and train.name != "storyworld"
        self.ends = separators(model.tokenizer)
        self.seen: set[bytes] = set()  # of every document that is held out
        self.kinds: list[set[bool]] = [set(), set()]  # of each source: whether documents are texts
        self._opened: dict[TextSource, Opened] = {}

    @property
    def opened(self) -> tuple[Opened, Opened]:
        train, validation = map(self._open, self.sources)
        return train, validation

    def _open(self, source: TextSource) -> Opened:
        if source not in self._opened:
            found = open_source(source)
            if found.description is not None:
                check_description(
                    found.description,
                    source.name,
                    self.model.tokenizer,
                    source.context_size,
                    source.prepend_bos,
                )
            self._opened[source] = found
        return self._opened[source]

    def held_out(self, n_rows: int) -> tuple[Int[Tensor, "n_rows pos"], Tally]:
        """Held-out rows, int64; their documents are `seen` from now on."""
        opened, tally = self._open(self.sources[1]), Tally()

        def chosen() -> Iterator[Document]:
            for document, part in opened.documents(0, self.ends):
                if self.shared and part != "held":
                    tally.elsewhere += 1
                    continue
                self.kinds[1].add(isinstance(document, str))
                self.seen.update(map(digest, known_documents(document, self.ends)))
                yield document

        what = "held out" if self.shared else ""
        return self._packed(chosen(), self.sources[1], n_rows, tally, what).long(), tally

    def training(self, n_rows: int, seed: int) -> tuple[Int[Tensor, "n_rows pos"], Tally]:
        """Rows of training text, int32, without any document that is `seen`."""
        opened, tally = self._open(self.sources[0]), Tally()

        def chosen() -> Iterator[Document]:
            for document, part in opened.documents(seed, self.ends):
                self.kinds[0].add(isinstance(document, str))
                own = map(digest, known_documents(document, self.ends))
                if (self.shared and part != "train") or not self.seen.isdisjoint(own):
                    tally.elsewhere += 1
                else:
                    yield document

        what = "for training"
        return self._packed(chosen(), self.sources[0], n_rows, tally, what), tally

    def unlike(self) -> str:
        """What is to be said of a text and ready-made rows, whose documents cannot be compared."""
        if not self.kinds[0].isdisjoint(self.kinds[1]):
            return ""
        return "; one of the two is text, the other token ids: documents of both go unseen"

    def endless(self, side: int, rows: Int[Tensor, "rows pos"]) -> str:
        """What is to be said of ready-made rows of one source in which no document ends."""
        ends = torch.tensor(self.ends, dtype=torch.long)
        if True in self.kinds[side] or bool(torch.isin(rows[:ROWS_LOOKED_AT, 1:], ends).any()):
            return ""
        return "; no end-of-text token is in its rows: where documents end is not known"

    def _packed(
        self,
        documents: Iterator[Document],
        source: TextSource,
        n_rows: int,
        tally: Tally,
        what: str,
    ) -> Int[Tensor, "n_rows pos"]:
        tokenizer, d_vocab = self.model.tokenizer, self.model.cfg.d_vocab
        said = self._open(source).description
        if said is not None:
            first = first_token(tokenizer, source) if said.prepend_bos else None
            documents = (as_described(row, said, source.name, first) for row in documents)
        return pack_rows(documents, tokenizer, d_vocab, source, n_rows, tally, what)


def no_text(tokenizer: Any, name: str, rows: Int[Tensor, "rows pos"], tally: Tally) -> str:
    """What of `rows` is hardly text, to stand behind what was read; "" if it is next to nothing.

    Raises:
        DataError: more than half is unknown to the tokenizer.
    """
    some, ends = rows[:ROWS_LOOKED_AT], separators(tokenizer)
    # In rows of ids only a token of its own tells what is unknown; some tokenizers have none.
    own = torch.tensor([*({tokenizer.unk_token_id} - {None, *ends})], dtype=torch.long)
    padding = torch.tensor([*({tokenizer.pad_token_id, *ends} - {None})], dtype=torch.long)
    unknown = float(torch.isin(some, own).float().mean())
    unknown = max(unknown, tally.unknown / max(sum(tally.lengths), 1))
    if unknown > NO_TEXT:
        raise DataError(
            f"data {name!r}: {unknown:.0%} of its tokens are unknown to the model's tokenizer, but "
            "most must be known: it is text of another kind."
        )
    found = f"; {unknown:.0%} of its tokens are unknown to the tokenizer" if unknown >= SAID else ""
    again = (some[:, 1:] == some[:, :-1]) & torch.isin(some[:, 1:], padding)
    share = float(again.sum()) / some.numel()
    words = "repeat an end-of-text or padding token, of which no mask tells"
    return f"{found}; {share:.0%} of its tokens {words}" if share >= SAID else found


def read_in_words(tally: Tally, opened: Opened) -> str:
    """One line of what was read of a source.

    >>> read_in_words(Tally([3, 9, 4], empty=1), Opened(TextSource("a.txt"), []))
    'a.txt: 3 documents of 4 tokens in the middle; 1 empty one left out'
    """
    middle = median_low(tally.lengths or [0])
    parts = [f"{_count(len(tally.lengths), 'document')} of {middle:,} tokens in the middle"]
    if opened.shards:
        parts[0] += f", {_count(len(opened.shards), 'file')}"
    if tally.empty:
        parts.append(f"{_count(tally.empty, 'empty one')} left out")
    return f"{opened.source.shown}: {'; '.join([*parts, *opened.notes])}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
