"""The sparse autoencoder of Braun et al. 2024, section 2.1. It knows nothing of language models.

    codes  = ReLU(x W_enc + b_enc)          no decoder bias is subtracted from the input
    output = codes D + b_dec                D = the rows of W_dec, each scaled to unit length

In place of ReLU there may be another rule of which latents fire (`core.sparsifiers`). A transcoder
makes another activation than x, of width d_out, and x W_skip may be a part of its output.

The rows are normalised in every forward pass and the gradient flows through the normalisation;
the stored W_dec is free. Folders have the SAELens layout (`data/formats`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from e2e_lib.core.sparsifiers import In, Out, make_sparsifier
from e2e_lib.data.formats import saelens
from e2e_lib.data.formats.stored import StoredSAE, require_threshold
from e2e_lib.engine.sae_kernel import Coded, by_latent
from e2e_lib.errors import require


class SAEOutput(NamedTuple):
    """What one forward pass returns; `...` is any leading shape, usually batch and position."""

    output: Float[Tensor, "... d_out"]
    codes: Float[Tensor, "... d_sae"]


class SAE(nn.Module):
    """An autoencoder with unit-norm dictionary elements (paper section 2.1, appendix D).

    Args:
        d_in: width of the activation it reads.
        d_sae: number of latents, at least 1.
        sparsifier: which latents fire: one of `names.SPARSIFIERS`, the paper's `relu` by default.
        k: latents on a token, for topk, batchtopk and matryoshka.
        d_out: of a transcoder: the width of what it makes; its encoder then starts at random.
        skip: whether x W_skip is added to the output; W_skip starts at 0.

    Initialisation follows the authors: encoder and both biases as `nn.Linear` does by default,
    decoder orthogonal (the columns of W_dec are orthonormal when d_sae >= d_in). Other sparsifiers
    than relu start with biases of 0 and an encoder made from the dictionary.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        sparsifier: str = "relu",
        k: int | float | None = None,
        *,
        d_out: int | None = None,
        skip: bool = False,
    ) -> None:
        require(d_in >= 1, "d_in", d_in, "a whole number of at least 1")
        require(d_sae >= 1, "d_sae", d_sae, "a whole number of at least 1")
        super().__init__()
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_out or d_in
        encoder_bound, decoder_bound = 1 / math.sqrt(d_in), 1 / math.sqrt(d_sae)
        W_enc = torch.empty(d_in, d_sae).uniform_(-encoder_bound, encoder_bound)
        self.W_enc = nn.Parameter(by_latent(W_enc))
        self.b_enc = nn.Parameter(torch.empty(d_sae).uniform_(-encoder_bound, encoder_bound))
        self.W_dec = nn.Parameter(nn.init.orthogonal_(torch.empty(d_sae, self.d_out)))
        self.b_dec = nn.Parameter(torch.empty(self.d_out).uniform_(-decoder_bound, decoder_bound))
        self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out)) if skip else None
        self.sparsifier = make_sparsifier(sparsifier, d_sae, k)
        with torch.no_grad():
            rows = self.dictionary if d_out is None else F.normalize(W_enc.T, dim=-1)
            first = self.sparsifier.first_encoder(rows)
            if first is not None:
                self.W_enc.copy_(first)
                self.b_enc.zero_()
                self.b_dec.zero_()

    @property
    def dictionary(self) -> Float[Tensor, "d_sae d_out"]:
        """The dictionary elements: the rows of W_dec at unit length."""
        return F.normalize(self.W_dec, dim=-1)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes, each >= 0."""
        return self.sparsifier.codes(F.linear(x, self.W_enc.T, self.b_enc))

    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_out"]:
        """The sum of the dictionary elements weighted by their codes, plus b_dec; no skip."""
        return F.linear(codes, self.dictionary.T, self.b_dec)

    def forward(self, x: Float[Tensor, "... d_in"]) -> SAEOutput:
        """Encode and decode.

        >>> sae = SAE(d_in=4, d_sae=12)
        >>> output, codes = sae(torch.zeros(2, 3, 4))
        >>> tuple(output.shape), tuple(codes.shape), bool((codes >= 0).all())
        ((2, 3, 4), (2, 3, 12), True)
        """
        codes = self.encode(x)
        output = self.decode(codes)
        return SAEOutput(output if self.W_skip is None else output + x @ self.W_skip, codes)

    def autoencode(
        self, x: In, p_norm: float = 1.0, *, target: Out | None = None, count: bool = True
    ) -> Coded:
        """What `forward` computes, without its codes: their sum Σ c^p_norm and counts by token.

        Training and evaluation use this; `engine.sae_kernel` says how, and why. `target` is what
        the output is to be, x itself if not given; latents are to make what the skip leaves of it.
        """
        target = x if target is None else target
        if self.W_skip is None:
            return self.sparsifier.autoencode(self, x, target, p_norm, count)
        skipped = (x.to(self.W_skip.dtype) @ self.W_skip).float()
        coded = self.sparsifier.autoencode(self, x, target - skipped.detach(), p_norm, count)
        nested = tuple(output + skipped for output in coded.nested)
        return coded._replace(output=coded.output + skipped, nested=nested)

    def stored(self, metadata: Mapping[str, Any] | None = None) -> StoredSAE:
        """What inference needs of it, for `data.formats`: W_dec at unit length, k or thresholds."""
        rule, metadata = self.sparsifier, metadata or {}
        allowed = "one whose class says how it is `stored`: as relu, topk or jumprelu"
        require(bool(rule.stored), "sparsifier", type(rule).__name__, allowed)
        own = rule.inference()
        k, hook = own.pop("k", None), metadata.get("hook_name")
        tensors = dict(self.named_parameters(recurse=False)) | {"W_dec": self.dictionary} | own
        weights = {n: t.detach().to("cpu", torch.float32).contiguous() for n, t in tensors.items()}
        return StoredSAE(weights, rule.stored, k, hook=hook, metadata=metadata)

    def save(
        self,
        folder: Path,
        metadata: Mapping[str, Any] | None = None,
        frequency: Float[Tensor, " d_sae"] | None = None,
    ) -> None:
        """Write a SAELens folder; `frequency` is the share of tokens on which each latent fired.

        Raises ResultsError if it cannot be written, ConfigError if no file holds what it computes.
        """
        saelens.write(folder, self.stored(metadata), frequency)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "SAE":
        """Read a SAELens folder, folded into this form (`from_stored` takes every other format).

        Raises:
            ModelError: files are missing, damaged or not what they say, or hold what no SAE here
                computes.
        """
        return cls.from_stored(saelens.read(Path(folder))).to(device)

    @classmethod
    def from_stored(cls, stored: StoredSAE) -> "SAE":
        """The SAE that a file of any format describes: `data.formats.sae_files.read_sae`."""
        return cls.from_weights(stored.weights, stored.sparsifier, stored.k)

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, Tensor], sparsifier: str = "relu", k: int | float | None = None
    ) -> "SAE":
        """An SAE of these float32 tensors: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_out), b_dec.

        There may be `W_skip` (d_in, d_out), and of a jumprelu `threshold` (d_sae): ModelError where
        one is below 0. Nothing is initialised first: GPT-2's orthogonal decoders take seconds.
        """
        d_in, d_sae = weights["W_enc"].shape
        with torch.device("meta"):
            sae = cls(d_in, d_sae, d_out=weights["W_dec"].shape[1], skip="W_skip" in weights)
        sae.sparsifier = make_sparsifier(sparsifier, d_sae, k)
        own = {f"sparsifier.{name}": weights[name] for name in sae.sparsifier.state_dict()}
        if "sparsifier.threshold" in own:
            require_threshold(weights["threshold"], "an SAE")
        four = {name: weights[name] for name, _ in sae.named_parameters(recurse=False)}
        four["W_enc"] = by_latent(weights["W_enc"])
        sae.load_state_dict(four | own, assign=True)
        return sae
