"""The project's own errors: one sentence naming the parameter, its value and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches
from re import split


class E2EError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(E2EError, ValueError):
    """A parameter has a value that is not allowed."""


class DataError(E2EError, ValueError):
    """A data source cannot be read or does not hold what was asked of it."""


class ModelError(E2EError, ValueError):
    """A language model or an autoencoder cannot be loaded or lacks what was asked of it."""


class ResultsError(E2EError, ValueError):
    """A results folder does not hold what an analysis needs."""


def require(condition: bool, parameter: str, value: object, allowed: str) -> None:
    """Raise ConfigError unless `condition`, naming `parameter`, its `value`, what is `allowed`."""
    if not condition:
        raise ConfigError(f"{parameter} is {value!r}, but it must be {allowed}.")


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names most like `name`, for the end of an error sentence."""
    known = list(known)
    return ", ".join(get_close_matches(name, known, n=n, cutoff=0.4) or sorted(known)[:n])


def first_sentence(error: BaseException) -> str:
    """The first sentence of another library's message, without line breaks and full stop.

    >>> first_sentence(OSError("No such\\n  host. Check the cable."))
    'No such host'
    """
    return split(r"[.!?]( |$)", " ".join(str(error).split()))[0][:300]
