"""Damaged and hostile files of tensors and texts: read, or refused in one sentence."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e2e_lib.data.formats.authors import read_tensors
from e2e_lib.data.text import TextSource, read_documents
from e2e_lib.errors import ModelError
from tests.helpers.hostile import (
    batch,
    changed_bytes,
    survives,
)
from tests.helpers.pt_files import PICKLE, SOUND_PT, TENSORS, pt_bytes, rezipped

pytestmark = pytest.mark.usefixtures("without_type_checks")
KINDS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


@batch(600)
@given(
    changed_bytes(SOUND_PT)
    | st.builds(
        rezipped, st.just(SOUND_PT), st.sampled_from(["data.pkl", "data/0", "byteorder"]),
        changed_bytes(PICKLE), st.sampled_from(KINDS),
    )
)  # fmt: skip
def test_pt_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "local_similar_ce_layer_6.pt"
    path.write_bytes(data)
    groups = survives(read_tensors, path)
    for tensors in (groups or {}).values():
        assert {t.dtype for t in tensors.values()} == {torch.float32}
        assert all(t.numel() * 4 <= len(data) for t in tensors.values())


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / "a.pt"
    for data in (
        pt_bytes({"encoder.weight": Evil(touched)}),
        rezipped(SOUND_PT, "data.pkl", pickle.dumps(Evil(touched))),
        pickle.dumps(Evil(touched)),
    ):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read_tensors(path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Evil(touched)))  # it would have
    assert touched.exists()


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1).expand(10**6, 10**6),  # 10^12 elements in four bytes
        torch.zeros(8, 4).to_sparse(),
        torch.zeros(8, 4, device="meta"),
        torch.zeros(8, 4, dtype=torch.complex64),
        torch.zeros(8, 4, dtype=torch.int64),
    ],
    ids=["expanded", "sparse", "meta", "complex", "integer"],
)
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, weight: torch.Tensor) -> None:
    path = tmp_path / "a.pt"
    torch.save(TENSORS | {"encoder.weight": weight}, path)
    with pytest.raises(ModelError):
        read_tensors(path)


LINES = b'{"text": "one two"}\n{"text": "three"}\n'
IDS = b'{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n'


def parquet() -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"text": ["one two", "three"]}).to_parquet(stream)
    return stream.getvalue()


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`datasets` keeps what it reads; damaged files must not fill the user's cache."""
    import datasets.config

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@batch(90)
@given(st.data())
def test_damaged_texts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    suffix, sound = data.draw(
        st.sampled_from(
            [(".jsonl", LINES), (".jsonl", IDS), (".txt", b"one\ntwo\n"), (".parquet", parquet())]
        )
    )
    path = tmp_path_factory.getbasetemp() / f"text{suffix}"
    path.write_bytes(data.draw(changed_bytes(sound)))
    read = lambda: list(read_documents(TextSource(str(path)), 0))  # noqa: E731
    for document in survives(read) or ():
        assert isinstance(document, str | list | np.ndarray)
