"""The SAE's arithmetic for training and evaluation: forward and backward, a few latents at a time.

The plain way makes four matrices of tokens × latents and keeps two of them. At twenty to a
hundred latents a dimension, writing and reading these costs a CPU more than the products do. Here
a block of latents small enough for the cache is encoded, rectified, summed and decoded before the
next; its codes alone are kept for the backward pass, and of these only the columns of latents that
fired in the batch: for all others every gradient but none of the values is zero by definition, so
that the products shrink with the number of latents in use and the result stays the same.

A threshold moves no code until it passes one: z · [z > θ] is flat in θ almost everywhere. For a
threshold that trains, `jump` and `count_above` are straight-through estimates: the slope of a line
where z is within half a bandwidth ε of θ, none elsewhere, and the value as it is.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_VALUES = 1 << 20  # codes in a block on a CPU: 4 MiB, about a core's cache
SHORTEST = 1e-12  # length below which a decoder's row is not scaled up, as in F.normalize
COMPACT_BELOW = 0.7  # share of a block's latents in use from which the others are left out

Bandwidth = float | Float[Tensor, " d_sae"]


class Coded(NamedTuple):
    """What training and evaluation need of one pass through an SAE; `...` as the input's."""

    output: Float[Tensor, "... d_out"]
    # What the sparsity term averages: Σ cᵖ over a token's codes c, at p = 1 their L1 norm; of a
    # trained jumprelu another penalty.
    penalty: Float[Tensor, "..."]
    # Number of tokens that each latent fired on; uncounted: above 0 if there was one.
    fired: Float[Tensor, " d_sae"]
    l0: Float[Tensor, "..."]  # a token's number of codes above 0; uncounted: NaN
    auxiliary: Float[Tensor, ""] | None = None  # a loss of the sparsifier's own, weight included
    nested: tuple[Float[Tensor, "... d_out"], ...] = ()  # outputs of prefixes of the latents
    codes: tuple[Tensor, Any] | None = None  # `selected.Selected`, where few were made

    def measured(self) -> "Coded":
        """What is left to look at once the gradient is known."""
        output, penalty, fired, l0 = (part.detach() for part in self[:4])
        return Coded(output, penalty, fired, l0)


