"""Text to rows: packing, formats, what is held out, and data that cannot be used."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from e2e_lib.data.packing import Tally, pack_rows
from e2e_lib.data.rows import held_out_rows, load_rows
from e2e_lib.data.text import TextSource, read_documents, source_pair
from e2e_lib.errors import ConfigError, DataError
from e2e_lib.runs.experiment import Training
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.storyworld.corpus import build_tokenizer as storyworld_tokenizer
from tests.helpers.tiny_models import (
    D_VOCAB,
    WORDS,
    assert_sentence,
    build_tokenizer,
    reader,
    write_jsonl,
)

TOKENIZER = build_tokenizer()
READER = reader(TOKENIZER)


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # After a parquet stream `datasets` waits five seconds for threads that read from a network.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def source(name="unused.jsonl", context_size=4, **values) -> TextSource:
    return TextSource(str(name), context_size=context_size, **values)


def documents(n: int, start: int = 0) -> list[str]:
    """Different texts of five words each: the document's number in base 8, and a marker."""
    return [" ".join(f"w{1 + int(d)}" for d in f"{i + start:05o}") for i in range(n)]


def numbers_of(rows: torch.Tensor) -> set[tuple[int, ...]]:
    """Whole documents (five words between separators) that occur in the packed rows."""
    found, current = set(), []
    for token in rows.flatten().tolist():
        if token == 0:
            if len(current) == 5:
                found.add(tuple(current))
            current = []
        else:
            current.append(token)
    return found


# ------------------------------------------------------------------ packing
def test_packing_by_hand():
    rows = pack_rows(
        ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11"], TOKENIZER, D_VOCAB, source(), 3
    )
    # the stream: 1 2 3 0 | 4 0 5 6 | 7 8 9 0 | 10 11 0 (not a whole row)
    assert rows.tolist() == [[1, 2, 3, 0], [4, 0, 5, 6], [7, 8, 9, 0]]
    assert rows.dtype == torch.int32, "four bytes a token: 1.6 GB for the paper's 409.6 M"


def test_packing_with_a_first_token():
    rows = pack_rows(["w1 w2 w3", "w4 w5"], TOKENIZER, D_VOCAB, source(prepend_bos=True), 2)
    assert rows.tolist() == [[0, 1, 2, 3], [0, 0, 4, 5]]


def test_ready_made_rows_are_taken_as_they_are():
    ready = [[1, 2, 3, 4], [5, 0, 6, 7]]
    assert pack_rows(ready, TOKENIZER, D_VOCAB, source(), 2).tolist() == ready


@pytest.mark.parametrize("kind", [list, np.asarray, lambda ids: np.asarray(ids, np.uint16)])
def test_token_ids_carry_their_own_separators(kind):
    """Rows of any length are joined and cut as they are: nothing is added between them."""
    longer = [kind([1, 2, 3, 0, 4, 5, 6, 7]), kind([8, 0, 9, 10, 11, 12])]
    rows = pack_rows(longer, TOKENIZER, D_VOCAB, source(), 3)
    assert rows.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7], [8, 0, 9, 10]]
    shorter = [kind([1, 2, 0]), kind([4, 5, 6]), kind([7, 8])]
    assert pack_rows(shorter, TOKENIZER, D_VOCAB, source(), 2).tolist() == [
        [1, 2, 0, 4],
        [5, 6, 7, 8],
    ]
    first = pack_rows(longer, TOKENIZER, D_VOCAB, source(prepend_bos=True), 2)
    assert first.tolist() == [[0, 1, 2, 3], [0, 0, 4, 5]]


def test_empty_documents_add_nothing():
    tally = Tally()
    texts = ["w1", "", " \t\n", "w2 w3 w4", "\u2003"]
    rows = pack_rows(texts, TOKENIZER, D_VOCAB, source(context_size=3), 2, tally)
    assert rows.tolist() == [[1, 0, 2], [3, 4, 0]]
    assert (tally.lengths, tally.empty) == ([2, 4], 2), "the last one was not needed"
    assert pack_rows([[], [1, 2, 3]], TOKENIZER, D_VOCAB, source(context_size=3), 1).tolist() == [
        [1, 2, 3]
    ]


def test_packing_is_lazy_and_takes_what_is_asked():
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append(1)
            yield "w1 w2 w3"

    assert pack_rows(endless(), TOKENIZER, D_VOCAB, source(), 5).shape == (5, 4)
    assert len(read) < 2000


