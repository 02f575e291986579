"""The profile itself: every choice that one run of the pipeline makes, checked before it starts.

`load_profile` reads pipeline/profiles/NAME.yaml, applies overrides, fills in what is `auto` from
the model's own size, and returns a `Profile`. Anything wrong is a ConfigError of one sentence.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml

from e2e_lib.errors import (
    ConfigError,
    Flag,
    Rule,
    is_integer,
    list_of,
    one_of,
    require,
    require_known,
    rules,
    whole,
)
from e2e_lib.files import project_path
from e2e_lib.names import FETCHED_MODELS, OBJECTIVES, SPARSIFIERS, Revision
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.plan.model_size import (
    AUTO,
    AUTO_MIDDLE,
    ModelShape,
    by_model,
    check_layers,
    default_lr,
    model_shape,
    most_latents,
)
from pipeline.plan.notebook_parameters import (
    NotebookParameters,
    checked_notebook_parameters,
    joined,
)
from pipeline.plan.sweeps import AnySweep, SparsifierSweep, make_sweeps, read_sweep

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "pipeline" / "profiles"
OWN_MODEL_KEYS = ("context_size", "layers", "middle_layer", "downstream_coeff", "lr")

HookPoint = Annotated[str, one_of("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]
Objectives = Annotated[
    tuple[str, ...],
    Rule(list_of(lambda v: v in OBJECTIVES), f"a list of some of {', '.join(OBJECTIVES)}"),
]
Seeds = Annotated[
    tuple[int, ...],
    Rule(
        list_of(lambda v: is_integer(v) and v >= 0),
        "a list of different whole numbers of at least 0",
    ),
]
Few = Annotated[int, whole(0)]
Released = Annotated[
    str, Rule(lambda v: isinstance(v, str), "a hub name or folder of SAEs, or empty")
]


@dataclass(frozen=True)
class Profile:
    """What varies between the trainings of one pipeline, and the one `Training` they all share.

    Each key of a profile's file is one of these or one of the training's. `auto` there means: from
    the model's size.
    """

    name: str  # of the file, without .yaml
    training: Training  # what it does not share, the keys below say
    hook_point: HookPoint  # where in a block the SAE sits
    layers: tuple[int, ...]  # blocks that get SAEs
    middle_layer: int  # the block that the summary numbers are about
    objectives: Objectives  # of local, e2e, e2e_ds
    sparsity_coeffs: dict[str, dict[int, tuple[float, ...]]]  # λ by objective and layer
    downstream_coeff: dict[int, float]  # β of e2e_ds by layer, split over the later blocks
    seeds: Seeds  # one SAE for each
    train_tokens: dict[str, int]  # tokens of training by objective
    lr: dict[str, float]  # Adam's learning rate at its peak, by objective
    sweeps: dict[str, AnySweep]  # what is varied beside the main grid, by name
    # Keys that a profile may leave out, as it may leave out what `Training` has a default for.
    seeds_elsewhere: Few = 0  # how many of the seeds layers beside the middle one get; 0: all
    one_sae_a_job: Flag = False  # for long trainings: a machine that dies loses one SAE
    released: Released = ""  # hub name or folder of SAEs to evaluate; then nothing is trained
    model_is_copy: Flag = False  # MODEL is a copy of the profile's hub model: nothing is forgotten
    released_revision: Revision = "main"  # its commit, tag or branch
    # What single notebooks get; what an override names is added to what the file does.
    notebook_parameters: NotebookParameters = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """Every key with its value, the training's among them."""
        shared = {key: getattr(self.training, key) for key in SHARED}
        return shared | {key: getattr(self, key) for key in OWN if key != "training"}

    def but(self, **changes: Any) -> "Profile":
        """This profile with other values of some keys."""
        return _profile(self.values() | changes)

    def to_json(self, results: str) -> str:
        """The profile as JSON, with every value that `auto` stood for and its results folder."""
        facts = {"results": results, **self.values()}
        return json.dumps(facts, indent=1, ensure_ascii=False, default=asdict) + "\n"


def _profile(values: dict[str, Any]) -> Profile:
    """A profile of resolved values."""
    shared = {key: values.pop(key) for key in SHARED if key in values}
    tokens = min(values["train_tokens"].values())  # the training checks that they are a batch
    return Profile(training=Training(**shared, train_tokens=tokens), **values)


OWN = {own.name: own for own in fields(Profile)}
# A training's other parameters are the keys above, or follow from them.
SHARED = tuple(
    own.name
    for own in fields(Training)
    if own.name not in {*OWN, "results_folder", "hook", "seed", "init_from"}
)
KEYS = (*SHARED, *(key for key in OWN if key not in ("name", "training")))
RULES = rules(Profile) | {key: rules(Training)[key] for key in (*SHARED, "train_tokens", "lr")}
BY_OBJECTIVE = ("train_tokens", "lr")
DEFAULTS = {own.name: own.default for own in fields(Training) if own.name in SHARED} | {
    key: own.default for key, own in OWN.items() if own.default is not MISSING
}
DEFAULTS["notebook_parameters"] = {}


def read_profile(path: Path) -> tuple[Profile, str]:
    """The profile and the results folder that `Profile.to_json` wrote."""
    facts = _typed(json.loads(path.read_text(encoding="utf-8")))
    results = facts.pop("results")
    facts["sweeps"] = {name: read_sweep(name, own) for name, own in facts["sweeps"].items()}
    return _profile(facts), results


