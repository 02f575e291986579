"""An SAE in the one form that every format is read into and written from, and how it gets there.

    z      = x W_enc + b_enc                    no bias is subtracted from the input
    relu     codes = ReLU(z)
    topk     codes = ReLU(z) where z is one of the token's k largest, else 0
    jumprelu codes = z where z > threshold, else 0; threshold >= 0
    output = codes W_dec + b_dec                W_dec has rows of unit length

A transcoder's output is of another activation than x, and may have x W_skip added.

Files say more than that: biases taken from the input, rows of any length, gates, scales. What is
the same function of x is folded into these tensors, latent by latent and in their order; where rows
had length r, codes are r times the file's own. What cannot be folded is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from e2e_lib.errors import ModelError, is_integer
from e2e_lib.names import PAIR

SPARSIFIERS = ("relu", "topk", "jumprelu")
DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
UNIT = 1e-6  # rows as near to unit length as this are kept to the last bit
# How far from unit length rows may be where the k largest z are chosen by their size in the file: a
# unit row's own rounding. Two z nearer to each other than this may be chosen the other way round.
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
CHUNK = 8192  # latents, where a product is taken in float64


@dataclass(frozen=True, eq=False)
class StoredSAE:
    """One SAE, whatever it was stored as.

    Raises:
        ModelError: a tensor is missing or has another shape or dtype, a number is not finite, rows
            of W_dec are not of unit length, k or a threshold is out of range.
    """

    # float32 W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_out), b_dec, [threshold], and of a
    # transcoder [W_skip (d_in, d_out)]
    weights: Mapping[str, Tensor]
    sparsifier: str  # one of SPARSIFIERS
    k: int | None = None  # of topk: latents that may fire on a token
    format: str = "saelens"  # what it was read from: a key of `sae_files.FORMATS`
    architecture: str = ""  # that format's own word for it, such as gated or BatchTopKSAE
    # TransformerLens' name of the activation, of a transcoder a pair's, if the files tell
    hook: str | None = None
    dtype: str = "float32"  # of the file's tensors, and of those written
    metadata: Mapping[str, Any] = field(
        default_factory=dict
    )  # by SAELens' names, such as model_name
    config: Mapping[str, Any] = field(default_factory=dict)  # the format's own configuration

    def __post_init__(self) -> None:
        found = {name: tuple(t.shape) for name, t in self.weights.items()}
        shape = found.get("W_enc", ())
        d_in, d_sae = shape if len(shape) == 2 else (0, 0)
        shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,)}
        d_out = (found.get("b_dec") or (d_in,))[-1]
        shapes |= {"W_dec": (d_sae, d_out), "b_dec": (d_out,)}
        if "W_skip" in found:
            shapes["W_skip"] = (d_in, d_out)
        if self.sparsifier == "jumprelu":
            shapes["threshold"] = (d_sae,)
        _require(self.sparsifier in SPARSIFIERS, f"sparsifier is {self.sparsifier!r}", SPARSIFIERS)
        _require(found == shapes and d_in * d_sae * d_out > 0, f"tensors are {found}", shapes)
        kinds = {str(t.dtype) for t in self.weights.values()}
        _require(kinds == {"torch.float32"}, f"tensors are of {sorted(kinds)}", "float32")
        _require(self.dtype in DTYPES, f"dtype is {self.dtype!r}", list(DTYPES))
        require_finite(self.weights, "an SAE")
        off = float((self.weights["W_dec"].norm(dim=1) - 1).abs().max())
        _require(off < 1e-4, f"rows of W_dec are {off:.1e} from unit length", "of unit length")
        if self.sparsifier == "topk":
            require_k(self.k, d_sae, "an SAE")
        if self.sparsifier == "jumprelu":
            require_threshold(self.weights["threshold"], "an SAE")

    @property
    def d_in(self) -> int:
        """Width of the activation it reads."""
        return self.weights["W_enc"].shape[0]

    @property
    def d_out(self) -> int:
        """Width of the activation it makes."""
        return self.weights["b_dec"].shape[0]

    @property
    def transcoder(self) -> bool:
        """Whether it makes another activation than it reads, as far as it tells."""
        told = "transcoder" in self.architecture or PAIR in (self.hook or "")
        return told or self.d_out != self.d_in or "W_skip" in self.weights

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.weights["W_enc"].shape[1]


def _require(condition: bool, found: str, allowed: object) -> None:
    if not condition:
        raise ModelError(f"An SAE's {found[:300]}, but must be {allowed}.")


def require_k(k: Any, d_sae: int, what: str) -> None:
    """Raise ModelError unless `k` is a whole number in [1, d_sae]."""
    if not is_integer(k) or not 1 <= k <= d_sae:
        raise ModelError(
            f"{what} has k {str(k)[:80]}, but it must be a whole number in [1, {d_sae}], the "
            "number of its latents."
        )


def require_threshold(threshold: Tensor, what: str) -> None:
    """Raise ModelError unless every threshold is at least 0."""
    if bool((threshold < 0).any()):
        raise ModelError(
            f"{what} has a threshold of {float(threshold.min()):g}, but thresholds must be at "
            "least 0: below it latents would fire with negative codes, or it was never set."
        )


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Raise ModelError unless every number of every tensor is finite."""
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ModelError(f"{what} has numbers that are not finite in {', '.join(bad)}.")


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The floating-point type that holds every number of `tensors`; or one that no SAE is of."""
    kinds = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    unknown = [kind for kind in kinds if kind not in ROUNDING]
    return unknown[0] if unknown else reduce(torch.promote_types, kinds)


def fold(
    weights: Mapping[str, Tensor],
    what: str,
    *,
    k: Any = None,
    input_bias: bool = False,
    rescaled: bool = False,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """`weights`, sparsifier, `k` and `dtype` of a StoredSAE, from what a file computes.

    Args:
        weights: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in) of any length, b_dec, and
            `threshold` if it is a jumprelu, W_skip (d_in, d_out) if it has one; of the file's
            dtype, the shapes checked.
        what: names the file in errors.
        k: of a topk.
        input_bias: whether the file's encoder reads x - b_dec.
        rescaled: whether its k largest are chosen by r z, r the lengths of W_dec's rows.
        dtype: the file's, if it is not that of the W_dec given.

    Raises:
        ModelError: a number is not finite, a row has no length, a threshold is below 0, k is no
            whole number in [1, d_sae], or rows are not of unit length and k are chosen by z alone.
    """
    stored = dtype or weights["W_dec"].dtype
    if stored not in ROUNDING:
        raise ModelError(f"{what} is of {stored}, but must be of {', '.join(DTYPES)}.")
    near = max(ROUNDING[stored], ROUNDING.get(weights["W_dec"].dtype, 0.0))
    tensors = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    require_finite(tensors, what)
    W_enc, b_enc, W_dec = tensors["W_enc"], tensors["b_enc"], tensors["W_dec"]
    if input_bias:
        b_enc = (b_enc.double() - product(tensors["b_dec"], W_enc)).float()
    r = W_dec.norm(dim=1)
    if bool((r == 0).any()):
        raise ModelError(f"{what} has a latent without direction: row {int(r.argmin())} of W_dec.")
    columns = W_dec.norm(dim=0) if W_dec.shape[0] == W_dec.shape[1] else r
    if bool(((columns - 1).abs() < near).all() and ((r - 1).abs() > 0.05).any()):
        raise ModelError(
            f"{what} is square, and W_dec's columns have unit length: it is transposed."
        )
    if k is not None:
        require_k(k, W_enc.shape[1], what)
        off = float((r - 1).abs().max())
        if k < W_enc.shape[1] and not rescaled and off > near:
            raise ModelError(
                f"{what} chooses the k largest z with rows of W_dec that are up to {off:.2g} from "
                "unit length, which no SAE of unit rows computes."
            )
    r = torch.where((r - 1).abs() > UNIT, r, torch.ones_like(r))
    if bool((r != 1).any()):
        W_enc, b_enc, W_dec = W_enc * r, b_enc * r, W_dec / r[:, None]
    folded = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": tensors["b_dec"]}
    folded |= {"W_skip": tensors["W_skip"]} if "W_skip" in tensors else {}
    kind = "relu" if k is None or k == W_enc.shape[1] else "topk"
    if "threshold" in tensors:
        require_threshold(tensors["threshold"], what)
        folded["threshold"], kind = tensors["threshold"] * r, "jumprelu"
    require_finite(folded, f"{what}, folded,")
    name = str(stored).removeprefix("torch.")
    return {
        "weights": folded,
        "sparsifier": kind,
        "k": k if kind == "topk" else None,
        "dtype": name,
    }


def product(
    b: Float[Tensor, " d_in"], W_enc: Float[Tensor, "d_in d_sae"]
) -> Float[Tensor, " d_sae"]:
    """b W_enc in float64, of which only a slice of W_enc is made."""
    return torch.cat([b.double() @ part.double() for part in W_enc.split(CHUNK, dim=1)])


def as_gate(
    W_enc: Float[Tensor, "d_in d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_gate: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
) -> dict[str, Tensor]:
    """W_enc, b_enc and threshold of the jumprelu that a gated encoder is (2404.16014, appendix).

    A latent with u = x W_enc fires if u + b_gate > 0, then as ReLU(e^r_mag u + b_mag); so in terms
    of the second, z, it fires above b_mag - e^r_mag b_gate, and above 0.
    """
    scale = r_mag.float().exp()
    threshold = b_mag.float() - scale * b_gate.float()
    return {
        "W_enc": W_enc.float() * scale,
        "b_enc": b_mag,
        "threshold": threshold.clamp_min(0),
    }


def gates(stored: StoredSAE) -> dict[str, Tensor]:
    """b_gate, r_mag and b_mag of the gated encoder that a jumprelu is: `as_gate` backwards."""
    b_enc = stored.weights["b_enc"]
    gate = b_enc - stored.weights["threshold"]
    return {"b_gate": gate, "r_mag": torch.zeros_like(b_enc), "b_mag": b_enc}


def as_file(tensor: Tensor, dtype: str) -> Tensor:
    """A tensor as a file holds it: on the CPU, whole, of its dtype."""
    return tensor.detach().to("cpu", DTYPES[dtype]).contiguous()


def written(stored: StoredSAE) -> dict[str, Tensor]:
    """Its tensors `as_file`."""
    return {name: as_file(tensor, stored.dtype) for name, tensor in stored.weights.items()}


def constant_threshold(stored: StoredSAE) -> float | None:
    """The one threshold of all latents; None if they differ, or it is no jumprelu."""
    threshold = stored.weights.get("threshold")
    if threshold is None or bool((threshold != threshold[0]).any()):
        return None
    return float(threshold[0])


def block_before(hook: str | None) -> int | None:
    """The block after which a hook has the residual stream; None for any other hook.

    >>> block_before("blocks.3.hook_resid_post"), block_before("blocks.3.hook_resid_pre")
    (3, 2)
    >>> block_before("blocks.0.hook_resid_pre"), block_before("blocks.3.hook_mlp_out")
    (None, None)
    """
    found = re.fullmatch(r"blocks\.([0-9]{1,6})\.hook_resid_(pre|post)", hook or "")
    block = int(found[1]) - (found[2] == "pre") if found else -1
    return block if block >= 0 else None