def test_order_does_not_depend_on_how_many_texts_are_tokenised_at_a_time():
    texts = documents(1203)
    rows = pack_rows(texts, TOKENIZER, D_VOCAB, source(context_size=6), 1203)
    assert rows[:, :5].tolist() == [[int(w[1:]) for w in t.split()] for t in texts]
    assert not rows[:, 5].any()


# ------------------------------------------------------------------ formats
@pytest.fixture
def texts() -> list[str]:
    return documents(60)


def test_every_format_gives_the_same_rows(tmp_path, texts):
    table = datasets.Dataset.from_dict({"text": texts})
    ids = [[*(int(word[1:]) for word in text.split()), 0] for text in texts]
    write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in texts])
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "a.json").write_text(json.dumps([{"text": t} for t in texts]))
    table.to_parquet(tmp_path / "a.parquet")
    with datasets.arrow_writer.ArrowWriter(path=str(tmp_path / "a.arrow")) as writer:
        for text in texts:
            writer.write({"text": text})
        writer.finalize()
    datasets.Dataset.from_dict({"input_ids": ids}).to_parquet(tmp_path / "ids.parquet")
    found = {}
    for name in ("a.jsonl", "a.txt", "a.json", "a.parquet", "a.arrow", "ids.parquet"):
        stream = read_documents(source(tmp_path / name), seed=3)
        found[name] = pack_rows(stream, TOKENIZER, D_VOCAB, source(), 50).tolist()
    assert all(rows == found["a.jsonl"] for rows in found.values())
    assert numbers_of(torch.tensor(found["a.txt"])) <= {tuple(i[:-1]) for i in ids}


