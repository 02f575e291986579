"""Tokenise and save: the rows are those of reading the source, and nothing is half written."""

from pathlib import Path

import datasets
import pytest
import torch

from e2e_lib.data.packing import pack_rows
from e2e_lib.data.rows import load_rows
from e2e_lib.data.text import TextSource, read_documents
from e2e_lib.errors import ConfigError, DataError, ModelError, ResultsError
from pipeline.tokenise import main, tokenise
from tests.helpers.tiny_models import D_VOCAB, assert_sentence, build_tokenizer, reader, write_jsonl

TOKENIZER = build_tokenizer()
WIDTH = 8


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def words(tmp_path) -> str:
    build_tokenizer().save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


@pytest.fixture
def text(tmp_path) -> Path:
    """1,203 documents of one to seven words: several batches of the tokeniser."""
    rows = [" ".join(f"w{1 + (i * j) % 29}" for j in range(1, 2 + i % 7)) for i in range(1203)]
    return write_jsonl(tmp_path / "text.jsonl", [{"text": row} for row in rows])


def rows_of(name: Path, n: int, bos: bool = False) -> list[list[int]]:
    """The first rows of a source in its own order."""
    source = TextSource(str(name), context_size=WIDTH, prepend_bos=bos)
    return pack_rows(read_documents(source, None), TOKENIZER, D_VOCAB, source, n).tolist()


@pytest.mark.parametrize("bos", [False, True])
def test_the_rows_are_those_of_the_source(tmp_path, text, words, bos):
    source = TextSource(str(text), context_size=WIDTH, prepend_bos=bos)
    n = tokenise(source, words, tmp_path / "rows", shard_tokens=1000)
    files = sorted(f.name for f in (tmp_path / "rows" / "data").iterdir())
    assert files == [f"train-{k:05d}-of-{len(files):05d}.parquet" for k in range(len(files))]
    assert len(files) > 3
    assert rows_of(tmp_path / "rows", n) == rows_of(text, n, bos)
    with pytest.raises(DataError, match="are asked for"):
        rows_of(text, n + 1, bos)  # nothing but the last incomplete row was dropped
    table = datasets.load_dataset(str(tmp_path / "rows"), split="train")
    assert table.column_names == ["input_ids"]
    assert {len(row) for row in table["input_ids"]} == {WIDTH}


def test_reading_back_for_training(tmp_path, text, words):
    """`load_rows` shuffles the rows and holds some out; each is one of the source's rows."""
    n = tokenise(TextSource(str(text), context_size=WIDTH), words, tmp_path / "rows")
    words, sizes = reader(TOKENIZER), {"n_train": n // 2, "n_validation": 10}
    rows = load_rows(words, *[str(tmp_path / "rows")] * 2, **sizes, context_size=WIDTH)
    direct = {tuple(row) for row in rows_of(text, n)}
    assert {tuple(row) for row in torch.cat([rows.train, rows.validation]).tolist()} <= direct


def test_the_command(tmp_path, text, words, capsys):
    arguments = [str(text), "--tokenizer", words, "--context-size", "8", "--split", "validation"]
    output = tmp_path / "rows"
    assert main([*arguments, "--output", str(output), "--max-tokens", "85"]) == 0
    assert "10 rows of 8 tokens" in capsys.readouterr().out
    assert [f.name for f in (output / "data").iterdir()] == ["validation-00000-of-00001.parquet"]
    source = TextSource(str(output), "validation", WIDTH)
    assert [list(row) for row in read_documents(source, None)] == rows_of(text, 10)

    assert main([*arguments, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: output is") and error.count("\n") == 1


def test_nothing_is_left_of_a_failure(tmp_path, words):
    """A row of 5 ids in the middle is outside the vocabulary, after files were written."""
    ids = [[1] * 40] * 20 + [[D_VOCAB]]
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"input_ids": i} for i in ids])
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match="vocabulary"):
        tokenise(TextSource(str(bad), context_size=WIDTH), words, tmp_path / "o", shard_tokens=64)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "cache"}


def test_the_rest_of_a_killed_run_is_replaced(tmp_path, text, words):
    (tmp_path / "rows.part" / "data").mkdir(parents=True)
    (tmp_path / "rows.part" / "data" / "0.parquet").write_text("half")
    tokenise(TextSource(str(text), context_size=WIDTH), words, tmp_path / "rows")
    assert not (tmp_path / "rows.part").exists()
    assert len(list((tmp_path / "rows" / "data").iterdir())) == 1


@pytest.mark.parametrize("split", ["", "a/b", "../x", "my split", "train-00000-of-00001"])
def test_a_split_that_nobody_could_ask_for(tmp_path, text, words, split):
    with pytest.raises(ConfigError) as caught:
        tokenise(TextSource(str(text), split, WIDTH), words, tmp_path / "rows")
    assert_sentence(caught, f"split is {split!r}", "letters, digits and _")
    assert not (tmp_path / "rows").exists()


def test_an_endless_text_needs_an_end(tmp_path):
    for split in ("train", "validation"):
        with pytest.raises(ConfigError) as caught:
            tokenise(TextSource("storyworld", split, WIDTH), "storyworld", tmp_path / "rows")
        assert_sentence(caught, "max-tokens is None", "no end")


@pytest.mark.parametrize("place", ["file/rows", "x" * 300, "link", "link/rows"])
def test_a_place_that_cannot_be_written(tmp_path, text, words, place):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "link").symlink_to(tmp_path / "file" / "nowhere")
    with pytest.raises((ConfigError, ResultsError)) as caught:
        tokenise(TextSource(str(text), context_size=WIDTH), words, tmp_path / place)
    assert_sentence(caught, place.split("/")[-1])
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.parametrize(
    ("change", "error", "parts"),
    [
        ({"context_size": 1}, ConfigError, ["context-size is 1"]),
        ({"context_size": 100_000}, DataError, ["text.jsonl", "one row of 100000"]),
        ({"max_tokens": 7}, ConfigError, ["max-tokens is 7", "row of 8"]),
        ({"tokenizer": "no-such-tokenizer"}, ModelError, ["'no-such-tokenizer'", "network"]),
        ({"name": "no_such.txt"}, DataError, ["'no_such.txt'"]),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, text, words, change, error, parts):
    source = TextSource(change.get("name", str(text)), context_size=change.get("context_size", 8))
    with pytest.raises(error) as caught:
        tokenise(
            source,
            change.get("tokenizer", words),
            tmp_path / "rows",
            max_tokens=change.get("max_tokens"),
        )
    assert_sentence(caught, *parts)
    assert not (tmp_path / "rows").exists()
