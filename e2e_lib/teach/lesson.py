"""What the workshop's notebooks call: `check` an answer, `predict` a number before it is seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from e2e_lib.errors import ConfigError, is_number, require_known
from e2e_lib.teach.judging.exercise import RIGHT, SLOW, UNWRITTEN, Exercise, judge

# Every exercise, and the module that defines it as an Exercise of this name in capitals.
PLACES = {
    "autoencode": "autoencoder",
    "sparsity": "autoencoder",
    "topk": "autoencoder",
    "warm_start": "afterwards",
    "spliced": "splice",
    "kl_loss": "losses",
    "downstream": "losses",
    "find_lambda": "pareto",
    "ce_at_l0": "pareto",
    "judge_claim": "afterwards",
    "rule": "features",
    "probe": "coin",
    "exchange": "coin",
}


def exercise(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        ConfigError: there is none.
    """
    require_known(name, PLACES, "exercise")
    found: Exercise = getattr(import_module(f"e2e_lib.teach.{PLACES[name]}"), name.upper())
    return found


def check(name: str, answer: Any, *context: Any) -> Callable[..., Any]:
    """Say whether an answer is right, and what to go on with: it, or the reference if it is not.

    It prints one line and raises nothing, whatever the answer is.

    context: what the exercise is asked about, where that is the learner's own (a feature).

    >>> from torch.nn import functional as F
    >>> go_on = check("sparsity", lambda codes, d_in: codes.sum(-1).mean())
    ✗ sparsity: you did not divide by the width d_in.
      (The notebook goes on with the library's own.)
    >>> go_on = check("sparsity", lambda codes, d_in: codes.sum(-1).mean() / d_in)
    ✓ sparsity
    """
    try:
        asked = exercise(name)
    except ConfigError as error:
        print(f"✗ {error}")
        return answer if callable(answer) else lambda *_: answer
    cases = [context] if context else None
    found = judge(asked, answer, cases)
    if found.word == RIGHT:
        print(f"✓ {name}")
    elif found.word == UNWRITTEN:
        words = "is not yet written: it returns nothing"
        print(f"… {name} {words}. The notebook goes on with the library's own.")
    else:
        print(f"✗ {name}: {found.hint}\n  (The notebook goes on with the library's own.)")
    if asked.report is not None and found.word not in (UNWRITTEN, SLOW):
        print(asked.report(answer, context or asked.inputs()[0]))
    return answer if found.word == RIGHT else asked.reference


@dataclass(frozen=True)
class Guess:
    """A guess, waiting for the truth; `value` is None where there is none."""

    question: str
    value: float | str | None
    unit: str = ""

    def beside(self, truth: float | str) -> None:
        """Print the truth, and draw it beside a guess that is a number."""
        guess = self.value
        if isinstance(truth, str) or isinstance(guess, str | None) or not math.isfinite(truth):
            mine = "no guess" if guess is None else f"you said {_shown(guess)}"
            print(f"{self.question}: {mine}, it is {_shown(truth)} {self.unit}".rstrip() + ".")
            return
        print(f"{self.question}: you said {_shown(guess)}, it is {_shown(truth)} {self.unit}.")
        _draw(self.question, guess, float(truth), self.unit)


def predict(question: str, guess: Any = None, unit: str = "") -> Guess:
    """Note a guess, a number or a word, before the answer is computed.

    What is neither counts as no guess: the notebook runs on.

    >>> predict("CE increase of an untrained SAE", 2.0, "nats").beside("large")
    guess noted: 2
    CE increase of an untrained SAE: you said 2, it is large nats.
    """
    if isinstance(guess, str) and guess.strip():
        print(f"guess noted: {guess}")
        return Guess(question, guess, unit)
    if is_number(guess):
        print(f"guess noted: {_shown(guess)}")
        return Guess(question, float(guess), unit)
    print("no guess yet: put a number or a word in place of None, and run this cell again")
    return Guess(question, None, unit)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _draw(question: str, guess: float, truth: float, unit: str) -> None:
    """Two points on a line: the guess hollow, the truth full."""
    from matplotlib import pyplot as plt

    from e2e_lib.plots.style import INK, use_house_style

    use_house_style()
    figure, axes = plt.subplots(figsize=(6, 1.3))
    axes.plot([guess, truth], [0, 0], color=INK, lw=1, zorder=1)
    for value, marker, face, name in ((guess, "o", "white", "your guess"), (truth, "D", INK, "")):
        axes.scatter([value], [0], marker=marker, s=70, color=face, edgecolors=INK, zorder=2)
        words = f"{name or 'measured'} {value:.3g}"
        above = (0, 12 if name else -20)  # points
        axes.annotate(words, (value, 0), above, textcoords="offset points", ha="center")
    axes.set(yticks=[], ylim=(-1, 1), xlabel=unit, title=question)
    axes.margins(x=0.25)
    plt.show()
    plt.close(figure)
