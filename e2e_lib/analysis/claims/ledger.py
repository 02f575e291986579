"""What the paper claims: the entries of claims.yaml, each with the function that measures it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from e2e_lib.analysis.claims import measures
from e2e_lib.analysis.claims.tables import Measurement, Tables


@dataclass(frozen=True)
class Claim:
    """The claim says above < value < below (None: no bound on that side)."""

    id: str
    claim: str
    paper_value: str
    short: str  # for the forest plot and the README
    how: str  # what is averaged over what
    measure: Callable[[Tables], Measurement]
    above: float | None = None
    below: float | None = None

    @property
    def bounds(self) -> str:
        """The bounds in words, e.g. "> 2" or "0.67 to 1.5"."""
        if self.above is None or self.below is None:
            return f"> {self.above:g}" if self.below is None else f"< {self.below:g}"
        return f"{self.above:g} to {self.below:g}"

    def side(self, low: float, high: float) -> str | None:
        """Where a range lies: "inside" the bounds, "outside", or "across" one; None if there is
        none. A range that ends on a bound is across."""
        above = -math.inf if self.above is None else self.above
        below = math.inf if self.below is None else self.below
        if not (math.isfinite(low) and math.isfinite(high)):
            return None
        if above < low and high < below:
            return "inside"
        return "outside" if high < above or low > below else "across"


def same_measure(one: Claim, other: Claim) -> bool:
    """Whether two claims take the same number, whatever they say of it."""
    keys = [(m.func, m.keywords) for m in (one.measure, other.measure) if isinstance(m, partial)]
    return len(keys) == 2 and keys[0] == keys[1]


def _claim(measure: str, of: dict[str, Any] | None = None, **texts: Any) -> Claim:
    return Claim(measure=partial(getattr(measures, measure), **(of or {})), **texts)


_ENTRIES = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
CLAIMS: tuple[Claim, ...] = tuple(_claim(**entry) for entry in _ENTRIES)
