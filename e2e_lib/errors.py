"""The project's own errors: one sentence naming the parameter, its value and what is allowed.

A value may be anything that a file, a command line or a notebook's cell can hold, so it is first
asked what it is.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import wraps
from re import split
from typing import Any

LONGEST = 200  # characters of a value in a sentence
LARGEST = 1.7e308  # what float64 holds


class E2EError(Exception):
    """Base of every error this project raises on purpose; its message is one line."""

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(E2EError, ValueError):
    """A parameter has a value that is not allowed."""


class DataError(E2EError, ValueError):
    """A data source cannot be read or does not hold what was asked of it."""


class ModelError(E2EError, ValueError):
    """A language model or an autoencoder cannot be loaded or lacks what was asked of it."""


class ResultsError(E2EError, ValueError):
    """A results folder does not hold what an analysis needs."""


def command(main: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """Make a command line of `main`: called with its arguments, or with the process's own.

    It returns the exit status: what `main` does, 0 for None; 2 after an E2EError, whose sentence is
    printed; 130 after Ctrl-C, whose words, if it has any, are.
    """

    @wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(list(sys.argv[1:] if arguments is None else arguments)) or 0
        except E2EError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(f"\nStopped{'; ' if str(stop) else ''}{stop}.", file=sys.stderr)
            return 130

    return run


def require(condition: bool, parameter: str, value: object, allowed: str) -> None:
    """Raise ConfigError unless `condition`, naming `parameter`, its `value`, what is `allowed`."""
    if not condition:
        try:
            shown = repr(value)
        except ValueError:  # a whole number of more digits than Python writes out
            shown = "a number of too many digits"
        shown = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} …"
        raise ConfigError(f"{parameter} is {shown}, but it must be {allowed}.")


def is_integer(value: Any) -> bool:
    """A whole number of at most 64 bits; True is none."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """A finite number; True is none."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and abs(value) <= LARGEST


def is_text(value: Any) -> bool:
    """A string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names most like `name`, for the end of an error sentence."""
    known = list(known)
    return ", ".join(get_close_matches(str(name), known, n=n, cutoff=0.4) or sorted(known)[:n])


def first_sentence(error: BaseException) -> str:
    """The first sentence of another library's message, without line breaks and full stop.

    >>> first_sentence(OSError("No such\\n  host. Check the cable."))
    'No such host'
    """
    return split(r"[.!?]( |$)", " ".join(str(error).split()))[0][:300]
