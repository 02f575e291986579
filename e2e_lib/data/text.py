"""Where text comes from: files, folders, data sets of the hub through `datasets`, or StoryWorld.

A source is `storyworld`, a file (.jsonl, .json, .txt, .parquet, .arrow), a folder of such files, or
a hub name, with either a text column or ready-made `input_ids`.

Files and StoryWorld are shuffled whole; folders and hub data sets are streams, whose order is that
of the authors' data: shuffled shards, then a buffer of documents.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from e2e_lib.data import described, held_out, readers
from e2e_lib.data.held_out import Document, Part
from e2e_lib.data.readers import read_folder
from e2e_lib.errors import DataError, reworded
from e2e_lib.files import expanded, project_path, shown_name, source_path

# The modules that make documents of a file: what `datasets` keeps of one is theirs alone.
CODE = tuple(Path(str(module.__file__)) for module in (described, held_out, readers))


@dataclass(frozen=True)
class TextSource:
    """Where text comes from and how it becomes rows."""

    name: str  # storyworld, a file, a folder, or a hub data set
    split: str = "train"  # split of a folder, a hub data set or StoryWorld; a file has one
    context_size: int = 128  # tokens a row
    prepend_bos: bool = False  # start every row with the beginning-of-text token
    revision: str | None = None  # commit, tag or branch of a hub data set
    shuffle_buffer: int = 1000  # documents shuffled at a time, as in the authors' streams

    @property
    def shown(self) -> str:
        """Its name as it is printed: of a local one the last part, for no folder is shown."""
        return Path(self.name).name if project_path(self.name).exists() else self.name


def source_pair(
    train_data: str,
    validation_data: str,
    context_size: int = 128,
    prepend_bos: bool = False,
    revision: str | None = None,
) -> tuple[TextSource, TextSource]:
    """Sources for two data parameters: this alone decides which split of each is read.

    One hub name, folder or file given twice, by whatever path, is split by document digest;
    `NAME:SPLIT` names another split of a hub data set or folder. Else training reads `train` and
    the held-out rows come from `validation`, or, of a folder that has but one split, from that. A
    relative path is one under the project's root, if it is there. `revision` is that of the hub.
    """
    (train_name, train_split), (name, split) = map(named_split, (train_data, validation_data))
    name = train_name if _same_place(train_name, name) else name
    first = train_split or _usual_split(train_name, "train")
    train = TextSource(train_name, first, context_size, prepend_bos, revision)
    if (train_name, train_split) == (name, split) and name != "storyworld":
        return train, train
    return train, replace(train, name=name, split=split or _usual_split(name, "validation"))


def _same_place(one: str, other: str) -> bool:
    """Whether both are one file or folder here, read alike: `..` and links give it many names."""
    paths = Path(one), Path(other)
    here = all(path.is_absolute() and path.exists() for path in paths)
    if not (here and paths[0].samefile(paths[1])):
        return False
    return paths[0].is_dir() or paths[0].suffix.lower() == paths[1].suffix.lower()


def told_names(texts: tuple[str, str], digests: tuple[str | None, str | None]) -> tuple[str, str]:
    """How results tell the texts of both data parameters; their digests, of what lies here.

    By the last part of a path; one source for both by one name, two that are alike by two.
    """
    train, held = (
        Path(text).name if digest else shown_name(text)
        for text, digest in zip(texts, digests, strict=True)
    )
    one, other = source_pair(*texts)
    if one == other:
        return train, train
    alike = train == held and digests[0] is not None and digests[0] == digests[1]
    return train, f"{held} (a copy)" if alike else held


def _usual_split(name: str, usual: str) -> str:
    """The split of a source that names none."""
    path = project_path(name)
    splits = list(read_folder(path).splits) if path.is_dir() else []
    return splits[0] if len(splits) == 1 else usual


def named_split(name: str) -> tuple[str, str | None]:
    """`NAME:SPLIT` in two; a path that exists is a name.

    >>> named_split("someone/stories:validation"), named_split("a.jsonl")
    (('someone/stories', 'validation'), ('a.jsonl', None))

    Raises:
        DataError: a split of a file, which has none.
    """
    base, _, split = name.rpartition(":")
    with reworded(DataError, f"data is {name[:80]!r}, which is no name"):  # too long, say
        there = project_path(name).exists()
    if not base or not split.isidentifier() or there:
        return source_path(name), None
    if project_path(base).is_file():
        raise DataError(f"data is {name!r}, but a file has no splits: give {base!r}.")
    return source_path(base), split


def read_documents(source: TextSource, seed: int | None) -> Iterator[Document]:
    """Documents of a source, shuffled by `seed` (None: in order): texts, or token ids.

    Raises:
        DataError: the source cannot be read, or a row has neither a `text` nor `input_ids`.
    """
    return (document for document, _ in open_source(source).documents(seed))


@dataclass
class Opened:
    """A source whose files have been found, but not read."""

    source: TextSource
    shards: list[Any]  # paths, or of a hub data set its `datasets.IterableDataset`s
    whole: bool = False  # shuffled whole
    description: described.Description | None = None  # of rows of token ids, if there is one
    notes: list[str] = field(default_factory=list)  # what else is to be said of what is read

    def documents(
        self, seed: int | None, ends: Sequence[int] = ()
    ) -> Iterator[tuple[Document, Part]]:
        """Documents as `read_documents` gives them, each with where it belongs.

        ends: token ids at which a document of rows of ids ends.
        """
        if self.source.name == "storyworld":
            from e2e_lib.storyworld.grammar import generate

            # An endless stream: the seed chooses other stories, not another order of the same.
            yield from ((story.text, "train") for story in generate(seed or 0, self.source.split))
            return
        datasets = import_datasets()
        # Of these `datasets` takes lists, and only them, for shards.
        given = {"shards": self.shards, "name": self.source.name, "ends": tuple(ends)}
        with reworded(DataError, f"data {self.source.name!r} cannot be read to its end"):
            if self.whole and seed is not None:
                given["state"] = tuple(map(_content, (*self.shards, *CODE)))
                stream = datasets.Dataset.from_generator(_examples, gen_kwargs=given)
                stream = stream.shuffle(seed=seed)
            else:
                stream = datasets.IterableDataset.from_generator(_examples, gen_kwargs=given)
            if not self.whole and seed is not None:
                stream = stream.shuffle(seed=seed, buffer_size=self.source.shuffle_buffer)
            for row in stream:
                yield row["document"], row["part"]


def _examples(
    shards: list[Any], name: str, ends: Sequence[int], state: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Documents of each shard in order; `state` tells what was read of a file from what it is."""
    for shard in shards:
        rows: Iterable[readers.Record] = (
            readers.records(shard) if isinstance(shard, Path) else shard
        )
        documents = (described.document_of(row, name) for row in rows)
        for document, part in _with_parts(documents, ends, name):
            yield {"document": document, "part": part}


