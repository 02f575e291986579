"""Files of SAEs: SAELens folders, read and written, and tensors in PyTorch's own files.

A SAELens folder holds `sae_weights.safetensors`, `cfg.json` and perhaps `sparsity.safetensors`
(log10 of each latent's firing frequency). Of a `.pt` file plain tensors are read, out of a pickle
that is never run: the authors' checkpoints have keys such as
`blocks-6-hook_resid_pre.encoder.0.weight`, a set for each SAE, their released files
`encoder.weight`, `encoder.bias`, `decoder.weight` and `decoder.bias`. Everywhere shapes are checked
before anything of their size is copied, and a file that claims to hold more than its own size
(torch never compresses) is not opened.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from e2e_lib.errors import ModelError, is_integer, reworded
from e2e_lib.files import write_text, writing

WEIGHTS, CONFIG, SPARSITY = "sae_weights.safetensors", "cfg.json", "sparsity.safetensors"
# What a folder's configuration may say; the first value is meant where an older one says nothing.
# SAELens subtracts b_dec from the input unless told otherwise, so that must be told.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "architecture": ("standard",),
    "activation_fn_str": ("relu",),
    "activation_fn": ("relu",),
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "finetuning_scaling_factor": (False, None),
}
FLOATS = {"F64", "F32", "F16", "BF16"}  # what a file's weights may be
NEVER_FIRED = -10.0  # SAELens writes log10(1e-10) for a latent that never fired
TENSORS = {
    f"{layer}.{kind}": name
    for layers, names in (
        (("encoder", "encoder.0"), ("W_enc", "b_enc")),
        (("decoder",), ("W_dec", "b_dec")),
    )
    for layer in layers
    for kind, name in zip(("weight", "bias"), names, strict=True)
}


def write_saelens(
    folder: Path,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    frequency: Float[Tensor, " d_sae"] | None = None,
) -> None:
    """Write the folder of a standard (ReLU) autoencoder whose W_dec is of unit length.

    frequency: the share of tokens on which each latent fired. Raises ResultsError if it cannot be.
    """
    d_in, d_sae = weights["W_enc"].shape
    tensors = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in weights.items()}
    with writing(folder / WEIGHTS):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS)
        if frequency is not None:
            sparsity = torch.log10(frequency.detach().cpu().float().clamp_min(10**NEVER_FIRED))
            save_file({"sparsity": sparsity.contiguous()}, folder / SPARSITY)
    config = {
        "architecture": "standard",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,  # SAELens defaults to true: silently other activations
        "normalize_activations": "none",
        "reshape_activations": "none",
        # SAELens drops nested metadata unless a version of at least 6.0.0 is named.
        "metadata": {"sae_lens_version": "6.54.12", "sae_lens_training_version": None}
        | dict(metadata),
    }
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a folder, whose d_in and d_sae are whole numbers of at least 1.

    Raises:
        ModelError: it is missing, no JSON, or does not say so.
    """
    what = f"SAE folder {str(folder)!r}: {CONFIG} must be readable JSON with d_in and d_sae"
    with reworded(ModelError, what):
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        sizes = config["d_in"], config["d_sae"]
    if not all(is_integer(size) and 1 <= size < 2**31 for size in sizes):
        raise ModelError(
            f"SAE folder {str(folder)!r}: d_in and d_sae of its {CONFIG} are {str(sizes)[:80]}, "
            "but they must be whole numbers of at least 1."
        )
    return config


def read_saelens(folder: Path) -> dict[str, Tensor]:
    """The float32 tensors of a folder: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec.

    Raises:
        ModelError: a file is missing, unreadable or truncated, the architecture is not standard
            ReLU, or a tensor's shape is not the configuration's.
    """
    config = read_config(folder)
    d_in, d_sae = config["d_in"], config["d_sae"]
    others = {k: config.get(k, v[0]) for k, v in SUPPORTED.items() if config.get(k, v[0]) not in v}
    if config.get("apply_b_dec_to_input", True):
        others["apply_b_dec_to_input"] = config.get("apply_b_dec_to_input", "not said")
    if others:
        found = ", ".join(f"{key} {value!r}" for key, value in others.items())
        raise ModelError(
            f"SAE folder {str(folder)!r}: its {CONFIG} has {found}, but only a 'standard' "
            "autoencoder of ReLU codes without an input bias (apply_b_dec_to_input false) is "
            "supported."
        )
    shapes = {"W_enc": [d_in, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    return _read_checked(folder / WEIGHTS, shapes)


def firing_frequency(folder: str | Path) -> Float[Tensor, " d_sae"]:
    """Share of the evaluation tokens on which each latent of a saved SAE fired; 0 = not alive."""
    folder = Path(folder)
    what = f"SAE folder {str(folder)!r}: {SPARSITY} is missing or damaged"
    with reworded(ModelError, what), safe_open(folder / SPARSITY, framework="pt") as file:
        claimed = file.get_slice("sparsity")
        if len(claimed.get_shape()) != 1 or claimed.get_dtype() not in FLOATS:
            raise ValueError("its sparsity is no row of floating-point numbers")
        sparsity = file.get_tensor("sparsity")
    return torch.where(sparsity > NEVER_FIRED, 10.0**sparsity, torch.zeros_like(sparsity))


def _read_checked(path: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose names and shapes are exactly `shapes`."""
    what = f"SAE weights {str(path)!r} are missing, damaged or truncated"
    with reworded(ModelError, what), safe_open(path, framework="pt") as file:
        names = file.keys()
        found = {name: list(file.get_slice(name).get_shape()) for name in names}
        kinds = {file.get_slice(name).get_dtype() for name in names}
        if found != shapes or not kinds <= FLOATS:
            raise ModelError(
                f"SAE weights {str(path)!r} hold {str(found)[:300]} of {sorted(kinds)}, but "
                f"{CONFIG} asks for {shapes} of floating-point numbers."
            )
        return {name: file.get_tensor(name).float() for name in shapes}


def read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """The SAELens tensors, float32, of each SAE in a `.pt` file, by what its keys begin with.

    Raises:
        ModelError: the file is damaged, holds anything but tensors, or tensors whose names or
            shapes are not those of SAEs.
    """
    what = (
        f"SAE file {path.name!r} cannot be read: it is damaged, or no file of plain tensors, and "
        "other pickles are never loaded"
    )
    with reworded(ModelError, what):
        _check_archive(path)
        # mmap: nothing is read before its shape was checked.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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
