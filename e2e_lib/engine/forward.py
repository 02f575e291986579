"""One pass of a model with hooks at some of its sites, from where it starts to where it may end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.engine.frozen_model import Runner, Site

Hook = Callable[[Tensor], Tensor | None]  # sees a value; what it returns takes its place


class _Seen(Exception):
    """Every hook of a pass has seen its value, and nothing else is wanted."""


def run_hooked(
    run: Runner,
    tokens: Int[Tensor, "batch pos"],
    hooks: Mapping[str, Hook],
    *,
    whole: bool,
    first: int = 0,
    start: Tensor | None = None,
) -> Float[Tensor, "batch pos d_model"] | None:
    """One pass with `hooks`, from `start` before block `first` if given.

    Returns the hidden states for the unembedding, or None if only the hooks were wanted.
    """
    waiting = set(hooks)

    def call(name: str, value: Tensor) -> Tensor | None:
        new = hooks[name](value)
        waiting.discard(name)
        if not waiting and not whole:
            raise _Seen
        return new

    with ExitStack() as stack:
        for name in hooks:
            stack.enter_context(_hook(run.sites[name], name, call))
        stack.enter_context(_skipped(run, first, start))
        try:
            hidden = run.hidden(tokens)
        except _Seen:
            return None
    return hidden if whole else None


@contextmanager
def _hook(site: Site, name: str, call: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Show the value at a site to `call`, and put in its place what that returns."""

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = call(name, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = call(name, kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = call(name, output[0])
            return None if new is None else (new, *output[1:])
        return call(name, output)

    if site.before:
        handle = site.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = site.module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipped(run: Runner, first: int, start: Tensor | None) -> Iterator[None]:
    """Blocks before `first` hand on `start` instead of computing; with no `start`, all run."""
    skipped = [] if start is None else run.blocks[:first]

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        usual = run.block_output
        return (start, *[None] * (len(usual) - 1)) if isinstance(usual, tuple) else start

    for block in skipped:
        object.__setattr__(block, "forward", hand_on)  # shadows the class's method
    try:
        yield
    finally:
        for block in skipped:
            object.__delattr__(block, "forward")