def test_the_order_is_by_seed(tmp_path, texts):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in texts])
    first, again, other = (list(read_documents(source(path), seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == sorted(texts)
    assert first != texts, "shuffled"


def test_storyworld_is_a_source():
    rows = load_rows(
        reader(storyworld_tokenizer(), len(TOKEN_IDS)), "storyworld", "storyworld",
        n_train=6, n_validation=4, n_paper=3, seed=1, context_size=32,
    )  # fmt: skip
    assert [t.shape for t in (rows.train, rows.validation, rows.paper)] == [
        (6, 32),
        (4, 32),
        (3, 32),
    ]
    assert not torch.equal(rows.train[:3], rows.paper)


LETTERS = st.characters(
    codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\x85"
)
LINES = st.lists(st.text(LETTERS, min_size=1, max_size=12), min_size=1, max_size=8)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=LINES)
@example(lines=["w1", '"w2", {"text": 1}', "a\\nb\\", "é ß \U0001f600", " w3 ", "null", "1.5"])
def test_any_text_is_the_same_from_all_four_formats(lines, tmp_path_factory):
    """Quotes, backslashes, spaces at the ends, what looks like a number: nothing is touched."""
    folder = tmp_path_factory.mktemp("formats")
    write_jsonl(folder / "a.jsonl", [{"text": t} for t in lines])
    (folder / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    datasets.Dataset.from_dict({"text": lines}).to_parquet(folder / "a.parquet")
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "a.arrow")) as writer:
        for text in lines:
            writer.write({"text": text})
        writer.finalize()
    for suffix in ("jsonl", "txt", "parquet", "arrow"):
        found = list(read_documents(source(folder / f"a.{suffix}"), seed=None))
        assert found == lines, suffix


# ------------------------------------------------------------------ streams in the hub's layout
def hub_folder(folder: Path, columns: dict[str, list], shards: int = 2, split="train") -> Path:
    """A data set as the hub holds it: data/SPLIT-00000-of-0000N.parquet."""
    table = datasets.Dataset.from_dict(columns)
    for k in range(shards):
        part = table.shard(shards, k, contiguous=True)
        part.to_parquet(folder / "data" / f"{split}-{k:05d}-of-{shards:05d}.parquet")
    return folder


@pytest.mark.parametrize("column", ["text", "input_ids"])
def test_a_stream_is_split_without_overlap(tmp_path, column):
    """One streamed data set for training and validation, as the paper's GPT-2 data is."""
    texts = documents(2000)
    ids = [[*(int(w[1:]) for w in t.split()), 0] for t in texts]
    hub_folder(tmp_path, {column: texts if column == "text" else ids, "url": texts}, shards=3)
    sizes = {"n_train": 700, "n_validation": 30, "n_paper": 100}
    rows = rows_of(tmp_path, tmp_path, **sizes, seed=3)
    held, trained, paper = map(numbers_of, (rows.validation, rows.train, rows.paper))
    assert len(held) > 40
    assert len(trained) > 1000
    assert not held & (trained | paper)
    assert (rows.train.dtype, rows.validation.dtype) == (torch.int32, torch.int64)


def test_a_stream_with_a_validation_split(tmp_path):
    """Documents of the validation split are kept out of training where both hold them."""
    hub_folder(tmp_path, {"text": documents(400)})
    hub_folder(tmp_path, {"text": documents(60)}, shards=1, split="validation")
    rows = rows_of(tmp_path, f"{tmp_path}:validation", 150, 30)
    assert len(numbers_of(rows.validation)) > 40
    assert not numbers_of(rows.train) & numbers_of(rows.validation)


def test_a_stream_is_shuffled_by_seed_and_complete(tmp_path):
    hub_folder(tmp_path, {"text": documents(300)}, shards=3)
    stream = replace(source(tmp_path), shuffle_buffer=20)
    first, again, other = (list(read_documents(stream, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(documents(300))
    assert list(read_documents(stream, None)) == documents(300), "no seed: in order"


def test_ready_made_rows_of_a_stream_come_back_unchanged(tmp_path):
    ids = torch.randint(0, D_VOCAB, (200, 8)).tolist()
    hub_folder(tmp_path, {"input_ids": ids})
    rows = rows_of(tmp_path, tmp_path, 40, 1, context_size=8)
    found = {tuple(row) for row in rows.train.tolist()}
    assert found < {tuple(row) for row in ids}
    assert tuple(rows.validation[0].tolist()) not in found


# ------------------------------------------------------------------ what is held out
def rows_of(train, validation, n_train, n_validation, **values):
    sizes = {"n_train": n_train, "n_validation": n_validation, "context_size": 12}
    return load_rows(READER, str(train), str(validation), **(sizes | values))


def test_one_source_is_split_without_overlap(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(2000)])
    rows = rows_of(path, path, 700, 30, n_paper=100)
    held, trained, paper = map(numbers_of, (rows.validation, rows.train, rows.paper))
    assert len(held) > 40
    assert len(trained) > 1000
    assert not held & (trained | paper)


@pytest.mark.parametrize("way", ["up and down", "linked folder", "linked file", "second name"])
def test_one_text_by_two_paths_is_one_source(tmp_path, way):
    (tmp_path / "text").mkdir()
    path = write_jsonl(tmp_path / "text" / "a.jsonl", [{"text": t} for t in documents(600)])
    (tmp_path / "linked").symlink_to(tmp_path / "text")
    (tmp_path / "b.jsonl").symlink_to(path)
    (tmp_path / "c.jsonl").hardlink_to(path)
    names = ("text/../text/a.jsonl", "linked/a.jsonl", "b.jsonl", "c.jsonl")
    ways = ("up and down", "linked folder", "linked file", "second name")
    other = tmp_path / dict(zip(ways, names, strict=True))[way]
    expected = rows_of(path, path, 100, 10)
    for one, two in ((path, other), (other, path)):
        rows = rows_of(one, two, 100, 10)
        assert torch.equal(rows.validation, expected.validation)
        assert numbers_of(rows.train) == numbers_of(expected.train)


def test_a_folder_by_two_paths_is_one_source(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / "text").mkdir(exist_ok=True)
        write_jsonl(tmp_path / "text" / f"{name}.jsonl", [{"text": "w1"}])
    (tmp_path / "linked").symlink_to(tmp_path / "text")
    text, linked = str(tmp_path / "text"), str(tmp_path / "linked")
    for other in (text, linked, f"{text}/../text", f"{linked}:train"):
        assert len({*source_pair(text, other)}) == 1, other
    assert source_pair(text, f"{linked}:validation")[1].split == "validation"


def test_a_link_that_is_read_otherwise_is_another_source(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(9)])
    (tmp_path / "a.txt").symlink_to(path)  # its lines are documents, braces and all
    one, other = source_pair(str(path), str(tmp_path / "a.txt"))
    assert Path(other.name).suffix == ".txt" and one != other


@pytest.mark.parametrize("seed", [0, 7])
def test_a_document_in_both_files_is_kept_out_of_training(tmp_path, seed):
    shared = documents(30)
    a = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(200)])  # holds `shared`
    b = write_jsonl(
        tmp_path / "b.jsonl", [{"text": t} for t in [*shared, *documents(30, start=1000)]]
    )
    rows = rows_of(a, b, 80, 30, seed=seed)
    held, trained = numbers_of(rows.validation), numbers_of(rows.train)
    known = {tuple(int(w[1:]) for w in text.split()) for text in shared}
    assert len(held & known) > 15, "the held-out rows must hold shared documents"
    assert not held & trained
    assert not known & trained


