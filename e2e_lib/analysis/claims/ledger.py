"""What the paper claims, as data; `measures` holds how each claim is measured.

What is averaged over what, and what was resampled for the interval, stands in each claim's `how`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from e2e_lib.analysis.claims.measures import (
    Measurement,
    Tables,
    alive_ratio,
    clear_winners,
    cost_ratio,
    curve_ratio,
    downstream_pathway,
    first_direction,
    score_difference,
    shrinkage_gap,
    similarity_difference,
    still_behind,
)


@dataclass(frozen=True)
class Claim:
    """The claim holds where above < value < below (None: no bound on that side)."""

    id: str
    claim: str
    paper_value: str
    short: str  # for the forest plot
    above: float | None
    below: float | None
    how: str
    measure: Callable[[Tables], Measurement]


_RATIO = (
    "Middle layer: both curves interpolated linearly at 20 evenly spaced {x}, ratio averaged over "
    "them and over seeds."
)
_COSINE = (
    "Middle layer, similar CE: difference of the mean over alive elements of the largest cosine "
)
_SCORE = (
    "Middle layer, similar {match}: difference of mean interpretability scores (correlation of "
    "simulated and true activations). No less means not worse by 0.05, a margin of ours."
)
_WINNER = (
    "Middle layer, similar {match}: pairs of objectives of which one's m(SAE) / m(clean) is closer "
    "to 1 on all four agreement tasks, with intervals that exclude 0. That reading of no clear "
    "winner, and the bound of 1, are ours."
)
_COST = (
    "Training seconds a token over local's, main runs, mean over layers, λ and seeds. SAEs trained "
    "side by side share the clean passes; each is charged an equal part of them."
)

_BEHIND = (
    "Middle layer: local with the {what} of the sweep over e2e's main runs at the same seeds and "
    "as many λ, both curves interpolated linearly at 20 evenly spaced values of L0, ratio averaged."
)


def _curve_claims() -> list[Claim]:
    claims = []
    for objective, letter, name in (("e2e", "a", "e2e"), ("e2e_ds", "b", "e2e+ds")):
        claims += [
            Claim(
                f"C1{letter}", f"at equal CE increase, local needs more than twice {name}'s L0",
                "> 2", f"L0 local / {name}", 2.0, None, _RATIO.format(x="values of CE increase"),
                partial(curve_ratio, objective="local", reference=objective,
                        x="ce_increase", y="l0"),
            ),
            Claim(
                f"C2{letter}", f"at equal L0, {name} has under 45 % of local's CE increase",
                "< 0.45", f"CE {name} / local", None, 0.45, _RATIO.format(x="values of L0"),
                partial(curve_ratio, objective=objective, reference="local"),
            ),
        ]  # fmt: skip
    return sorted(claims, key=lambda claim: claim.id)


CLAIMS: tuple[Claim, ...] = (
    *_curve_claims(),
    Claim(
        "C3a", "e2e+ds does about as well as e2e: at equal L0 its CE increase is under 1.5 times "
        "e2e's", "about 1", "CE e2e+ds / e2e", None, 1.5,
        _RATIO.format(x="values of L0") + " The bound of 1.5 is ours.",
        partial(curve_ratio, objective="e2e_ds", reference="e2e"),
    ),
    Claim(
        "C3b", "e2e+ds takes a pathway closer to local's than to e2e's", "about 0.1 (read off)",
        "pathway of e2e+ds", None, 0.5,
        "Middle layer, similar CE: MSE to the clean residual stream after the last block; where "
        "log MSE of e2e+ds lies between local's (0) and e2e's (1), mean over seeds. The bound of "
        "0.5 is ours.", downstream_pathway,
    ),
    Claim(
        "C4a", "at similar CE, e2e has fewer alive elements than local at every layer", "0.85",
        "alive e2e / local", None, 1.0, "Ratio at the layer where it is largest, mean over seeds.",
        partial(alive_ratio, objective="e2e", others=["local"], depths=["early", "middle", "late"]),
    ),
    Claim(
        "C4b", "at similar CE, e2e+ds has fewer alive elements than local at every layer", "0.76",
        "alive e2e+ds / local", None, 1.0,
        "Ratio at the layer where it is largest, mean over seeds.",
        partial(alive_ratio, objective="e2e_ds", others=["local"],
                depths=["early", "middle", "late"]),
    ),
    Claim(
        "C4c", "at similar CE, e2e+ds has the fewest alive elements at early and middle layers",
        "0.82", "alive e2e+ds / fewest", None, 1.0,
        "Alive elements over the smaller of local's and e2e's, at the early or middle layer where "
        "that is largest, mean over seeds.",
        partial(alive_ratio, objective="e2e_ds", others=["local", "e2e"],
                depths=["early", "middle"]),
    ),
    Claim(
        "C5a", "local's features are more alike each other than e2e+ds's", "0.04",
        "within: local − e2e+ds", 0.0, None, _COSINE + "with another element of the dictionary.",
        partial(similarity_difference, name="23_within_similarity", first="local", second="e2e_ds"),
    ),
    Claim(
        "C5b", "e2e+ds's features are more alike each other than e2e's", "0.126",
        "within: e2e+ds − e2e", 0.0, None, _COSINE + "with another element of the dictionary.",
        partial(similarity_difference, name="23_within_similarity", first="e2e_ds", second="e2e"),
    ),
    Claim(
        "C6a", "another seed finds local's features again better than e2e's", "> 0 (figure)",
        "across seeds: local − e2e", 0.0, None,
        _COSINE + "with an element of another seed's dictionary.",
        partial(similarity_difference, name="23_cross_seed_similarity",
                first="local", second="e2e"),
    ),
    Claim(
        "C6b", "another seed finds e2e+ds's features again better than e2e's", "> 0 (figure)",
        "across seeds: e2e+ds − e2e", 0.0, None,
        _COSINE + "with an element of another seed's dictionary.",
        partial(similarity_difference, name="23_cross_seed_similarity",
                first="e2e_ds", second="e2e"),
    ),
    Claim(
        "C7a", "at similar CE, e2e+ds's features are no less interpretable than local's", "0.10",
        "score: e2e+ds − local, same CE", -0.05, None, _SCORE.format(match="CE"),
        partial(score_difference, match="ce_increase"),
    ),
    Claim(
        "C7b", "at similar L0, e2e+ds's features are no less interpretable than local's", "−0.01",
        "score: e2e+ds − local, same L0", -0.05, None, _SCORE.format(match="L0"),
        partial(score_difference, match="l0"),
    ),
    Claim(
        "C8a", "e2e costs 2 to 3.5 times local in training time", "1.9 to 3.3",
        "seconds e2e / local", 2.0, 3.5, _COST, partial(cost_ratio, objective="e2e"),
    ),
    Claim(
        "C8b", "e2e+ds costs 2 to 3.5 times local in training time", "1.9 to 3.3",
        "seconds e2e+ds / local", 2.0, 3.5, _COST, partial(cost_ratio, objective="e2e_ds"),
    ),
    Claim(
        "C9a", "local stays behind e2e when it trains on more tokens", "> 1 (figure)",
        "CE local, most tokens / e2e", 1.0, None, _BEHIND.format(what="most training tokens"),
        partial(still_behind, column="train_tokens"),
    ),
    Claim(
        "C9b", "local stays behind e2e when its dictionary is larger", "> 1 (figure)",
        "CE local, largest dictionary / e2e", 1.0, None,
        _BEHIND.format(what="largest dictionary ratio"),
        partial(still_behind, column="dict_ratio"),
    ),
    Claim(
        "C10", "shrinkage is strongest for e2e", "0.25", "shrinkage of e2e", 0.0, None,
        "Middle layer, similar CE: ‖SAE output‖ / ‖input‖ after the first position, mean over "
        "tokens; the smaller of local's and e2e+ds's minus e2e's, mean over seeds.", shrinkage_gap,
    ),
    Claim(
        "C11a", "of the leading PCA directions at the last layer, e2e+ds keeps direction 0 least, "
        "and less than local does", "−0.39 (0.262 − about 0.65)", "correlation, direction 0", None,
        0.0, "Last layer, similar CE, tokens after position 0: correlation of SAE input and output "
        "along direction 0 for e2e+ds, minus the smallest of local's along it and of its own along "
        "other leading directions; bootstrap over rows of text and seeds.",
        partial(first_direction, quantity="correlation"),
    ),
    Claim(
        "C11b", "resampling PCA direction 0 at the last layer harms the output less than any other "
        "leading direction", "about 0.1 (read off)", "harm of direction 0 / least other", None,
        1.0, "Last layer, clean model: mean KL(clean ‖ ablated) after exchanging, among tokens "
        "after position 0, their components along direction 0, over the smallest of the other "
        "leading directions; bootstrap over rows of text.",
        partial(first_direction, quantity="ablation"),
    ),
    Claim(
        "C12a", "at similar CE, no objective is more faithful than another on all agreement tasks",
        "no clear winner", "clear winners, same CE", None, 1.0, _WINNER.format(match="CE"),
        partial(clear_winners, match="ce_increase"),
    ),
    Claim(
        "C12b", "at similar L0, no objective is more faithful than another on all agreement tasks",
        "no clear winner", "clear winners, same L0", None, 1.0, _WINNER.format(match="L0"),
        partial(clear_winners, match="l0"),
    ),
)  # fmt: skip
