"""The published suites that have layouts of their own, read only: Gemma Scope 1 and 2, Llama Scope.

| suite | files | notes |
|---|---|---|
| Gemma Scope | `params.npz`: W_enc (d_in, d_sae), b_enc, W_dec, b_dec, threshold | or w_enc … |
| Gemma Scope 2 | `config.json`, `params.safetensors`: the same, w_enc and w_dec | no transcoders |
| Llama Scope | `hyperparams.json`, `checkpoints/final.safetensors` | x is scaled |

All are jumprelu and read x itself. What Gemma Scope's files do not say stands in their path, as in
`gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2e_lib.data.formats.stored import StoredSAE, fold
from e2e_lib.data.formats.tensors import (
    known_keys,
    read_json,
    read_npz,
    read_safetensors,
    refuse,
    require_known,
    require_shapes,
    shapes_of,
    sizes,
)
from e2e_lib.errors import is_number, is_text

PARAMS, PARAMS_2, CONFIG_2 = "params.npz", "params.safetensors", "config.json"
HYPERPARAMS, FINAL = "hyperparams.json", "checkpoints/final.safetensors"
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
# Gemma Scope 2 names modules of transformers, whose outputs are these hooks.
SITES_2 = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
# What else their configurations say that would change the codes, and what is read of it ...
GEMMA_2: dict[str, tuple[Any, ...]] = {"type": ("sae",), "affine_connection": (False, None)}
LLAMA: dict[str, tuple[Any, ...]] = {
    "act_fn": ("jumprelu",),
    "norm_activation": ("dataset-wise",),
    "use_decoder_bias": (True,),
    "apply_decoder_bias_to_pre_encoder": (False,),
    "use_glu_encoder": (False,),
}
# ... of which these must be said, for without them the maker's class computes something else.
REQUIRED = ("act_fn", "norm_activation", "apply_decoder_bias_to_pre_encoder")
KNOWN = known_keys(__file__)


def read_gemma(folder: Path) -> StoredSAE:
    """Gemma Scope 1. An embedding's SAE reads x / √d_in and its output is multiplied by √d_in.

    Raises:
        ModelError: the file is missing or damaged, or its arrays do not fit together.
    """
    path = folder / PARAMS
    weights = {re.sub("^w_", "W_", name): array for name, array in read_npz(path).items()}
    _require_fit(path, weights)
    dtype, where = weights["W_dec"].dtype, folder.resolve().as_posix()
    # The last of each: folders above the release may be called anything.
    layer = re.search(r".*/(?:layer_([0-9]{1,6})|embedding)(?=/|$)", where)
    site = re.search(r".*-(res|mlp|att|transcoders)(?=/|$)", where)
    if site and site[1] == "transcoders":
        raise refuse(path, "release", site[0].rsplit("/", 1)[-1], "an SAE, no transcoder,")
    hook = f"blocks.{layer[1]}.{SITES[site[1]]}" if layer and layer[1] and site else None
    if layer and not layer[1]:
        hook, root = "hook_embed", math.sqrt(weights["W_enc"].shape[0])
        weights |= {
            "W_enc": weights["W_enc"].double() / root,
            "W_dec": weights["W_dec"].double() * root,
        }
    return StoredSAE(
        **fold(weights, f"SAE file {path.name!r} of {folder.name!r}", dtype=dtype),
        format="gemma_scope",
        architecture="jumprelu",
        hook=hook,
    )


def _require_fit(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise ModelError unless the tensors are NAMES, of the sizes of b_dec and b_enc."""
    empty = torch.empty(0)
    d_in, d_sae = (weights.get(name, empty).numel() for name in ("b_dec", "b_enc"))
    shapes = {"W_enc": [d_in, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    require_shapes(path, weights, shapes | {"threshold": [d_sae]}, "the size of its biases")
    if d_in < 1 or d_sae < 1:
        raise refuse(path, "b_dec and b_enc", (d_in, d_sae), "at least one number of each")


def read_gemma_2(folder: Path) -> StoredSAE:
    """Gemma Scope 2.

    Raises:
        ModelError: a file is missing or damaged, it is a transcoder or no jump_relu, or its
            tensors are not of one width.
    """
    path = folder / CONFIG_2
    config = read_json(path, "architecture and width")
    require_known(path, config, KNOWN["gemma_scope_2"], GEMMA_2)
    if config.get("architecture") != "jump_relu":
        raise refuse(path, "architecture", config.get("architecture"), "jump_relu")
    into, out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if out not in (None, into):
        raise refuse(path, "hf_hook_point_out", out, "an SAE, no transcoder,")
    path = folder / PARAMS_2
    found = read_safetensors(path, shapes_of(path), CONFIG_2)
    weights = {re.sub("^w_", "W_", name): tensor for name, tensor in found.items()}
    _require_fit(path, weights)
    width = config.get("width", weights["b_enc"].numel())
    if width != weights["b_enc"].numel():
        raise refuse(folder / CONFIG_2, "width", width, f"its tensors' {weights['b_enc'].numel()}")
    module = re.fullmatch(r"model\.layers\.([0-9]{1,6})\.([\w.]+)", str(into))
    site = SITES_2.get(module[2]) if module else None
    model = config.get("model_name")
    return StoredSAE(
        **fold(weights, f"SAE folder {str(folder)!r}"),
        format="gemma_scope_2",
        architecture="jumprelu",
        hook=f"blocks.{module[1]}.{site}" if module and site else None,
        metadata={"model_name": model} if is_text(model) else {},
        config=config,
    )


def read_llama(folder: Path) -> StoredSAE:
    """Llama Scope. s = √d_in / the activations' average norm scales x, and the output by 1/s.

    The threshold counts s z, for that is how its makers and SAELens run it.

    Raises:
        ModelError: a file is missing or damaged, it is a transcoder or no jumprelu, or its tensors
            are not of the configuration's sizes.
    """
    path = folder / HYPERPARAMS
    config = read_json(path, "d_model, d_sae and dataset_average_activation_norm")
    told = dict.fromkeys(REQUIRED) | config
    require_known(path, told, KNOWN["llama_scope"], LLAMA)
    into, out = config.get("hook_point_in"), config.get("hook_point_out")
    if out not in (None, into):
        raise refuse(path, "hook_point_out", out, "an SAE, no transcoder,")
    d_in, d_sae = sizes(path, config, "d_model", "d_sae")
    norms = config.get("dataset_average_activation_norm")
    both = norms if isinstance(norms, dict) else {}
    norm: Any = both.get("in")
    if not is_number(norm) or norm <= 0 or both.get("out", norm) != norm:
        raise refuse(path, "dataset_average_activation_norm", norms, "one above 0, in and out,")
    threshold: Any = config.get("jump_relu_threshold")
    if not is_number(threshold):
        raise refuse(path, "jump_relu_threshold", threshold, "a number")
    shapes = {"encoder.weight": [d_sae, d_in], "encoder.bias": [d_sae]}
    shapes |= {"decoder.weight": [d_in, d_sae], "decoder.bias": [d_in]}
    found = read_safetensors(folder / FINAL, shapes, HYPERPARAMS)
    scale = math.sqrt(d_in) / norm
    weights = {
        "W_enc": found["encoder.weight"].float().T * scale,
        "b_enc": found["encoder.bias"],
        "W_dec": found["decoder.weight"].float().T / scale,
        "b_dec": found["decoder.bias"].float() / scale,
        "threshold": torch.full((d_sae,), threshold * scale, dtype=torch.float64),
    }
    dtype = found["decoder.weight"].dtype
    return StoredSAE(
        **fold(weights, f"SAE folder {str(folder)!r}", dtype=dtype),
        format="llama_scope",
        architecture="jumprelu",
        hook=into if is_text(into) else None,
        config=config,
    )
