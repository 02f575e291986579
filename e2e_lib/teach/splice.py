"""W2, the splice: an SAE in a frozen model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.toy_model import VOCABULARY, WIDTH, ToyModel, watched


def spliced(run: Callable[[], Any], block: nn.Module, replace: Callable[[Tensor], Tensor]) -> Any:
    """What `run()` returns while `block` reads replace(x) in place of its input x.

    run: calls the model, and with it the block. The block is left without the hook, come what may.
    """

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (replace(arguments[0]), *arguments[1:])

    handle = block.register_forward_pre_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


def _spliced_case() -> list[Case]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ToyModel().requires_grad_(False)
        return [(model, torch.randint(VOCABULARY, (2, 5)), torch.randn(WIDTH, WIDTH) / 2)]


def _with_hook(hook: Callable[..., Any], where: str = "forward_pre_hook") -> Callable[..., Any]:
    """The splice with another hook: replace, block, arguments (and the block's output) → new."""

    def answer(run: Any, block: Any, replace: Any) -> Any:
        handle = getattr(block, f"register_{where}")(lambda *seen: hook(replace, *seen))
        try:
            return run()
        finally:
            handle.remove()

    return answer


def _without_finally(remove: bool) -> Callable[..., Any]:
    def answer(run: Any, block: Any, replace: Any) -> Any:
        handle = block.register_forward_pre_hook(lambda _, seen: (replace(seen[0]), *seen[1:]))
        result = run()
        if remove:
            handle.remove()
        return result

    return answer


def _without_gradient(run: Any, block: Any, replace: Any) -> Any:
    with torch.no_grad():
        return spliced(run, block, replace)


SPLICED = Exercise(
    "spliced",
    spliced,
    _spliced_case,
    (
        Mistake(
            "a pre-hook gets all of the block's arguments, as a tuple: the activation is "
            "arguments[0].",
            _with_hook(lambda replace, _, seen: replace(seen)),
        ),
        Mistake(
            "the hook returned one tensor, so the block lost its other arguments: return "
            "(new, *arguments[1:]).",
            _with_hook(lambda replace, _, seen: replace(seen[0])),
        ),
        Mistake(
            "the hook is still on the block: every later call of the model would be spliced. Keep "
            "the handle, and call handle.remove().",
            _without_finally(remove=False),
        ),
        Mistake(
            "right as long as run() ends well. If it is interrupted, your hook stays: remove it "
            "in a finally.",
            _without_finally(remove=True),
        ),
        Mistake(
            "you replaced the block's output. The SAE stands before the block: use "
            "register_forward_pre_hook.",
            _with_hook(lambda replace, _, seen, output: replace(output), "forward_hook"),
        ),
        Mistake(
            "you called run() under no_grad: then no gradient reaches the SAE, and it never "
            "learns. The model's weights are frozen by themselves.",
            _without_gradient,
        ),
        Mistake(
            "you added the SAE's output to the activation; it has to take its place.",
            _with_hook(lambda replace, _, seen: (seen[0] + replace(seen[0]), *seen[1:])),
        ),
        Mistake(
            "the model ran without the SAE: the hook's result was not returned.",
            _with_hook(lambda replace, _, seen: [replace(seen[0]), None][1]),
        ),
    ),
    observe=watched,
)
