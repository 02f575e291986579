"""Tensors and configurations out of files that others wrote, and folders of files written whole.

Everywhere names, shapes and dtypes are checked before anything of their size is copied, a file that
claims to hold more than its own size (torch and numpy do not compress) is not opened, and of a
pickle nothing but plain tensors is read: it is never run.
"""

import json
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from e2e_lib.errors import ModelError, is_integer, reworded
from e2e_lib.files import part_of, writing

FLOATS = {"F64", "F32", "F16", "BF16"}  # what a safetensors file's weights may be
Shapes = Mapping[str, list[int]]


def read_json(path: Path, must: str) -> dict[str, Any]:
    """A mapping out of a JSON file. Raises ModelError: it is none, and what it `must` hold."""
    with reworded(ModelError, f"{_named(path)} must be readable JSON with {must}"):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ModelError(f"{_named(path)} must be readable JSON with {must}.")
    return found


def refuse(path: Path, key: str, value: object, allowed: str) -> ModelError:
    """The error for a configuration's value under which a file would compute something else."""
    return ModelError(f"{_named(path)} has {key} {str(value)[:80]!r}, but only {allowed} is read.")


def known_keys(module: str) -> dict[str, list[str]]:
    """The keys that `module`, a file, knows, by where they stand: of the YAML file beside it."""
    found = yaml.safe_load(Path(module).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {place: list(keys) for place, keys in found.items()}


def require_known(
    path: Path,
    config: Any,
    known: Collection[str],
    allowed: Mapping[str, tuple[Any, ...]] | None = None,
    place: str = "",
) -> None:
    """Raise ModelError for the first key under which a file may compute something else.

    Args:
        config: a mapping out of the file; anything else is refused.
        known: keys that may have any value: they change nothing, or whoever asks acts on them.
        allowed: values that are read of keys that do change it, the usual one first.
        place: where in the file it stands, such as `metadata`; empty: the file itself.
    """
    if not isinstance(config, dict):
        raise refuse(path, place, config, "a mapping")
    allowed = allowed or {}
    for key, value in config.items():
        name = f"{place}.{key}" if place else str(key)
        if key in allowed and value not in allowed[key]:
            raise refuse(path, name, value, " or ".join(dict.fromkeys(map(repr, allowed[key]))))
        if key not in allowed and key not in known:
            raise ModelError(
                f"{_named(path)} has {repr(name[:80])[1:-1]} {str(value)[:80]!r}, which is not "
                "known here and may change what its SAE computes: only known keys are read, so it "
                "must go if it changes nothing."
            )


def sizes(path: Path, config: Mapping[str, Any], *keys: str) -> list[int]:
    """Whole numbers of at least 1 out of a configuration. Raises ModelError if one is none."""
    found: list[Any] = [config.get(key) for key in keys]
    good = [size for size in found if is_integer(size) and 1 <= size < 2**31]
    if len(good) < len(keys):
        raise refuse(path, " and ".join(keys), found, "whole numbers of at least 1")
    return good


def _named(path: Path) -> str:
    return f"SAE file {path.name!r} of folder {path.parent.name!r}"


def shapes_of(path: Path) -> dict[str, list[int]]:
    """The shapes in a safetensors file. Raises ModelError if it is missing or damaged."""
    with reworded(ModelError, _damaged(path)), safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _damaged(path: Path) -> str:
    return f"SAE weights {str(path)!r} are missing, damaged or truncated"


def read_safetensors(path: Path, shapes: Shapes, asked_by: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose names and shapes are exactly `shapes`.

    Raises:
        ModelError: it is missing or damaged, or holds others than `asked_by` asks for.
    """
    with reworded(ModelError, _damaged(path)), safe_open(path, framework="pt") as file:
        names = file.keys()
        found = {name: list(file.get_slice(name).get_shape()) for name in names}
        kinds = {file.get_slice(name).get_dtype() for name in names}
        if found != shapes or not kinds <= FLOATS:
            raise ModelError(
                f"SAE weights {str(path)!r} hold {str(found)[:300]} of {sorted(kinds)}, but "
                f"{asked_by} asks for {shapes} of floating-point numbers."
            )
        return {name: file.get_tensor(name) for name in shapes}


def require_shapes(path: Path, tensors: Mapping[str, Tensor], shapes: Shapes, by: str) -> None:
    """Raise ModelError unless names and shapes are exactly `shapes`, of floating-point numbers."""
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    kinds = sorted({str(t.dtype) for t in tensors.values() if not t.is_floating_point()})
    if found != shapes or kinds:
        raise ModelError(
            f"{_named(path)} holds {str(found)[:300]}{' of ' * bool(kinds)}{', '.join(kinds)}, but "
            f"{by} asks for {shapes} of floating-point numbers."
        )


def read_pt(path: Path) -> dict[Any, Tensor]:
    """The plain tensors of a `.pt` file, still on disk where they can be.

    Raises:
        ModelError: it is missing or damaged, or holds anything but plain tensors.
    """
    what = (
        f"SAE file {path.name!r} cannot be read: it is damaged, or no file of plain tensors, and "
        "other pickles are never loaded"
    )
    with reworded(ModelError, what):
        _check_archive(path)
        # mmap: nothing is read before its shape was checked.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    named = found if isinstance(found, dict) else {}
    for key, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"SAE file {path.name!r} holds {str(key)[:80]!r}, which no SAE has.")
        if not _is_plain(tensor):
            raise ModelError(
                f"SAE file {path.name!r} holds {str(key)[:80]!r} of shape {tuple(tensor.shape)}, "
                f"which is no tensor of plain numbers."
            )
    return {key: tensor.detach() for key, tensor in named.items()}  # they may want gradients


def _is_plain(tensor: Tensor) -> bool:
    """Whether its numbers are there: no sparse, quantised or meta tensor, no view of too little."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an `.npz` file.

    Raises:
        ModelError: it is missing or damaged, or holds anything but floating-point numbers.
    """
    what = f"SAE file {path.name!r} cannot be read: it is damaged, or no file of plain arrays"
    with reworded(ModelError, what):
        _check_archive(path)
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_array(archive, entry)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _check_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raise ValueError unless an array's header claims no more floats than its file holds."""
    header = np.lib.format
    readers = {(1, 0): header.read_array_header_1_0, (2, 0): header.read_array_header_2_0}
    with archive.open(entry) as file:
        shape, _, dtype = readers[header.read_magic(file)](file)
    count = 1
    for length in shape:
        count *= int(length)
    if dtype.kind != "f" or dtype.itemsize > 8 or min(shape, default=0) < 0:
        raise ValueError(f"an array is of {dtype}")
    if count * dtype.itemsize > entry.file_size:
        raise ValueError("an array claims more than its file holds")


def _check_archive(path: Path) -> None:
    """Raise ValueError unless every entry is stored as it is, within the file's size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = path.stat().st_size
    stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size <= size for e in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("entries are compressed or overlap")


def write_files(folder: Path, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Files of one folder, each written by its function, all or none of them.

    Raises:
        ResultsError: the folder cannot be written to, or the disk is full.
    """
    with ExitStack() as parts:
        places = {name: parts.enter_context(part_of(folder / name)) for name in files}
        for name, write in files.items():
            with writing(folder / name):
                write(places[name])
        for name, part in places.items():
            with writing(folder / name):
                part.replace(folder / name)


def json_file(values: Mapping[str, Any]) -> Callable[[Path], object]:
    """What writes `values` as JSON."""
    text = json.dumps(values, indent=1) + "\n"
    return lambda path: path.write_text(text, encoding="utf-8")


def pt_file(tensors: Mapping[str, Tensor]) -> Callable[[Path], object]:
    """What writes `tensors` as PyTorch does."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            torch.save(dict(tensors), file)

    return write