def test_the_same_documents_as_ids_are_kept_out_too(tmp_path):
    ids = [[*(int(w[1:]) for w in text.split()), 0] for text in documents(200)]
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [{"input_ids": i} for i in ids])
    rows = rows_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl", 20, 20)
    assert not numbers_of(rows.train) & numbers_of(rows.validation)


def test_held_out_rows_are_the_same_for_every_seed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(1000)])
    first, second = (rows_of(path, path, 100, 10, seed=s, n_paper=20) for s in (0, 1))
    assert torch.equal(first.validation, second.validation)
    assert not torch.equal(first.train, second.train)
    assert not torch.equal(first.paper, second.paper)


def test_source_pair():
    train, validation = source_pair("a.jsonl", "b.jsonl", 64, prepend_bos=True)
    assert (train.name, validation.name) == ("a.jsonl", "b.jsonl")
    assert {s.context_size for s in (train, validation)} == {64}
    assert train.prepend_bos
    assert validation.prepend_bos
    assert source_pair("hub/data", "hub/data", 64)[1].split == "train"
    assert source_pair("storyworld", "storyworld", 64)[1].split == "validation"


def test_source_pair_names_a_split_and_a_revision():
    train, validation = source_pair("hub/data", "hub/data:test", 64, revision="abc")
    assert (train.name, train.split) == ("hub/data", "train")
    assert (validation.name, validation.split) == ("hub/data", "test")
    assert {s.revision for s in (train, validation)} == {"abc"}
    assert source_pair("hub/data:part", "hub/data:part", 64)[1].split == "part"


@pytest.mark.parametrize("shared", [True, False])
def test_held_out_rows_alone_are_those_of_load_rows(tmp_path, shared):
    a = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(600)])
    b = write_jsonl(tmp_path / "b.jsonl", [{"text": t} for t in documents(100, start=900)])
    text = str(a if shared else b)
    rows = rows_of(a, text, 20, 10)
    alone = held_out_rows(READER, str(a), text, 10, context_size=12)
    assert torch.equal(alone, rows.validation)
    unread = text if shared else "not.there"
    assert torch.equal(held_out_rows(READER, unread, text, 10, context_size=12), alone)


# ------------------------------------------------------------------ data that cannot be used
def test_a_missing_column(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"story": "w1", "title": "w2"}])
    with pytest.raises(DataError) as caught:
        next(read_documents(source(path), 0))
    assert_sentence(caught, "data", str(path), "story, title", "'text' or 'input_ids'")


@pytest.mark.parametrize("value", [None, 5])
def test_a_row_without_text(tmp_path, value):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": value}] * 3)
    with pytest.raises(DataError) as caught:
        list(read_documents(source(path), 0))
    assert_sentence(caught, "data", str(path), repr(value), "'text'")


def test_too_few_tokens(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(4)])
    with pytest.raises(DataError) as caught:
        pack_rows(read_documents(source(path), 0), TOKENIZER, D_VOCAB, source(path), 100)
    # 4 documents of 5 words and a separator: 24 tokens, 6 rows of 4
    assert_sentence(caught, "data", str(path), "24 tokens", "400 are asked for")


@pytest.mark.parametrize("sizes", [{"n_train": 10**16}, {"n_validation": 10**17}])
def test_more_rows_than_memory_holds(tmp_path, sizes):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in documents(40)])
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": t} for t in documents(40, start=900)])
    with pytest.raises(DataError) as caught:
        rows_of(path, other, **({"n_train": 1, "n_validation": 1} | sizes))
    assert_sentence(caught, "rows at a time", "memory")


@pytest.mark.parametrize("longest", [8, 11])
def test_rows_longer_than_the_models_context(longest):
    model = reader(build_tokenizer())
    model.cfg.n_ctx = longest
    with pytest.raises(ConfigError) as caught:
        load_rows(model, "a", "b", n_train=1, n_validation=1, context_size=12)
    assert_sentence(caught, "context_size is 12", f"context of {longest}")


