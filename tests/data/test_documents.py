"""What a document of a file is, what is left out, what is said of it; and names as they are."""

import json
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from e2e_lib.data.held_out import Document
from e2e_lib.data.readers import read_folder
from e2e_lib.data.rows import held_out_rows, load_rows
from e2e_lib.data.text import TextSource, open_source, read_documents, source_pair
from e2e_lib.errors import DataError
from tests.helpers.tiny_models import (
    WORDS,
    assert_sentence,
    build_tokenizer,
    reader,
    write_jsonl,
)

READER = reader(build_tokenizer())


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def texts(n: int, words: int = 9) -> list[str]:
    return [" ".join(f"w{1 + (i * j) % 29}" for j in range(1, words + i % 3)) for i in range(n)]


def documents(path: Path, seed: int | None = None) -> list[Document]:
    return list(read_documents(TextSource(str(path)), seed))


def rows_of(train: object, validation: object = None, **values):
    sizes = {"n_train": 4, "n_validation": 2, "context_size": 8} | values
    return load_rows(READER, str(train), str(validation or train), **sizes)


# ------------------------------------------------------------------ .txt
PARAGRAPHS = [" ".join(texts(6, 12)), "A short one.", " ".join(texts(30, 7)), "w1 w2 w3 " * 40]


@pytest.mark.parametrize("width", [60, 72, 100])
@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n \n"])
def test_paragraphs_of_a_wrapped_book_are_its_documents(tmp_path, width, gap):
    path = tmp_path / "book.txt"
    path.write_text(gap.join("\n".join(textwrap.wrap(p, width)) for p in PARAGRAPHS) + "\n")
    assert [" ".join(str(d).split()) for d in documents(path)] == [p.strip() for p in PARAGRAPHS]
    assert "paragraphs are the documents" in open_source(TextSource(str(path))).notes[0]


@pytest.mark.parametrize("width", [34, 132])
def test_narrow_wide_and_padded_lines_are_wrapped_too(tmp_path, width):
    lines = [textwrap.wrap(p, width) for p in PARAGRAPHS]
    for pad in (0, width):
        path = tmp_path / f"{pad}.txt"
        path.write_text("\n\n".join("\n".join(one.ljust(pad) for one in own) for own in lines))
        assert len(documents(path)) == len(PARAGRAPHS)


def test_a_wrapped_book_without_a_blank_line_is_one_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(textwrap.fill(" ".join(PARAGRAPHS), 65))
    assert len(documents(path)) == 1


LOGS = [
    f"2024-01-{1 + i % 28:02d} 12:{i % 60:02d} request {i * 7919 % 1000} was served by a worker"
    for i in range(99)
]
TABLE = [
    f"{i},{i * 7919 % 100003},{i * 31 % 977 / 7:.3f},name{i % 17},and,some,more value"
    for i in range(99)
]


@pytest.mark.parametrize("lines", [LOGS, TABLE])
def test_lines_of_records_are_documents(tmp_path, lines):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    assert documents(path) == lines


@pytest.mark.parametrize("lines", [texts(200, 9), texts(300, 30), ["w1 w2 w3"] * 50, PARAGRAPHS])
def test_lines_that_are_not_wrapped_are_documents(tmp_path, lines):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines))
    assert documents(path) == lines
    assert open_source(TextSource(str(path))).notes == ["every line of a .txt is a document"]


@pytest.mark.parametrize(
    "end", ["<|endoftext|>", "</s>", "[EOS]", "<|end_of_document|>", "<｜end▁of▁sentence｜>"]
)
def test_end_of_text_lines_stand_between_documents(tmp_path, end):
    path = tmp_path / "stories.txt"
    path.write_text(f"w1 w2\nw3\n{end}\n\nw4\n\nw5\n{end}\n{end}\nw6")
    assert documents(path) == ["w1 w2\nw3", "w4\n\nw5", "w6"]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_an_end_of_text_line_behind_those_that_are_judged_is_no_text(tmp_path, monkeypatch, gap):
    monkeypatch.setattr("e2e_lib.data.readers.LINES_JUDGED", 40)
    wide = textwrap.wrap(" ".join(texts(90)), 60)
    first = "\n".join(["w1 w2"] * 50 if gap == "\n" else wide)
    path = tmp_path / "a.txt"
    path.write_text(gap.join([first, "</s>", "w3"]))
    assert len(wide) > 40 and documents(path)[-1] == "w3"
    assert not any("</s>" in str(d) for d in documents(path))


