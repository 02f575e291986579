"""The sparse autoencoder of Braun et al. 2024, section 2.1. It knows nothing of language models.

    codes  = ReLU(x W_enc + b_enc)          no decoder bias is subtracted from the input
    output = codes D + b_dec                D = the rows of W_dec, each scaled to unit length

The rows are normalised in every forward pass and the gradient flows through the normalisation;
the stored W_dec is free. Folders have the SAELens layout: `sae_weights.safetensors`, `cfg.json`,
`sparsity.safetensors` (log10 of each latent's firing frequency). Weights are never unpickled.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from e2e_lib.engine.sae_kernel import Coded, autoencode
from e2e_lib.errors import ModelError, require
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


class SAEOutput(NamedTuple):
    """What one forward pass returns; `...` is any leading shape, usually batch and position."""

    output: Float[Tensor, "... d_in"]
    codes: Float[Tensor, "... d_sae"]


class SAE(nn.Module):
    """A ReLU autoencoder with unit-norm dictionary elements (paper section 2.1, appendix D).

    Args:
        d_in: width of the activation it reads.
        d_sae: number of latents, at least 1.

    Initialisation follows the authors: encoder and both biases as `nn.Linear` does by default,
    decoder orthogonal (the columns of W_dec are orthonormal when d_sae >= d_in).
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        require(d_in >= 1, "d_in", d_in, "a whole number of at least 1")
        require(d_sae >= 1, "d_sae", d_sae, "a whole number of at least 1")
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        encoder_bound, decoder_bound = 1 / math.sqrt(d_in), 1 / math.sqrt(d_sae)
        W_enc = torch.empty(d_in, d_sae).uniform_(-encoder_bound, encoder_bound)
        self.W_enc = nn.Parameter(_by_latent(W_enc))
        self.b_enc = nn.Parameter(torch.empty(d_sae).uniform_(-encoder_bound, encoder_bound))
        self.W_dec = nn.Parameter(nn.init.orthogonal_(torch.empty(d_sae, d_in)))
        self.b_dec = nn.Parameter(torch.empty(d_in).uniform_(-decoder_bound, decoder_bound))

    @property
    def dictionary(self) -> Float[Tensor, "d_sae d_in"]:
        """The dictionary elements: the rows of W_dec at unit length."""
        return F.normalize(self.W_dec, dim=-1)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes, each >= 0."""
        return F.relu(F.linear(x, self.W_enc.T, self.b_enc))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """The sum of the dictionary elements weighted by their codes, plus b_dec."""
        return F.linear(codes, self.dictionary.T, self.b_dec)

    def forward(self, x: Float[Tensor, "... d_in"]) -> SAEOutput:
        """Encode and decode.

        >>> sae = SAE(d_in=4, d_sae=12)
        >>> output, codes = sae(torch.zeros(2, 3, 4))
        >>> tuple(output.shape), tuple(codes.shape), bool((codes >= 0).all())
        ((2, 3, 4), (2, 3, 12), True)
        """
        codes = self.encode(x)
        return SAEOutput(self.decode(codes), codes)

    def autoencode(
        self, x: Float[Tensor, "... d_in"], p_norm: float = 1.0, *, count: bool = True
    ) -> Coded:
        """What `forward` computes, without its codes: their sum Σ c^p_norm and counts by token.

        Training and evaluation use this; `coding` says how, and why.
        """
        weights = (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        return autoencode(x, *weights, p_norm, count=count)

    def save(
        self,
        folder: Path,
        metadata: dict[str, object] | None = None,
        frequency: Float[Tensor, " d_sae"] | None = None,
    ) -> None:
        """Write the SAELens folder; `frequency` is the share of tokens on which each latent fired.

        W_dec is written at unit length, as SAELens expects. Raises ResultsError if it cannot be.
        """
        weights: dict[str, Tensor] = {"W_enc": self.W_enc, "b_enc": self.b_enc}
        weights |= {"W_dec": self.dictionary, "b_dec": self.b_dec}
        tensors = {k: v.detach().to("cpu", torch.float32).contiguous() for k, v in weights.items()}
        with writing(folder / WEIGHTS):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / WEIGHTS)
            if frequency is not None:
                sparsity = torch.log10(frequency.detach().cpu().float().clamp_min(10**NEVER_FIRED))
                save_file({"sparsity": sparsity.contiguous()}, folder / SPARSITY)
        config = {
            "architecture": "standard",
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,  # SAELens defaults to true: silently other activations
            "normalize_activations": "none",
            "reshape_activations": "none",
            # SAELens drops nested metadata unless a version of at least 6.0.0 is named.
            "metadata": {"sae_lens_version": "6.54.12", "sae_lens_training_version": None}
            | (metadata or {}),
        }
        write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "SAE":
        """Read a SAELens folder that holds a standard (ReLU) autoencoder, of any of its versions.

        Raises:
            ModelError: a file is missing, unreadable or truncated, the architecture is another
                one, or a tensor's shape is not the configuration's.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / CONFIG).read_text())
            d_in, d_sae = int(config["d_in"]), int(config["d_sae"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"SAE folder {str(folder)!r}: {CONFIG} must be readable JSON with d_in and d_sae "
                f"({type(error).__name__}: {error})."
            ) from error
        others = {
            k: config.get(k, v[0]) for k, v in SUPPORTED.items() if config.get(k, v[0]) not in v
        }
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
        return cls.from_weights(_read_checked(folder / WEIGHTS, shapes)).to(device)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> "SAE":
        """An SAE of these float32 tensors: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec.

        Nothing is initialised first: at GPT-2's size an orthogonal decoder takes seconds.
        """
        d_in, d_sae = weights["W_enc"].shape
        with torch.device("meta"):
            sae = cls(d_in, d_sae)
        sae.load_state_dict({**weights, "W_enc": _by_latent(weights["W_enc"])}, assign=True)
        return sae


def firing_frequency(folder: str | Path) -> Float[Tensor, " d_sae"]:
    """Share of the evaluation tokens on which each latent of a saved SAE fired; 0 = not alive."""
    folder = Path(folder)
    try:
        with safe_open(folder / SPARSITY, framework="pt") as file:
            claimed = file.get_slice("sparsity")
            if len(claimed.get_shape()) != 1 or claimed.get_dtype() not in FLOATS:
                raise SafetensorError("its sparsity is no row of floating-point numbers")
            sparsity = file.get_tensor("sparsity")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"SAE folder {str(folder)!r}: {SPARSITY} is missing or damaged ({error})."
        ) from error
    return torch.where(sparsity > NEVER_FIRED, 10.0**sparsity, torch.zeros_like(sparsity))


def _by_latent(W_enc: Float[Tensor, "d_in d_sae"]) -> Float[Tensor, "d_in d_sae"]:
    """The same matrix, with each latent's weights together in memory, as W_dec has them."""
    return W_enc.T.contiguous().T


def _read_checked(path: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of a safetensors file whose names and shapes are exactly `shapes`."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            found = {name: list(file.get_slice(name).get_shape()) for name in names}
            kinds = {file.get_slice(name).get_dtype() for name in names}
            if found != shapes or not kinds <= FLOATS:
                raise ModelError(
                    f"SAE weights {str(path)!r} hold {str(found)[:300]} of {sorted(kinds)}, but "
                    f"{CONFIG} asks for {shapes} of floating-point numbers."
                )
            return {name: file.get_tensor(name).float() for name in shapes}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"SAE weights {str(path)!r} are missing, damaged or truncated ({error})."
        ) from error
