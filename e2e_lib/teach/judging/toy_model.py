"""A model to splice into, and what a splice does to it."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from e2e_lib.teach.judging.observed import Observed, gradients, parts, written

WIDTH, VOCABULARY = 4, 7


class _Block(nn.Module):
    """As a transformer's: it takes the residual stream and something else, of whatever type."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any, mask: Any) -> Any:
        return x + torch.tanh(self.inner(x)) * mask


class ToyModel(nn.Module):
    """A language model of three blocks, to be spliced into."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, torch.ones(tokens.shape[-1], 1))
        return self.head(x)


class _Interrupted(KeyboardInterrupt):
    """As by the button that stops a cell."""


def watched(answer: Callable[..., Any], case: tuple[Any, ...]) -> Observed:
    """Its result and gradient; what it leaves behind, after a run that ends and two that do not."""
    model, tokens, weight = case
    weight = weight.clone().requires_grad_()
    clean, own = model(tokens), copy.deepcopy(model)
    runs: list[Tensor] = []

    def run() -> Any:
        runs.append(tokens)
        return own(tokens)

    def replace(x: Tensor) -> Tensor:
        return x @ weight

    block = own.blocks[1]
    theirs = block.register_forward_pre_hook(lambda *_: None)  # somebody else's
    seen = parts(written(answer(run, block, replace)))
    seen |= gradients(seen, {"the SAE's weights": weight})
    seen["whether a hook that was there before stays"] = theirs.id in block._forward_pre_hooks
    theirs.remove()
    seen["the number of hooks left on the model"] = _hook_count(own)
    seen["the number of calls of run()"] = len(runs)
    seen["whether the model is as it was"] = torch.equal(own(tokens), clean)
    for error, what in ((_Interrupted, "was interrupted"), (ArithmeticError, "raised an error")):
        own, after = copy.deepcopy(model), f"after a run that {what}"
        through = _stopped(answer, error, own.blocks[1], replace)
        seen[f"the number of hooks left {after}"] = _hook_count(own)
        seen[f"whether, {after}, the error goes on"] = through
        seen[f"whether, {after}, the model is as it was"] = torch.equal(own(tokens), clean)
    return seen


def _stopped(answer: Callable[..., Any], error: type[BaseException], *others: Any) -> bool:
    """Whether it lets an error of run() through."""

    def run() -> Any:
        raise error

    try:
        answer(run, *others)
    except error:
        return True
    return False


def _hook_count(model: nn.Module) -> int:
    """How many hooks an answer left on it."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