@pytest.mark.parametrize("raw", [b"w1\r\nw2\r\n", b"\xef\xbb\xbfw1\nw2", b"w1\rw2\r"])
def test_line_ends_and_byte_order_marks_are_no_text(tmp_path, raw):
    (tmp_path / "a.txt").write_bytes(raw)
    assert documents(tmp_path / "a.txt") == ["w1", "w2"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "latin-1"])
def test_other_encodings_are_refused(tmp_path, encoding):
    """Without a mark, UTF-16 is UTF-8 with a NUL after every letter."""
    unmarked = encoding.startswith("utf-16-")
    (tmp_path / "a.txt").write_bytes(f"w1 w2\nw4 {'w5' if unmarked else 'é'}".encode(encoding))
    with pytest.raises(DataError) as caught:
        documents(tmp_path / "a.txt")
    assert_sentence(caught, "a.txt", "UTF-16" if unmarked else "utf-8")


# ------------------------------------------------------------------ nothing in it
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "parquet"])
def test_empty_documents_are_left_out_and_counted(tmp_path, suffix):
    lines = [line for text in texts(200) for line in (text, "", " \t")]
    path = tmp_path / f"a.{suffix}"
    if suffix == "txt":
        path.write_text("\n".join(lines))
    elif suffix == "jsonl":
        write_jsonl(path, [{"text": line} for line in lines])
    else:
        datasets.Dataset.from_dict({"text": lines}).to_parquet(path)
    rows = rows_of(path, n_train=150)
    assert not ((rows.train[:, :-1] == 0) & (rows.train[:, 1:] == 0)).any(), "no bare separators"
    assert "empty ones left out" in rows.read[0]


@pytest.mark.parametrize("text", ["", "   ", "\u2003\n"])
def test_documents_that_are_all_empty_are_refused(tmp_path, text):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": text}] * 1000)
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": t} for t in texts(50)])
    with pytest.raises(DataError) as caught:
        rows_of(path, other)
    assert_sentence(caught, str(path), "1,000 documents", "1,000 with nothing in them")


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", ""), ("a.jsonl", ""), ("a.json", "[]"), ("a.jsonl", "\n\n")]
)
def test_an_empty_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / name)
    assert_sentence(caught, name, "holds no document" if content else "is an empty file")


# ------------------------------------------------------------------ too little of it
def test_two_copies_of_one_file_are_told_why_nothing_is_left(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [{"text": t} for t in texts(20)])
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl", n_train=2, n_validation=20)
    assert_sentence(caught, "for training", "20 documents", "other side of what is held out")


@pytest.mark.parametrize("lines", [["w1 w2 w3"] * 3, [" ".join(texts(500))]])
def test_few_documents_given_twice_are_told_of_the_split(tmp_path, lines):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in lines])
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert_sentence(caught, "0 tokens", f"of {len(lines)} document", "other side")


