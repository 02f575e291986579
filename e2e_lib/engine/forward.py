"""One pass of a model with hooks at some of its sites, from where it starts to where it may end.

**The null channel.** At `NAME.null_S` a hook sees more than the model has there: Q [x ; S n], the
activation x of NAME beside `NULL_WIDTH` numbers n that say nothing about the text, turned by a
fixed rotation Q. Of what it puts in its place the model gets the x part alone. So no output depends
on n, but the error of a reconstruction does: S sets how much of an activation is not used. n is a
sum of sparse features in random directions, of total variance 1; which of them are on follows from
all tokens so far by a hash, the same in every pass over a text and predictable from nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.engine.frozen_model import Runner, Site
from e2e_lib.names import null_channel

NULL_WIDTH = 16  # dimensions of a null channel
NULL_FEATURES, NULL_SHARE = 64, 3 / 64  # its sparse features, and on how many tokens each is on
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
        scale = null_channel(name)[1]
        new = hooks[name](widened(value, tokens, scale) if scale else value)
        waiting.discard(name)
        if not waiting and not whole:
            raise _Seen
        return new if new is None or not scale else unrotated(new)[..., :-NULL_WIDTH]

    with ExitStack() as stack:
        for name in hooks:
            site = run.sites[null_channel(name)[0]]
            stack.enter_context(_hook(site, name, _flattened(call, site.scale, tokens)))
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


# ------------------------------------------------------------------ the null channel
def widened(
    x: Float[Tensor, "batch pos d"], tokens: Int[Tensor, "batch pos"], scale: float
) -> Float[Tensor, "batch pos wide"]:
    """Q [x ; scale · n], of width d + `NULL_WIDTH`."""
    n = nuisance(tokens).to(x)
    return torch.cat([x, scale * n], dim=-1) @ _rotation(x.shape[-1] + NULL_WIDTH).to(x)


def unrotated(wide: Float[Tensor, "... wide"]) -> Float[Tensor, "... wide"]:
    """[x ; scale · n]: the last `NULL_WIDTH` numbers are the null channel's."""
    return wide @ _rotation(wide.shape[-1]).to(wide).T


def nuisance(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos null"]:
    """n of every token: a function of the tokens of its row up to it."""
    x = tokens.long() + (torch.arange(tokens.shape[1], device=tokens.device) << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64's
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * (factor - (1 << 64))
    so_far = (x ^ x >> 31).cumsum(1)  # wraps round, as a hash may
    return _drawn().to(tokens.device)[so_far & len(_drawn()) - 1]


@cache
def _drawn() -> Float[Tensor, "draw null"]:
    """What n may be: features of unit length, each on for `NULL_SHARE` of them, at 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(NULL_FEATURES, NULL_WIDTH, generator=generator), dim=1)
    on, size = torch.rand(2, 1 << 16, NULL_FEATURES, generator=generator)
    n = ((on < NULL_SHARE) * (size + 0.5)) @ directions
    return n / n.var(0).sum().sqrt()


@cache
def _rotation(width: int) -> Float[Tensor, "wide wide"]:
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn.double()).Q.float()
