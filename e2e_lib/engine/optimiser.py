"""What a step does beside the optimiser's own: to gradients before, to weights and λ after it."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.engine.device import Processes
from e2e_lib.engine.model.probes import Typical

# Where an L0 is aimed at, log λ moves over a training by up to STEER. An SAE that is there is near
# it and answers over some steps: there log λ moves at once too, by up to PROMPT where log L0 is off
# by BAND, or it would overshoot.
STEER, PROMPT, BAND = 10.0, 2.0, 0.1


class Steering:
    """What λ is multiplied by so that L0 comes to `target`; `warm`: the SAE is near it already.

    Attributes:
        moved: log of the factor, but for its prompt part.
        off: log of the last L0 over the target, within ±1.
    """

    def __init__(self, target: float, warm: bool) -> None:
        self.target, self.warm, self.moved, self.off = target, warm, 0.0, 0.0

    def factor(self) -> float:
        """Of the next step; 1 until the first L0 is noted."""
        prompt = PROMPT * max(-1.0, min(1.0, self.off / BAND)) if self.warm else 0.0
        return math.exp(self.moved + prompt)

    def note(self, l0: float, steps: int) -> None:
        """After one of `steps` steps, in which so many latents fired on a token."""
        self.off = min(1.0, max(-1.0, math.log(max(l0, 1e-3) / self.target)))
        self.moved += STEER / steps * self.off


def average_gradients(parameters: Sequence[Tensor], processes: Processes) -> Float[Tensor, ""]:
    """Make each gradient its mean over processes; the joint norm of all."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = processes.mean(parameter.grad)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip(parameters: Sequence[Tensor], norm: Float[Tensor, ""], most: int | float | None) -> None:
    """Scale the gradients, of joint norm `norm`, down to at most `most`; None leaves them."""
    # On a CPU the norm is at hand, and a gradient within it need not be read and written again.
    if most is not None and not (norm.is_cpu and norm <= most):
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)


@torch.no_grad()
def centre(
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    b_dec: Float[Tensor, " d_out"],
    into: Typical,
    out: Typical,
) -> None:
    """Make an SAE, in place, code what its input differs from its middle by; now it codes all.

    As if the middle were subtracted from the input and added to the output. A transcoder's encoder
    is brought to the size of what it is to make.

    into, out: what the activations it reads and makes are like; of an SAE the same.
    """
    if out is not into:
        W_enc.mul_(out.scale / (into.scale or 1.0))
    b_dec.add_(out.middle)
    b_enc.sub_(into.middle @ W_enc)


@torch.no_grad()
def hold_near(
    W_dec: Float[Tensor, "d_sae d_in"], start: Float[Tensor, "d_sae d_in"], cosine: float
) -> None:
    """Turn back, in place, rows that have left their start by more than `cosine` allows.

    start: where each row began, at unit length. Lengths of W_dec stay.
    """
    now = F.normalize(W_dec, dim=-1)
    along = (now * start).sum(-1, keepdim=True)
    across = F.normalize(now - along * start, dim=-1)
    edge = cosine * start + math.sqrt(1 - cosine**2) * across
    length = W_dec.norm(dim=-1, keepdim=True)
    W_dec.copy_(torch.where(along < cosine, edge * length, W_dec))


def layout_like(saved: Tensor, current: Tensor) -> Tensor:
    """`saved` with the memory order of `current`: arithmetic on it then ends in the same bits."""
    return torch.empty_like(current).copy_(saved)


def optimiser_tensors(
    parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Parameters by `weight/NAME`, and what the optimiser keeps of each by `adam/NAME/…`."""
    tensors = {f"weight/{name}": p for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimiser.state[parameter].items():
            tensors[f"adam/{name}/{key}"] = value
    return tensors


@torch.no_grad()
def restore_optimiser(
    parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, saved: Mapping[str, Tensor]
) -> None:
    """Take up what `optimiser_tensors` gave."""
    for name, parameter in parameters.items():
        parameter.copy_(saved[f"weight/{name}"])
        prefix = f"adam/{name}/"
        optimiser.state[parameter] = {
            key.removeprefix(prefix): (
                layout_like(value, parameter) if value.ndim else value.to(parameter.device)
            )
            for key, value in saved.items()
            if key.startswith(prefix)
        }
