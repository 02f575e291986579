"""The project's own errors, and the rules that raise them: name, value and what is allowed.

A value may be anything that a file, a command line or a notebook's cell can hold, so it is first
asked what it is. What a dataclass derived from `Checked` allows stands in its fields' types:

    lr: Positive = 5e-4
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import Field, fields
from difflib import get_close_matches
from functools import wraps
from re import split
from typing import Annotated, Any, ClassVar, NamedTuple

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


@contextmanager
def reworded(kind: type[E2EError], sentence: str) -> Iterator[None]:
    """Say in one sentence what another library raises: as `kind`, `sentence (Class: its reason).`

    Hub clients and parsers raise a dozen classes each. An error of this `kind` passes as it is, out
    of another library's wrapping too.
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:
        if isinstance(error.__cause__, kind):
            raise error.__cause__ from None
        reason = first_sentence(error.__cause__ or error)
        words = ": ".join(filter(None, (type(error).__name__, reason)))
        raise kind(f"{sentence} ({words}).") from error


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


def list_of(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A check for lists, not empty, of different things that are `good`."""
    return lambda value: (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(good(item) for item in value)
        and len(set(value)) == len(value)
    )


class Rule(NamedTuple):
    """What a parameter may be: a check, and words that end 'x is 3, but it must be …'."""

    good: Callable[[Any], bool]
    allowed: str

    def read(self, value: Any) -> Any:
        """The value, or the number that a text spells; 1e6 where a whole number is asked for."""
        if isinstance(value, str) and not self.good(value):
            with suppress(ValueError):
                return float(value)
        whole = isinstance(value, float) and value.is_integer() and not self.good(value)
        return int(value) if whole else value

    def checked(self, place: str, value: Any) -> Any:
        """The value of `place` as `read`. Raises ConfigError if it is not allowed."""
        found = self.read(value)
        require(self.good(found), place, value, self.allowed)
        return found


def one_of(*words: str) -> Rule:
    """One of these words."""
    return Rule(lambda v: isinstance(v, str) and v in words, f"one of {', '.join(words)}")


def whole(low: int) -> Rule:
    """A whole number of at least `low`."""
    return Rule(lambda v: is_integer(v) and v >= low, f"a whole number of at least {low}")


Flag = Annotated[bool, Rule(lambda v: isinstance(v, bool), "true or false")]
Count = Annotated[int, whole(1)]
Positive = Annotated[float, Rule(lambda v: is_number(v) and v > 0, "a number above 0")]
Weight = Annotated[float, Rule(lambda v: is_number(v) and v >= 0, "a number of at least 0")]
OptionalWeight = Annotated[
    float | int | None,
    Rule(lambda v: v is None or (is_number(v) and v >= 0), "None or a number of at least 0"),
]
OptionalPositive = Annotated[
    float | int | None,
    Rule(lambda v: v is None or (is_number(v) and v > 0), "None or a number above 0"),
]
Share = Annotated[float, Rule(lambda v: is_number(v) and 0 <= v <= 1, "a number in [0, 1]")]


def rules(kind: type) -> dict[str, Rule]:
    """The rules in the types of a dataclass's fields, by name."""
    found = {own.name: getattr(own.type, "__metadata__", ()) for own in fields(kind)}
    return {k: rule for k, extras in found.items() for rule in extras if isinstance(rule, Rule)}


class Checked:
    """Base of dataclasses whose fields have rules.

    Raises:
        ConfigError: a name that is no field, or a value that its field's rule does not allow.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __new__(cls, *values: Any, **named: Any) -> "Checked":
        """Python itself would not say which names there are."""
        for name in named:
            require_known(name, cls.__dataclass_fields__, f"parameter of {cls.__name__}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Every rule, then what a class adds."""
        for name, rule in rules(type(self)).items():
            require(rule.good(getattr(self, name)), name, getattr(self, name), rule.allowed)


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise ConfigError unless `name` is known, with all that are, those most like it first."""
    known = list(known)
    if name not in known:
        near = get_close_matches(str(name), known, n=3, cutoff=0.4)
        listed = ", ".join(dict.fromkeys([*near, *known])) or "none"
        raise ConfigError(f"{name} is no {what}; allowed are {listed}.")


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
