"""Files of text or token ids; what in a `.txt` is a document; which file is of which split.

A path is opened as it is written: no library sees a pattern in it, and none keeps a copy of a file
that says something else by now.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from e2e_lib.errors import DataError, reworded

READERS = (".jsonl", ".json", ".txt", ".parquet", ".arrow")
# Where one text of a row of ids ends, by packers' names: a number for each token, or lengths.
SEGMENTS, LENGTHS = ("segment_ids", "sequence_ids", "document_ids", "seq_idx"), "seq_lengths"
# What is read of a record; other columns are nobody's business.
COLUMNS = (
    *("text", "input_ids", "attention_mask", "token_type_ids", "position_ids"),
    *(*SEGMENTS, LENGTHS),
)
Record = dict[str, Any]
# Alone on a line: </s>, <|endoftext|>, <|end_of_text|>, <eos>, [EOS], and those like them.
END_LINE = re.compile(
    r"\s*(</s>|[<\[][|｜]?(end.?of.?(text|document|sentence)|eo[dst])[|｜]?[>\]])\s*", re.I
)
LINES = "every line of a .txt is a document"
PARAGRAPHS = "the lines of a .txt are wrapped: its paragraphs are the documents"
MARKED = "a .txt has end-of-text lines: what lies between them is a document"
# Lines are wrapped if the next one's first word would seldom have fitted within their width.
WRAP_WIDTHS, WRAP_SHARE, WRAP_LINES = range(30, 161), 0.85, 8
LINES_JUDGED = 20_000  # of a .txt
# What a split is called in the names of files and folders; an own name in NAME-00000-of-00003.
SPLITS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
SHARD = re.compile(r"(\w+)-(\d{5})-of-(\d{5})")
# What stands beside data: nobody would take it for text that was left out.
BESIDE = re.compile(
    r"\..*|(readme|license)(\.(md|rst|txt))?"
    r"|(tokenise|sae_lens|dataset_infos?|dataset_dict|state)\.json",
    re.I,
)


def records(path: Path) -> Iterator[Record]:
    """Rows of a file as dictionaries; of a table `COLUMNS` alone, ids as arrays.

    Raises:
        DataError: JSON that holds something else than objects.
        Exception: whatever a parser raises of a damaged file.
    """
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return ({"text": text} for text in text_documents(path))
    if suffix in (".jsonl", ".json"):
        rows = _json_lines(path) if suffix == ".jsonl" else _json(path)
        return (_object(row, path.name) for row in rows)
    return _table_rows(path)


def _object(value: Any, name: str) -> Record:
    if not isinstance(value, dict):
        shown = str(value)[:60]
        raise DataError(f"data {name!r} holds {shown!r}, but each row must be a JSON object.")
    return value


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _json(path: Path) -> Iterator[Any]:
    """A list of objects, an object of columns, or objects line by line."""
    try:
        found = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise
        yield from _json_lines(path)
        return
    if isinstance(found, dict) and _columns(found):
        names, columns = zip(*_columns(found).items(), strict=True)
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    else:
        yield from found if isinstance(found, list) else [found]


def _columns(found: dict[str, Any]) -> dict[str, list[Any]]:
    """Its columns, if an object of JSON is a table; the ids of one row are no column."""
    own = {name: found[name] for name in COLUMNS if name in found}
    rows = all(
        isinstance(column, list) and all(isinstance(row, str | list) for row in column)
        for column in own.values()
    )
    return own if rows else {}


def _table_rows(path: Path) -> Iterator[Record]:
    for names, batch in _batches(path):
        columns = [_values(batch.column(name)) for name in names]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _batches(path: Path) -> Iterator[tuple[list[str], Any]]:
    """Blocks of rows and the columns to read; a table that has none of them shows all it has."""
    if path.suffix.lower() == ".parquet":
        with parquet.ParquetFile(path) as table:
            names = _known(table.schema_arrow.names)
            yield from ((names, block) for block in table.iter_batches(1000, columns=names))
        return
    with pa.memory_map(str(path)) as source:
        try:
            stream = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            names = _known(file.schema.names)
            yield from ((names, file.get_batch(i)) for i in range(file.num_record_batches))
        else:
            names = _known(stream.schema.names)
            yield from ((names, block) for block in stream)


def _known(names: list[str]) -> list[str]:
    known = [name for name in COLUMNS if name in names]
    return known if {"text", "input_ids"} & set(known) else names


def _values(column: Any) -> Any:
    nested = pa.types.is_nested(column.type)
    return column.to_numpy(zero_copy_only=False) if nested else column.to_pylist()


def text_documents(path: Path) -> Iterator[str]:
    """The documents of a .txt by `text_rule`; empty ones too, for the caller to count."""
    rule = text_rule(path)
    if rule == LINES:
        yield from (line for line in _lines(path) if not END_LINE.fullmatch(line))
        return
    part: list[str] = []
    for line in _lines(path):  # an end may come first behind the lines that were judged
        ends = END_LINE.fullmatch(line) or (rule == PARAGRAPHS and not line.strip())
        if not ends:
            part.append(line)
        elif part:
            yield "\n".join(part).strip("\n")
            part = []
    if part:
        yield "\n".join(part).strip("\n")


def text_rule(path: Path) -> str:
    """What a document of this .txt is, in words: `LINES`, `PARAGRAPHS` or `MARKED`."""
    lines = list(islice(_lines(path), LINES_JUDGED))
    if sum(line.count("\0") for line in lines) > sum(map(len, lines)) / 5:
        raise DataError(f"data {path.name!r} is UTF-16 without a mark, but text must be UTF-8.")
    if any(map(END_LINE.fullmatch, lines)):
        return MARKED
    return PARAGRAPHS if is_wrapped(lines) else LINES


def is_wrapped(lines: list[str]) -> bool:
    """Whether lines end where a paragraph's width does, and not where a text does.

    >>> from textwrap import wrap
    >>> text = " ".join(f"word{i * i}" for i in range(200))
    >>> is_wrapped(wrap(text, 60)), is_wrapped([text[: i * 7 % 61] for i in range(200)])
    (True, False)
    """
    pairs = [(a.rstrip(), b) for a, b in pairwise(lines) if a.strip() and b.strip()]
    lengths = sorted(len(a) for a, _ in pairs)
    if len(pairs) < WRAP_LINES or len(set(lengths)) < 3:
        return False  # lines of one length are rows of something made, not wrapped
    width = lengths[int(0.98 * (len(lengths) - 1))]
    full = np.mean([len(a) + 1 + len(b.split()[0]) > width for a, b in pairs])
    records = np.mean([b[:1].isdigit() for _, b in pairs])  # logs and tables: as long as each other
    return width in WRAP_WIDTHS and bool(full >= WRAP_SHARE and records < 0.5)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (line.rstrip("\n") for line in file)


class Folder(NamedTuple):
    """A data folder's files."""

    splits: dict[str, list[Path]]  # those that can be read, in the order of their names
    others: list[str]  # names of those that belong to no split, or are of another kind


