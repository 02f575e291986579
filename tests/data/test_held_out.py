"""Which rows and documents are held out: no document is on both sides."""

import random
from itertools import chain

import datasets
import pytest

from e2e_lib.data.held_out import row_parts
from e2e_lib.data.rows import load_rows
from tests.helpers.tiny_models import build_tokenizer, reader, write_jsonl


def packed(lengths: list[int], width: int) -> list[list[int]]:
    """Documents of these lengths, each of one number of its own, cut to rows; 0 ends one."""
    ids = list(chain.from_iterable([i + 1] * n + [0] for i, n in enumerate(lengths)))
    return [ids[i : i + width] for i in range(0, len(ids) - width + 1, width)]


def sides(rows: list[list[int]], ends: list[int]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {"train": [], "held": [], "between": []}
    for row, part in row_parts(rows, ends):
        found[part].append(list(row))
    return found


@pytest.mark.parametrize(("width", "longest"), [(16, 9), (16, 60), (64, 40), (8, 200), (5, 4)])
def test_no_document_of_held_out_rows_is_trained_on(width, longest):
    """Documents shorter and much longer than a row; some begin or end with one."""
    lengths = [random.Random(width + i).randint(1, longest) for i in range(3000)]
    found = sides(packed(lengths, width), [0])
    held, trained = ({i for row in found[s] for i in row} - {0} for s in ("held", "train"))
    assert len(held) > 50 and not held & trained
    every = sum(map(len, found.values()))
    assert len(found["train"]) > 0.9 * every and len(found["held"]) > 0.015 * every


def test_rows_come_back_in_order_and_none_is_lost():
    rows = packed([7, 3, 12, 1] * 300, 10)
    assert [list(row) for row, _ in row_parts(rows, [0])] == rows


def test_one_document_longer_than_every_group_is_on_one_side():
    found = sides(packed([5, 5000, 5, 5], 10), [0])
    big = [side for side, rows in found.items() if any(2 in row for row in rows)]
    assert "held" not in big or "train" not in big


def test_where_no_document_ends_each_row_is_one():
    """Truncated texts without an end, as tokenizers make of one text a row."""
    rows = [[i, i + 1, i + 2] for i in range(1, 4000)]
    found = sides(rows, [0])
    assert not found["between"] and 100 < len(found["held"]) < 300


def test_a_beginning_token_before_every_row_ends_no_document():
    lengths = [random.Random(i).randint(1, 30) for i in range(2000)]
    found = sides([[0, *row] for row in packed(lengths, 15)], [0])
    held, trained = ({i for row in found[s] for i in row} - {0} for s in ("held", "train"))
    assert len(held) > 20 and not held & trained


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_tokenised_source_given_twice(tmp_path, monkeypatch, shards, kind):
    """As they are read: shuffled, from one file or from shards whose order the seed changes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lengths = [random.Random(i).randint(3, 40) for i in range(3000)]
    rows = packed(lengths, 16)
    table = datasets.Dataset.from_dict({"input_ids": rows})
    for k in range(shards):
        part = table.shard(shards, k, contiguous=True)
        part.to_parquet(tmp_path / "d" / f"train-{k:05d}-of-{shards:05d}.parquet")
    name = str(tmp_path / "d" / ("" if kind == "folder" else "train-00000-of-00001.parquet"))
    if kind == "file" and shards > 1:
        return
    model = reader(build_tokenizer(), len(lengths) + 1)
    for seed in (0, 5):
        found = load_rows(
            model, name, name, n_train=1500, n_validation=20, context_size=16, seed=seed
        )
        held, trained = (set(t.flatten().tolist()) - {0} for t in (found.validation, found.train))
        assert len(held) > 15 and not held & trained


def test_a_document_in_the_middle_of_rows_of_two_sources_is_kept_out(tmp_path, monkeypatch):
    """Tokenised apart, the same document stands at another place of another row."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    first, second = packed([4] * 300, 16), packed([4] * 40 + [3] * 260, 16)
    second = [[i + 300 if i > 40 else i for i in row] for row in second]
    second = [[0, *row[:-1]] for row in second]  # cut elsewhere
    names = [
        str(write_jsonl(tmp_path / f"{k}.jsonl", [{"input_ids": row} for row in rows]))
        for k, rows in enumerate((first, second))
    ]
    model = reader(build_tokenizer(), 1000)
    found = load_rows(model, *names, n_train=60, n_validation=len(second), context_size=16)
    held = {i for i in range(2, 40) if [i] * 4 in _whole(found.validation.flatten().tolist())}
    trained = set(found.train.flatten().tolist())
    assert len(held) > 20 and not held & trained


def _whole(ids: list[int]) -> list[list[int]]:
    return [[i] * 4 for i in set(ids) if ids.count(i) >= 4]
