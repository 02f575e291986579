"""Every exercise: the reference passes, every known mistake gets a hint of its own."""

import inspect
from importlib import import_module

import pytest

from e2e_lib.teach.judging.exercise import KNOWN, RIGHT, UNWRITTEN, WRONG, Exercise, Verdict, judge
from e2e_lib.teach.lesson import PLACES, exercise

EXERCISES = [exercise(name) for name in PLACES]
CORE = {"autoencode", "sparsity", "spliced", "kl_loss", "downstream", "find_lambda", "rule"}
MISTAKES = [(own, i) for own in EXERCISES for i in range(len(own.mistakes))]


def test_every_module_s_exercises_are_listed_and_no_other() -> None:
    for place in set(PLACES.values()):
        module = import_module(f"e2e_lib.teach.{place}")
        defined = {v.name: k for k, v in vars(module).items() if isinstance(v, Exercise)}
        assert defined == {name: name.upper() for name, at in PLACES.items() if at == place}
    assert set(PLACES) >= CORE | {"probe", "ce_at_l0", "topk", "exchange", "judge_claim"}


@pytest.mark.parametrize("own", EXERCISES, ids=lambda own: own.name)
def test_the_reference_passes_and_a_stub_is_not_yet_written(own: Exercise) -> None:
    assert judge(own, own.reference) == Verdict(RIGHT)
    assert own.reference.__name__ == own.name and own.call.startswith(f"{own.name}(")
    for stub in (lambda *_: None, lambda *_: ..., unwritten, None, ...):
        assert judge(own, stub) == Verdict(UNWRITTEN)


def test_an_answer_that_returns_nothing_is_told_so() -> None:
    """A loop that ends without a hit, or no return: something was written."""

    def searched(*_: object) -> None:
        for _ in range(3):
            pass

    for own in EXERCISES:
        found = judge(own, searched)
        assert found.word == WRONG and "is a return missing" in found.hint, own.name


def unwritten(*_: object) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("own, i", MISTAKES, ids=lambda x: x if isinstance(x, int) else x.name)
def test_a_known_mistake_gets_its_own_hint(own: Exercise, i: int) -> None:
    assert judge(own, own.mistakes[i].answer) == Verdict(KNOWN, own.mistakes[i].hint)


def test_hints_are_distinct_and_end_as_sentences() -> None:
    hints = [mistake.hint for own in EXERCISES for mistake in own.mistakes]
    assert len(set(hints)) == len(hints) > 60
    assert all(hint.endswith((".", ".)", "?")) for hint in hints)


@pytest.mark.parametrize("own", EXERCISES, ids=lambda own: own.name)
def test_nonsense_is_wrong_and_said_in_words(own: Exercise) -> None:
    for answer in (lambda: 1, lambda *_: object(), lambda *_: 1 / 0, lambda *_: "x", 3, "text"):
        found = judge(own, answer)
        if own.name != "rule" or not callable(answer):  # a rule may say anything that is no lie
            assert found.word == WRONG, (answer, found)
            assert found.hint
        assert "\n" not in found.hint and "Traceback" not in found.hint


def test_inputs_are_made_anew_and_small() -> None:
    for own in EXERCISES:
        first, second = own.inputs(), own.inputs()
        assert len(first) == len(second) >= 1
        parameters = inspect.signature(own.reference).parameters
        assert own.observe.__name__ != "called" or len(first[0]) == len(parameters)
