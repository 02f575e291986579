"""Files as PyTorch writes them, and what may be put into them."""

import io
import zipfile
from typing import Any

import torch

TENSORS = {
    "encoder.weight": torch.zeros(8, 4), "encoder.bias": torch.zeros(8),
    "decoder.weight": torch.zeros(4, 8), "decoder.bias": torch.zeros(4),
}  # fmt: skip


def pt_bytes(tensors: Any = TENSORS) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def rezipped(sound: bytes, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same archive with another content of the entries that end in `name`."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(sound)) as old,
        zipfile.ZipFile(stream, "w", compression) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, data if entry.endswith(name) else old.read(entry))
    return stream.getvalue()


SOUND_PT = pt_bytes()
with zipfile.ZipFile(io.BytesIO(SOUND_PT)) as _archive:
    PICKLE = next(_archive.read(n) for n in _archive.namelist() if n.endswith("data.pkl"))
