"""W2, the splice: an SAE in a frozen model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.toy_model import VOCABULARY, WIDTH, ToyModel, watched

FORWARD = "forward_hook"  # which runs after the block


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


def _with_hook(hook_of: Callable[..., Any], where: str = "forward_pre_hook") -> Callable[..., Any]:
    """The splice with the hook that this makes of `replace`."""

    def answer(run: Any, block: Any, replace: Any) -> Any:
        handle = getattr(block, f"register_{where}")(hook_of(replace))
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


def _without_interruption(run: Any, block: Any, replace: Any) -> Any:
    handle = block.register_forward_pre_hook(lambda _, seen: (replace(seen[0]), *seen[1:]))
    try:
        result = run()
    except Exception:
        handle.remove()
        raise
    handle.remove()
    return result


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
            _with_hook(lambda replace: lambda _, seen: replace(seen)),
        ),
        Mistake(
            "the block got one thing in place of all its arguments: return a tuple of them, "
            "(new, *arguments[1:]).",
            _with_hook(lambda replace: lambda _, seen: replace(seen[0])),
        ),
        Mistake(
            "the block's other arguments came as a tuple inside the tuple: a star unpacks them, "
            "(new, *arguments[1:]).",
            _with_hook(lambda replace: lambda _, seen: (replace(seen[0]), seen[1:])),
        ),
        Mistake(
            "`replace` is no hook by itself. PyTorch calls a pre-hook with two things, the module "
            "and the tuple of its arguments: write one, def hook(module, arguments).",
            _with_hook(lambda replace: lambda x: replace(x)),
        ),
        Mistake(
            "you wrote a forward hook and registered it as a pre-hook. Before the block there is "
            "no output yet: a pre-hook gets two things, def hook(module, arguments).",
            _with_hook(lambda replace: lambda _, seen, output: replace(output)),
        ),
        Mistake(
            "you wrote a pre-hook and registered it with register_forward_hook, which calls it "
            "after the block and hands it the output too: use register_forward_pre_hook.",
            _with_hook(lambda replace: lambda _, seen: (replace(seen[0]), *seen[1:]), FORWARD),
        ),
        Mistake(
            "your hook runs after the block, so that the tuple it returned went on as the block's "
            "output. Arguments are what a pre-hook returns: register_forward_pre_hook.",
            _with_hook(lambda replace: lambda _, seen, y: (replace(seen[0]), *seen[1:]), FORWARD),
        ),
        Mistake(
            "your hook runs after the block and put replace(x) in place of its output, as if there "
            "were no block. It has to change the input: register_forward_pre_hook.",
            _with_hook(lambda replace: lambda _, seen, output: replace(seen[0]), FORWARD),
        ),
        Mistake(
            "you replaced the block's output. The SAE stands before the block: use "
            "register_forward_pre_hook.",
            _with_hook(lambda replace: lambda _, seen, output: replace(output), FORWARD),
        ),
        Mistake(
            "the hook is still on the block: every later call of the model would be spliced. Keep "
            "the handle, and call handle.remove(), with its brackets.",
            _without_finally(remove=False),
        ),
        Mistake(
            "right as long as run() ends well. If it is interrupted, your hook stays: remove it "
            "in a finally.",
            _without_finally(remove=True),
        ),
        Mistake(
            "right but for an interruption, which is no Exception: your hook stays then. Remove it "
            "in a finally, not in an except.",
            _without_interruption,
        ),
        Mistake(
            "no gradient reaches the SAE, so that it never learns: was run() called under no_grad, "
            "or something detached? The model's weights are frozen by themselves.",
            _without_gradient,
        ),
        Mistake(
            "you added the SAE's output to the activation; it has to take its place.",
            _with_hook(lambda replace: lambda _, seen: (seen[0] + replace(seen[0]), *seen[1:])),
        ),
        Mistake(
            "the model ran without the SAE: does the hook return the new arguments, and is it on "
            "the block while run() is called?",
            _with_hook(lambda replace: lambda _, seen: [replace(seen[0]), None][1]),
        ),
    ),
    observe=watched,
)
