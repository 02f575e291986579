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
# Thresholds that train answer later still, and latents that die do not come back: an L0 that falls
# past its target stays below it. A new jumprelu is led there. What it is off by in log L0 shall
# shrink at a rate of LEAD over a training, and log λ moves by what L0 is off from that course:
# at once by up to LED_PROMPT, over a training by up to LED_STEER, both where it is off by LED_BAND.
LEAD, LED_STEER, LED_PROMPT, LED_BAND = 10.0, 20.0, 1.5, 0.2


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
        prompt = PROMPT * _within(self.off / BAND) if self.warm else 0.0
        return math.exp(self.moved + prompt)

    def note(self, l0: float, steps: int) -> None:
        """After one of `steps` steps, in which so many latents fired on a token."""
        self.off = _within(math.log(max(l0, 1e-3) / self.target))
        self.moved += STEER / steps * self.off


class Leading(Steering):
    """The same along a course that only falls: L0 is led to `target`, and not past it.

    Attributes:
        course: log of the L0 wanted now over the target, at least 0 and at most the last L0's.
        off: log of the last L0 over that.
    """

    def __init__(self, target: float) -> None:
        super().__init__(target, warm=True)
        self.course = 1e9

    def factor(self) -> float:
        """Of the next step; 1 until the first L0 is noted."""
        return math.exp(self.moved + LED_PROMPT * _within(self.off / LED_BAND))

    def note(self, l0: float, steps: int) -> None:
        """After one of `steps` steps, in which so many latents fired on a token."""
        now = math.log(max(l0, 1e-3) / self.target)
        self.course = max(0.0, min(self.course, now)) * math.exp(-LEAD / steps)
        self.off = now - self.course
        self.moved += LED_STEER / steps * _within(self.off / LED_BAND)


def steering(target: float, sparsifier: str, warm: bool) -> Steering:
    """For an SAE with this rule of which latents fire, that is near `target` (`warm`) or far."""
    return Leading(target) if sparsifier == "jumprelu" and not warm else Steering(target, warm)


def _within(x: float) -> float:
    return max(-1.0, min(1.0, x))


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
