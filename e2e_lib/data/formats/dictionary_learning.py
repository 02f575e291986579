"""dictionary_learning's folders: `ae.pt`, a dictionary of tensors, and `config.json`.

| `dict_class` | tensors | computes |
|---|---|---|
| AutoEncoder | encoder.weight (d_sae, d_in), encoder.bias, decoder.weight, bias | ReLU |
| AutoEncoderNew | encoder and decoder, weight and bias each | ReLU of x itself |
| JumpReluAutoEncoder | W_enc (d_in, d_sae), b_enc, W_dec, b_dec, threshold | jumprelu of x itself |
| AutoEncoderTopK | encoder.*, decoder.weight, b_dec, k, threshold (not used) | topk |
| BatchTopKSAE | the same, its threshold set | jumprelu with one threshold |
| MatryoshkaBatchTopKSAE | W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes | the same |
| GatedAutoEncoder | encoder.weight, r_mag, *_bias, decoder.weight, decoder_bias | `as_gate` |

The others read x less the decoder's bias. Keys of the configuration that the YAML file beside this
does not have are refused, and so is what was trained on anything but a module's output. SAELens and
SAEBench take every such SAE to be at the residual stream after block `layer`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from e2e_lib.data.formats.stored import (
    StoredSAE,
    as_file,
    as_gate,
    block_before,
    constant_threshold,
    fold,
    gates,
    product,
    require_k,
    widest,
)
from e2e_lib.data.formats.tensors import (
    json_file,
    known_keys,
    pt_file,
    read_json,
    read_pt,
    refuse,
    require_known,
    require_shapes,
    sizes,
    write_files,
)
from e2e_lib.errors import ModelError, is_integer

WEIGHTS, CONFIG = "ae.pt", "config.json"
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
GATES = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec"}
GATES |= {"gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
KNOWN = known_keys(__file__)


class Class(NamedTuple):
    """One of the library's classes: its tensors by our names, and what it does with them."""

    tensors: Mapping[str, str]
    trainer: str  # the name of a trainer of it, on which SAEBench insists
    input_bias: bool = True
    threshold: str = ""  # one for each latent, or a single one
    k: bool = False


CLASSES = {
    "AutoEncoder": Class(LINEAR | {"bias": "b_dec"}, "StandardTrainer"),
    "AutoEncoderNew": Class(
        LINEAR | {"decoder.bias": "b_dec"}, "StandardTrainerAprilUpdate", False
    ),
    "JumpReluAutoEncoder": Class(PLAIN, "JumpReluTrainer", False, "each"),
    "AutoEncoderTopK": Class(LINEAR | {"b_dec": "b_dec"}, "TopKTrainer", k=True),
    "BatchTopKSAE": Class(LINEAR | {"b_dec": "b_dec"}, "BatchTopKTrainer", True, "one", True),
    "MatryoshkaBatchTopKSAE": Class(PLAIN, "MatryoshkaBatchTopKTrainer", True, "one", True),
    "GatedAutoEncoder": Class(GATES, "GatedSAETrainer"),
}
USUAL = {"relu": "AutoEncoder", "topk": "AutoEncoderTopK", "jumprelu": "JumpReluAutoEncoder"}


def read(folder: Path) -> StoredSAE:
    """The SAE of a folder, folded.

    Raises:
        ModelError: a file is missing or damaged, tensors are not those of the configuration's
            class and sizes, or a threshold was never set.
    """
    path = folder / CONFIG
    config = read_json(path, "a trainer with dict_class, activation_dim and dict_size")
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in CLASSES:
        raise refuse(path, "dict_class", name, f"one of {', '.join(CLASSES)}")
    kind = CLASSES[name]
    _check_keys(path, config, trainer, kind)
    d_in, d_sae = sizes(path, trainer, "activation_dim", "dict_size")
    path = folder / WEIGHTS
    tensors = read_pt(path)
    weights = _weights(path, kind, tensors, d_in, d_sae)
    if kind.k:
        trainer = trainer | {"k": _k(folder, tensors, trainer.get("k"), d_sae)}
        config = config | {"trainer": trainer}
    if "group_sizes" in tensors:
        config = config | {"group_sizes": _groups(path, tensors["group_sizes"], d_sae)}
    if kind.threshold == "one":
        weights["threshold"] = _threshold(path, tensors).repeat(d_sae)
    if name == "GatedAutoEncoder":
        encoder = [weights.pop(key) for key in ("W_enc", "r_mag", "b_gate", "b_mag")]
        weights |= as_gate(*encoder)
    k = trainer["k"] if name == "AutoEncoderTopK" else None
    return StoredSAE(
        **fold(
            weights,
            f"SAE folder {str(folder)!r}",
            k=k,
            input_bias=kind.input_bias,
            dtype=widest(tensors[name] for name in kind.tensors),
        ),
        format="dictionary_learning",
        architecture=name,
        hook=_hook(trainer),
        metadata=_metadata(config, trainer),
        config=config,
    )


