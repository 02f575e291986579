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
from typing import Any

import numpy as np
from tqdm import tqdm

from e2e_lib.data.models import model_path
from e2e_lib.data.rows import row_blocks, token_stream
from e2e_lib.data.text import TextSource, read_documents
from e2e_lib.errors import (
    ConfigError,
    DataError,
    ModelError,
    command,
    require,
    reworded,
)
from e2e_lib.files import write_json
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS

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
    """
    width = source.context_size
    require(width >= 2, "context-size", width, "at least 2")
    allowed = f"at least one row of {width} tokens"
    require(max_tokens is None or max_tokens >= width, "max-tokens", max_tokens, allowed)
    if output.exists():
        raise ConfigError(f"output is {str(output)!r}, but it must be a folder that is not there.")
    words = load_tokenizer(tokenizer)
    documents = read_documents(source, seed=None)
    stream = token_stream(documents, words, len(words), source)
    blocks = row_blocks(stream, words, source, max(1, shard_tokens // width))
    part = output.with_name(f"{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        n_rows = _write(part, blocks, source, max_tokens // width if max_tokens else None)
        record = {
            "source": Path(source.name).name if Path(source.name).exists() else source.name,
            "split": source.split,
            "revision": source.revision,
            "tokenizer": tokenizer,
            "context_size": width,
            "prepend_bos": source.prepend_bos,
            "rows": n_rows,
        }
        write_json(part / "tokenise.json", record)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return n_rows


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a hub model, of a folder or an embedded one. Raises ModelError."""
    from transformers import AutoTokenizer

    path = model_path(name) if name in EMBEDDED_MODELS else name
    what = f"tokenizer is {name!r}, but it could not be loaded: a hub name needs a network"
    with reworded(ModelError, f"{what} or a cached copy"):
        return AutoTokenizer.from_pretrained(path)


def _write(
    folder: Path, blocks: Iterator[np.ndarray], source: TextSource, limit: int | None
) -> int:
    """Write each block as a parquet file, at most `limit` rows in all; returns their number."""
    import datasets

    datasets.disable_progress_bars()
    files: list[Path] = []
    n_rows = 0
    total = None if limit is None else limit * source.context_size
    with tqdm(total=total, unit="tok", unit_scale=True, desc="tokenising", mininterval=1) as bar:
        for rows in blocks:
            rows = rows[: None if limit is None else limit - n_rows]
            if len(rows):
                files.append(folder / "data" / f"{len(files)}.parquet")
                datasets.Dataset.from_dict({"input_ids": rows}).to_parquet(files[-1])
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
    parser.add_argument("--output", type=Path, required=True, help="folder that is made")
    parser.add_argument("--prepend-bos", action="store_true", help="start rows with the BOS token")
    parser.add_argument("--split", default="train", help="of the source, and of the output")
    parser.add_argument("--revision", help="commit of a hub data set")
    parser.add_argument("--max-tokens", type=int, help="stop after so many")
    given = parser.parse_args(arguments)
    source = TextSource(
        given.source, given.split, given.context_size, given.prepend_bos, given.revision
    )
    rows = tokenise(source, given.tokenizer, given.output, max_tokens=given.max_tokens)
    print(f"{rows:,} rows of {source.context_size} tokens in {given.output}")


if __name__ == "__main__":
    sys.exit(main())
