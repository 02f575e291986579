"""Damage: Hypothesis strategies that break a sound file or value, and what may come of it."""

import json
import math
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from e2e_lib.errors import E2EError

SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
# How many inputs: unset, a tenth of them; E2E_FUZZ=full, all, the same ones each time; E2E_FUZZ=20,
# twenty times as many, and others each time.
FUZZ = os.environ.get("E2E_FUZZ", "")
TIMES = {"": 0.1, "full": 1.0}.get(FUZZ) or float(FUZZ)


def batch(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a test of `count` inputs in full, and sets how many of them it draws now."""
    drawn = settings(
        max_examples=round(count * TIMES), derandomize=FUZZ in ("", "full"), deadline=None,
        database=None, suppress_health_check=SLOW,
    )  # fmt: skip
    return lambda test: pytest.mark.fuzz(drawn(test))


def survives(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `function` returns, or None if it ends in one sentence of the project's own.

    Anything else that is raised, warnings among it, goes on to fail the test.
    """
    try:
        return function(*arguments, **options)
    except E2EError as error:
        text = str(error)
        assert text.strip() and "\n" not in text, text
        assert "Traceback" not in text and len(text) < 3000, text
        return None


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from([
        10**30, 10**400, -1, 0, 10**9, 10**12, 2**63, 2**64, 1e308, 1e-320, math.nan, math.inf,
        -math.inf, "", " ", "1e3", "auto", "auto 5 3", "nan", "../../x", "\0", "<b>", "None", True,
    ]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def changed_value(draw: Any, sound: Any) -> Any:
    """A sound JSON value with one to three of its parts replaced, removed or added."""
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(value, dict | list) or draw(st.integers(0, 30)) == 0:
            return draw(VALUES)
        _change(draw, value)
    return value


def _change(draw: Any, value: Any) -> None:
    """Change one place, at any depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if keys and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(keys))
        if isinstance(value[key], dict | list) and value[key] and draw(st.integers(0, 3)):
            _change(draw, value[key])
        elif draw(st.integers(0, 3)):
            value[key] = draw(VALUES)
        else:
            del value[key]
    elif isinstance(value, dict):
        value[draw(st.text(max_size=8))] = draw(VALUES)
    else:
        value.append(draw(VALUES))


@st.composite
def changed_bytes(draw: Any, sound: bytes) -> bytes:
    """A sound file with bytes overwritten, cut out, doubled or put in; or any few bytes."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        kind = draw(st.integers(0, 5))
        length = draw(st.integers(1, 40))
        if kind == 0:
            del data[place:]
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        elif kind == 3:
            data[place : place + 8] = struct.pack("<Q", draw(st.sampled_from(SIZES)))
        else:
            data[place : place + length] = draw(st.binary(min_size=1, max_size=length))
    return bytes(data) if draw(st.integers(0, 20)) else draw(st.binary(max_size=300))


SIZES = (0, 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def json_text(value: Any) -> str:
    """JSON of anything `VALUES` draws; NaN and infinity as Python writes and reads them."""
    return json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()
