"""Codes of which few were selected: made, decoded and differentiated without all the others.

Every latent is encoded once, to select; after that only the selected codes exist, as a list. At
ten in a thousand latents a step then costs little more than that one product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.engine.sae_kernel import Coded

SAMPLE = 17  # one in so many values tells about where the largest begin; no divisor of a width


@dataclass(frozen=True)
class Places:
    """Where the selected codes of a pass stand, token after token; `d_sae` latents in all."""

    latents: Int[Tensor, " code"]
    starts: Int[Tensor, " token"]  # where each token's codes begin
    d_sae: int

    @cached_property
    def tokens(self) -> Int[Tensor, " code"]:
        """Which token each code is of."""
        lengths = torch.diff(self.starts, append=self.starts.new_tensor([len(self.latents)]))
        every = torch.arange(len(self.starts), device=self.starts.device)
        return torch.repeat_interleave(every, lengths)

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " code"], Int[Tensor, " d_sae"]]:
        """The codes' order, latent after latent, and where each latent's begin."""
        count, device = len(self.latents), self.latents.device
        keys = self.latents * count + torch.arange(count, device=device)
        # On a CPU by numpy, whose sort is vectorised and takes a tenth of torch's time.
        on_cpu = device.type == "cpu"
        keys = torch.from_numpy(np.sort(keys.numpy())) if on_cpu else keys.sort().values
        first = torch.arange(self.d_sae, device=device) * count
        return keys % count, torch.searchsorted(keys, first)


class Selected(NamedTuple):
    """The codes of a pass; those that ended at 0 count as not firing."""

    codes: Float[Tensor, " code"]  # carries the gradient
    places: Places


def only(
    z: Float[Tensor, "token latent"], latents: Int[Tensor, " code"], starts: Int[Tensor, " token"]
) -> Float[Tensor, "token latent"]:
    """z where it was selected, and 0 elsewhere."""
    kept = torch.zeros_like(z, dtype=torch.bool)
    kept[Places(latents, starts, z.shape[1]).tokens, latents] = True
    return torch.where(kept, z, 0.0)


# From the pre-activations (token, latent), which are selected: their latents and starts.
Select = Callable[[Tensor], tuple[Tensor, Tensor]]


def largest_of_each(z: Float[Tensor, "token latent"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every token, in no order.

    They are in the k groups of latents with the largest maxima: only these are looked through.
    """
    size = _group_size(z.shape[1], k)
    groups = z.view(len(z), size, z.shape[1] // size)
    latents = groups.amax(1).topk(k, dim=-1, sorted=False).indices
    if size > 1:
        members = groups.gather(2, latents.unsqueeze(1).expand(-1, size, -1)).flatten(1)
        best = members.topk(k, dim=-1, sorted=False).indices
        latents = latents.gather(1, best % k) + best // k * groups.shape[2]
    return latents.flatten(), torch.arange(0, latents.numel(), k, device=z.device)


def largest_of_all(z: Float[Tensor, "token latent"], count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the batch that are above 0; fewer, if fewer are."""
    tokens, latents, values = _above(z, _near(z.reshape(-1), count), count)
    if len(values) < count:
        tokens, latents, values = _above(z, 0.0, count)
    if len(values) > count:
        kept = torch.ones_like(tokens, dtype=torch.bool)
        kept[values.topk(len(values) - count, largest=False, sorted=False).indices] = False
        tokens, latents = tokens[kept], latents[kept]
    return latents, torch.searchsorted(tokens, torch.arange(len(z), device=z.device))


def _above(z: Tensor, bound: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (ascending), latents and values of all that are above the bound.

    Groups whose maximum is not above it are left out unread.
    """
    size = _group_size(z.shape[1], max(1, count // max(1, len(z))))
    groups = z.view(len(z), size, z.shape[1] // size)
    tokens, group = (groups.amax(1) > bound).nonzero().unbind(1)
    values = groups[tokens, :, group]
    which, member = (values > bound).nonzero().unbind(1)
    return tokens[which], member * groups.shape[2] + group[which], values[which, member]


def _near(flat: Float[Tensor, " value"], count: int) -> float:
    """A bound, at least 0, that a little more than `count` values are likely to be above.

    By a sample: to look for the largest among all of them takes as long as making them.
    """
    sample = flat[::SAMPLE]
    rank = count // SAMPLE + 4 * int((count / SAMPLE) ** 0.5) + 16
    if rank >= len(sample):
        return 0.0
    return max(0.0, float(sample.topk(rank, sorted=False).values.min()))


def _group_size(width: int, k: int) -> int:
    """Latents in a group, such that the groups and k groups' members are about as many.

    A divisor of the width; 1 where there is none that leaves k groups.
    """
    sizes = range(int((width / k) ** 0.5), 1, -1)
    return next((size for size in sizes if width % size == 0 and width // size >= k), 1)


def encode_selected(
    x: Float[Tensor, "token d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    select: Select,
) -> Selected:
    """relu(x W_enc + b_enc) where `select` says; the selection itself has no gradient.

    The product runs in the type of an enclosing autocast.
    """
    x = x.to(W_enc.dtype)
    device = x.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.no_grad():
        z = torch.addmm(b_enc.to(low), x.to(low), W_enc.to(low)).float()
        places = Places(*select(z), d_sae=len(b_enc))
        values = z[places.tokens, places.latents].clamp_min_(0)
    return Selected(_Encode.apply(x, W_enc, b_enc, values, places), places)


def decode_selected(
    selected: Selected, dictionary: Float[Tensor, "d_sae d_out"], below: int | None = None
) -> Float[Tensor, "token d_out"]:
    """Σ code · dictionary element over each token's codes; of the first `below` latents alone."""
    codes, places = selected
    if below is not None:
        codes = torch.where(places.latents < below, codes, 0.0)
    output: Tensor = _Decode.apply(codes, dictionary, places)
    return output


def _sums(codes: Tensor, rows: Tensor, bags: tuple[Tensor, Tensor]) -> Tensor:
    """Σ code · row over each bag's codes; bags are the rows of all codes, and where each begins."""
    which, starts = bags
    return F.embedding_bag(which, rows, starts, mode="sum", per_sample_weights=codes)


def _sums_by_latent(codes: Tensor, rows: Tensor, places: Places) -> Tensor:
    """Σ code · row (token) over each latent's codes."""
    order, starts = places.by_latent
    return _sums(codes[order], rows, (places.tokens[order], starts))


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
    codes, tokens = selected.codes, selected.places.tokens
    active = (codes.detach() > 0).float()
    powers = codes if p == 1 else torch.where(codes > 0, codes, 1.0) ** p * active
    none = torch.zeros(len(flat), device=x.device)
    return Coded(
        (decode_selected(selected, dictionary) + b_dec).view(*x.shape[:-1], len(b_dec)),
        none.index_add(0, tokens, powers).view(x.shape[:-1]),
        torch.zeros_like(b_enc).index_add_(0, selected.places.latents, active),
        none.index_add(0, tokens, active).view(x.shape[:-1]),
        codes=selected,
    )


class _Encode(torch.autograd.Function):
    """The values as they are; where above 0, their gradient is that of x W_enc + b_enc."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor, places: Places
    ) -> Tensor:
        ctx.save_for_backward(x, W_enc, values)
        ctx.places = places
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, values = ctx.saved_tensors
        places: Places = ctx.places
        to_z = torch.where(values > 0, gradients[0], 0.0)
        to_x = to_enc = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _sums(to_z, W_enc.T, (places.latents, places.starts))
        if ctx.needs_input_grad[1]:
            to_enc = _sums_by_latent(to_z, x, places).T
        if ctx.needs_input_grad[2]:
            zero = torch.zeros(places.d_sae, device=x.device)
            to_bias = zero.index_add_(0, places.latents, to_z)
        return to_x, to_enc, to_bias, None, None


class _Decode(torch.autograd.Function):
    """As embedding_bag, but that codes are put in order by latent once for every gradient."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, dictionary: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(codes, dictionary)
        ctx.places = places
        return _sums(codes, dictionary, (places.latents, places.starts))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        codes, dictionary = ctx.saved_tensors
        places: Places = ctx.places
        to_codes = to_dictionary = None
        if ctx.needs_input_grad[0]:
            with torch.enable_grad():
                own = codes.detach().requires_grad_()
                output = _sums(own, dictionary.detach(), (places.latents, places.starts))
            (to_codes,) = torch.autograd.grad(output, own, gradients[0])
        if ctx.needs_input_grad[1]:
            to_dictionary = _sums_by_latent(codes, gradients[0].contiguous(), places)
        return to_codes, to_dictionary, None
