"""What comes afterwards: X1, where a training may start; X2, a claim's verdict."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from e2e_lib.analysis.claims.ledger import Claim
from e2e_lib.analysis.claims.tables import Measurement
from e2e_lib.analysis.claims.verdicts import HOLDS, REFUTED, UNDECIDED, verdict
from e2e_lib.core.sae import SAE
from e2e_lib.teach.autoencoder import D_IN, seeded, seeded_weights
from e2e_lib.teach.judging.exercise import Case, Exercise, Mistake
from e2e_lib.teach.judging.observed import Observed, changed, frozen, kind, written


def warm_start(sae: SAE) -> SAE:
    """A new SAE with the weights of `sae`, to be trained on its own."""
    return SAE.from_weights({name: value.clone() for name, value in sae.state_dict().items()})


def _first_of_two(answer: Callable[..., Any], case: Case) -> Observed:
    """What the copy computes, whether it trains, and whether the first one feels it."""
    (sae,) = case
    before = frozen(case)
    copy = written(answer(sae))
    if not isinstance(copy, SAE):
        return {"the result": kind(copy)}
    types = sorted({f"{value.dtype} on {value.device}" for value in copy.parameters()})
    seen: Observed = {"the result": "an SAE", "the type of its weights": ", ".join(types)}
    if types != ["torch.float32 on cpu"]:
        return seen
    seen |= {f"its {name}": value.detach().clone() for name, value in copy.named_parameters()}
    seen["its output"] = copy(seeded(4, D_IN)).output.detach()
    seen["whether it trains"] = all(value.requires_grad for value in copy.parameters())
    seen |= changed(case, before)
    with torch.no_grad():
        for value in copy.parameters():
            value.add_(1)
    felt = changed(case, before)["what it changed in place"]
    seen["what in the first SAE changes as the new one is trained"] = felt
    return seen


def _frozen(sae: Any) -> Any:
    return warm_start(sae).requires_grad_(False)


def _half(sae: Any) -> Any:
    new = SAE(sae.d_in, sae.d_sae)
    new.W_dec.data, new.b_dec.data = sae.W_dec.data.clone(), sae.b_dec.data.clone()
    return new


def _start() -> list[Case]:
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    weights = {name: value.detach() for name, value in zip(names, seeded_weights(), strict=True)}
    return [(SAE.from_weights(weights),)]


WARM_START = Exercise(
    "warm_start",
    warm_start,
    _start,
    (
        Mistake(
            "they share their weights: training the new one changes the old. Clone each tensor.",
            lambda sae: sae,
        ),
        Mistake(
            "that is the dictionary of tensors; make an SAE of it: SAE.from_weights(…).",
            lambda sae: sae.state_dict(),
        ),
        Mistake("the new SAE is frozen; its weights must ask for a gradient.", _frozen),
        Mistake("the encoder was left at chance: take all four tensors over.", _half),
        Mistake(
            "nothing was taken over: the new SAE is still at chance. (In a loop, `a = b.clone()` "
            "changes a name, not the SAE.)",
            lambda sae: SAE(sae.d_in, sae.d_sae),
        ),
        Mistake(
            "load_state_dict fills the SAE and returns a report of it: return the SAE itself.",
            lambda sae: SAE(sae.d_in, sae.d_sae).load_state_dict(sae.state_dict()),
        ),
        Mistake(
            "return the new SAE alone.",
            lambda sae: (sae, warm_start(sae)),
        ),
    ),
    observe=_first_of_two,
)


def judge_claim(low: float, high: float, above: float | None, below: float | None) -> str:
    """`holds`, `refuted` or `undecided`: where an interval lies to a claim's bounds.

    The claim says above < value < below; None: no bound on that side.
    """
    claim = Claim("", "", "", "", "", _unmeasured, above, below)
    # Three seeds and a finite value: of the ledger's rule only the interval is left to ask for.
    return verdict(claim, Measurement(0.0, low, high, 3, 3, ""))[0]


def _unmeasured(_: Any) -> Measurement:
    raise NotImplementedError


def _by_ends(
    inside: Callable[[bool, bool], bool],
    outside: Callable[[bool], bool],
    low: float,
    high: float,
    above: float | None,
    below: float | None,
) -> str:
    """A rule of which ends lie inside the bounds, and of whether all of it is apart from them."""
    floor = -math.inf if above is None else above
    ceiling = math.inf if below is None else below
    if inside(floor < low < ceiling, floor < high < ceiling):
        return HOLDS
    return REFUTED if outside(high < floor or low > ceiling) else UNDECIDED


def _by_value(low: float, high: float, above: float | None, below: float | None) -> str:
    middle = (low + high) / 2
    return _by_ends(lambda a, b: a, lambda _: True, middle, middle, above, below)


def _word(answer: Callable[..., Any], case: Case) -> Observed:
    low, high, above, below = case
    asked = f"[{low:g}, {high:g}] with above = {above} and below = {below}"
    return {f"the verdict on {asked}": written(answer(*case))}


def _without_room(low: float, high: float, *bounds: float | None) -> str:
    """No value lies above ∞, or below −∞."""
    alone = None in bounds and not math.isnan(low)
    return REFUTED if alone else judge_claim(low, high, *bounds)


JUDGE_CLAIM = Exercise(
    "judge_claim",
    judge_claim,
    lambda: [
        (0.2, 0.4, None, 0.45),  # inside, outside, across, for one bound
        (0.5, 0.9, None, 0.45),
        (0.2, 0.6, None, 0.45),
        (0.4, 0.9, None, 0.45),
        (2.5, 9.0, 2.0, None),
        (0.8, 1.2, 0.67, 1.5),  # and for two
        (0.5, 2.0, 0.67, 1.5),
        (0.1, 0.3, 0.67, 1.5),
        (0.2, 0.45, None, 0.45),  # an end just on a bound, from inside and from outside
        (0.45, 0.9, None, 0.45),
        (0.67, 1.0, 0.67, None),
        (0.1, 0.67, 0.67, 1.5),
        (1.6, 2.0, 0.67, 1.5),
        (math.nan, math.nan, 2.0, None),
        (math.nan, math.nan, None, 0.45),
        (-0.2, -0.1, 0.0, None),  # a bound of 0 is a bound, and beside None there is no other
        (-0.3, -0.1, None, 0.0),
    ],
    (
        Mistake(
            "you judged by the value in the middle. An interval that reaches across a bound "
            "decides nothing.",
            _by_value,
        ),
        Mistake(
            "not inside is not refuted: that needs the whole interval to be outside.",
            partial(_by_ends, lambda a, b: a and b, lambda _: True),
        ),
        Mistake(
            "one end inside the bounds is not enough: the whole interval has to be.",
            partial(_by_ends, lambda a, b: a or b, lambda apart: apart),
        ),
        Mistake(
            "an interval that ends just on a bound reaches it: undecided (< and not <=).",
            lambda low, high, above, below: (
                HOLDS
                if (above is None or low >= above) and (below is None or high <= below)
                else judge_claim(low, high, above, below)
            ),
        ),
        Mistake(
            "an interval that begins just on a bound reaches it: not refuted (> and not >=).",
            lambda low, high, above, below: (
                REFUTED if high == above or low == below else judge_claim(low, high, above, below)
            ),
        ),
        Mistake(
            "a bound of 0 is a bound, but `above or …` takes it for None: ask `is None`.",
            lambda low, high, above, below: judge_claim(low, high, above or None, below or None),
        ),
        Mistake(
            "the two bounds are exchanged: the claim says above < value < below.",
            lambda low, high, above, below: judge_claim(low, high, below, above),
        ),
        Mistake(
            "None is no bound on that side: −∞ for `above`, ∞ for `below`; yours have the other "
            "sign.",
            _without_room,
        ),
        Mistake(
            "outside is on either side: `or`. No interval is below one bound and above the other.",
            lambda *case: {REFUTED: UNDECIDED}.get(judge_claim(*case), judge_claim(*case)),
        ),
        Mistake(
            "where there is no interval (nan), nothing is decided. Every comparison with nan is "
            "False, so ask for what holds and for what refutes, and let the rest be undecided.",
            lambda low, *others: REFUTED if math.isnan(low) else judge_claim(low, *others),
        ),
        Mistake(
            "holds and refuted are exchanged.",
            lambda *case: {HOLDS: REFUTED, REFUTED: HOLDS}.get(judge_claim(*case), UNDECIDED),
        ),
    ),
    observe=_word,
)
