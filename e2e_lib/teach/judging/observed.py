"""What a call of an answer shows, and in which words two such observations differ."""

import inspect
import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Observed: TypeAlias = dict[str, Any]  # tensors, numbers and words, by what they are

RTOL, ATOL = 1e-4, 1e-5  # of float32, summed in another order
NOTHING_FLOWS = "nothing"  # the gradient to a tensor that the result does not depend on


def called(answer: Callable[..., Any], case: tuple[Any, ...]) -> Observed:
    """What it returns, the gradient to every tensor that asks for one, what it changed in place.

    The gradient is that of a fixed weighted sum of everything returned.
    """
    before = frozen(case)
    result = written(answer(*case))
    seen = parts(result) | changed(case, before)
    leaves = {n: v for n, v in _arrays(case) if isinstance(v, Tensor) and v.requires_grad}
    return seen | gradients(seen, leaves)


def frozen(case: tuple[Any, ...]) -> dict[str, Any]:
    """Copies of every tensor and array among the arguments, to be compared with later."""
    return {name: _copy(value) for name, value in _arrays(case)}


def changed(case: tuple[Any, ...], before: dict[str, Any]) -> Observed:
    """Which of them an answer changed in place."""
    names = [name for name, value in _arrays(case) if not _same(value, before.get(name))]
    return {"what it changed in place": ", ".join(names) or "nothing"}


def number(result: Any) -> Observed:
    """Whether a result is one number: what prints and compares as one, no text, no list of one."""
    other = "text" if isinstance(result, str) else kind(result)
    return {"the result": "a number" if _is_number(written(result)) else other}


def written(result: Any) -> Any:
    """The result of an answer. Raises NotImplementedError if there is none."""
    if result is None or result is ...:
        raise NotImplementedError
    return result


def parts(result: Any) -> Observed:
    """The things that an answer returned, by name."""
    if isinstance(result, tuple | list) and len(result) != 1:
        own = {f"thing {i} of the result": value for i, value in enumerate(result, 1)}
        return {"the number of things returned": len(result), **own}
    return {"the number of things returned": 1, "the result": result}


def gradients(seen: Observed, leaves: dict[str, Tensor]) -> Observed:
    """The gradient of everything in `seen` to each of `leaves`."""
    total: Tensor | None = None
    home = next((leaf.device for leaf in leaves.values()), None)
    for value in seen.values():
        if isinstance(value, Tensor) and value.requires_grad and value.device == home:
            weights = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
            own = (value * weights).sum()
            total = own if total is None else total + own
    if total is None:
        found: list[Any] = [None] * len(leaves)
    else:
        found = list(torch.autograd.grad(total, list(leaves.values()), allow_unused=True))
    named = dict(zip(leaves, found, strict=True)).items()
    none = {n: g is None or not g.any() for n, g in named}  # all 0: sliced off, as good as none
    return {f"the gradient to {n}": NOTHING_FLOWS if none[n] else g for n, g in named}


def difference(expected: Observed, found: Observed) -> str:
    """In words, the first thing in which two observations differ; empty if they are alike."""
    for name, value in expected.items():
        if name not in found:
            return f"{name} is missing"
        if words := _differs(value, found[name]):
            return f"{name} {words}"
    more = [name for name in found if name not in expected]
    return f"{more[0]} was not asked for" if more else ""


def _arrays(arguments: Any, name: str = "") -> Iterator[tuple[str, Tensor | np.ndarray]]:
    """Every tensor and array among a call's arguments."""
    if isinstance(arguments, Tensor | np.ndarray):
        yield name or "the input", arguments
    elif isinstance(arguments, nn.Module):
        yield from arguments.named_parameters()
    elif isinstance(arguments, dict):
        for key, value in arguments.items():
            yield from _arrays(value, str(key))
    elif isinstance(arguments, tuple | list):
        for i, value in enumerate(arguments, 1):
            yield from _arrays(value, f"{name}, number {i}" if name else f"argument {i}")


