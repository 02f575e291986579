"""A jump that trains: gradients for a threshold, which moves no code until it passes one.

z · [z > θ] is flat in θ almost everywhere. A straight-through estimate gives it the slope of a line
where z is within half a bandwidth ε of θ, and none elsewhere, and leaves its value as it is.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Bandwidth = float | Float[Tensor, " d_sae"]


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