def _typed(value: Any) -> Any:
    """What JSON made of a profile's values: lists are tuples again, and layers numbers."""
    if isinstance(value, dict):
        return {int(k) if k.isdigit() else k: _typed(own) for k, own in value.items()}
    return tuple(map(_typed, value)) if isinstance(value, list) else value


class _Numbers(yaml.SafeLoader):
    """YAML 1.2's numbers: 1e-3 is one wherever it stands, which YAML 1.1 takes for a text."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(text: str) -> Any:
    """The value that a profile's file or a word of the command line holds.

    >>> read_yaml("[1e-3, 2E5, .5e1, 1e, e5]")
    [0.001, 200000.0, 5.0, '1e', 'e5']
    """
    loader = _Numbers(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """The profile `name` with `overrides` (key → value). Raises ConfigError, in one sentence."""
    path = PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    require(path.is_file(), "PROFILE", name, f"one of {', '.join(known)}")
    values = read_yaml(path.read_text(encoding="utf-8"))
    overrides = dict(overrides or {})
    model = overrides.get("model", values["model"])
    copied = overrides.get("model_is_copy") is True or _is_copy(model, values["model"])
    if model != values["model"] and not copied and not values.get("released"):
        _use_own_model(values, overrides)
    key = "notebook_parameters"
    overrides[key] = joined(values.get(key, {}), overrides.get(key, {}))
    return make_profile(name, {**values, **overrides})


def _is_copy(model: Any, original: str) -> bool:
    """Whether a folder holds the embedded model of a profile; raises ConfigError as in its rule.

    Of the hub's nothing here can tell: a folder that is called like one may hold any other.
    """
    ours = {*EMBEDDED_MODELS, *FETCHED_MODELS.values()}
    in_the_way = model == original not in ours and project_path(original).is_dir()
    allowed = (
        f"./{original} for the folder of that name, or that folder renamed for the hub's model"
    )
    require(not in_the_way, "MODEL", model, allowed)
    known = original in EMBEDDED_MODELS and isinstance(model, str)
    known = known and (project_path(model) / "config.json").is_file()  # no home folder is read
    return known and content_digest(model) == model_digest(original)


def _use_own_model(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Forget in `values` what was chosen for the profile's model; keep the number of λ.

    Sweeps go, for their values were chosen round the profile's own, and so do the parameters of
    single notebooks, among them text for its tokenizer. An override may bring others.
    """
    model = overrides["model"]
    for key, variable in (("train_data", "TRAIN"), ("validation_data", "VALIDATION")):
        if key not in overrides:
            raise ConfigError(
                f"{variable} is not given, but MODEL={model} needs text of its own: "
                f"a hub data set or a .jsonl, .txt or .parquet file."
            )
    one_layer = len(values["layers"]) == 1
    values |= dict.fromkeys(OWN_MODEL_KEYS, AUTO) | {"sweeps": {}, "notebook_parameters": {}}
    values |= {key: DEFAULTS[key] for key in ("model_revision", "data_revision")}
    values["layers"] = AUTO_MIDDLE if one_layer else AUTO
    counts = [
        len(grid)
        for grids in values["sparsity_coeffs"].values()  # each one list, or a list by layer
        for grid in (grids.values() if isinstance(grids, dict) else [grids])
    ]
    values["sparsity_coeffs"] = f"{AUTO} {max(counts)} {min(counts)}"


def make_profile(name: str, values: Mapping[str, Any]) -> Profile:
    """A Profile out of the file's values: keys, types and ranges checked, `auto` replaced."""
    for key in values:
        require_known(key, KEYS, "key of a profile")
    values = {**DEFAULTS, **values}
    for key in KEYS:
        if key not in values:
            raise ConfigError(f"{key} is missing from the profile {name}.")
    shape = model_shape(_checked("model", values["model"]))
    if values["lr"] == AUTO:
        values = {**values, "lr": default_lr(shape.d_model)}
    sized = ("context_size", *BY_OBJECTIVE)  # those that are not one value with one rule
    plain = {key: _checked(key, values[key]) for key in RULES if key not in sized}
    plain |= {key: _by_objective(key, values[key], plain["objectives"]) for key in BY_OBJECTIVE}
    plain |= by_model({**values, **plain}, plain["objectives"], shape)
    plain["sweeps"] = make_sweeps(values["sweeps"], plain)
    _check_trainable(plain, shape)
    plain["notebook_parameters"] = checked_notebook_parameters(values["notebook_parameters"])
    check_layers(plain["notebook_parameters"], plain["layers"], shape.n_layers)
    return _profile({"name": name, **plain})


def _check_trainable(plain: Mapping[str, Any], shape: ModelShape) -> None:
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
    for sweep in plain["sweeps"].values():
        most = int(plain["dict_ratio"] * shape.d_model)
        high = max(sweep.l0) if isinstance(sweep, SparsifierSweep) else 0
        require(
            high <= most, "sweeps.sparsifiers.l0", high, f"at most {most}, the latents there are"
        )


def _checked(key: str, value: Any, place: str = "") -> Any:
    """`value` of `key`, if its rule allows it; lists come back as tuples."""
    value = RULES[key].checked(place or key, value)
    return tuple(value) if isinstance(value, list) else value


def _by_objective(key: str, value: Any, objectives: tuple[str, ...]) -> dict[str, Any]:
    """A value for each objective, out of one for all or a mapping."""
    given = value if isinstance(value, dict) else dict.fromkeys(objectives, value)
    return {o: _checked(key, given.get(o), f"{key} of {o}") for o in objectives}