def read_folder(folder: Path) -> Folder:
    """The files in a folder, in its data/, and in folders in these two that are named as a split.

    Where no name tells a split, every file is of `train`.

    Raises:
        DataError: a folder may not be looked into.
    """
    by_split: dict[str, list[Path]] = {}
    others: list[str] = []
    with reworded(DataError, f"data folder {folder.name!r} cannot be read"):
        for named, path in _entries(folder):
            wanted = path.suffix.lower() in READERS and path.is_file()
            if wanted and path.name in (_saved(path.parent) or {path.name}):
                by_split.setdefault(named or split_of(path.stem), []).append(path)
            else:
                others.append(f"{path.name}/" if path.is_dir() else path.name)
    unnamed = by_split.pop("", [])
    if by_split:
        others += [file.name for file in unnamed]
    elif unnamed:
        by_split = {"train": unnamed}
    return Folder(by_split, others)


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """What lies where data may, but for what stands beside them, with the split of its folder."""
    for place in (folder, folder / "data"):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if BESIDE.fullmatch(path.name) or path == folder / "data":
                continue
            named = split_of(path.name) if path.is_dir() else ""
            for file in sorted(path.iterdir()) if named else [path]:
                if not BESIDE.fullmatch(file.name):
                    yield named, file


def _saved(folder: Path) -> set[str]:
    """The files of the table that `datasets` saved here, if one is; beside them it keeps caches."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return {str(file["filename"]) for file in facts["_data_files"]}
    return set()


def rules(files: Sequence[Path]) -> list[str]:
    """What a document is in the .txt files, in words."""
    found = (text_rule(file) for file in files if file.suffix.lower() == ".txt")
    return list(dict.fromkeys(found))


def left_out(folder: Folder, split: str) -> list[str]:
    """What of a folder is not read for a split, in words."""
    others = [f"its split {name}" for name in folder.splits if name != split]
    some, more = folder.others[:3], len(folder.others) - 3
    listed = [*others, *some, *([f"{more} more"] if more > 0 else [])]
    return [f"not read: {', '.join(listed)}"] if listed else []


def lacking(files: list[Path]) -> list[str]:
    """In words, of which files others are not here, by the number that their names tell.

    >>> lacking([Path(f"train-0000{k}-of-00003.parquet") for k in (0, 2)])
    ['2 of the 3 files train-…-of-00003 are here']
    """
    here: dict[tuple[str, str], set[str]] = {}
    for file in files:
        if shard := SHARD.fullmatch(file.stem):
            here.setdefault((shard[1], shard[3]), set()).add(shard[2])
    return [
        f"{len(own)} of the {int(total)} files {name}-…-of-{total} are here"
        for (name, total), own in here.items()
        if len(own) < int(total)
    ]


def split_of(name: str) -> str:
    """The split that a name without its ending tells; "" if none.

    >>> split_of("validation-00001-of-00002"), split_of("my.stories_dev"), split_of("trains")
    ('validation', 'validation', '')
    """
    if shard := SHARD.fullmatch(name):
        return shard[1]
    words = set(re.split("[^a-z]+", name.lower()))
    return next((split for split, own in SPLITS.items() if own & words), "")
