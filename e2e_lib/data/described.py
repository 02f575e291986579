"""What data say about themselves: columns beside the ids, and a description beside the files.

Each is honoured or refused in one sentence; none is passed over.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from e2e_lib.data.held_out import Document
from e2e_lib.data.readers import LENGTHS, SEGMENTS, Record, split_of
from e2e_lib.errors import DataError, ModelError, is_integer, reworded
from e2e_lib.files import project_path, shown_name
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS

# Ours, and SAELens'; what each calls tokenizer, row length, and what every row begins with.
DESCRIPTIONS = {
    "tokenise.json": ("tokenizer", "context_size", "prepend_bos"),
    "sae_lens.json": ("tokenizer_name", "context_size", "begin_batch_token"),
}
# No code of a folder or of the hub is run: else transformers asks, and runs it.
NO_CODE = {"trust_remote_code": False}
PROBE = "The Quick brown\tfox's 1,234\nnaïve Ünïcode 你好 🙂  w1 w2  </s> <unk>"
# Where rules by which text is normalised and cut differ: numbers, spaces, marks, scripts.
CUTS = PROBE + (
    "\n\n  12 2023 1234567890 3.14e-5\r\n\tif x_y != [0]:  # DON'T, we'll...!!!\n<think>\nOkay "
    "e\u0301 \ufb01 \uff37\uff11\u00b2 \u0e44\u0e17\u0e22 \u0627\u0644\u0639 \u200d\u00a0\u3000."
)
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Description:
    """What a description says of rows of token ids."""

    file: str  # its name
    tokenizer: str  # a name or folder
    vocabulary: str | None  # `vocabulary_digest` of it, where the description has one
    context_size: int  # ids a row
    prepend_bos: bool  # whether every row begins with one that is no document's


def read_description(path: Path) -> Description | None:
    """The description beside a file or in a folder, or above while that is data/ or a split's.

    Raises:
        DataError: it is damaged or says too little, or there are two that differ.
    """
    folder = path.parent if path.is_file() else path
    while True:
        there = [name for name in DESCRIPTIONS if (folder / name).is_file()]
        found = [description_in(name, folder / name) for name in there]
        if len({(own.context_size, own.prepend_bos) for own in found}) > 1:
            raise DataError(
                f"data {path.name!r} has a {' and a '.join(there)} that say different things of "
                "the rows: one of the two must go."
            )
        if found:
            return found[0]
        if folder.name != "data" and not split_of(folder.name):
            return None
        folder = folder.parent


def description_in(name: str, file: Path) -> Description:
    """The description in a file; `name` says of which kind."""
    tokenizer, context, begins = DESCRIPTIONS[name]
    what = f"{name} of data {file.parent.name!r} does not say how the rows were made"
    with reworded(DataError, what):
        facts = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(facts, Mapping) or not isinstance(facts.get(tokenizer), str):
            raise ValueError(f"{tokenizer} must be a name")
        first: Any = facts.get(begins)
        width: Any = facts.get(context)
        if not is_integer(width) or width < 1:
            raise ValueError(f"{context} must be a whole number of at least 1")
        if not (first is None or isinstance(first, bool | int | str)):
            raise ValueError(f"{begins} must say whether or how every row begins")
        vocabulary = facts.get("vocabulary")
        if not (vocabulary is None or isinstance(vocabulary, str)):
            raise ValueError("vocabulary must be a digest")
        return Description(
            name, facts[tokenizer], vocabulary, width,
            first is not None and first is not False,
        )  # fmt: skip


def vocabulary_digest(tokenizer: Any) -> str:
    """A digest of what a tokenizer makes of text: its tokens' ids, and a sentence's."""
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    facts = [sorted(tokenizer.get_vocab().items()), ids, tokenizer.eos_token_id]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub model, of a folder or an embedded model, as it is on the disk.

    It reads text as its tokenizer.json says, which is printed where transformers would not.

    Raises:
        ModelError: there is none of this name, it is damaged, a token that it names as the end or
            the beginning of text is in no vocabulary of its files, or it cuts text by chance.
    """
    from transformers import AutoTokenizer

    path = EMBEDDED_MODELS.get(name, project_path(name))
    place = str(path) if path.is_dir() else name
    what = f"tokenizer is {name!r}, but it could not be loaded: a hub name needs a network"
    with reworded(ModelError, f"{what} or a cached copy, a folder sound files"):
        found = AutoTokenizer.from_pretrained(place, revision=revision or "main", **NO_CODE)
        found = _by_its_file(found, place, revision or "main")
    model = getattr(getattr(found, "backend_tokenizer", None), "model", None)
    if dropout := getattr(model, "dropout", None):
        raise ModelError(
            f"tokenizer is {name!r}, but its dropout is {dropout:g}: it must be null in "
            "tokenizer.json, or text is cut by chance, otherwise each time that it is read."
        )
    own = _vocabulary(place, revision or "main")
    for key in ("eos_token", "bos_token"):
        token = getattr(found, key)
        if own and token is not None and token not in own:
            raise ModelError(
                f"tokenizer is {name!r}, but its {key} {token!r} is in no vocabulary of its files: "
                "it would get a number that no model has learnt."
            )
    return found


