"""What is written and read today is what the libraries were given and computed: `formats.py`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from e2e_lib.data.formats import dictionary_learning, saelens
from e2e_lib.data.formats.sae_files import FORMATS, WRITTEN
from tests.compatibility.formats import FOLDER, PAGE, Row, markdown, read_table, rows, write_ours

CLOSE = 1e-5
TABLE = read_table()
TODAY = list(rows())


def tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def test_the_same_files_are_written_today(tmp_path):
    write_ours(tmp_path)
    found = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(FOLDER): path
        for part in ("ours", "stand_ins")
        for path in (FOLDER / part).rglob("*")
        if path.is_file()
    }
    assert set(found) == set(committed) and len(found) > 25
    for name, path in committed.items():
        if path.suffix == ".json":
            assert json.loads(found[name].read_text()) == json.loads(path.read_text()), name
            continue
        old, new = tensors(path), tensors(found[name])
        assert {k: (t.shape, t.dtype) for k, t in new.items()} == {
            k: (t.shape, t.dtype) for k, t in old.items()
        }, name
        for key, tensor in old.items():
            torch.testing.assert_close(new[key], tensor, rtol=1e-6, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize("row", TODAY, ids=lambda r: f"{r.direction}-{r.library}-{r.architecture}")
def test_codes_and_outputs_are_the_libraries_own(row: Row):
    assert max(row.codes, row.output) <= CLOSE


def test_the_table_is_of_these_rows():
    assert [row._replace(codes=0.0, output=0.0) for row in TABLE] == [
        row._replace(codes=0.0, output=0.0) for row in TODAY
    ]
    assert max(max(row.codes, row.output) for row in TABLE) <= CLOSE
    assert markdown(TABLE) in PAGE.read_text()


def test_every_architecture_that_is_written_was_run_by_its_library():
    own = {"saelens": "sae_lens", "dictionary_learning": "dictionary_learning"}
    own |= {"sparsify": "sparsify", "authors": "e2e_sae"}
    ran = {
        (row.direction, row.format, row.architecture)
        for row in TABLE
        if row.library == own.get(row.format) and not row.failed
    }
    classes = {
        "saelens": set(saelens.EXTRA),
        "dictionary_learning": set(dictionary_learning.CLASSES),
        "sparsify": {"topk", "all"},
        "authors": {"released", "checkpoint"},
    }
    assert set(classes) == set(WRITTEN)
    for format, architectures in classes.items():
        for direction in ("ours", "theirs"):
            assert architectures <= {a for d, f, a in ran if (d, f) == (direction, format)}
    suites = {row.format for row in TABLE if row.direction == "stand_ins" and not row.failed}
    assert suites == set(FORMATS) - set(WRITTEN)


def test_what_a_library_cannot_load_is_known():
    failed = {(row.library, row.format, row.architecture) for row in TABLE if row.failed}
    assert failed == {
        ("sae_lens", "dictionary_learning", "AutoEncoderNew"),
        ("sae_lens", "sparsify", "topk"),
        ("sae_lens", "sparsify", "all"),
    }