def autoencode(
    x: Float[Tensor, "... d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
    p: float = 1.0,
    *,
    threshold: Float[Tensor, " d_sae"] | None = None,
    count: bool = True,
) -> Coded:
    """relu(x W_enc + b_enc) D + b_dec, D the rows of W_dec at unit length, and what it coded.

    With a `threshold`, each at least 0, only codes above it count; it gets no gradient.
    `output` and `penalty` carry the gradient. Products run in the type of an enclosing autocast;
    sums and gradients are float32. Without `count`, codes are not counted, which is faster.
    """
    tokens = x.reshape(-1, x.shape[-1]).to(W_enc.dtype)  # a hook inside an autocast is bfloat16
    parts = _Autoencode.apply(tokens, W_enc, b_enc, W_dec, b_dec, p, count, threshold)
    output, penalty, fired, l0 = parts
    shape = x.shape[:-1]
    return Coded(output.view(*shape, len(b_dec)), penalty.view(shape), fired, l0.view(shape))


def by_latent(W_enc: Float[Tensor, "d_in d_sae"]) -> Float[Tensor, "d_in d_sae"]:
    """The same matrix, with each latent's weights together in memory, as W_dec has them."""
    return W_enc.T.contiguous().T


class _Autoencode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        p: float,
        count: bool,
        threshold: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n, d_sae = len(x), len(b_enc)
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        kept = any(ctx.needs_input_grad)
        output = b_dec.expand(n, -1).clone()
        penalty = torch.zeros(n, device=x.device)
        l0 = torch.full((n,), 0.0 if count else torch.nan, device=x.device)
        fired = torch.empty(d_sae, device=x.device)
        ones, column = torch.ones(n, device=x.device), None
        inputs, saved, picks = x.to(low), [], []
        for start, end in _blocks(n, x.shape[1], d_sae, device):
            codes = torch.addmm(b_enc[start:end].to(low), inputs, W_enc[:, start:end].to(low))
            if threshold is None:
                codes.clamp_min_(0)
            else:
                codes.masked_fill_(codes <= threshold[start:end], 0)
            if column is None or len(column) != end - start:
                column = torch.ones(end - start, device=x.device)
            if count:
                active = (codes > 0).to(torch.float32)
                fired[start:end] = ones @ active  # by products: many times faster than sum
                l0 += active @ column
            else:
                fired[start:end] = codes.amax(0)
            sums = codes.float() if p == 1 else torch.where(codes > 0, codes.float() ** p, 0)
            penalty += sums @ column
            pick = _in_use(fired[start:end])
            directions = W_dec[start:end]
            if pick is not None:
                codes, directions = codes[:, pick], directions[pick]
            length = directions.norm(dim=-1, keepdim=True).clamp_min_(SHORTEST)
            unit = (directions / length).to(low)
            if low == output.dtype:
                output.addmm_(codes, unit)
            else:
                output += codes @ unit
            if kept:
                saved += [codes, length]
                picks.append(pick)
        ctx.p, ctx.low, ctx.picks = p, low, picks
        ctx.save_for_backward(x, W_enc, W_dec, *saved)
        ctx.mark_non_differentiable(l0, fired)
        return output, penalty, fired, l0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, W_dec, *saved = ctx.saved_tensors
        on_output, on_sum = gradients[:2]
        low, trains = ctx.low, ctx.needs_input_grad[1]
        (n, d_in), d_sae = x.shape, len(W_dec)
        to_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        # Same memory order as the weights: rows of one latent lie together.
        to_enc, to_dec = W_dec.new_empty(d_sae, d_in), torch.empty_like(W_dec)
        to_bias = torch.empty(d_sae, device=x.device)
        inputs, outputs, ones = x.to(low), on_output.to(low), torch.ones(n, device=x.device)
        blocks = zip(_blocks(n, d_in, d_sae, x.device.type), ctx.picks, strict=True)
        for i, ((start, end), pick) in enumerate(blocks):
            codes, length = saved[2 * i : 2 * i + 2]
            rows = slice(start, end)
            directions = W_dec[rows] if pick is None else W_dec[rows][pick]
            unit = directions / length
            to_codes = outputs @ unit.T.to(low)
            if ctx.p == 1:
                to_codes += on_sum.to(low)[:, None]
            else:
                slope = ctx.p * codes.clamp_min(1e-30).float() ** (ctx.p - 1)
                to_codes += (on_sum[:, None] * slope).to(low)
            # Zero where the code is: selected, not multiplied, so that infinite slopes vanish too.
            torch.ops.aten.threshold_backward.grad_input(to_codes, codes, 0, grad_input=to_codes)
            if to_x is not None:
                encoder = W_enc.T[rows] if pick is None else W_enc.T[rows][pick]
                to_x += to_codes @ encoder.to(low)
            if trains:
                enc = _product(to_codes, inputs, to_enc[rows], pick)
                dec = _product(codes, outputs, to_dec[rows], pick)
                dec.addcmul_(unit, (dec * unit).sum(-1, keepdim=True), value=-1).div_(length)
                bias = ones @ to_codes if low == x.dtype else to_codes.float().sum(0)
                for whole, part in ((to_enc, enc), (to_dec, dec), (to_bias, bias)):
                    _place(whole[rows], part, pick)
        to_b_dec = on_output.sum(0) if ctx.needs_input_grad[4] else None
        if not trains:
            return to_x, None, None, None, to_b_dec, None, None, None
        return to_x, to_enc.T, to_bias, to_dec, to_b_dec, None, None, None


def _product(
    left: Tensor, right: Tensor, place: Tensor, pick: Tensor | None
) -> Float[Tensor, "used d"]:
    """leftᵀ right, written straight into `place` where it belongs there as a whole."""
    if pick is None and left.dtype == place.dtype:
        return torch.mm(left.T, right, out=place)
    return (left.T @ right).to(place.dtype)


def _place(place: Tensor, part: Tensor, pick: Tensor | None) -> None:
    """Put `part` where the picked latents are, and zero elsewhere."""
    if pick is not None:
        place.zero_()
        place[pick] = part
    elif part.data_ptr() != place.data_ptr():
        place.copy_(part)


def _blocks(tokens: int, d_in: int, d_sae: int, device: str) -> list[tuple[int, int]]:
    """Ranges of latents that are computed together; on an accelerator, all at once."""
    size = max(64, BLOCK_VALUES // max(tokens, d_in)) if device == "cpu" else d_sae
    return [(i, min(i + size, d_sae)) for i in range(0, d_sae, size)]


def _in_use(fired: Float[Tensor, " block"]) -> Int[Tensor, " used"] | None:
    """Which latents of a block fired, if few enough to be worth picking out.

    Not on an accelerator: their number would have to travel to the host first.
    """
    if fired.device.type != "cpu":
        return None
    pick = fired.nonzero().squeeze(-1)
    return pick if len(pick) < COMPACT_BELOW * len(fired) else None


def jump(
    z: Float[Tensor, "... d_sae"],
    threshold: Float[Tensor, " d_sae"],
    bandwidth: Bandwidth,
    to_z: bool,
) -> Float[Tensor, "... d_sae"]:
    """z where above its threshold, else 0; the estimate reaches the threshold, and z if `to_z`."""
    own = z if to_z else z.detach()
    line = _kernel(z, threshold, bandwidth) * threshold.detach() * (own - threshold)
    return torch.where(z > threshold, z, 0.0) + line - line.detach()


def count_above(
    z: Float[Tensor, "... d_sae"], threshold: Float[Tensor, " d_sae"], bandwidth: Bandwidth
) -> Float[Tensor, "..."]:
    """Each token's number of z above their thresholds, which alone the estimate reaches."""
    line = _kernel(z, threshold, bandwidth) * (z.detach() - threshold)
    return ((z > threshold) + line - line.detach()).sum(-1)


def _kernel(z: Tensor, threshold: Tensor, bandwidth: Bandwidth) -> Tensor:
    """1/ε where z is within half a bandwidth of its threshold."""
    inside = (z.detach() - threshold.detach()).abs() < bandwidth / 2
    return inside / bandwidth