def _check_keys(
    path: Path, config: Mapping[str, Any], trainer: Mapping[str, Any], kind: Class
) -> None:
    """Raise ModelError for a key under which the dictionary would compute something else."""
    require_known(path, config, KNOWN["config"])
    told: dict[str, tuple[Any, ...]] = {
        "apply_b_dec_to_input": (kind.input_bias,),
        "use_threshold": (kind.threshold == "one",),
        "normalize_activations": (False, True, None),  # true: while it was trained
    }
    require_known(path, trainer, KNOWN["trainer"], told, "trainer")
    buffer = config.get("buffer") or {}
    require_known(path, buffer, KNOWN["buffer"], {"io": ("out", None)}, "buffer")


def _weights(
    path: Path, kind: Class, tensors: Mapping[str, Tensor], d_in: int, d_sae: int
) -> dict[str, Tensor]:
    """The tensors of a class by our names and in our orientation."""
    turned = "encoder.weight" in kind.tensors
    sizes = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    shapes = {theirs: sizes.get(ours, [d_sae]) for theirs, ours in kind.tensors.items()}
    shapes = {name: shape[::-1] if turned else shape for name, shape in shapes.items()}
    others = {"threshold", "k", "group_sizes"} if kind.k else set()
    if kind.threshold == "each":
        shapes["threshold"] = [d_sae]
    require_shapes(path, {n: t for n, t in tensors.items() if n not in others}, shapes, CONFIG)
    found = {ours: tensors[theirs] for theirs, ours in kind.tensors.items()}
    found = {name: t.T if turned and t.ndim == 2 else t for name, t in found.items()}
    return found | ({"threshold": tensors["threshold"]} if kind.threshold == "each" else {})


def _k(folder: Path, tensors: Mapping[str, Tensor], said: Any, d_sae: int) -> int:
    """k, which stands in both files, or in the configuration alone."""
    what, found = f"SAE folder {str(folder)!r}", tensors.get("k")
    k = said if found is None or found.numel() != 1 else found.item()
    require_k(k, d_sae, what)
    if said not in (None, k):
        raise ModelError(f"{what} has k {k} in {WEIGHTS}, but {str(said)[:80]} in {CONFIG}.")
    return int(k)


def _groups(path: Path, groups: Tensor, d_sae: int) -> list[int]:
    """The sizes of a Matryoshka SAE's groups, which say nothing about its codes."""
    sizes = groups.tolist() if groups.ndim == 1 and not groups.is_floating_point() else []
    if sum(sizes) != d_sae or min(sizes) < 1:
        raise refuse(path, "group_sizes", sizes, f"whole numbers of at least 1 that sum to {d_sae}")
    return sizes


def _threshold(path: Path, tensors: Mapping[str, Tensor]) -> Tensor:
    """The one threshold of a batchtopk."""
    found = tensors.get("threshold")
    if found is None or found.numel() != 1 or not found.is_floating_point():
        raise refuse(path, "threshold", None if found is None else found.shape, "a single number")
    return found.float().reshape(1)


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The hook, where the configuration does not say that it is another than SAELens would take."""
    layer, site = trainer.get("layer"), str(trainer.get("submodule_name") or "resid_post")
    named = is_integer(layer) and 0 <= int(str(layer)) < 10**6 and "resid_post" in site
    named = named and set(re.findall("[0-9]+", site)) <= {str(layer)}
    return f"blocks.{layer}.hook_resid_post" if named else None


def _metadata(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What SAELens calls it."""
    buffer = config.get("buffer")
    context = buffer.get("ctx_len") if isinstance(buffer, dict) else None
    model = str(trainer.get("lm_name") or "").split("/")[-1]
    found = {"model_name": model or None, "context_size": context}
    details = {key: trainer[key] for key in ("trainer_class", "dict_class", "k") if key in trainer}
    return {k: v for k, v in found.items() if v is not None} | {"trained_with": details}