def _with_parts(
    documents: Iterator[Document], ends: Sequence[int], name: str
) -> Iterator[tuple[Document, Part]]:
    def rows_alone(every: Iterable[Document]) -> Iterator[Document]:
        for row in every:
            if isinstance(row, str):
                raise DataError(f"data {name!r} has a text behind rows of token ids: {row[:40]!r}.")
            yield row

    for first in documents:
        every = chain([first], documents)
        if isinstance(first, str):
            yield from ((document, held_out.part(document)) for document in every)
        else:
            yield from held_out.row_parts(rows_alone(every), ends)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def import_datasets() -> Any:
    """The package `datasets`, told not to report what it opens.

    For its download counts it asks an address even for a file on this disk.
    """
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    return datasets


def open_source(source: TextSource) -> Opened:
    """Find a source's files, or its shards on the hub.

    Raises:
        DataError: there is nothing of this name, no such split, or nothing in it.
    """
    path = expanded(source.name)
    if source.name == "storyworld":
        from e2e_lib.storyworld.grammar import SPLITS

        if source.split not in SPLITS:
            raise DataError(
                f"data is 'storyworld', but it has no split {source.split!r}: it has "
                f"{', '.join(SPLITS)}."
            )
        return Opened(source, [])
    if path.is_dir():
        return _open_folder(path, source)
    if path.suffix.lower() in readers.READERS:
        return _open_file(path, source)
    return _open_hub(source)


def _open_file(path: Path, source: TextSource) -> Opened:
    if not path.is_file():
        raise DataError(f"data is {source.name!r}, but there is no such file.")
    if not path.stat().st_size:
        raise DataError(f"data {source.name!r} is an empty file.")
    with reworded(DataError, f"data {source.name!r} cannot be read"):
        if next(readers.records(path), None) is None:
            raise DataError(f"data {source.name!r} holds no document.")
        return Opened(source, [path], True, described.read_description(path), readers.rules([path]))


def _open_folder(path: Path, source: TextSource) -> Opened:
    folder = read_folder(path)
    if not folder.splits:
        raise _no_data(source.name)
    if source.split not in folder.splits:
        raise DataError(
            f"data is {source.name!r}, but this folder has no split {source.split!r}: it has "
            f"{', '.join(folder.splits)}, asked for as in {path.name}:{next(iter(folder.splits))}."
        )
    files = folder.splits[source.split]
    with reworded(DataError, f"data {source.name!r} cannot be read"):
        notes = [*readers.rules(files), *readers.lacking(files)]
        notes += readers.left_out(folder, source.split)
        return Opened(source, files, False, described.read_description(path), notes)


def _no_data(name: str) -> DataError:
    return DataError(
        f"data is {name!r}, but it must be 'storyworld', a file ending in "
        f"{', '.join(readers.READERS)}, the name of a hub data set, or a folder with such files in "
        "it or in its data/."
    )


def _open_hub(source: TextSource) -> Opened:
    if source.name.startswith((".", "/", "~")) or Path(source.name).exists():
        raise _no_data(source.name)
    with reworded(
        DataError,
        f"data is {source.name!r}, but this data set (split {source.split!r}) cannot be opened, "
        "which needs a network or a cached copy",
    ):
        dataset = import_datasets().load_dataset(
            source.name, split=source.split, streaming=True, revision=source.revision
        )
        names = [name for name in readers.COLUMNS if name in (dataset.column_names or ())]
        dataset = dataset.select_columns(names) if names else dataset
        count = dataset.num_shards
        shards = [dataset.shard(num_shards=count, index=i) for i in range(count)]
    return Opened(source, shards, False, _hub_description(source))


def _hub_description(source: TextSource) -> described.Description | None:
    from huggingface_hub import hf_hub_download

    for name in described.DESCRIPTIONS:
        try:
            file = hf_hub_download(source.name, name, repo_type="dataset", revision=source.revision)
        except Exception:  # a dozen kinds: the data set has no such file, or is a cached copy
            continue
        return described.description_in(name, Path(file))
    return None
