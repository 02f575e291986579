"""An exercise, and what an answer to it turns out to be.

An answer is observed on a few tiny inputs: what it returns, the gradients that it sends back, what
it leaves changed. Observed alike to the reference it is right; alike to a known mistake it gets
that mistake's hint; else the first difference is put into words. Whatever an answer does, `judge`
returns: an answer that raises, never ends or returns nonsense is a verdict like any other.
"""

import inspect
import linecache
import math
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from e2e_lib.errors import first_sentence
from e2e_lib.teach.judging.observed import Observed, called, difference

_NOTHING = (
    "it returned nothing (None): is a return missing, or did a loop end without finding anything?"
)
# In "spliced.<locals>.hook() missing 1 required positional argument: 'output'": hook and output.
_OWN_NAMES = re.compile(
    r"^(?:[\w<>]+\.<locals>\.)*[\w<>]+(?=\(\) (?:takes|missing) )|(?<=argument): '\w+'$"
)
Case: TypeAlias = tuple[Any, ...]  # the arguments of one call
Answer: TypeAlias = Callable[..., Any]

RIGHT, UNWRITTEN, KNOWN, SLOW, WRONG = "right", "not yet written", "known", "slow", "wrong"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give, and what to say to them."""

    hint: str
    answer: Answer


@dataclass(frozen=True)
class Exercise:
    """What is asked for, and the ways in which it goes wrong.

    Attributes:
        reference: the right answer, by the library's own functions.
        inputs: makes the cases anew at each call, always the same, all tiny.
        observe: what a call with a case shows, by name; `observed.called` unless said otherwise.
        large: a case like the first with many more tokens: an answer that needs more operations
            for it goes through them one by one.
        report: more to say of an answer, right or wrong.
        seconds: after which an answer is stopped.
    """

    name: str
    reference: Answer
    inputs: Callable[[], Sequence[Case]]
    mistakes: tuple[Mistake, ...]
    observe: Callable[[Answer, Case], Observed] = called
    large: Callable[[], Case] | None = None
    report: Callable[[Answer, Case], str] | None = None
    seconds: float = 10.0

    @property
    def call(self) -> str:
        """How it is called, e.g. `kl_loss(clean_logits, spliced_logits)`."""
        return f"{self.name}({', '.join(inspect.signature(self.reference).parameters)})"


class Verdict(NamedTuple):
    """RIGHT, UNWRITTEN, KNOWN (a mistake of the list), SLOW or WRONG; and what to say."""

    word: str
    hint: str = ""


@dataclass(frozen=True)
class Raised:
    """An error inside an answer.

    alike: the reason but for the names that an answer gave its functions and their arguments.
    """

    kind: str
    alike: str
    reason: str = field(compare=False)
    where: str = field(compare=False)


class TooSlow(BaseException):
    """An answer ran out of time; no Exception, which an answer could catch."""


def judge(exercise: Exercise, answer: Any, cases: Sequence[Case] | None = None) -> Verdict:
    """What an answer is worth.

    cases: in place of the exercise's own, where what is observed does not depend on them.
    """
    if answer is None or answer is ...:
        return Verdict(UNWRITTEN)
    if not callable(answer):
        what = f"{exercise.name} is of type {type(answer).__name__}, but the check calls it as"
        return Verdict(WRONG, f"{what} {exercise.call}: hand over the function, without brackets.")
    # The reference first: what it imports is no time of the answer's.
    expected = _observations(exercise, exercise.reference, exercise.inputs(), math.inf)
    try:
        own = exercise.inputs() if cases is None else cases
        seen = _observations(exercise, answer, own, exercise.seconds)
    except TooSlow:
        return Verdict(SLOW, _too_slow(exercise))
    if "unwritten" in seen[0]:
        return Verdict(WRONG, _NOTHING) if _says_something(answer) else Verdict(UNWRITTEN)
    differences = _compared(expected, seen)
    if not any(differences):
        return _by_speed(exercise, answer)
    for mistake in exercise.mistakes:
        known = _observations(exercise, mistake.answer, exercise.inputs(), math.inf)
        if not any(_compared(known, seen)):
            return Verdict(KNOWN, mistake.hint)
    raised = next((one["raised"] for one in seen if "raised" in one), None)
    if raised is not None:
        return Verdict(WRONG, _raised(exercise, raised))
    place = next(i for i, words in enumerate(differences) if words)
    right = differences.count("")
    on = f" (input {place + 1} of {len(seen)}; right on {right})" if right else ""
    words = "it returned nothing" if "unwritten" in seen[place] else differences[place]
    dot = "" if words.endswith("?") and not on else "."
    return Verdict(WRONG, f"{_named(exercise, words)}{on}{dot}")


def _says_something(answer: Answer) -> bool:
    """Whether a function has more in it than the cell that was handed out: it names something."""
    code = getattr(inspect.unwrap(answer), "__code__", None)
    return code is not None and bool({*code.co_names, *code.co_cellvars} - {"NotImplementedError"})


def _named(exercise: Exercise, words: str) -> str:
    """The words with the parameters' names in place of "argument 2"."""
    names = list(inspect.signature(exercise.reference).parameters)
    return re.sub(r"argument (\d+)", lambda found: names[int(found[1]) - 1], words)