def write(folder: Path, stored: StoredSAE) -> None:
    """Write `stored` in the class that it was read from, if it still can be, else in the usual one.

    The usual ones are AutoEncoder, AutoEncoderTopK and JumpReluAutoEncoder. A batchtopk whose
    latents have come to have thresholds of their own becomes the last.

    Raises:
        ModelError: its hook is not a residual stream, the one place that this format can name.
        ResultsError: the folder cannot be written to.
    """
    name = _class(stored)
    kind, weights = CLASSES[name], dict(stored.weights)
    if name == "GatedAutoEncoder":
        weights |= gates(stored)
    if kind.input_bias:  # what is told x less the decoder's bias needs it back
        shift = product(weights["b_dec"], weights["W_enc"])
        for bias in {"b_enc", "b_gate", "b_mag"} & set(weights):
            weights[bias] = (weights[bias].double() + shift).float()
    tensors = {key: as_file(tensor, stored.dtype) for key, tensor in weights.items()}
    found = {theirs: tensors[ours] for theirs, ours in kind.tensors.items()}
    if "encoder.weight" in found:
        found = {key: t.T.contiguous() if t.ndim == 2 else t for key, t in found.items()}
    trainer = stored.config.get("trainer") if stored.format == "dictionary_learning" else None
    if kind.threshold == "each":
        found["threshold"] = tensors["threshold"]
    if kind.k:
        k = stored.k if stored.k is not None else (trainer or {}).get("k")
        one = constant_threshold(stored)
        found["k"] = torch.tensor(k, dtype=torch.int32)
        found["threshold"] = torch.tensor(-1.0 if one is None else one)
    if name == "MatryoshkaBatchTopKSAE":
        found["group_sizes"] = torch.tensor(stored.config["group_sizes"])
    config = _config(stored, name, dict(trainer or {}))
    write_files(folder, {WEIGHTS: pt_file(found), CONFIG: json_file(config)})


def _class(stored: StoredSAE) -> str:
    """The class to write."""
    own = stored.architecture if stored.format == "dictionary_learning" else ""
    kind = CLASSES.get(own)
    fits = {
        "relu": own in ("AutoEncoder", "AutoEncoderNew"),
        "topk": own == "AutoEncoderTopK",
        "jumprelu": own in ("JumpReluAutoEncoder", "GatedAutoEncoder")
        or (
            kind is not None and kind.threshold == "one" and constant_threshold(stored) is not None
        ),
    }
    return own if fits[stored.sparsifier] else USUAL[stored.sparsifier]


def _config(stored: StoredSAE, name: str, trainer: dict[str, Any]) -> dict[str, Any]:
    """The configuration: the one that was read, or the least that SAELens and SAEBench ask for."""
    layer = block_before(stored.hook)
    if block_before(_hook(trainer)) != layer or not trainer:
        if layer is None:
            raise ModelError(
                f"dictionary_learning's files name a layer's residual stream, but the SAE is at "
                f"{str(stored.hook)[:80]!r}."
            )
        site = f"resid_post_layer_{layer}"
        trainer |= {"layer": layer, "submodule_name": site}
        trainer.setdefault("lm_name", str(stored.metadata.get("model_name") or ""))
    if trainer.get("dict_class") != name:
        trainer |= {"dict_class": name, "trainer_class": CLASSES[name].trainer}
    trainer |= {"activation_dim": stored.d_in, "dict_size": stored.d_sae}
    if stored.k is not None:
        trainer["k"] = stored.k
    own = dict(stored.config) if stored.format == "dictionary_learning" else {}
    own.pop("group_sizes", None)
    context = stored.metadata.get("context_size") or 128
    return {"buffer": {"ctx_len": context}} | own | {"trainer": trainer}
