"""Measures of many SAEs: scaled from floor to oracle, over seeds, one objective against another.

A value is scaled by where it lies between the best floor (0) and the oracle (1). Intervals are 95 %
over the pairs, the same ones for every SAE, and over the seeds where several are averaged
(`statistics.over_seeds`). Pandas and numpy only.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from e2e_lib.analysis import statistics
from e2e_lib.analysis.counterfactual.tables import Samples
from e2e_lib.analysis.statistics import LEVEL, RESAMPLES, Array, Interval, percentiles
from e2e_lib.names import OBJECTIVES

HIGHER = ("carried_function", "selectivity", "pathway")  # better; of all others the lower
COMPARED = (
    *(*HIGHER, "spurious_response", "necessity", "side_effect"),
    *("waste_l0", "waste_alive", "dedicated_l0"),
)


def scaled(measure: str, value: float, floor: float, oracle: float) -> float:
    """Where a value lies between the best floor (0) and the oracle (1).

    Of selectivity, which has no upper end, 1 − 1 / selectivity is scaled. NaN unless the oracle is
    better than the floor, and of what is no merit.
    """
    if measure == "selectivity":
        value, floor, oracle = (1 - 1 / x if x else np.nan for x in (value, floor, oracle))
    if measure in ("retention", "necessity_random"):  # neither more nor less of it is better
        return np.nan
    sign = 1 if measure in HIGHER else -1
    return (value - floor) / (oracle - floor) if sign * (oracle - floor) > 0 else np.nan


def measure_table(found: Samples, floors: Mapping[str, Samples], oracle: Samples) -> pd.DataFrame:
    """One row a measure and kind: value, low, high, floor (the best of them), oracle, scaled."""
    rows = []
    for (measure, kind), own in found.items():
        value, *ends = _with_percentiles(own)
        known = [
            float(floor[measure, kind][0]) for floor in floors.values() if (measure, kind) in floor
        ]
        known = [x for x in known if not np.isnan(x)]
        floor = (max if measure in HIGHER else min)(known) if known else np.nan
        top = float(oracle[measure, kind][0]) if (measure, kind) in oracle else np.nan
        rows.append((measure, kind, value, *ends, floor, top, scaled(measure, value, floor, top)))
    columns = ["measure", "kind", "value", "low", "high", "floor", "oracle", "scaled"]
    return pd.DataFrame(rows, columns=columns)


def differences(
    runs: pd.DataFrame,
    found: Mapping[str, Samples],
    measures: Sequence[str] = COMPARED,
) -> pd.DataFrame:
    """First objective's measure minus the second's, per match, layer and pair of objectives.

    runs: columns match, layer, objective, seed and run; those not in `found` are left out. Mean
    over the seeds that have both. Columns: match, layer,
    first, second, measure, value, low, high, n_seeds.
    """
    rows = []
    measured = runs[runs["run"].isin(list(found))]
    for (match, layer), own in measured.groupby(["match", "layer"], sort=False):
        by_seed = own.pivot_table("run", "seed", "objective", aggfunc="first")
        for first, second in combinations([o for o in OBJECTIVES if o in by_seed], 2):
            both = by_seed[[first, second]].dropna()
            for measure in measures if len(both) else ():
                one, two = (
                    np.stack([_drawn(found[run], measure) for run in both[name]], axis=1)
                    for name in (first, second)
                )
                with np.errstate(invalid="ignore"):  # a selectivity of ∞ less another is NaN
                    interval = _interval(one - two)
                rows.append((match, layer, first, second, measure, *interval, len(both)))
    columns = ["match", "layer", "first", "second", "measure", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def over_seeds(
    runs: pd.DataFrame, examined: pd.DataFrame, found: Mapping[str, Samples]
) -> pd.DataFrame:
    """One row a match, layer, objective and measure: mean over the seeds, its interval and scale.

    runs: as in `differences`; examined: rows of `measure_table` with a column run. Columns: match,
    layer, objective, measure, value, low, high, floor, oracle (both means over seeds), scaled,
    n_seeds.
    """
    rows = []
    whole = examined[examined["kind"] == "all"].set_index(["run", "measure"])
    measured = runs[runs["run"].isin(list(found))]
    for labels, own in measured.groupby(["match", "layer", "objective"], sort=False):
        for measure in dict.fromkeys(whole.loc[own["run"].iloc[0]].index):
            values = np.stack([_drawn(found[run], measure) for run in own["run"]], axis=1)
            interval = _interval(values)
            ends = whole.loc[[(run, measure) for run in own["run"]], ["floor", "oracle"]].mean()
            place = scaled(measure, interval.value, *ends)
            rows.append((*labels, measure, *interval, *ends, place, len(own)))
    columns = ["match", "layer", "objective", "measure", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "floor", "oracle", "scaled", "n_seeds"])


def beside_floor(summary: pd.DataFrame) -> list[str]:
    """Of each row of `over_seeds`: on which side of its best floor the whole interval lies.

    The floor is taken as a number. "better", "worse", "not told apart" where it lies within, "not
    known" without an interval or a floor.

    >>> columns = ["measure", "low", "high", "floor"]
    >>> rows = [("selectivity", 1.2, 2, 1.1), ("waste_l0", 0.4, 0.5, 0.2), ("pathway", 0, 1, 0.5)]
    >>> beside_floor(pd.DataFrame(rows, columns=columns))
    ['better', 'worse', 'not told apart']
    """
    sign = np.where(summary["measure"].isin(HIGHER), 1, -1)
    ends = [sign * (summary[end] - summary["floor"]).astype(float) for end in ("low", "high")]
    low, high = np.minimum(*ends), np.maximum(*ends)
    sides = [~(np.isfinite(low) & np.isfinite(high)), low > 0, high < 0]
    return np.select(sides, ["not known", "better", "worse"], "not told apart").tolist()


def _drawn(found: Samples, measure: str) -> Array:
    """(1 + resamples,) of the mean over kinds; what pairs do not decide stays as it is."""
    own = found.get((measure, "all"), np.array([np.nan]))
    return np.broadcast_to(own, (1 + RESAMPLES,)) if len(own) == 1 else own


def _with_percentiles(samples: Array) -> Interval:
    """The value and its percentiles; NaN where nothing was resampled, or too little is finite."""
    drawn = samples[1:]
    known = drawn[np.isfinite(drawn)]
    return Interval(
        float(samples[0]), *(percentiles(known) if _mostly_finite(drawn) else (np.nan, np.nan))
    )


def _mostly_finite(samples: Array) -> bool:
    """Whether so few resamples (the first axis) are without a value that its ends stand.

    A selectivity without bound in many of them has no upper end, and what is left no right one.
    """
    if not len(samples):
        return False
    lost = ~np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    return float(lost.mean()) <= (1 - LEVEL) / 2


def _interval(values: Array) -> Interval:
    """(1 + resamples, seeds): the mean over seeds, and its interval over them and their pairs."""
    if values.shape[1] == 1 and np.ptp(values) == 0:  # neither seeds nor pairs to draw from
        return Interval(float(values[0, 0]), np.nan, np.nan)
    known = np.where(np.isfinite(values), values, np.nan)
    found = statistics.over_seeds(known)
    return found if _mostly_finite(known[1:]) else found._replace(low=np.nan, high=np.nan)