def _copy(value: Tensor | np.ndarray) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.detach().clone().requires_grad_(value.requires_grad)


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, np.ndarray):
        return np.array_equal(value, before, equal_nan=True)
    alike = (value.dtype, value.requires_grad) == (before.dtype, before.requires_grad)
    return alike and torch.equal(value, before)


def _differs(expected: Any, found: Any) -> str:
    if isinstance(expected, Tensor):
        return _tensor_differs(expected, found)
    if isinstance(found, Tensor) and expected == NOTHING_FLOWS:
        return "should be none: what is only compared with has to be detached"
    if isinstance(expected, Real) and not isinstance(expected, bool):
        return _number_differs(float(expected), found)
    try:
        alike = isinstance(found, type(expected))  # NumPy's text is text
        same = bool(alike and expected == found)
    except Exception:  # of a stranger's ==
        same = False
    return "" if same else f"is {kind(found)}, but it should be {kind(expected)}"


def _tensor_differs(expected: Tensor, found: Any) -> str:
    if isinstance(found, str) and found == NOTHING_FLOWS:
        return (
            "is missing: no gradient flows back (was something detached, counted with >, turned "
            "into a number, or computed under no_grad?)"
        )
    if not isinstance(found, Tensor):
        return f"is {kind(found)}, but it should be {kind(expected)}, so that gradients can flow"
    for what, own, right in (
        ("lies on device", found.device, expected.device),
        ("is of type", found.dtype, expected.dtype),
        ("has shape", tuple(found.shape), tuple(expected.shape)),
        ("has layout", found.layout, expected.layout),
    ):
        if own != right:
            return f"{what} {own}, but it should be {right}"
    if torch.allclose(found, expected, rtol=RTOL, atol=ATOL, equal_nan=True):
        return ""
    if (found.isnan() & ~expected.isnan()).any():
        return "holds NaN where it should not: a logarithm of 0 or of less, or 0 / 0?"
    return f"has the wrong numbers{_relation(expected.detach(), found.detach())}"


def _number_differs(expected: float, found: Any) -> str:
    if not _is_number(found):
        return f"is {kind(found)}, but it should be a number"
    own = float(found)
    same = math.isclose(own, expected, rel_tol=RTOL, abs_tol=ATOL)
    both_nan = math.isnan(own) and math.isnan(expected)
    return "" if same or both_nan else f"is {own:.4g}, but it should be {expected:.4g}"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except Exception:  # whatever its float() does
        return False
    return isinstance(value, Real) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0)


def _relation(expected: Tensor, found: Tensor) -> str:
    """What two tensors of numbers have to do with each other, where it is simple."""
    if not expected.is_floating_point() or not expected.numel():
        return ""
    if expected.numel() == 1:
        times = f", {float(found / expected):.4g} times as large" if expected.any() else ""
        return f": yours is {float(found):.4g}, right is {float(expected):.4g}{times}"
    if bool(expected.abs().min() > ATOL):
        ratio = found / expected
        if torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-3):
            return f": all are {float(ratio.flatten()[0]):.4g} times as large as they should be"
    shift = (found - expected).flatten()
    wrong = ~torch.isclose(found, expected, rtol=RTOL, atol=ATOL)
    place = [int(i) for i in wrong.nonzero()[0]]
    if torch.allclose(shift, shift[0].expand_as(shift), rtol=1e-3, atol=ATOL):
        return f": all are too large by {float(shift[0]):.4g}"
    if torch.allclose(found.flatten().sort().values, expected.flatten().sort().values, rtol=RTOL):
        return f": they are the right ones in another order, the first that differs at {place}"
    own, right = float(found[tuple(place)]), float(expected[tuple(place)])
    share = f"{int(wrong.sum())} of {wrong.numel()}"
    return f": {share} differ, the first at {place}: {own:.4g} instead of {right:.4g}"


def kind(value: Any) -> str:
    """What something is, in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, str):
        return f"“{' '.join(value.split())[:60]}”"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real):
        return f"the number {float(value):.4g}"
    if inspect.iscoroutine(value) or inspect.isgenerator(value):
        return f"of type {type(value).__name__}: was it called, or awaited?"
    return f"of type {type(value).__name__}"
