"""One pass of a model with hooks at some of its sites, from where it starts to where it may end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.engine.model.frozen_model import Runner, Site
from e2e_lib.engine.model.null_channel import NULL_WIDTH, unrotated, widened
from e2e_lib.errors import ModelError
from e2e_lib.names import ends, null_channel

# Sees a value, of a pair of hooks both; what it returns takes the (second) value's place.
Hook = Callable[..., Tensor | None]


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

    A name may be a pair of hooks (`names.ends`): the first is read, the second's value replaced.

    Returns the hidden states for the unembedding, or None if only the hooks were wanted.
    """
    waiting, read = set(hooks), dict[str, tuple[Tensor, ...]]()

    def call(end: str, name: str, value: Tensor) -> Tensor | None:
        scale = null_channel(end)[1]
        seen = widened(value, tokens, scale) if scale else value
        if end != ends(name)[-1]:
            read[name] = (seen,)
            return None
        before = read.pop(name, ())
        if len(before) != len(ends(name)) - 1:
            raise ModelError(f"hook is {name!r}, but the first is not reached before the second.")
        new = hooks[name](*before, seen)
        waiting.discard(name)
        if not waiting and not whole:
            raise _Seen
        if new is None or not scale:
            return new
        # In the residual stream's type: among products in bfloat16 the rotation is one.
        return unrotated(new)[..., :-NULL_WIDTH].to(value.dtype)

    with ExitStack() as stack:
        for name in hooks:
            for end in ends(name):
                site = run.sites[null_channel(end)[0]]
                own = _flattened(partial(call, end), site.scale, tokens)
                stack.enter_context(_hook(site, name, own))
        stack.enter_context(_skipped(run, first, start))
        try:
            hidden = run.hidden(tokens)
        except _Seen:
            return None
    return hidden if whole else None


Call = Callable[[str, Tensor], Tensor | None]


def _flattened(call: Call, scale: float, tokens: Tensor) -> Call:
    """`call` where all rows of a batch are one (OPT's MLP), or are multiplied by `scale` after."""

    def shaped(name: str, value: Tensor) -> Tensor | None:
        one = value.ndim == 2 and value.shape[0] == tokens.numel()
        given = value.view(*tokens.shape, -1) if one else value
        new = call(name, given if scale == 1 else given * scale)
        return new if new is None else (new if scale == 1 else new / scale).view(value.shape)

    return shaped


@contextmanager
def _hook(site: Site, name: str, call: Call) -> Iterator[None]:
    """Show the value at a site to `call`, and put in its place what that returns."""

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = call(name, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = call(name, kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        several = isinstance(output, tuple | list)
        value: Tensor = output[0] if several else output
        new = call(name, value)
        # The model goes on with a copy: Falcon adds its attention to the MLP's output in place.
        new = (value if new is None else new).clone()
        return type(output)((new, *output[1:])) if several else new

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
        if not isinstance(usual, tuple | list):
            return start
        return type(usual)((start, *[None] * (len(usual) - 1)))

    for block in skipped:
        object.__setattr__(block, "forward", hand_on)  # shadows the class's method
    try:
        yield
    finally:
        for block in skipped:
            object.__delattr__(block, "forward")
