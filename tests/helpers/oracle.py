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

Weights = dict[str, Tensor]  # W_enc, b_enc, W_dec, b_dec, of a skip transcoder W_skip


@dataclass
class Terms:
    """Which terms are computed (None: not) and with what weight."""

    sparsity: float
    local: float | None = None
    kl: float | None = None
    downstream: float | None = None
    downstream_hooks: tuple[str, ...] = ()
    p: float = 1.0
    fisher: float | None = None
    draw: int = 0  # seeds the signs that fisher's gradients are drawn with
    balanced: bool = False  # half reconstruction, half kl, downstream and fisher, made as large


@dataclass
class Spliced:
    """What a spliced pass saw; by an SAE's hook, or a transcoder's pair, READ>MADE."""

    logits: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)  # what gave way
    outputs: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, Tensor] = field(default_factory=dict)
    recorded: dict[str, Tensor] = field(default_factory=dict)


def autoencode(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and codes of an SAE, from its raw tensors."""
    codes = torch.relu(x @ weights["W_enc"] + weights["b_enc"])
    lengths = weights["W_dec"].pow(2).sum(dim=1, keepdim=True).sqrt()
    output = codes @ (weights["W_dec"] / lengths) + weights["b_dec"]
    return output + x @ weights["W_skip"] if "W_skip" in weights else output, codes


def clean(model, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and every activation of the untouched model, both detached."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    return logits.detach(), {name: cache[name].detach() for name in cache}


def splice(model, tokens: Tensor, saes: dict[str, Weights], record: tuple[str, ...]) -> Spliced:
    """One full pass with every SAE in place."""
    seen, inputs = Spliced(), dict[str, Tensor]()

    # The names are bound here: a hook point knows itself by another name (blocks.1.hook_in).
    def read(activation: Tensor, hook, name: str) -> None:
        inputs[name] = activation

    def replace(activation: Tensor, hook, name: str) -> Tensor:
        output, codes = autoencode(saes[name], inputs[name])
        seen.targets[name], seen.outputs[name], seen.codes[name] = activation, output, codes
        return output

    def look(activation: Tensor, hook, name: str) -> None:
        seen.recorded[name] = activation

    hooks = []
    for name in saes:
        hooks += [(name.split(">")[0], partial(read, name=name))]
        hooks += [(name.split(">")[-1], partial(replace, name=name))]
    hooks += [(name, partial(look, name=name)) for name in record]
    seen.logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return seen


def drawn_gradient(model, tokens: Tensor, name: str, draw: int) -> Tensor:
    """The gradient, at a clean activation, of the logits along √p v − p (√p · v), v drawn signs.

    p are a token's clean probabilities. The vector's second moment is diag(p) − p pᵀ, the Fisher
    information of its logits; so g's is that of the row's outputs about the activation.
    """
    leaves = []

    def as_leaf(activation: Tensor, hook) -> Tensor:
        leaves.append(activation.detach().requires_grad_())
        return leaves[0]

    logits = model.run_with_hooks(tokens, fwd_hooks=[(name.split(">")[-1], as_leaf)])
    p = logits.detach().softmax(-1)
    generator = torch.Generator().manual_seed(draw)
    v = 2.0 * torch.randint(0, 2, p.shape, generator=generator) - 1
    along = p.sqrt() * v - p * (p.sqrt() * v).sum(-1, keepdim=True)
    (gradient,) = torch.autograd.grad((logits * along).sum(), leaves)
    return gradient


def losses(
    model, tokens: Tensor, saes: dict[str, Weights], terms: Terms, known=None
) -> dict[str, Tensor]:
    """Each term and their weighted sum, `loss`; known: what `clean` gave for these tokens."""
    logits, activations = known or clean(model, tokens)
    if terms.kl is None and terms.downstream is None:
        seen = Spliced()  # local training: each SAE reads the clean activation
        for name, weights in saes.items():
            read, made = name.split(">")[0], name.split(">")[-1]
            seen.targets[name] = activations[made]
            seen.outputs[name], seen.codes[name] = autoencode(weights, activations[read])
    else:
        seen = splice(model, tokens, saes, terms.downstream_hooks)
    found = {"sparsity": torch.tensor(0.0)}
    for name in saes:
        width = seen.targets[name].shape[-1]
        norm = torch.linalg.vector_norm(seen.codes[name], ord=terms.p, dim=-1)
        found["sparsity"] = found["sparsity"] + norm.mean() / width
    if terms.local is not None:
        found["reconstruction"] = torch.tensor(0.0)
        for name in saes:
            error = F.mse_loss(seen.outputs[name], seen.targets[name].detach())
            found["reconstruction"] = found["reconstruction"] + error
    if terms.kl is not None:
        found["kl"] = F.kl_div(
            F.log_softmax(seen.logits, dim=-1).flatten(0, 1),
            F.log_softmax(logits, dim=-1).flatten(0, 1),
            log_target=True,
            reduction="batchmean",
        )
    if terms.downstream is not None:
        found["downstream"] = torch.tensor(0.0)
        for name in terms.downstream_hooks:
            error = F.mse_loss(seen.recorded[name], activations[name])
            found["downstream"] = found["downstream"] + error / len(terms.downstream_hooks)
    if terms.fisher is not None:
        found["fisher"] = torch.tensor(0.0)
        for name in saes:
            gradient = drawn_gradient(model, tokens, name, terms.draw)
            error = seen.outputs[name] - seen.targets[name].detach()
            along = (gradient * error).sum(-1)
            found["fisher"] = found["fisher"] + ((1 + along**2).sqrt() - 1).mean()
    behind = torch.tensor(0.0)
    for name in ("kl", "downstream", "fisher"):
        if name in found:
            behind = behind + getattr(terms, name) * found[name]
    own = terms.local * found["reconstruction"] if terms.local is not None else torch.tensor(0.0)
    alpha = own.item() / behind.item() if terms.balanced else 1.0  # a number: no gradient
    halves = (alpha * behind + own) / 2 if terms.balanced else behind + own
    found["loss"] = terms.sparsity * found["sparsity"] + halves
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