# ------------------------------------------------------------------ what is said
def test_what_was_read_is_told(tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    for k in range(3):
        write_jsonl(folder / f"train-{k}.jsonl", [{"text": "w1 w2 w3 w4"}] * 20)
    write_jsonl(folder / "dev.jsonl", [{"text": "w5 w6"}] * 20)
    (folder / "old.csv").write_text("text\nw1\n")
    (folder / "README.md").write_text("# Stories")
    rows = rows_of(folder, f"{folder}:validation", n_train=30, n_validation=5)
    train, held = rows.read
    assert "training text stories: 48 documents of 5 tokens in the middle, 3 files" in train
    assert train.endswith("not read: its split validation, old.csv")
    assert "14 documents of 3 tokens in the middle, 1 file" in held
    assert "README" not in train and str(tmp_path.parent) not in train + held


@pytest.mark.parametrize("ids", [[3, 4, 0, 0, 0, 0], [3, 4, 0, 2, 2, 2]])
def test_padding_without_a_mask_is_told(tmp_path, ids):
    """Of an end-of-text token, and of one of its own."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"input_ids": ids}] * 60)
    held = write_jsonl(tmp_path / "b.jsonl", [{"input_ids": [5, 6, 7, 0]}] * 60)
    tokenizer = build_tokenizer()
    tokenizer.pad_token = "w2"
    rows = load_rows(reader(tokenizer), str(path), str(held), n_train=6, n_validation=2,
                     context_size=6)  # fmt: skip
    assert "of its tokens repeat an end-of-text or padding token" in rows.read[0]
    assert "repeat" not in rows.read[1]


@pytest.mark.parametrize("unknown", ["w29", WORDS[0]])
@pytest.mark.parametrize("known", [4, 0])
def test_text_that_the_tokenizer_does_not_know(tmp_path, known, unknown):
    """Whether it has a token of its own for that, or, as StoryWorld's, the end-of-text token."""
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"text": f"w{1 + i % 20} " * known + f"Wort{i} Satz Ende"} for i in range(200)],
    )
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=WORDS[0], unk_token=unknown)
    given = reader(own), str(path), str(path)
    if known:
        rows = load_rows(*given, n_train=20, n_validation=1, context_size=8)
        assert "% of its tokens are unknown to the tokenizer" in rows.read[0]
        return
    for read in (
        lambda: load_rows(*given, n_train=20, n_validation=1, context_size=8),
        lambda: held_out_rows(*given, 1, context_size=8),
    ):
        with pytest.raises(DataError) as caught:
            read()
        assert_sentence(caught, str(path), "75% of its tokens are unknown")


def test_a_document_that_is_spaced_otherwise_is_the_same(tmp_path):
    held = write_jsonl(tmp_path / "a.jsonl", [{"text": f"w{1 + i} w29"} for i in range(20)])
    lines = [f" w{1 + i}  w29\r\n" for i in range(20)] + [f"w{1 + i % 20} w7 w8" for i in range(90)]
    train = write_jsonl(tmp_path / "b.jsonl", [{"text": line} for line in lines])
    rows = rows_of(train, held, n_train=50, n_validation=10, context_size=6)
    assert (rows.validation == 29).sum() == 20 and not (rows.train == 29).any()


def test_text_and_rows_are_said_not_to_be_comparable(tmp_path):
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts(90)])
    held = write_jsonl(tmp_path / "b.jsonl", [{"input_ids": [5, 6, 7, 0]}] * 60)
    assert "one of the two is text" in rows_of(train, held).read[1]
    assert "one of the two" not in rows_of(train).read[1]


def test_rows_without_an_end_of_text_token_are_told(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"input_ids": [0, 1 + i % 29, 3]} for i in range(99)])
    held = write_jsonl(tmp_path / "b.jsonl", [{"input_ids": [5, 6, 0]}] * 60)
    rows = rows_of(path, held, context_size=3, n_train=9)
    assert "where documents end is not known" in rows.read[0] and "is not" not in rows.read[1]
    long = write_jsonl(tmp_path / "c.jsonl", [{"text": " ".join(texts(99))}])
    assert "is not known" not in rows_of(long, held, n_train=2).read[0], "a text has its end"


@pytest.mark.parametrize("kinds", [("a", "b"), ("b", "a")])
def test_texts_and_rows_of_ids_in_one_source_are_refused(tmp_path, kinds):
    """They may be the same documents, of which one would be held out and one trained on."""
    both = dict(zip(kinds, ("text", "input_ids"), strict=True))
    for name, column in both.items():
        rows = texts(90) if column == "text" else [[1 + i % 29, 2, 0] for i in range(90)]
        write_jsonl(tmp_path / f"{name}.jsonl", [{column: row} for row in rows])
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path, n_train=60)
    assert_sentence(caught, tmp_path.name, "both texts and rows of token ids")


