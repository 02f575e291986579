"""Sweeps of a profile: one parameter varied beside the main grid, at few λ, layers and seeds.

    sweeps:
      lr: {values: [0.003, 0.03]}
      warm_start: {values: [50000], sparsity_coeffs: {e2e: [0.4, 1.9]}, seeds: 2}

Only `values` must be given. A value that is the main grid's own trains nothing again. The sweep
`sparsifiers` varies which latents fire, with every objective and at equal L0:

      sparsifiers: {values: [topk, jumprelu], l0: [4, 8], lr: {topk: 0.01}, still: [decoder]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from e2e_lib.errors import ConfigError, Rule, is_integer, is_number, list_of, require, rules
from e2e_lib.names import FINE_TUNED, OBJECTIVES, SPARSIFIERS
from e2e_lib.runs.experiment import Training
from pipeline.plan.model_size import ModelShape, coeffs, evenly, most_latents

WARM_START, NULL_SCALE, SPARSIFIED = "warm_start", "null_scale", "sparsifiers"
# What may be varied, and by which rule; a warm start by the tokens that it trains on, and how much
# of the activation the network does not use by the scale of a null channel (`engine.model`).
VARIED = ("lr", "dict_ratio", "train_tokens", "downstream_coeff")
VALUES = {key: rules(Training)[key] for key in VARIED}
VALUES[WARM_START] = COUNT = VALUES["train_tokens"]
VALUES[NULL_SCALE] = VALUES["lr"]
WHOLE = COUNT._replace(allowed="whole numbers of at least 1, as topk keeps on every token")
SHUFFLED = "random_weights"  # of the language model, a sanity row too
STILL = ("decoder", "near", "encoder", "all", SHUFFLED)
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


@dataclass(frozen=True)
class SparsifierSweep:
    """Objective × sparsifier at equal L0, at the middle layer; all else is as in the main grid.

    A sparsifier that holds a number of latents gets it as k; of others λ is steered to it. What
    fine-tunes starts from the local SAE of the same sparsifier, L0 and seed, and is trained of the
    profile's own sparsifier too, from every λ of its local grid.
    """

    values: tuple[str, ...]  # sparsifiers
    l0: tuple[float, ...]
    objectives: tuple[str, ...]  # else the profile's, and finetune
    seeds: tuple[int, ...]  # in the file: how many of the profile's; else all
    # By sparsifier and objective. In the file: one for all, or by sparsifier, or by both.
    lr: dict[str, dict[str, float]]
    start: dict[str, float]  # λ that steering starts from, by objective; else the grid's middle one
    finetune_tokens: int  # that a fine-tuning trains on; else a tenth of local's
    # Sanity rows (in the file all, unless some are named or, by [], none), and scales of null
    # channels: of the first sparsifier at the middle L0.
    still: tuple[str, ...] = ()
    null_scale: tuple[float, ...] = ()

    @property
    def middle(self) -> float:
        """The middle L0, of which there are sanity rows."""
        return evenly(self.l0, 1)[0]


AnySweep = Sweep | SparsifierSweep


def make_sweeps(value: Any, main: Mapping[str, Any]) -> dict[str, AnySweep]:
    """Sweeps by name; `main` holds the profile's other keys. Raises ConfigError, one sentence."""
    known = (*VALUES, SPARSIFIED)
    allowed = f"a mapping from some of {', '.join(known)} to what each varies"
    require(isinstance(value, dict), "sweeps", value, allowed)
    for name in value:
        require(name in known, "sweeps key", name, f"one of {', '.join(known)}")
    return {
        name: _sparsified(given, main) if name == SPARSIFIED else _sweep(name, given, main)
        for name, given in value.items()
    }


