"""Automated interpretability: explain a feature in words, simulate it from them, correlate.

Source: the paper's section 3.4, Figure 9 and Table 4; the idea is Bills et al. 2023. An explainer
sees a few of a feature's strongest examples and says when it fires; knowing only these words, it
then says how active the feature is on each token of other examples. The score is the correlation
with the true activations. Who explains is behind the small interface `Explainer`: a chat endpoint,
a local language model (`explainers`, `endpoint`), or StoryWorld's truth (`ground_truth`).

Like the paper's, the scored examples are the strongest ones: nothing asks whether the feature also
fires where the explanation says it should not.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.analysis.interpret.features import (
    Example,
    choose_latents,
    firing_rows,
    latent_activations,
    top_examples,
)
from e2e_lib.core.sae import SAE
from e2e_lib.errors import E2EError

N_SHOWN, N_SCORED = 5, 20  # examples that are explained, and that are simulated, as the paper
PATIENCE = 3  # features in a row for which the explainer cannot be reached


class AnswerError(E2EError):
    """One feature could not be explained or simulated; the others may be."""


class UnreachableError(AnswerError):
    """No answer at all; if it stays so, going on is of no use."""


class ExplainerError(E2EError):
    """The explainer cannot be used at all: nothing is set, or it refuses."""


class Feature(NamedTuple):
    """A latent with examples of where it fires."""

    key: str  # names it in tables and files, e.g. RUN/LATENT
    shown: Sequence[Example]  # the explanation is made from these
    scored: Sequence[Example]  # and tested on these


class Sample(NamedTuple):
    """Some latents of one SAE, what they do on the text, and their examples."""

    latents: list[int]
    codes: Float[Tensor, "rows pos latents"]
    features: list[Feature]  # one a latent


@runtime_checkable  # the tests check types at run time
class Explainer(Protocol):
    """Whoever explains. Both methods raise AnswerError or ExplainerError."""

    @property
    def name(self) -> str:
        """Which kind and which model, for tables; not an address."""

    def explain(self, feature: Feature) -> str:
        """One sentence on when the feature fires, from its examples `shown`."""

    def simulate(self, feature: Feature, explanation: str, example: Example) -> list[float]:
        """How active the feature is on each of the example's tokens, on any one scale."""


def sample_features(
    name: str, sae: SAE, activations: Float[Tensor, "rows pos d_in"],
    tokens: Int[Tensor, "rows pos"], spell: Callable[[int], str],
    *, n: int, seed: int = 0, window: int = 16, shown_are_scored: bool = False,
    least: tuple[int, int] = (N_SHOWN, N_SCORED),
) -> Sample:  # fmt: skip
    """Up to `n` random latents of an SAE with enough examples: at least 20 rows to score on.

    The examples that explain come from the first half of the rows, those that score from the
    second; a row gives a latent one example. shown_are_scored: as in the paper, the explained ones
    are the first of the scored ones.

    Args:
        name: of the SAE, the first part of its features' keys.
        activations: the model's, at the SAE's hook.
        spell: the string of a token id.
        window: tokens on either side of the most active one.
        least: rows of the two halves in which a latent must fire; (0, 1) takes all that fire.
    """
    half = halfway(tokens)
    early, late = (firing_rows(sae, part) for part in (activations[:half], activations[half:]))
    latents = choose_latents((early >= least[0]) & (late >= least[1]), n, seed)
    codes = latent_activations(sae, activations, latents).cpu()
    features = []
    for i, latent in enumerate(latents):
        own = codes[..., i]
        scored = top_examples(own[half:], tokens[half:], spell, N_SCORED, window, first_row=half)
        shown = scored[:N_SHOWN]
        if not shown_are_scored:
            shown = top_examples(own[:half], tokens[:half], spell, N_SHOWN, window)
        features.append(Feature(f"{name}/{latent}", shown, scored))
    return Sample(latents, codes, features)


def halfway(rows: Sized) -> int:
    """The first row of the second half: before it is explained, from it on is scored."""
    return len(rows) // 2


def correlation(simulated: Sequence[Sequence[float]], examples: Sequence[Example]) -> float:
    """Pearson correlation of simulated and true activations over all tokens of all examples.

    0 where either is constant: a simulation that says the same of every token explains nothing.
    """
    said = np.concatenate([np.asarray(values, dtype=float) for values in simulated])
    true = np.concatenate([np.asarray(example.activations) for example in examples])
    said, true = said - said.mean(), true - true.mean()
    norm = float(np.sqrt((said @ said) * (true @ true)))
    # What rounding leaves of a constant is no signal.
    return float(said @ true) / norm if norm > 1e-12 * len(said) else 0.0


def interpret(
    features: Iterable[Feature], explainer: Explainer, save: Path | None = None
) -> pd.DataFrame:
    """Explain and score every feature: one row each, in order.

    save: a file to which each feature is added as soon as it is finished, as a line of JSON.
        Features that are finished there (by the same explainer, on the same examples) are not asked
        for again; those that failed are.

    Columns: key, explainer, explanation, score; error (why there is no score, "" where there is).

    Raises:
        ExplainerError: the explainer refuses, or could not be reached for `PATIENCE` features in a
            row. What is finished is saved.
    """
    done = {line["id"]: line for line in read_lines(save) if not line["error"]} if save else {}
    rows, unreached = [], 0
    for feature in features:
        # Changes with the explainer and with anything it is shown or scored on.
        asked = json.dumps([explainer.name, *feature]).encode()
        identity = blake2b(asked, digest_size=12).hexdigest()
        line = done.get(identity)
        if line is None:
            line, reached = _interpreted(feature, explainer)
            if save:
                append_line(save, {"id": identity} | line)
            unreached = 0 if reached else unreached + 1
            if unreached == PATIENCE:
                reason = line["error"].rstrip(".")
                raise ExplainerError(
                    f"Explainer {explainer.name!r} could not be reached for {PATIENCE} features "
                    f"in a row ({reason}): run again to go on from there."
                )
        rows.append(line)
    table = pd.DataFrame(rows, columns=["key", "explainer", "explanation", "score", "error"])
    return table.assign(score=table["score"].astype(float))


def _interpreted(feature: Feature, explainer: Explainer) -> tuple[dict[str, Any], bool]:
    """The line of one feature, and whether the explainer answered at all."""
    line: dict[str, Any] = {"key": feature.key, "explainer": explainer.name, "explanation": ""}
    line |= {"score": None, "error": "", "simulated": []}
    try:
        line["explanation"] = explainer.explain(feature)
        for example in feature.scored:
            values = explainer.simulate(feature, line["explanation"], example)
            line["simulated"].append(values)
        line["score"] = correlation(line["simulated"], feature.scored)
    except AnswerError as error:
        line["error"] = str(error)
        return line, not isinstance(error, UnreachableError)
    return line, True


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines; a line cut short by a crash is passed over."""
    lines = []
    for text in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"id", "error"} <= set(line):
            lines.append(line)
    return lines


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON in one write, after a line break if a crash left none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as file:
        start = b""
        if file.tell():
            file.seek(-1, os.SEEK_END)
            start = b"" if file.read(1) == b"\n" else b"\n"
        file.write(start + json.dumps(line).encode() + b"\n")
        os.fsync(file.fileno())