# ------------------------------------------------------------------ folders
@pytest.mark.parametrize(
    ("names", "splits", "others"),
    [
        (["a.jsonl", "b.txt"], {"train": 2}, []),
        (["train.jsonl", "dev/x.txt", "dev/y.txt"], {"train": 1, "validation": 2}, []),
        (["data/train-1.json", "test.json", "more.json"], {"train": 1, "test": 1}, ["more.json"]),
        (["data/extra-00000-of-00001.parquet"], {"extra": 1}, []),
        (["valid.parquet", "notes.pdf", "sub/a.txt"], {"validation": 1}, ["notes.pdf", "sub/"]),
        ([".hidden.txt", "README.md", "dataset_info.json"], {}, []),
    ],
)
def test_splits_of_a_folder(tmp_path, names, splits, others):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_folder(tmp_path)
    assert {split: len(files) for split, files in found.splits.items()} == splits
    assert found.others == others


def test_of_a_saved_table_the_files_count_that_it_names(tmp_path):
    """`datasets` keeps what `map` makes of it beside it, in files of the same kind."""
    kept = datasets.DatasetDict({s: datasets.Dataset.from_dict({"text": texts(60, n)})
                                 for s, n in (("train", 6), ("validation", 9))})  # fmt: skip
    kept.save_to_disk(tmp_path / "text")
    datasets.load_from_disk(str(tmp_path / "text")).map(lambda row: {"text": row["text"] + " w29"})
    caches = [file.name for file in (tmp_path / "text").rglob("cache-*.arrow")]
    assert len(caches) == 2 and documents(tmp_path / "text") == texts(60, 6)
    assert len(read_folder(tmp_path / "text" / "train").splits["data"]) == 1
    assert set(caches) <= set(read_folder(tmp_path / "text").others)


def test_files_that_a_name_counts_and_that_are_not_here_are_told(tmp_path):
    for name in ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name + t} for t in texts(300)])
    rows = rows_of(tmp_path, f"{tmp_path}:test")
    assert "2 of the 3 files train-…-of-00003 are here" in rows.read[0]
    assert "are here" not in rows.read[1]


@pytest.mark.parametrize("name", ["readme_stories", "licenses", "README of 1990"])
def test_a_text_that_is_called_like_what_stands_beside_texts_is_read(tmp_path, name):
    for own in (name, "a"):
        write_jsonl(tmp_path / f"{own}.jsonl", [{"text": own}])
    assert sorted(map(str, documents(tmp_path))) == sorted([name, "a"])


def test_a_folder_of_one_split_needs_no_name_for_it(tmp_path):
    """Of whatever name, and on either side; given twice it is split."""
    write_jsonl(tmp_path / "t.jsonl", [{"text": t} for t in texts(200)])
    for name in ("validation", "test"):
        folder = tmp_path / name
        folder.mkdir()
        write_jsonl(folder / f"{name}.jsonl", [{"text": t} for t in texts(400, 5)])
        assert {s.split for s in source_pair(str(folder), str(folder))} == {name}
        assert rows_of(tmp_path / "t.jsonl", folder).validation.shape == (2, 8)
        held = held_out_rows(READER, str(folder), str(folder), 2, context_size=8)
        assert (rows_of(folder).validation == held).all()


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": "w1"}])
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "train.jsonl", tmp_path)
    assert_sentence(caught, "no split 'validation'", "test, train")
    with pytest.raises(DataError) as caught:
        rows_of(f"{tmp_path}/train.jsonl:test")
    assert_sentence(caught, "a file has no splits")