def check_trainable(plain: Mapping[str, Any], shape: ModelShape) -> None:
    """What training would refuse once it has begun, of this model's size."""
    if plain["released"]:
        return
    allowed = (
        f"one of {', '.join(n for n, own in SPARSIFIERS.items() if not own.holds_k)}: a profile's "
        "numbers are λ, and its analyses compare λ; its sweep sparsifiers trains the others"
    )
    good = not SPARSIFIERS[plain["sparsifier"]].holds_k
    require(good, "sparsifier", plain["sparsifier"], allowed)
    last = shape.n_layers - 1
    compared = plain["downstream_last_block"] or "e2e_ds" not in plain["objectives"]
    allowed = (
        f"below {last}, for e2e_ds compares the blocks after an SAE's: leave it out of objectives, "
        "or set downstream_last_block=true, which compares the last block's output too"
    )
    require(compared or last not in plain["layers"], "layers", list(plain["layers"]), allowed)
    swept = plain["sweeps"]["dict_ratio"].values if "dict_ratio" in plain["sweeps"] else ()
    width, most = shape.d_model, most_latents(shape.d_model, plain["device"])
    for ratio in (plain["dict_ratio"], *swept):
        allowed = f"at least 1/{width}, one latent for the model's width of {width}, and at most "
        allowed += f"{most // width}, of which memory holds an SAE and its optimiser"
        require(1 <= ratio * width < most + 1, "dict_ratio", ratio, allowed)
        allowed = f"below {int(ratio * width)}, the latents there are with dict_ratio {ratio:g}"
        require(plain["target_l0"] < int(ratio * width), "target_l0", plain["target_l0"], allowed)
    if SPARSIFIED in plain["sweeps"]:
        tokens = plain["micro_batch_size"] // plain["processes"] * plain["context_size"]
        _check_levels(plain["sweeps"][SPARSIFIED], int(plain["dict_ratio"] * width), tokens)


def _check_levels(sweep: SparsifierSweep, d_sae: int, tokens: int) -> None:
    """Whether SAEs of `d_sae` latents can have every L0 on the `tokens` of a micro-batch."""
    place, low, high = f"sweeps.{SPARSIFIED}.l0", min(sweep.l0), max(sweep.l0)
    held = [SPARSIFIERS[name].holds_k for name in sweep.values]
    require(high <= d_sae, place, high, f"at most {d_sae}, the latents there are")
    allowed = f"below {d_sae}, the latents there are: no threshold lets more of them fire"
    require(all(held) or high < d_sae, place, high, allowed)
    allowed = f"at least 1/{tokens}: one latent on the {tokens} tokens of a micro-batch"
    require(not any(held) or int(low * tokens) >= 1, place, low, allowed)


def read_sweep(name: str, values: Mapping[str, Any]) -> AnySweep:
    """A sweep of these values, which need no check."""
    return SparsifierSweep(**values) if name == SPARSIFIED else Sweep(**values)


def _known_keys(place: str, given: Any, keys: Sequence[str]) -> None:
    require(isinstance(given, dict), place, given, f"a mapping with some of {', '.join(keys)}")
    for key in given:
        if key not in keys:
            raise ConfigError(f"{place}.{key} is no key of a sweep; allowed are {', '.join(keys)}.")


def _seeds(place: str, count: Any, seeds: tuple[int, ...]) -> tuple[int, ...]:
    allowed = "a whole number of at least 1: how many of the profile's seeds"
    require(COUNT.good(count), f"{place}.seeds", count, allowed)
    return seeds[:count]