def _compared(expected: Sequence[Observed], seen: Sequence[Observed]) -> list[str]:
    """The first difference of every case, in words."""
    own = list(expected) if len(expected) == len(seen) else [expected[0]] * len(seen)
    return [difference(one, other) for one, other in zip(own, seen, strict=True)]


def _observations(
    exercise: Exercise, answer: Answer, cases: Sequence[Case], seconds: float
) -> list[Observed]:
    """What every case shows; after an error, no further one. Raises TooSlow."""
    found: list[Observed] = []
    with _fence(seconds):
        for case in cases:
            found.append(_observed(exercise, answer, case))
            if found[-1].keys() & {"raised", "unwritten"}:
                break
    return found + found[-1:] * (len(cases) - len(found))


def _observed(exercise: Exercise, answer: Answer, case: Case) -> Observed:
    try:
        return exercise.observe(answer, case)
    except (TooSlow, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever it is: exit() in an answer must not end the kernel
        if isinstance(error, NotImplementedError) and not str(error):  # PyTorch's have words
            return {"unwritten": True}
        reason = first_sentence(error)
        alike = _OWN_NAMES.sub("", reason)
        return {"raised": Raised(type(error).__name__, alike, reason, _line(error, answer))}


@contextmanager
def _fence(seconds: float) -> Iterator[None]:
    """Raise TooSlow after so long, and undo what an answer may have set for all.

    It is computing time, for a busy machine is not the answer's fault; one that only waits gets
    six times as long. A signal keeps it, which only the main thread of a Unix system gets;
    elsewhere an answer has to end by itself.
    """
    computed, began = time.process_time(), time.monotonic()

    def stop(*_: object) -> None:
        waited = time.monotonic() - began
        if time.process_time() - computed >= seconds or waited >= 6 * seconds:
            raise TooSlow

    main = threading.current_thread() is threading.main_thread()
    kept = hasattr(signal, "setitimer") and main and seconds < math.inf
    dtype = torch.get_default_dtype()
    before = signal.signal(signal.SIGALRM, stop) if kept else None
    try:
        if kept:  # again and again, for an answer that catches everything in a loop
            signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        if kept:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        torch.set_default_dtype(dtype)


def _by_speed(exercise: Exercise, answer: Answer) -> Verdict:
    """Of an answer whose numbers are right: does it go through the tokens one by one?"""
    if exercise.large is None:
        return Verdict(RIGHT)
    # The reference first here too: counting imports what takes seconds, and an import that is
    # stopped halfway stays broken.
    _operations(exercise.reference, exercise.inputs()[0])
    try:
        with _fence(exercise.seconds):
            few, many = (_operations(answer, c) for c in (exercise.inputs()[0], exercise.large()))
    except TooSlow:
        return Verdict(SLOW, _too_slow(exercise))
    except Exception as error:  # right on the small input, and yet
        words = f"on a larger input it raised {type(error).__name__}: {first_sentence(error)}"
        return Verdict(WRONG, f"{words.rstrip('.')}.")
    if many <= 2 * few:
        return Verdict(RIGHT)
    return Verdict(
        SLOW,
        f"the numbers are right, but it needed {many} tensor operations for a larger input and "
        f"{few} for a small one: it loops over tokens or rows. Let one operation do them all.",
    )


class _Count(TorchDispatchMode):
    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


def _operations(answer: Answer, case: Case) -> int:
    with _Count() as count:
        answer(*case)
    return count.n


def _too_slow(exercise: Exercise) -> str:
    return (
        f"it was stopped after {exercise.seconds:g} seconds, though the check's inputs are tiny: "
        "does it train, or loop without an end?"
    )


def _raised(exercise: Exercise, error: Raised) -> str:
    reason = f": {error.reason}" if error.reason else ""
    return f"it raised {error.kind}{reason}{error.where}. The check calls {exercise.call}."


def _line(error: BaseException, answer: Answer) -> str:
    """The learner's own line that an error came from, if it can be told."""
    code = getattr(inspect.unwrap(answer), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if code is not None and f.filename == code.co_filename]
    if not own or own[-1].lineno is None:
        return ""
    text = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return f", at “{text}”" if text else ""
