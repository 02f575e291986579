"""Tokenise text once and save it as rows of token ids, for many trainings to read.

    python -m pipeline.tokenise SOURCE --tokenizer gpt2 --context-size 1024 --output FOLDER

SOURCE is what a profile's `train_data` may be: a file, a folder or a hub data set. FOLDER gets the
hub's layout, data/SPLIT-00000-of-0000N.parquet with one column `input_ids` of exactly CONTEXT_SIZE
ids, and can be given as TRAIN or VALIDATION or uploaded as it is.

The documents are packed as in training: joined by the end-of-text token, in their own order, and
cut without regard for where one begins. Only the last, incomplete row is dropped; the authors
dropped what was left over after every thousand documents.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from e2e_lib.data.described import check_description, load_tokenizer, vocabulary_digest
from e2e_lib.data.packing import Tally, row_blocks, token_stream
from e2e_lib.data.rows import read_in_words
from e2e_lib.data.text import TextSource, open_source
from e2e_lib.errors import ConfigError, DataError, command, require
from e2e_lib.files import expanded, source_path, write_json, writing

SHARD_TOKENS = 50_000_000  # of a parquet file: 100 to 200 MB


def tokenise(
    source: TextSource,
    tokenizer: str,
    output: Path,
    *,
    max_tokens: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> int:
    """Write `source` as rows of token ids into the folder `output`; returns the number of rows.

    The folder appears when it is complete and not before.

    Raises:
        ConfigError: `output` is there already, or a size that is not allowed.
        DataError: the source cannot be read or does not fill one row.
        ModelError: there is no such tokenizer.
        ResultsError: `output` cannot be written.
    """
    width = source.context_size
    require(width >= 2, "context-size", width, "at least 2")
    allowed = f"at least one row of {width} tokens"
    require(max_tokens is None or max_tokens >= width, "max-tokens", max_tokens, allowed)
    good = max_tokens is not None or source.name != "storyworld"
    require(good, "max-tokens", max_tokens, "given: StoryWorld has no end")
    allowed = "letters, digits and _, as NAME:SPLIT asks for it"
    require(source.split.isidentifier(), "split", source.split, allowed)
    with writing(output):
        there = output.exists() or output.is_symlink()
    if there:
        raise ConfigError(f"output is {str(output)!r}, but it must be a folder that is not there.")
    words, opened, tally = load_tokenizer(tokenizer), open_source(source), Tally()
    if opened.description is not None:
        check_description(opened.description, source.name, words, width, source.prepend_bos)
    documents = (document for document, _ in opened.documents(None))
    stream = token_stream(documents, words, len(words), source, tally)
    blocks = row_blocks(stream, words, source, max(1, shard_tokens // width))
    part = output.with_name(f"{output.name}.part")
    with writing(output):
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        try:
            n_rows = _write(part, blocks, source, max_tokens // width if max_tokens else None)
            record = {
                "source": Path(source.name).name if Path(source.name).exists() else source.name,
                "split": source.split,
                "revision": source.revision,
                "tokenizer": tokenizer,
                "vocabulary": vocabulary_digest(words),
                "context_size": width,
                "prepend_bos": source.prepend_bos,
                "rows": n_rows,
            }
            write_json(part / "tokenise.json", record)
            part.rename(output)
            print(read_in_words(tally, opened))
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return n_rows


def _write(
    folder: Path, blocks: Iterator[np.ndarray], source: TextSource, limit: int | None
) -> int:
    """Write each block as a parquet file, at most `limit` rows in all; returns their number."""
    (folder / "data").mkdir(parents=True)
    files: list[Path] = []
    n_rows = 0
    total = None if limit is None else limit * source.context_size
    with tqdm(total=total, unit="tok", unit_scale=True, desc="tokenising", mininterval=1) as bar:
        for rows in blocks:
            rows = rows[: None if limit is None else limit - n_rows]
            if len(rows):
                files.append(folder / "data" / f"{len(files)}.parquet")
                parquet.write_table(pa.table({"input_ids": list(rows)}), files[-1])
                n_rows += len(rows)
                bar.update(rows.size)
            if n_rows == limit:
                break
    if not n_rows:
        raise DataError(
            f"data {source.name!r} does not fill one row of {source.context_size} tokens: give "
            "more text or a smaller context-size."
        )
    for k, file in enumerate(files):
        file.rename(file.with_name(f"{source.split}-{k:05d}-of-{len(files):05d}.parquet"))
    return n_rows


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Tokenise text and save it as rows of ids.")
    parser.add_argument("source", help="a text file, a folder in the hub's layout, a hub data set")
    parser.add_argument("--tokenizer", required=True, help="hub model, folder, or storyworld")
    parser.add_argument("--context-size", type=int, default=1024, help="ids in a row")
    parser.add_argument("--output", required=True, help="folder that is made")
    parser.add_argument("--prepend-bos", action="store_true", help="start rows with the BOS token")
    parser.add_argument("--split", default="train", help="of the source, and of the output")
    parser.add_argument("--revision", help="commit of a hub data set")
    parser.add_argument("--max-tokens", type=int, help="stop after so many")
    given = parser.parse_args(arguments)
    source = TextSource(
        source_path(given.source),
        given.split,
        given.context_size,
        given.prepend_bos,
        given.revision,
    )
    output = expanded(given.output)
    rows = tokenise(source, given.tokenizer, output, max_tokens=given.max_tokens)
    print(f"{rows:,} rows of {source.context_size} tokens in {given.output}")


if __name__ == "__main__":
    sys.exit(main())