def _by_its_file(found: Any, place: str, revision: str) -> Any:
    """`found`; or, where it reads text otherwise than its tokenizer.json, a tokenizer of the file.

    A class that tokenizer_config.json names, or that is usual for the model, takes of the file the
    words alone, in transformers 5: how text is normalised and cut is its own. GPT-2's cuts numbers
    elsewhere than newer files do, and makes no token of words that it cannot merge.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    path = _cached(place, "tokenizer.json", revision)
    if path is None or type(found) is PreTrainedTokenizerFast:  # which is made of the file itself
        return found
    file = Tokenizer.from_file(str(path))
    file.no_truncation()
    file.no_padding()
    file.encode_special_tokens = True
    expected = None
    with suppress(Exception):  # a word that is unknown where nothing stands for such a word
        expected = file.encode(CUTS, add_special_tokens=False).ids
    with suppress(Exception):
        options = {"add_special_tokens": False, "split_special_tokens": True}
        if expected is None or found(CUTS, **options)["input_ids"] == expected:
            return found
    print(
        f"Tokenizer {shown_name(place)}: text is read as its tokenizer.json says, which "
        f"transformers' {type(found).__name__} would not do."
    )
    special = {key: getattr(found, key) for key in SPECIAL}
    known = file.get_vocab()
    kept = {key: token for key, token in special.items() if token in known}
    return PreTrainedTokenizerFast.from_pretrained(place, revision=revision, **kept)


def _cached(place: str, name: str, revision: str) -> Path | None:
    """A file of a tokenizer; None if there is none of this name."""
    from transformers.utils import cached_file

    quiet = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
    options: Any = {f"_raise_exceptions_for_{key}": value for key, value in quiet.items()}
    found = cached_file(place, name, revision=revision, **options)
    return Path(found) if found else None


def _vocabulary(place: str, revision: str) -> set[str]:
    """The tokens in a tokenizer's files; none where there is no tokenizer.json that says them.

    transformers adds what is named as a special token and is not among them.
    """
    names = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json")
    found: list[Any] = []
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        for name in names:
            path = _cached(place, name, revision)
            found.append(json.loads(path.read_text(encoding="utf-8")) if path else {})
        whole, config, added, words = found
        known = [word if isinstance(word, str) else word[0] for word in whole["model"]["vocab"]]
        marked = [*whole["added_tokens"], *config.get("added_tokens_decoder", {}).values()]
        return {*known, *added, *words, *(token["content"] for token in marked)}
    return set()


def check_description(
    found: Description, data: str, tokenizer: Any, context_size: int, prepend_bos: bool
) -> None:
    """Raise DataError unless rows so described are what is asked for."""
    says = f"data {data!r}: its {found.file} says"
    own = theirs = vocabulary_digest(tokenizer)
    if found.vocabulary is not None:
        theirs = found.vocabulary
    elif found.tokenizer != tokenizer.name_or_path:
        with reworded(DataError, f"{says} that {found.tokenizer!r} made the rows, to compare with"):
            theirs = vocabulary_digest(load_tokenizer(found.tokenizer))
    if theirs != own:
        raise DataError(
            f"{says} that the tokenizer {found.tokenizer!r} made the rows, but the model has "
            "another one: tokenise the text with the model's own."
        )
    if found.prepend_bos and not prepend_bos:
        raise DataError(
            f"{says} that every row begins with the beginning-of-text token, but prepend_bos is "
            "False: it must be True, or the text tokenised without."
        )
    fits = found.context_size == context_size or (
        not found.prepend_bos and not prepend_bos and found.context_size % context_size == 0
    )
    if not fits:
        allowed = "" if found.prepend_bos or prepend_bos else " or a divisor of it"
        raise DataError(
            f"{says} that a row has {found.context_size} tokens, but context_size is "
            f"{context_size}: it must be {found.context_size}{allowed}, or the text tokenised anew."
        )


def as_described(row: Document, found: Description, data: str, first: int | None) -> Document:
    """A row of ids, if it is as long and begins (None: anyhow) as a description says of all."""
    begins = first is None or len(row) < 1 or row[0] == first
    if not (isinstance(row, str) or (len(row) == found.context_size and begins)):
        starts = "" if first is None else f" and begins with token {first}"
        raise DataError(
            f"data {data!r}: its {found.file} says that every row has {found.context_size} tokens"
            f"{starts}, but one has {len(row)}: {str(list(row[:4]))[1:-1]}, …."
        )
    return row


def document_of(record: Record, data: str) -> Document:
    """The text or the token ids of a row, without what its mask leaves out.

    Raises:
        DataError: neither is there, or both are; a mask, or positions and types of tokens that no
            row of plain text has.
    """
    has = [name for name in ("text", "input_ids") if name in record]
    if not has:
        listed = ", ".join(map(str, record)) or "none"
        raise DataError(
            f"data {data!r} has the columns {listed}, but one must be 'text' or 'input_ids'."
        )
    if len(has) == 2:
        raise DataError(
            f"data {data!r} has both 'text' and 'input_ids', but only one may be there: which of "
            "them is meant, no one but you can say."
        )
    value = record[has[0]]
    if not isinstance(value, (str,) if has == ["text"] else (list, np.ndarray)):
        raise DataError(
            f"data {data!r} holds {repr(value)[:60]} in the column {has[0]!r}, but it must hold "
            f"{'a text' if has == ['text'] else 'a list of token ids'} in every row."
        )
    return value if isinstance(value, str) else _unmasked(value, record, data)


def _unmasked(ids: Any, record: Record, data: str) -> Document:
    columns = {name: np.asarray(own) for name, own in record.items() if own is not None}
    mask = columns.get("attention_mask", np.ones(len(ids), int))
    kinds = columns.get("token_type_ids", np.zeros(len(ids), int))
    places = columns.get("position_ids")
    whole = columns["input_ids"].dtype.kind in "iu" or not len(ids)
    for name, own, good, allowed in (
        ("input_ids", columns["input_ids"], whole, "a whole number"),
        ("attention_mask", mask, np.isin(mask, (0, 1)).all(), "0 or 1"),
        ("token_type_ids", kinds, not kinds.any(), "0: a causal model reads no other"),
        ("position_ids", places, places is None or _counts(places, mask), "those of one text"),
    ):
        if own is not None and not (np.shape(own) == (len(ids),) and good):
            raise DataError(
                f"data {data!r} has a row of {len(ids)} token ids with {name} "
                f"{np.ravel(own)[:12].tolist()}, but it must be, for each of them, {allowed}."
            )
    for name in columns.keys() & {*SEGMENTS, LENGTHS}:
        own = columns[name]
        own = own[mask.astype(bool)] if own.shape == mask.shape else own.ravel()
        if len(own if name == LENGTHS else np.unique(own)) > 1:
            raise DataError(
                f"data {data!r} has a row of several texts, by {name} {own[:12].tolist()}, but a "
                "row must be of one text, or name none: every token would see those before it."
            )
    return ids if mask.all() else np.asarray(ids)[mask.astype(bool)]


def _counts(places: Any, mask: Any) -> bool:
    """Whether positions of what is not masked rise by one from 0."""
    own = places[mask.astype(bool)] if places.shape == mask.shape else places
    return np.array_equal(own, np.arange(len(own)))
