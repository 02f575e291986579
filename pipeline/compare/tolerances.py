"""How close a number must be to the reference's, for every kind of file: the only place for it.

On the processor that made the reference everything comes out equal to the last written digit. Other
instruction sets add float32 numbers up in another order. Measured with AVX2 in place of AVX-512, on
the whole reference: tables made of recorded numbers, the UMAP layouts and all claims were equal;
cosines of weights were off by 1e-6 at most; what takes passes of the model by 3e-4 of its value or
1e-4, whichever is more. Seconds were measured when a run was trained and are part of its record;
nothing is timed again, so that they too are compared.
"""

from fnmatch import fnmatch
from math import isfinite, isnan
from typing import NamedTuple


class Tolerance(NamedTuple):
    """How far a number may be from the reference's: `absolute` + `relative` · |reference|."""

    relative: float
    absolute: float
    why: str

    def allows(self, reference: float, found: float) -> bool:
        """Whether `found` is close enough; NaN is close to NaN, ∞ to itself."""
        if not isfinite(reference):
            return reference == found or (isnan(reference) and isnan(found))
        return abs(reference - found) <= self.absolute + self.relative * abs(reference)


RECORDED = Tolerance(
    2e-5, 1e-9, "float64 arithmetic on recorded numbers; files keep six digits, the last may round"
)
WEIGHTS = Tolerance(1e-4, 1e-5, "float32 cosines of saved weights, and what is made of them")
PASSES = Tolerance(1e-3, 1e-4, "float32 passes of the model; a value at a threshold may flip")
PRINTED = Tolerance(1e-3, 1.1e-2, "numbers of such passes, printed with two decimals")

# The first pattern that fits a file decides; RECORDED where none does.
TOLERANCES = (
    ("*/23_*", WEIGHTS),
    ("*/24_*", WEIGHTS),
    ("*/2[5689]_*", PASSES),
    ("*/4?_*", PASSES),
    ("*/30_moved_features.*", WEIGHTS),
    ("*/30_seed_agreement.*", WEIGHTS),
    ("*/30_agreement_gain.*", WEIGHTS),
    ("*/90_*", WEIGHTS),
    ("claims.json", WEIGHTS),
    ("*.html", PRINTED),
)


def tolerance(file: str) -> Tolerance:
    """The tolerance of the numbers in a file, named relative to its results folder."""
    return next((allowed for pattern, allowed in TOLERANCES if fnmatch(file, pattern)), RECORDED)
