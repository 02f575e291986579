"""The method written down a second time, plainly, to check the library against.

Nothing here imports the library: two full passes with TransformerLens' own functions, no shared
prefix, no early stop, PyTorch's loss functions, and Adam by its formulas.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]  # W_enc, b_enc, W_dec, b_dec


@dataclass
class Terms:
    """Which terms are computed (None: not) and with what weight."""

    sparsity: float
    local: float | None = None
    kl: float | None = None
    downstream: float | None = None
    downstream_hooks: tuple[str, ...] = ()
    p: float = 1.0


@dataclass
class Spliced:
    """What a spliced pass saw."""

    logits: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, Tensor] = field(default_factory=dict)
    recorded: dict[str, Tensor] = field(default_factory=dict)


def autoencode(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and codes of an SAE, from its raw tensors."""
    codes = torch.relu(x @ weights["W_enc"] + weights["b_enc"])
    lengths = weights["W_dec"].pow(2).sum(dim=1, keepdim=True).sqrt()
    return codes @ (weights["W_dec"] / lengths) + weights["b_dec"], codes


def clean(model, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and every activation of the untouched model, both detached."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    return logits.detach(), {name: cache[name].detach() for name in cache}


def splice(model, tokens: Tensor, saes: dict[str, Weights], record: tuple[str, ...]) -> Spliced:
    """One full pass with every SAE in place."""
    seen = Spliced()

    # The names are bound here: a hook point knows itself by another name (blocks.1.hook_in).
    def replace(activation: Tensor, hook, name: str) -> Tensor:
        output, codes = autoencode(saes[name], activation)
        seen.inputs[name], seen.outputs[name], seen.codes[name] = activation, output, codes
        return output

    def look(activation: Tensor, hook, name: str) -> None:
        seen.recorded[name] = activation

    hooks = [(name, partial(replace, name=name)) for name in saes]
    hooks += [(name, partial(look, name=name)) for name in record]
    seen.logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return seen


def losses(
    model, tokens: Tensor, saes: dict[str, Weights], terms: Terms, known=None
) -> dict[str, Tensor]:
    """Each term and their weighted sum, `loss`; known: what `clean` gave for these tokens."""
    logits, activations = known or clean(model, tokens)
    if terms.kl is None and terms.downstream is None:
        seen = Spliced()  # local training: each SAE reads the clean activation
        for name, weights in saes.items():
            seen.inputs[name] = activations[name]
            seen.outputs[name], seen.codes[name] = autoencode(weights, activations[name])
    else:
        seen = splice(model, tokens, saes, terms.downstream_hooks)
    found = {"sparsity": torch.tensor(0.0), "loss": torch.tensor(0.0)}
    for name in saes:
        width = seen.inputs[name].shape[-1]
        norm = torch.linalg.vector_norm(seen.codes[name], ord=terms.p, dim=-1)
        found["sparsity"] = found["sparsity"] + norm.mean() / width
    found["loss"] = found["loss"] + terms.sparsity * found["sparsity"]
    if terms.local is not None:
        found["reconstruction"] = torch.tensor(0.0)
        for name in saes:
            error = F.mse_loss(seen.outputs[name], seen.inputs[name].detach())
            found["reconstruction"] = found["reconstruction"] + error
        found["loss"] = found["loss"] + terms.local * found["reconstruction"]
    if terms.kl is not None:
        found["kl"] = F.kl_div(
            F.log_softmax(seen.logits, dim=-1).flatten(0, 1),
            F.log_softmax(logits, dim=-1).flatten(0, 1),
            log_target=True,
            reduction="batchmean",
        )
        found["loss"] = found["loss"] + terms.kl * found["kl"]
    if terms.downstream is not None:
        found["downstream"] = torch.tensor(0.0)
        for name in terms.downstream_hooks:
            error = F.mse_loss(seen.recorded[name], activations[name])
            found["downstream"] = found["downstream"] + error / len(terms.downstream_hooks)
        found["loss"] = found["loss"] + terms.downstream * found["downstream"]
    return found


def cosine_rate(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
    """Learning rate of a step: linear warm-up from 0, then half a cosine to the floor."""
    if step < warmup:
        return lr * step / warmup
    share = (step - warmup) / (steps - warmup)
    return lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


class Adam:
    """Kingma and Ba's algorithm with its usual constants."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters, self.step_count = parameters, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: list[Tensor], lr: float) -> None:
        """Move every parameter once."""
        self.step_count += 1
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g * g)
            unbiased_m = m / (1 - 0.9**self.step_count)
            unbiased_v = v / (1 - 0.999**self.step_count)
            with torch.no_grad():
                p -= lr * unbiased_m / (unbiased_v.sqrt() + 1e-8)


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """All gradients scaled by one factor so that their joint norm is at most `largest`."""
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    return [g * min(1.0, largest / norm) for g in gradients]
