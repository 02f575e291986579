"""The null channel: a part that SAEs see and the network does not, of chosen size.

At `NAME.null_S` a hook sees more than the model has there: Q [x ; S n], the activation x of NAME
beside `NULL_WIDTH` numbers n that say nothing about the text, turned by a fixed rotation Q. Of what
it puts in its place the model gets the x part alone. So no output depends on n, but the error of a
reconstruction does: S sets how much of an activation is not used. n is a sum of sparse features in
random directions, of total variance 1; which of them are on follows from all tokens so far by a
hash, the same in every pass over a text and predictable from nothing.
"""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

NULL_WIDTH = 16  # dimensions of a null channel
NULL_FEATURES, NULL_SHARE = 64, 3 / 64  # its sparse features, and on how many tokens each is on


def widened(
    x: Float[Tensor, "batch pos d"], tokens: Int[Tensor, "batch pos"], scale: float
) -> Float[Tensor, "batch pos wide"]:
    """Q [x ; scale · n], of width d + `NULL_WIDTH`."""
    n = nuisance(tokens).to(x)
    return torch.cat([x, scale * n], dim=-1) @ _rotation(x.shape[-1] + NULL_WIDTH).to(x)


def unrotated(wide: Float[Tensor, "... wide"]) -> Float[Tensor, "... wide"]:
    """[x ; scale · n]: the last `NULL_WIDTH` numbers are the null channel's."""
    return wide @ _rotation(wide.shape[-1]).to(wide).T


def nuisance(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos null"]:
    """n of every token: a function of the tokens of its row up to it."""
    x = tokens.long() + (torch.arange(tokens.shape[1], device=tokens.device) << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * (factor - (1 << 64))
    so_far = (x ^ x >> 31).cumsum(1)  # wraps round, as a hash may
    return _drawn().to(tokens.device)[so_far & len(_drawn()) - 1]


@cache
def _drawn() -> Float[Tensor, "draw null"]:
    """What n may be: features of unit length, each on for `NULL_SHARE` of them, at 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(NULL_FEATURES, NULL_WIDTH, generator=generator), dim=1)
    on, size = torch.rand(2, 1 << 16, NULL_FEATURES, generator=generator)
    n = ((on < NULL_SHARE) * (size + 0.5)) @ directions
    return n / n.var(0).sum().sqrt()


@cache
def _rotation(width: int) -> Float[Tensor, "wide wide"]:
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn.double()).Q.float()