# ------------------------------------------------------------------ names
NAMES = ["[a]*", "{x}", "a?b", "a::b", "$HOME", "zip:", "%s", "a b'c", 'q"u', "hf:", "é#1", "**"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["jsonl", "txt", "parquet"])
def test_a_name_is_a_name(tmp_path, name, suffix):
    """Of a file, and of the folder it lies in; with a second file that a pattern would find."""
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "a").mkdir()
    for place, word in (
        (folder / f"{name}.{suffix}", "w1"),
        (tmp_path / "a" / f"a.{suffix}", "w2"),
    ):
        if suffix == "jsonl":
            write_jsonl(place, [{"text": word}] * 3)
        elif suffix == "txt":
            place.write_text(f"{word}\n" * 3)
        else:
            pd.DataFrame({"text": [word] * 3}).to_parquet(tmp_path / "0")
            (tmp_path / "0").rename(place)
    for path in (folder / f"{name}.{suffix}", folder):
        assert documents(path) == documents(path, seed=1) == ["w1"] * 3


def test_other_content_at_the_same_place_is_read_anew(tmp_path):
    """Of the same size and age: no copy that a library keeps is taken for it."""
    import os

    path = tmp_path / "a.jsonl"
    for word in ("w1", "w2"):
        write_jsonl(path, [{"text": word}] * 5)
        os.utime(path, (1e9, 1e9))
        assert documents(path, seed=0) == [word] * 5


def test_a_home_folder_is_found_in_every_form(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in texts(300)])
    assert rows_of("~/a.jsonl").train.shape == (4, 8)
    assert documents(Path("~/a.jsonl")) == texts(300)


# ------------------------------------------------------------------ other libraries' words
@pytest.mark.parametrize("text", ["\ud800 w1", "w1 \udfff"])
def test_half_a_character_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": t} for t in texts(50)])
    for pair in ((tmp_path / "a.jsonl", other), (other, tmp_path / "a.jsonl")):
        with pytest.raises(DataError) as caught:
            rows_of(*pair)
        assert_sentence(caught, "a.jsonl", "cannot be")


@pytest.mark.parametrize(
    "content", ['["w1"]\n', "3\n", '{"text": {"a": 1}}\n', '{"input_ids": "1 2"}\n', "[[1], [2]]"]
)
def test_rows_of_another_form_are_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        documents(tmp_path / "a.jsonl", seed=0)
    assert_sentence(caught, "data", "a.jsonl")


def test_ids_of_a_json_table_and_of_one_row(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"input_ids": [[1, 2], [3]]}))
    assert [list(np.asarray(d)) for d in documents(tmp_path / "a.json")] == [[1, 2], [3]]
    (tmp_path / "b.json").write_text(json.dumps({"input_ids": [1, 2, 3]}))
    assert [list(np.asarray(d)) for d in documents(tmp_path / "b.json")] == [[1, 2, 3]]


# ------------------------------------------------------------------ the hub
@pytest.fixture
def on_the_hub(tmp_path, monkeypatch):
    """A data set of three shards that `datasets` finds under a hub name, with a description."""
    import huggingface_hub

    rows = [{"text": text, "url": "x"} for text in texts(60)]
    whole = datasets.Dataset.from_list(rows)
    stream = whole.to_iterable_dataset(num_shards=3)
    found: dict[str, str] = {}

    def download(name: str, file: str, **options: object) -> str:
        if file not in found:
            raise FileNotFoundError(file)
        (tmp_path / file).write_text(found[file])
        return str(tmp_path / file)

    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: stream)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return stream, found


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_a_stream_has_the_order_that_datasets_gives_it(on_the_hub, seed):
    """Shuffled shards, then a buffer: the authors' order for the authors' data."""
    stream, _ = on_the_hub
    source = TextSource("someone/stories", shuffle_buffer=8)
    plain = stream if seed is None else stream.shuffle(seed=seed, buffer_size=8)
    assert list(read_documents(source, seed)) == [row["text"] for row in plain]


def test_a_description_on_the_hub_is_read(on_the_hub):
    _, found = on_the_hub
    assert rows_of("someone/stories", n_validation=1).train.shape == (4, 8)
    found["sae_lens.json"] = json.dumps({"tokenizer_name": "no/such", "context_size": 8})
    with pytest.raises(DataError) as caught:
        rows_of("someone/stories")
    assert_sentence(caught, "sae_lens.json", "'no/such'", "compare")
