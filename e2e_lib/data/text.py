"""Where text comes from, through `datasets`: files, folders, hub data sets, or StoryWorld.

A source is `storyworld`, a file (.jsonl, .json, .txt, .parquet, .arrow), a folder in the hub's
layout, or a hub name, with either a text column or ready-made `input_ids`.

Files and StoryWorld are shuffled whole; folders and hub data sets are streams, whose order is that
of the authors' data: shuffled shards, then a buffer of documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from e2e_lib.errors import DataError, reworded
from e2e_lib.files import project_path, source_path

READERS = {
    ".jsonl": "json",
    ".json": "json",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
Ids = np.ndarray[Any, np.dtype[np.integer[Any]]]
Document = str | list[int] | Ids  # a text, or token ids


@dataclass(frozen=True)
class TextSource:
    """Where text comes from and how it becomes rows."""

    name: str  # storyworld, a file, a folder in the hub's layout, or a hub data set
    split: str = "train"  # split of a folder, a hub data set or StoryWorld; a file has one
    context_size: int = 128  # tokens a row
    prepend_bos: bool = False  # start every row with the beginning-of-text token
    revision: str | None = None  # commit, tag or branch of a hub data set
    streaming: bool = True  # read a hub data set as it is needed instead of downloading it
    shuffle_buffer: int = 1000  # documents shuffled at a time, as in the authors' streams


def source_pair(
    train_data: str,
    validation_data: str,
    context_size: int = 128,
    prepend_bos: bool = False,
    revision: str | None = None,
) -> tuple[TextSource, TextSource]:
    """Sources for two data parameters; the held-out split is named `validation` where there is one.

    One hub name or file given twice is split by document digest; `NAME:SPLIT` names another split
    of a hub data set or folder. A relative path is one under the project's root, if it is there.
    `revision` is that of the hub data sets.
    """
    (train_name, train_split), (name, split) = map(named_split, (train_data, validation_data))
    train = TextSource(train_name, train_split or "train", context_size, prepend_bos, revision)
    if (train_name, train_split) == (name, split) and name != "storyworld":
        return train, train
    return train, replace(train, name=name, split=split or "validation")


def named_split(name: str) -> tuple[str, str | None]:
    """`NAME:SPLIT` in two; a path that exists is a name.

    >>> named_split("someone/stories:validation"), named_split("a.jsonl")
    (('someone/stories', 'validation'), ('a.jsonl', None))
    """
    base, _, split = name.rpartition(":")
    if not base or not split.isidentifier() or project_path(name).exists():
        return source_path(name), None
    return source_path(base), split


def read_documents(source: TextSource, seed: int | None) -> Iterator[Document]:
    """Documents of a source, shuffled by `seed` (None: in order): texts, or token ids.

    Raises:
        DataError: the source cannot be read, or has neither a `text` nor an `input_ids` column.
    """
    if source.name == "storyworld":
        from e2e_lib.storyworld.grammar import generate

        # An endless stream: the seed chooses other stories, not another order of the same ones.
        yield from (story.text for story in generate(seed or 0, source.split))
        return
    with reworded(DataError, f"data {source.name!r} cannot be read to its end"):
        dataset, column = _open(source)
        if seed is not None and hasattr(dataset, "num_rows"):
            dataset = dataset.shuffle(seed=seed)
        elif seed is not None:
            dataset = dataset.shuffle(seed=seed, buffer_size=source.shuffle_buffer)
        for row in dataset:
            if not isinstance(row[column], str | list | np.ndarray):
                raise DataError(
                    f"data {source.name!r} holds {row[column]!r} in the column {column!r}, but it "
                    "must hold a text or a list of token ids in every row."
                )
            yield row[column]


def _open(source: TextSource) -> tuple[Any, str]:
    """The `datasets` object behind a source that is not StoryWorld, and its column to read."""
    datasets = import_datasets()
    datasets.disable_progress_bars()
    path = Path(source.name).expanduser()
    dataset = _open_file(path, source) if path.suffix in READERS else _open_hub(path, source)
    columns = dataset.column_names or list(next(iter(dataset), {}))
    column = next((c for c in ("input_ids", "text") if c in columns), None)
    if column is None:
        raise DataError(
            f"data {source.name!r} has the columns {', '.join(columns) or 'none'}, but one must be "
            "'text' or 'input_ids'."
        )
    return dataset.select_columns(column), column


def import_datasets() -> Any:
    """The package `datasets`, told not to report what it opens.

    For its download counts it asks an address even for a file on this disk.
    """
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets


def _open_file(path: Path, source: TextSource) -> Any:
    if not path.is_file():
        raise DataError(f"data is {source.name!r}, but there is no such file.")
    with reworded(DataError, f"data {source.name!r} cannot be read"):
        return import_datasets().load_dataset(
            READERS[path.suffix], data_files=str(path), split="train", streaming=False
        )


def _open_hub(path: Path, source: TextSource) -> Any:
    """A hub data set, or a folder in the same layout: files of a split in it or in its data/."""
    places = [f"{place}*{suffix}" for place in ("", "data/") for suffix in READERS]
    local = any(any(path.glob(pattern)) for pattern in places)
    if not local and (path.exists() or source.name.startswith((".", "/", "~"))):
        raise DataError(
            f"data is {source.name!r}, but it must be 'storyworld', a file ending in "
            f"{', '.join(READERS)}, the name of a hub data set, or a folder with such files in it "
            "or in its data/."
        )
    with reworded(
        DataError,
        f"data is {source.name!r}, but this data set (split {source.split!r}) cannot be opened, "
        "which needs a network or a cached copy unless it is a folder",
    ):
        return import_datasets().load_dataset(
            str(path) if local else source.name,
            split=source.split,
            streaming=source.streaming,
            revision=None if local else source.revision,
        )