def _sweep(name: str, given: Any, main: Mapping[str, Any]) -> Sweep:
    warm = name == WARM_START
    place, keys = f"sweeps.{name}", [*KEYS, *(("start", "lr") if warm else ())]
    _known_keys(place, given, keys)
    layers = given.get("layers", [main["middle_layer"]])
    allowed = f"a list of some of the profile's layers {list(main['layers'])}"
    known = list_of(is_integer)(layers) and set(layers) <= set(main["layers"])
    require(known, f"{place}.layers", layers, allowed)
    return Sweep(
        _values(f"{place}.values", given.get("values"), VALUES[name]),
        tuple(layers),
        _seeds(place, given.get("seeds", 1), main["seeds"]),
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


# ------------------------------------------------------------------ sparsifiers
def _sparsified(given: Any, main: Mapping[str, Any]) -> SparsifierSweep:
    place, own, trained = f"sweeps.{SPARSIFIED}", main["sparsifier"], main["objectives"]
    _known_keys(place, given, [own.name for own in fields(SparsifierSweep)])
    values = _some(f"{place}.values", given.get("values"), [n for n in SPARSIFIERS if n != own])
    needed = {"finetune": {"local"}, "finetune_ds": {"local", "e2e_ds"}, "gradmse": set()}
    known = [*trained, *(o for o, others in needed.items() if others <= {*trained})]
    usual = [o for o in known if o in OBJECTIVES or o == "finetune"]
    asked = _some(f"{place}.objectives", given.get("objectives", usual), [*known, *OBJECTIVES])
    objectives = tuple(o for o in asked if o in known) or tuple(usual)  # a profile's may be fewer
    allowed = "with local, whose SAEs a fine-tuning starts from"
    tuned = {*objectives} & {*FINE_TUNED}
    require(not tuned or "local" in objectives, f"{place}.objectives", objectives, allowed)
    base = "local" if "local" in trained else trained[0]
    grids, layer, batch = main["sparsity_coeffs"], main["middle_layer"], main["batch_size"]
    least = max(batch * main["context_size"], main["train_tokens"][base] // 10)
    starts = _mapping(f"{place}.start", given.get("start", {}), objectives)
    middle = {o: evenly(grids[o if o in trained else base][layer], 1)[0] for o in objectives}
    rule, scales = WHOLE if "topk" in values else VALUES["lr"], given.get(NULL_SCALE, [])
    levels = _values(f"{place}.l0", given.get("l0"), rule)
    dial = _values(f"{place}.{NULL_SCALE}", scales, VALUES[NULL_SCALE]) if scales != [] else ()
    return SparsifierSweep(
        values,
        tuple(map(float, levels)),
        objectives,
        _seeds(place, given.get("seeds", len(main["seeds"])), main["seeds"]),
        _rates(f"{place}.lr", given.get("lr", {}), (own, *values), objectives, main["lr"]),
        {o: _positive(f"{place}.start of {o}", starts.get(o, middle[o])) for o in objectives},
        COUNT.checked(f"{place}.finetune_tokens", given.get("finetune_tokens", least)),
        _some(f"{place}.still", still, STILL) if (still := given.get("still", STILL)) != [] else (),
        tuple(map(float, dial)),
    )


def _some(place: str, given: Any, known: Sequence[str]) -> tuple[str, ...]:
    good = list_of(lambda v: isinstance(v, str) and v in known)(given)
    require(good, place, given, f"a list of some of {', '.join(known)}")
    return tuple(given)


def _mapping(place: str, given: Any, keys: Sequence[str]) -> dict[str, Any]:
    good = isinstance(given, dict) and {*given} <= {*keys}
    require(good, place, given, f"a mapping from some of {', '.join(keys)}")
    return dict(given)


def _positive(place: str, value: Any) -> float:
    return float(VALUES["lr"].checked(place, value))


def _rates(
    place: str, given: Any, names: Sequence[str], objectives: Sequence[str], main: dict[str, float]
) -> dict[str, dict[str, float]]:
    """A rate for every pair; where none is given the profile's, of local for what it has not."""
    by_name = _mapping(
        place, given if isinstance(given, dict) else dict.fromkeys(names, given), names
    )
    rates = {}
    for name in names:
        own = by_name.get(name, {})
        own = own if isinstance(own, dict) else dict.fromkeys(objectives, own)
        own = _mapping(f"{place} of {name}", own, objectives)
        usual = {o: main.get(o, main.get("local", min(main.values()))) for o in objectives}
        rates[name] = {
            o: _positive(f"{place} of {name}, {o}", value) for o, value in (usual | own).items()
        }
    return rates
