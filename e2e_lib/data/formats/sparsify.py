"""EleutherAI's sparsify: folders `layers.N` of `cfg.json` and `sae.safetensors`, TopK alone.

Tensors are encoder.weight (d_sae, d_in), encoder.bias, W_dec (d_sae, d_in) and b_dec; the encoder
reads x - b_dec. A ReLU is written as the one whose k is all of its latents; no threshold can be.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from e2e_lib.data.formats.stored import (
    StoredSAE,
    as_file,
    block_before,
    fold,
    product,
    require_k,
    widest,
    written,
)
from e2e_lib.data.formats.tensors import (
    json_file,
    read_json,
    read_safetensors,
    refuse,
    require_known,
    shapes_of,
    sizes,
    write_files,
)
from e2e_lib.errors import ModelError

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
# What a configuration may say: anything of what training alone reads, else what is supported.
FREE = ("expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "d_in")
ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation": ("topk",),
    "skip_connection": (False,),
    "transcode": (False,),
    "signed": (False,),
}
FOLDER = re.compile(r"(?:layers|h)\.([0-9]{1,6})(\.mlp)?")


def read(folder: Path) -> StoredSAE:
    """The SAE of a folder, folded; its hook is the output of the module that the folder names.

    Raises:
        ModelError: a file is missing or damaged, tensors are not of the configuration's sizes, or
            it is a transcoder or no TopK.
    """
    path = folder / CONFIG
    config = read_json(path, "d_in, k and num_latents or expansion_factor")
    require_known(path, config, FREE, ALLOWED)
    (d_in,) = sizes(path, config, "d_in")
    factor = {"expansion_factor": 32} | config
    told = {
        "num_latents": config.get("num_latents")
        or d_in * sizes(path, factor, "expansion_factor")[0]
    }
    (d_sae,) = sizes(path, told, "num_latents")
    what = f"SAE folder {str(folder)!r}"
    k = config.get("k", 32)
    require_k(k, d_sae, what)
    if "W_skip" in shapes_of(folder / WEIGHTS):
        raise refuse(folder / WEIGHTS, "W_skip", "a skip connection", "an SAE without one")
    shapes = {"encoder.weight": [d_sae, d_in], "encoder.bias": [d_sae]}
    shapes |= {"W_dec": [d_sae, d_in], "b_dec": [d_in]}
    found = read_safetensors(folder / WEIGHTS, shapes, CONFIG)
    weights = {"W_enc": found["encoder.weight"].T, "b_enc": found["encoder.bias"]}
    weights |= {"W_dec": found["W_dec"], "b_dec": found["b_dec"]}
    return StoredSAE(
        **fold(weights, what, k=k, input_bias=True, dtype=widest(weights.values())),
        format="sparsify",
        architecture="topk",
        hook=_hook(folder),
        config=config,
    )


def _hook(folder: Path) -> str | None:
    """The hook of a module: a block's output, its MLP's, or the embedding."""
    if folder.name == "embed_tokens":
        return "hook_embed"
    found = FOLDER.fullmatch(folder.name)
    if found is None:
        return None
    return f"blocks.{found[1]}.{'hook_mlp_out' if found[2] else 'hook_resid_post'}"


def write(folder: Path, stored: StoredSAE) -> None:
    """Write `stored`, a topk or a relu.

    Raises:
        ModelError: it has thresholds, or the folder's name says another hook than the SAE has.
        ResultsError: the folder cannot be written to.
    """
    if stored.sparsifier == "jumprelu":
        raise ModelError("sparsify's files have no thresholds, but this SAE is a jumprelu.")
    hook = _hook(folder)
    same = hook == stored.hook or block_before(hook) == block_before(stored.hook) is not None
    if hook is not None and not same:
        raise ModelError(
            f"sparsify's folder {folder.name!r} means {hook!r}, but the SAE is at "
            f"{str(stored.hook)[:80]!r}."
        )
    shift = product(stored.weights["b_dec"], stored.weights["W_enc"])
    b_enc = (stored.weights["b_enc"].double() + shift).float()
    tensors = written(stored)
    named = {"encoder.weight": tensors["W_enc"].T.contiguous(), "W_dec": tensors["W_dec"]}
    named |= {"encoder.bias": as_file(b_enc, stored.dtype), "b_dec": tensors["b_dec"]}
    config: dict[str, Any] = {"activation": "topk", "multi_topk": False}
    config |= {"expansion_factor": max(1, stored.d_sae // stored.d_in)}
    config |= stored.config if stored.format == "sparsify" else {}
    config |= {"normalize_decoder": True, "skip_connection": False, "transcode": False}
    config |= {"d_in": stored.d_in, "num_latents": stored.d_sae, "k": stored.k or stored.d_sae}
    write_files(folder, {WEIGHTS: lambda path: save_file(named, path), CONFIG: json_file(config)})