def test_tokens_outside_the_vocabulary():
    with pytest.raises(DataError) as caught:
        pack_rows([[1, 2, 3, D_VOCAB]], TOKENIZER, D_VOCAB, source(), 1)
    assert_sentence(caught, "unused.jsonl", f"1 to {D_VOCAB}", f"0 to {D_VOCAB - 1}")
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<new>"})
    with pytest.raises(DataError) as caught:
        pack_rows(["w1 w2 w3"], tokenizer, D_VOCAB, source(), 1)
    assert_sentence(caught, f"to {D_VOCAB}, which is '<new>' of its tokenizer")
    with pytest.raises(DataError):
        pack_rows([[1, 2, 3, -1]], TOKENIZER, D_VOCAB, source(), 1)
    assert pack_rows([[1, 2, 3, D_VOCAB - 1]], TOKENIZER, D_VOCAB, source(), 1).shape == (1, 4)


def test_a_tokenizer_without_a_separator():
    with pytest.raises(DataError) as caught:
        pack_rows(["w1 w2 w3 w4"], build_tokenizer(eos=False), D_VOCAB, source(), 1)
    assert_sentence(caught, "tokenizer", "end-of-text")


@pytest.mark.parametrize("content", [b'{"text": "w1"}\n{"te', b"\x00\xff" * 50, b"not json"])
def test_a_damaged_jsonl(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_documents(source(path), 0))
    assert_sentence(caught, "data", str(path), "cannot be read")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("kept", [0, 30, -20])
def test_a_truncated_table(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_dict({"text": documents(50)}).to_parquet(path)
    else:
        with datasets.arrow_writer.ArrowWriter(path=str(path)) as writer:
            for text in documents(50):
                writer.write({"text": text})
            writer.finalize()
    path.write_bytes(path.read_bytes()[:kept] if suffix == "parquet" or kept >= 0 else b"x" * 200)
    with pytest.raises(DataError) as caught:
        list(read_documents(source(path), 0))
    assert_sentence(caught, "data", str(path))


@pytest.mark.parametrize("name", ["no_such_file.jsonl", "./folder/none.parquet", "./folder", "."])
def test_a_file_that_is_not_there(name):
    with pytest.raises(DataError) as caught:
        list(read_documents(source(name), 0))
    assert_sentence(caught, "data", repr(name))


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\nw1\n")
    with pytest.raises(DataError) as caught:
        list(read_documents(source(path), 0))
    assert_sentence(caught, "data", str(path), ".jsonl", ".parquet", "storyworld")


def test_a_folder_without_data(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError) as caught:
        list(read_documents(source(tmp_path), 0))
    assert_sentence(caught, "data", str(tmp_path), ".parquet", "data/")


def test_a_folder_without_the_split(tmp_path):
    hub_folder(tmp_path, {"text": documents(4)})
    with pytest.raises(DataError) as caught:
        list(read_documents(source(tmp_path, split="test"), 0))
    assert_sentence(caught, "data", str(tmp_path), "'test'")


@pytest.mark.parametrize("ids", [[0.5, 1.0], [[1, 2]], ["w1"]])
def test_token_ids_of_another_kind(ids):
    with pytest.raises(DataError) as caught:
        pack_rows(iter([ids]), TOKENIZER, D_VOCAB, source(), 1)
    assert_sentence(caught, "unused.jsonl", "token ids", "whole numbers")


@pytest.mark.parametrize("name", ["no-such-data", "nobody/no-such-data"])
def test_a_hub_name_without_a_network(name):
    with pytest.raises(DataError) as caught:
        list(read_documents(source(name), 0))
    assert_sentence(caught, "data", repr(name), "network", "'train'")


@pytest.mark.parametrize(("context_size", "n_rows"), [(1, 1), (4, 0)])
def test_sizes_are_checked(context_size, n_rows):
    with pytest.raises(ConfigError, match="must be at least"):
        pack_rows(["w1"], TOKENIZER, D_VOCAB, replace(source(), context_size=context_size), n_rows)


@pytest.mark.parametrize("name", ["x" * 300, f"{'y' * 300}:train"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(DataError) as caught:
        rows_of(name, name, 4, 2)
    assert_sentence(caught, name[:80], "no name")
    with pytest.raises(ConfigError, match="train_data"):
        Training(train_data=name)


def test_a_text_behind_rows_of_ids(tmp_path):
    rows = [{"input_ids": [1, 2, 0]}] * 30 + [{"text": "w1"}] * 30
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        rows_of(path, path, 30, 2)
    assert_sentence(caught, "a text behind rows of token ids", "w1")


def test_words_are_numbered_as_the_tests_assume():
    assert TOKENIZER("w7 w1", add_special_tokens=False)["input_ids"] == [7, 1]
    assert TOKENIZER.decode([WORDS.index("w7")]) == "w7"
