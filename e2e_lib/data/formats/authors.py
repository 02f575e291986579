"""The authors' own files of end-to-end SAEs: `.pt` files of one or several ReLU autoencoders.

Their checkpoints have keys such as `blocks-6-hook_resid_pre.encoder.0.weight`, a set for each SAE,
their released files `encoder.weight` (d_sae, d_in), `encoder.bias`, `decoder.weight` (d_in, d_sae)
and `decoder.bias`. The encoder reads x itself; the decoder's columns have any length and are
normalised in every forward pass, so codes do not depend on it.

dictionary_learning's AutoEncoderNew has the keys and shapes of a release too, and no such
normalisation. Where columns are of unit length both compute the same; where they are not, a file of
these keys must be called as releases are, KIND_similar_MATCH_layer_N, or is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from e2e_lib.data.formats.stored import ROUNDING, UNIT, StoredSAE, fold, widest, written
from e2e_lib.data.formats.tensors import pt_file, read_pt, write_files
from e2e_lib.errors import ModelError
from e2e_lib.names import resid_pre

TENSORS = {
    f"{layer}.{kind}": name
    for layers, names in (
        (("encoder", "encoder.0"), ("W_enc", "b_enc")),
        (("decoder",), ("W_dec", "b_dec")),
    )
    for layer in layers
    for kind, name in zip(("weight", "bias"), names, strict=True)
}


RELEASED = re.compile(r"(local|e2e|downstream)_similar_(ce|l0)_layer_[0-9]{1,6}")


def read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """The SAELens tensors, float32, of each SAE in a `.pt` file, by what its keys begin with.

    Raises:
        ModelError: the file is damaged, holds anything but tensors, or tensors whose names or
            shapes are not those of SAEs.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_pt(path).items():
        ending = next((e for e in TENSORS if key == e or str(key).endswith(f".{e}")), None)
        if ending is None:
            raise ModelError(f"SAE file {path.name!r} holds {str(key)[:80]!r}, which no SAE has.")
        groups.setdefault(key.removesuffix(ending).rstrip("."), {})[TENSORS[ending]] = tensor
    if not groups:
        raise ModelError(f"SAE file {path.name!r} holds no tensors of an SAE.")
    return {prefix: _checked(tensors, path) for prefix, tensors in groups.items()}


def _checked(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The four tensors in SAELens' orientation, float32, if their shapes fit together."""
    shapes = {name: tuple(t.shape) for name, t in sorted(tensors.items())}
    d_sae, d_in = shape if len(shape := shapes.get("W_enc", ())) == 2 else (0, 0)
    fit = {"W_dec": (d_in, d_sae), "W_enc": (d_sae, d_in), "b_dec": (d_in,), "b_enc": (d_sae,)}
    numbers = all(t.is_floating_point() for t in tensors.values())
    if shapes != fit or not (d_sae and d_in and numbers):
        raise ModelError(
            f"SAE file {path.name!r} holds {shapes}, but it must hold floating-point W_enc (d_sae, "
            "d_in), b_enc (d_sae), W_dec (d_in, d_sae) and b_dec (d_in)."
        )
    turned = {name: t.T if t.ndim == 2 else t for name, t in tensors.items()}
    return {k: t.float().clone(memory_format=torch.contiguous_format) for k, t in turned.items()}


def read(path: Path) -> StoredSAE:
    """The one SAE of a file.

    Raises:
        ModelError: as `read_tensors`; there are several, or it may as well be an AutoEncoderNew.
    """
    groups = read_tensors(path)
    if len(groups) > 1:
        raise ModelError(
            f"SAE file {path.name!r} holds {len(groups)} SAEs ({', '.join(groups)[:200]}), but one "
            "is read at a time: `authors.read_tensors` reads them all."
        )
    ((prefix, weights),) = groups.items()
    length = weights["W_dec"].norm(dim=1, keepdim=True)
    held = read_pt(path)
    near = ROUNDING.get(widest(held.values()), UNIT)
    told = RELEASED.fullmatch(path.stem) or any(".0." in str(key) for key in held)
    if not told and bool(((length - 1).abs() > near).any()):
        raise ModelError(
            f"SAE file {path.name!r} has columns of decoder.weight of length {length.min():.3g} to "
            f"{length.max():.3g}, which the authors' class brings to 1 and dictionary_learning's "
            "AutoEncoderNew does not: it must be called KIND_similar_MATCH_layer_N.pt, as their "
            "releases are, or be ae.pt in a folder with its config.json."
        )
    kept = (length == 0) | ((length - 1).abs() <= UNIT)
    weights["W_dec"] = weights["W_dec"] / torch.where(kept, torch.ones_like(length), length)
    return StoredSAE(
        **fold(weights, f"SAE file {path.name!r}"),
        format="authors",
        hook=prefix.replace("-", ".") or _hook_named(path),
        config={"prefix": prefix},
    )


def _hook_named(path: Path) -> str | None:
    """The hook of a release, whose files are named KIND_similar_MATCH_layer_N."""
    layer = re.search(r"layer_([0-9]{1,6})$", path.stem)
    return resid_pre(int(layer[1])) if layer else None


def write(path: Path, stored: StoredSAE) -> None:
    """Write a ReLU SAE as a release, or under a checkpoint's keys where they must name the hook.

    Raises:
        ModelError: it is no ReLU autoencoder.
        ResultsError: the file cannot be written.
    """
    if stored.sparsifier != "relu":
        raise ModelError(
            f"The authors' files hold ReLU autoencoders, but this one is a {stored.sparsifier}."
        )
    prefix = str(stored.config.get("prefix") or "")
    if stored.hook and stored.hook not in (prefix.replace("-", "."), _hook_named(path)):
        prefix = stored.hook.replace(".", "-")
    tensors = written(stored)
    named = {"encoder.weight": tensors["W_enc"].T.contiguous(), "encoder.bias": tensors["b_enc"]}
    named |= {"decoder.weight": tensors["W_dec"].T.contiguous(), "decoder.bias": tensors["b_dec"]}
    if prefix:
        named = {f"{prefix}.{k.replace('encoder', 'encoder.0')}": t for k, t in named.items()}
    write_files(path.parent, {path.name: pt_file(named)})
