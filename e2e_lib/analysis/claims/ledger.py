"""What the paper claims: the entries of claims.yaml, each with the function that measures it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from e2e_lib.analysis.claims import measures


@dataclass(frozen=True)
class Claim:
    """The claim holds where above < value < below (None: no bound on that side)."""

    id: str
    claim: str
    paper_value: str
    short: str  # for the forest plot
    how: str  # what is averaged over what, and what was resampled for the interval
    measure: Callable[[measures.Tables], measures.Measurement]
    above: float | None = None
    below: float | None = None


def _claim(measure: str, of: dict[str, Any] | None = None, **texts: Any) -> Claim:
    return Claim(measure=partial(getattr(measures, measure), **(of or {})), **texts)


_ENTRIES = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
CLAIMS: tuple[Claim, ...] = tuple(_claim(**entry) for entry in _ENTRIES)
