"""Codes of which few were selected: made, decoded and differentiated without all the others.

Every latent is encoded once, to select; after that only the selected codes exist, as a list. At
ten in a thousand latents a step then costs little more than that one product.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.engine.sae_kernel import Coded

SAMPLE = 17  # one in so many values tells about where the largest begin; no divisor of a width


class Selected(NamedTuple):
    """The codes of a pass, token after token; those that ended at 0 count as not firing."""

    codes: Float[Tensor, " code"]  # carries the gradient
    latents: Int[Tensor, " code"]
    starts: Int[Tensor, " token"]  # where each token's codes begin

    @property
    def tokens(self) -> Int[Tensor, " code"]:
        """Which token each code is of."""
        return tokens_of(self.starts, len(self.codes))


def tokens_of(starts: Int[Tensor, " token"], count: int) -> Int[Tensor, " code"]:
    """Which token each of `count` codes is of."""
    lengths = torch.diff(starts, append=starts.new_tensor([count]))
    return torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)


def only(
    z: Float[Tensor, "token latent"], latents: Int[Tensor, " code"], starts: Int[Tensor, " token"]
) -> Float[Tensor, "token latent"]:
    """z where it was selected, and 0 elsewhere."""
    kept = torch.zeros_like(z, dtype=torch.bool)
    kept[tokens_of(starts, len(latents)), latents] = True
    return torch.where(kept, z, 0.0)


# From the pre-activations (token, latent), which are selected: their latents and starts.
Select = Callable[[Tensor], tuple[Tensor, Tensor]]


def largest_of_each(z: Float[Tensor, "token latent"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every token."""
    latents = z.topk(k, dim=-1, sorted=False).indices
    return latents.flatten(), torch.arange(0, latents.numel(), k, device=z.device)


def largest_of_all(z: Float[Tensor, "token latent"], count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the batch that are above 0; fewer, if fewer are."""
    flat = z.reshape(-1)
    candidates = (flat > _below(flat, count)).nonzero().squeeze(-1)
    if len(candidates) > count:
        best = flat[candidates].topk(count, sorted=False).indices
        candidates = candidates[best].sort().values
    tokens = candidates.div(z.shape[1], rounding_mode="floor")
    starts = torch.searchsorted(tokens, torch.arange(len(z), device=z.device))
    return candidates - tokens * z.shape[1], starts


def _below(flat: Float[Tensor, " value"], count: int) -> float:
    """A bound, at least 0, that `count` values are above, if so many are above 0.

    By a sample: to look for the largest among all of them takes as long as making them.
    """
    sample = flat[::SAMPLE]
    rank = count // SAMPLE + 4 * int((count / SAMPLE) ** 0.5) + 16
    if rank >= len(sample):
        return 0.0
    bound = float(sample.topk(rank, sorted=False).values.min())
    return bound if bound > 0 and int((flat > bound).sum()) >= count else 0.0


def encode_selected(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
) -> Selected:
    """relu(x W_enc + b_enc) where `select` says; the selection itself has no gradient.

    The product runs in the type of an enclosing autocast.
    """
    return Selected(*_Encode.apply(x.to(W_enc.dtype), W_enc, b_enc, select))


def decode_selected(
    selected: Selected, dictionary: Float[Tensor, "d_sae d_out"], below: int | None = None
) -> Float[Tensor, "token d_out"]:
    """Σ code · dictionary element over each token's codes; of the first `below` latents alone."""
    codes, latents, starts = selected
    if below is not None:
        codes = torch.where(latents < below, codes, 0.0)
    return F.embedding_bag(latents, dictionary, starts, mode="sum", per_sample_weights=codes)


def autoencode_selected(
    x: Float[Tensor, "... d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    dictionary: Float[Tensor, "d_sae d_out"],
    b_dec: Float[Tensor, " d_out"],
    select: Select,
    p: float = 1.0,
) -> Coded:
    """What `sae_kernel.autoencode` gives, of the selected codes; `codes` are these themselves."""
    flat = x.reshape(-1, x.shape[-1])
    selected = encode_selected(flat, W_enc, b_enc, select)
    codes, tokens = selected.codes, selected.tokens
    active = (codes.detach() > 0).float()
    powers = codes if p == 1 else torch.where(codes > 0, codes, 1.0) ** p * active
    none = torch.zeros(len(flat), device=x.device)
    return Coded(
        (decode_selected(selected, dictionary) + b_dec).view(*x.shape[:-1], len(b_dec)),
        none.index_add(0, tokens, powers).view(x.shape[:-1]),
        torch.zeros_like(b_enc).index_add_(0, selected.latents, active),
        none.index_add(0, tokens, active).view(x.shape[:-1]),
        codes=selected,
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, select: Select
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        z = torch.addmm(b_enc.to(low), x.to(low), W_enc.to(low)).float()
        latents, starts = select(z)
        codes = z[tokens_of(starts, len(latents)), latents].clamp_min_(0)
        ctx.save_for_backward(x, W_enc, codes, latents, starts)
        ctx.mark_non_differentiable(latents, starts)
        return codes, latents, starts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, codes, latents, starts = ctx.saved_tensors
        to_z = torch.where(codes > 0, gradients[0], 0.0)
        to_x = to_enc = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = decode_selected(Selected(to_z, latents, starts), W_enc.T)
        if ctx.needs_input_grad[1]:
            # Σ over tokens of to_z · x for each latent: the gradient of a bag's table.
            table = torch.zeros_like(W_enc.T).requires_grad_()
            with torch.enable_grad():
                bags = decode_selected(Selected(to_z, latents, starts), table)
            (to_enc,) = torch.autograd.grad(bags, table, x)
            to_enc = to_enc.T
        if ctx.needs_input_grad[2]:
            to_bias = torch.zeros(W_enc.shape[1], device=x.device).index_add_(0, latents, to_z)
        return to_x, to_enc, to_bias, None
