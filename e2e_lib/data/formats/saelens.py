"""SAELens folders: `sae_weights.safetensors`, `cfg.json` and perhaps `sparsity.safetensors`.

The last holds log10 of each latent's firing frequency. Architectures:

| `architecture` | tensors | computes |
|---|---|---|
| `standard` | W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec | ReLU(z) |
| `topk` | the same | the k largest z, or r z if `rescale_acts_by_decoder_norm`, then ReLU |
| `jumprelu` | and threshold (d_sae) | ReLU(z) where z > threshold; BatchTopK SAEs too |
| `gated` | W_enc, b_gate, r_mag, b_mag, W_dec, b_dec | `stored.as_gate` |
| `transcoder`, `skip_transcoder` | standard's, and W_skip (d_out, d_in) | ReLU(z); adds x W_skipᵀ |
| `jumprelu_transcoder`, `jumprelu_skip_transcoder` | jumprelu's, and W_skip | the same |

z = (x - b_dec) W_enc + b_enc; x itself if `apply_b_dec_to_input`, by default true, is false, as it
is in transcoders. These have W_dec (d_sae, d_out) and b_dec (d_out). Keys of `cfg.json` that the
YAML file beside this does not have are refused.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from e2e_lib.data.formats.stored import (
    DTYPES,
    StoredSAE,
    as_file,
    as_gate,
    fold,
    gates,
    require_k,
    widest,
)
from e2e_lib.data.formats.tensors import (
    FLOATS,
    json_file,
    known_keys,
    read_safetensors,
    refuse,
    require_known,
    shapes_of,
    sizes,
    write_files,
)
from e2e_lib.errors import ModelError, is_integer, is_text, reworded
from e2e_lib.names import PAIR, ends

WEIGHTS, CONFIG, SPARSITY = "sae_weights.safetensors", "cfg.json", "sparsity.safetensors"
# What `read` takes: architectures with their tensors beside W_enc, W_dec and b_dec ...
EXTRA: dict[str, tuple[str, ...]] = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "r_mag", "b_mag"),
    "transcoder": ("b_enc",),
    "skip_transcoder": ("b_enc", "W_skip"),
    "jumprelu_transcoder": ("b_enc", "threshold"),
    "jumprelu_skip_transcoder": ("b_enc", "threshold", "W_skip"),
}
# ... the flags it folds, with their defaults, and values with which nothing is to be folded.
FLAGS = {"apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": False}
FOLDED_AWAY: dict[str, tuple[Any, ...]] = {
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none", None),
    "finetuning_scaling_factor": (False, None),
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
    "is_transcoder": (False, None),
}
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
RENAMED |= {"hook_point_head_index": "hook_head_index"}
RENAMED |= dict.fromkeys(("hook_point_out", "out_hook_point"), "hook_name_out")
KNOWN = known_keys(__file__)
OF = {"d_out": "transcoder", "k": "topk", "rescale_acts_by_decoder_norm": "topk"}  # of these alone
OWN_GATED = ("saelens", "gated")
NEVER_FIRED = -10.0  # SAELens writes log10(1e-10) for a latent that never fired


def write_saelens(
    folder: Path,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    frequency: Float[Tensor, " d_sae"] | None = None,
    architecture: str = "standard",
    dtype: str = "float32",
    **settings: object,
) -> None:
    """Write a folder, all of it or nothing; W_dec must be of unit length.

    frequency: the share of tokens on which each latent fired. settings: what else the configuration
    says. Raises ResultsError if it cannot be.
    """
    d_in, d_sae = weights["W_enc"].shape
    tensors = {name: as_file(tensor, dtype) for name, tensor in weights.items()}
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": False,  # SAELens defaults to true: silently other activations
        "normalize_activations": "none",
        "reshape_activations": "none",
        **settings,
        # SAELens drops nested metadata unless a version of at least 6.0.0 is named.
        "metadata": {"sae_lens_version": "6.54.12", "sae_lens_training_version": None}
        | dict(metadata),
    }
    files = {WEIGHTS: lambda path: save_file(tensors, path)}
    if frequency is not None:
        sparsity = torch.log10(frequency.detach().cpu().float().clamp_min(10**NEVER_FIRED))
        files[SPARSITY] = lambda path: save_file({"sparsity": sparsity.contiguous()}, path)
    write_files(folder, files | {CONFIG: json_file(config)})


def write(
    folder: Path, stored: StoredSAE, frequency: Float[Tensor, " d_sae"] | None = None
) -> None:
    """Write `stored` as `standard`, `topk` or `jumprelu`; as `gated` if it was read from one.

    A transcoder's architecture is said by its name; its pair of hooks is in the metadata.

    Raises:
        ModelError: it is a topk transcoder.
        ResultsError: the folder cannot be written to.
    """
    tensors, settings = dict(stored.weights), dict[str, object]()
    architecture = "standard" if stored.sparsifier == "relu" else stored.sparsifier
    if stored.sparsifier == "topk":
        settings = {"k": stored.k, "rescale_acts_by_decoder_norm": False}
    if stored.sparsifier == "jumprelu" and (stored.format, stored.architecture) == OWN_GATED:
        kept = {name: tensors[name] for name in ("W_enc", "W_dec", "b_dec")}
        architecture, tensors = "gated", kept | gates(stored)
    if stored.transcoder:
        if stored.sparsifier == "topk":
            raise ModelError("SAELens' files hold no topk transcoder: a batchtopk one they do.")
        kinds = stored.sparsifier == "jumprelu", "W_skip" in tensors
        words = (word for word, own in zip(("jumprelu_", "skip_"), kinds, strict=True) if own)
        architecture, settings = "".join(words) + "transcoder", {"d_out": stored.d_out}
        tensors |= {"W_skip": tensors["W_skip"].T} if "W_skip" in tensors else {}
    metadata = dict(stored.metadata)
    if stored.hook:  # of a pair both
        metadata |= zip(("hook_name", "hook_name_out"), ends(stored.hook), strict=False)
    write_saelens(folder, tensors, metadata, frequency, architecture, stored.dtype, **settings)
    if frequency is None:
        (folder / SPARSITY).unlink(missing_ok=True)  # of the SAE that was here


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


def read(folder: Path) -> StoredSAE:
    """The SAE of a folder of any version, folded.

    Raises:
        ModelError: a file is missing or damaged, tensors are not what the configuration says, or
            it says what cannot be folded: an input normalised token by token, say.
    """
    path, config = folder / CONFIG, read_config(folder)
    config, metadata = _settings(path, config)
    kind = config.get("architecture", "standard")
    if not isinstance(kind, str) or kind not in EXTRA:
        raise refuse(path, "architecture", kind, f"one of {', '.join(EXTRA)}")
    flags = {key: config.get(key, default) for key, default in FLAGS.items()}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise refuse(path, key, value, "true or false")
    bias, rescaled = flags.values()
    k = config.get("k") if kind == "topk" else None
    what, d_in, transcoder = f"SAE folder {str(folder)!r}", config["d_in"], "transcoder" in kind
    if kind == "topk":
        require_k(k, config["d_sae"], what)
    if transcoder and bias:
        raise refuse(path, "apply_b_dec_to_input", bias, "false in a transcoder")
    (d_out,) = sizes(path, config, "d_out") if transcoder else (d_in,)
    if config.get("d_out", d_out) not in (d_out, None):
        raise refuse(path, "d_out", config["d_out"], f"d_in, {d_in}, of an SAE, no transcoder,")
    weights, held = _weights(folder, kind, d_in, config["d_sae"], d_out)
    hook, made = metadata.get("hook_name"), metadata.get("hook_name_out")
    if transcoder:
        hook = f"{hook}{PAIR}{made}" if is_text(hook) and is_text(made) else None
    elif made not in (None, hook):
        raise refuse(path, "hook_name_out", made, "an SAE, no transcoder,")
    name = str(config.get("dtype")).removeprefix("torch.")
    said = getattr(torch, name, held)
    holds = name in DTYPES and torch.promote_types(held, said) == said
    if isinstance(said, torch.dtype) and not (holds or said == held):
        raise refuse(path, "dtype", config["dtype"], f"one that holds its weights' {held}")
    return StoredSAE(
        **fold(weights, what, k=k, input_bias=bias, rescaled=rescaled, dtype=held),
        architecture=kind,
        hook=hook if is_text(hook) else None,
        metadata=metadata,
        config=config,
    )


def _settings(path: Path, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A configuration's own keys by today's names, and its metadata: flat before version 6."""
    metadata = config.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise refuse(path, "metadata", metadata, "a mapping")
    require_known(path, metadata, KNOWN["metadata"], FOLDED_AWAY, "metadata")
    for key in ("training_architecture_details", "trained_with"):
        require_known(path, metadata.get(key) or {}, KNOWN["training"], place=f"metadata.{key}")
    named = config.get("sae_lens_version") or metadata.get("sae_lens_version")
    version = re.match(r"([0-9]{1,6})(\.|$)", str(named))
    if int(version[1]) >= 6 if version else metadata:
        other = {key for key, word in OF.items() if word not in str(config.get("architecture"))}
        known = {*KNOWN["config"], *KNOWN["training"], *OF} - other
        require_known(path, config, known, FOLDED_AWAY)
        return config, metadata
    flat: dict[str, Any] = {}
    for key, value in config.items():
        said = flat.setdefault(RENAMED.get(key, key), value)
        if said is not value and said != value:
            raise refuse(path, key, value, f"the {str(said)[:80]!r} also said")
    if "hook_z" in str(flat.get("hook_name")):
        flat.setdefault("reshape_activations", "hook_z")
    activation, options = flat.get("activation_fn", "relu"), flat.get("activation_fn_kwargs") or {}
    own = ["activation_fn", "activation_fn_kwargs", "d_out", *FLAGS]
    own += ["k"] if "topk" in (activation, flat.get("architecture")) else []
    known = {*KNOWN["config"], *KNOWN["metadata"], *KNOWN["flat"], *own}
    require_known(path, flat, known, FOLDED_AWAY)
    if activation not in ("relu", "topk"):
        raise refuse(path, "activation_fn", activation, "relu or topk")
    own = ["k"] if activation == "topk" else []
    require_known(path, options, own, {"signed": (False,)}, "activation_fn_kwargs")
    if activation == "topk":
        flat |= {"k": options.get("k", flat.get("k"))}
        if flat.get("architecture", "standard") not in ("standard", "topk"):
            raise refuse(path, "activation_fn", "topk", f"relu of a {flat['architecture']}")
        flat["architecture"] = "topk"
    kept = {key for key in KNOWN["metadata"] if not key.startswith("sae_lens_")}
    return flat, {key: value for key, value in flat.items() if key in kept}


