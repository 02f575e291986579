"""SAEs in PyTorch's own files: plain tensors out of a pickle that is never run.

The authors' checkpoints have keys such as `blocks-6-hook_resid_pre.encoder.0.weight`, a set for
each SAE; their released files have `encoder.weight`, `encoder.bias`, `decoder.weight` and
`decoder.bias`. Shapes are checked before anything of their size is copied, and a file that claims
to hold more than its own size (torch never compresses) is not opened.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from e2e_lib.errors import ModelError

TENSORS = {
    f"{layer}.{kind}": name
    for layers, names in (
        (("encoder", "encoder.0"), ("W_enc", "b_enc")),
        (("decoder",), ("W_dec", "b_dec")),
    )
    for layer in layers
    for kind, name in zip(("weight", "bias"), names, strict=True)
}


def read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """The SAELens tensors, float32, of each SAE in a `.pt` file, by what its keys begin with.

    Raises:
        ModelError: the file is damaged, holds anything but tensors, or tensors whose names or
            shapes are not those of SAEs.
    """
    try:
        _check_archive(path)
        # mmap: nothing is read before its shape was checked.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of pickle, of zip files, of torch
        raise ModelError(
            f"SAE file {path.name!r} cannot be read: it is damaged, or no file of plain tensors, "
            f"and other pickles are never loaded ({type(error).__name__})."
        ) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in found.items() if isinstance(found, dict) else ():
        ending = next((e for e in TENSORS if key == e or str(key).endswith(f".{e}")), None)
        if ending is not None and isinstance(tensor, Tensor):
            groups.setdefault(key.removesuffix(ending).rstrip("."), {})[TENSORS[ending]] = tensor
        else:
            raise ModelError(f"SAE file {path.name!r} holds {str(key)[:80]!r}, which no SAE has.")
    if not groups:
        raise ModelError(f"SAE file {path.name!r} holds no tensors of an SAE.")
    return {prefix: _checked(tensors, path) for prefix, tensors in groups.items()}


def _check_archive(path: Path) -> None:
    """Raise ValueError unless every entry is stored as it is, within the file's size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = path.stat().st_size
    stored = all(e.compress_type == zipfile.ZIP_STORED and e.file_size <= size for e in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError("entries are compressed or overlap")


def _checked(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The four tensors in SAELens' orientation, float32, if their shapes fit together."""
    shapes = {name: tuple(t.shape) for name, t in sorted(tensors.items())}
    d_sae, d_in = shape if len(shape := shapes.get("W_enc", ())) == 2 else (0, 0)
    fit = {"W_dec": (d_in, d_sae), "W_enc": (d_sae, d_in), "b_dec": (d_in,), "b_enc": (d_sae,)}
    numbers = all(t.is_floating_point() and _is_plain(t) for t in tensors.values())
    # A view can claim more elements than its storage holds.
    whole = numbers and all(t.untyped_storage().nbytes() >= t.nbytes for t in tensors.values())
    if shapes != fit or not (d_sae and d_in and whole):
        raise ModelError(
            f"SAE file {path.name!r} holds {shapes}, but it must hold floating-point W_enc (d_sae, "
            "d_in), b_enc (d_sae), W_dec (d_in, d_sae) and b_dec (d_in)."
        )
    turned = {name: t.T if t.ndim == 2 else t for name, t in tensors.items()}
    return {k: t.float().clone(memory_format=torch.contiguous_format) for k, t in turned.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether its numbers are there: no sparse, quantised or meta tensor."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu"
