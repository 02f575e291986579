"""Sweeps of a profile: one parameter varied beside the main grid, at few λ, layers and seeds.

    sweeps:
      lr: {values: [0.003, 0.03]}
      warm_start: {values: [50000], sparsity_coeffs: {e2e: [0.4, 1.9]}, seeds: 2}

Only `values` must be given. A value that is the main grid's own trains nothing again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e_lib.errors import ConfigError, Rule, is_integer, is_number, list_of, require, rules
from e2e_lib.names import OBJECTIVES
from e2e_lib.runs.experiment import Training
from pipeline.plan.model_size import coeffs, evenly

WARM_START, NULL_SCALE = "warm_start", "null_scale"
# What may be varied, and by which rule; a warm start by the tokens that it trains on, and how much
# of the activation the network does not use by the scale of a null channel (`engine.model`).
VARIED = ("lr", "dict_ratio", "train_tokens", "downstream_coeff")
VALUES = {key: rules(Training)[key] for key in VARIED}
VALUES[WARM_START] = COUNT = VALUES["train_tokens"]
VALUES[NULL_SCALE] = VALUES["lr"]
KEYS = ("values", "layers", "sparsity_coeffs", "seeds")
# Those that a sweep changes; all, if none is named here.
CHANGED = {WARM_START: ("e2e", "e2e_ds"), "downstream_coeff": ("e2e_ds",)}
USUAL_COEFFS = 3  # λ of a sweep: the ends and the middle of the main grid


@dataclass(frozen=True)
class Sweep:
    """What one sweep trains; everything it does not name is as in the main grid."""

    values: tuple[float, ...]  # of the parameter; warm_start: tokens of training after the start
    layers: tuple[int, ...]  # in the file: some of the profile's; else its middle layer
    seeds: tuple[int, ...]  # in the file: how many of the profile's; else the first alone
    # λ by objective and layer. In the file: a list of them (or a mapping from layers to lists), or
    # how many of the main grid's, evenly spread; for each objective, or once for all of them.
    sparsity_coeffs: dict[str, dict[int, tuple[float, ...]]]
    # warm_start only
    start: dict[int, float] | None = None  # λ of the local SAE to start from; else the middle one
    lr: float | None = None  # after the start; else the profile's


def make_sweeps(value: Any, main: Mapping[str, Any]) -> dict[str, Sweep]:
    """Sweeps by name; `main` holds the profile's other keys. Raises ConfigError, one sentence."""
    allowed = f"a mapping from some of {', '.join(VALUES)} to what each varies"
    require(isinstance(value, dict), "sweeps", value, allowed)
    for name in value:
        require(name in VALUES, "sweeps key", name, f"one of {', '.join(VALUES)}")
    return {name: _sweep(name, given, main) for name, given in value.items()}


def _sweep(name: str, given: Any, main: Mapping[str, Any]) -> Sweep:
    warm = name == WARM_START
    place, keys = f"sweeps.{name}", [*KEYS, *(("start", "lr") if warm else ())]
    require(isinstance(given, dict), place, given, f"a mapping with some of {', '.join(keys)}")
    for key in given:
        if key not in keys:
            raise ConfigError(f"{place}.{key} is no key of a sweep; allowed are {', '.join(keys)}.")
    layers = given.get("layers", [main["middle_layer"]])
    allowed = f"a list of some of the profile's layers {list(main['layers'])}"
    known = list_of(is_integer)(layers) and set(layers) <= set(main["layers"])
    require(known, f"{place}.layers", layers, allowed)
    count = given.get("seeds", 1)
    allowed = "a whole number of at least 1: how many of the profile's seeds"
    require(COUNT.good(count), f"{place}.seeds", count, allowed)
    return Sweep(
        _values(f"{place}.values", given.get("values"), VALUES[name]),
        tuple(layers),
        tuple(main["seeds"][:count]),
        _coeffs(name, given.get("sparsity_coeffs", USUAL_COEFFS), layers, main),
        _start(place, given.get("start"), layers, main) if warm else None,
        float(VALUES["lr"].checked(f"{place}.lr", given["lr"])) if "lr" in given else None,
    )


def _values(place: str, given: Any, rule: Rule) -> tuple[float, ...]:
    values = [rule.read(value) for value in given] if isinstance(given, list | tuple) else given
    require(list_of(rule.good)(values), place, given, f"a list of different values, {rule.allowed}")
    return tuple(values)


def _coeffs(
    name: str, given: Any, layers: Any, main: Mapping[str, Any]
) -> dict[str, dict[int, tuple[float, ...]]]:
    """λ by objective and layer. An objective that the profile does not train is left out."""
    place, known = f"sweeps.{name}", CHANGED.get(name, OBJECTIVES)
    wanted = given if isinstance(given, dict) else dict.fromkeys(known, given)
    for objective in wanted:
        words = f"one of {', '.join(known)}"
        require(objective in known, f"{place}.sparsity_coeffs key", objective, words)
    return {
        o: {k: coeffs(own, o, k, f"{place}.", main["sparsity_coeffs"][o][k]) for k in layers}
        for o, own in wanted.items()
        if o in main["objectives"]
    }


def _start(place: str, given: Any, layers: Any, main: Mapping[str, Any]) -> dict[int, float]:
    """λ of the local SAE to start from, by layer; it must be one that the main grid trains."""
    grids = main["sparsity_coeffs"].get("local")
    require("local" in main["objectives"], place, "asked for", "absent: no local SAE is trained")
    for layer in layers:
        allowed = f"a λ of local's grid at layer {layer}, {list(grids[layer])}"
        known = given is None or (is_number(given) and given in grids[layer])
        require(known, f"{place}.start", given, allowed)
    return {layer: evenly(grids[layer], 1)[0] if given is None else given for layer in layers}