def _weights(
    folder: Path, kind: str, d_in: int, d_sae: int, d_out: int
) -> tuple[dict[str, Tensor], torch.dtype]:
    """The tensors of an architecture, a gated one as the jumprelu it is, and the file's dtype."""
    path = folder / WEIGHTS
    names, row = shapes_of(path), [d_sae]
    shapes = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_out], "b_dec": [d_out]}
    shapes |= dict.fromkeys(EXTRA[kind], row)
    if "W_skip" in shapes:
        shapes["W_skip"] = [d_out, d_in]
    if kind == "jumprelu" and "log_threshold" in names:
        shapes["log_threshold"] = shapes.pop("threshold")
    if "scaling_factor" in names:  # a finished fine-tuning of the decoder; all ones without one
        shapes["scaling_factor"] = row
    weights = read_safetensors(path, shapes, CONFIG)
    held = widest(weights.values())
    if bool((weights.pop("scaling_factor", torch.ones(1)) != 1).any()):
        raise refuse(path, "scaling_factor", "other than 1", "a scaling_factor of ones")
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").float().exp()
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T
    if kind == "gated":
        encoder = [weights.pop(name) for name in ("W_enc", "r_mag", "b_gate", "b_mag")]
        weights |= as_gate(*encoder)
    return weights, held


def firing_frequency(folder: str | Path) -> Float[Tensor, " d_sae"]:
    """Share of the evaluation tokens on which each latent of a saved SAE fired; 0 = not alive."""
    folder = Path(folder)
    what = f"SAE folder {str(folder)!r}: {SPARSITY} is missing or damaged"
    with reworded(ModelError, what), safe_open(folder / SPARSITY, framework="pt") as file:
        claimed = file.get_slice("sparsity")
        if len(claimed.get_shape()) != 1 or claimed.get_dtype() not in FLOATS:
            raise ValueError("its sparsity is no row of floating-point numbers")
        sparsity = file.get_tensor("sparsity")
        if not bool((sparsity < 1e-6).all()):
            raise ValueError("its sparsity is no log10 of shares")
    return torch.where(sparsity > NEVER_FIRED, 10.0**sparsity, torch.zeros_like(sparsity))
