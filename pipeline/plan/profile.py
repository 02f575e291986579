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
    reworded,
    rules,
    whole,
)
from e2e_lib.files import project_path
from e2e_lib.names import FETCHED_MODELS, OBJECTIVES, Revision
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.plan.model_size import (
    AUTO,
    AUTO_MIDDLE,
    by_model,
    check_layers,
    default_lr,
    model_shape,
)
from pipeline.plan.notebook_parameters import (
    NotebookParameters,
    checked_notebook_parameters,
    joined,
)
from pipeline.plan.sweeps import AnySweep, check_trainable, make_sweeps, read_sweep

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


class _Values(yaml.SafeLoader):
    """YAML 1.2's numbers, so that 1e-3 is one, 010 is ten and 1:30 none; and each key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(problem=f"the key {key} is there twice")
        return super().construct_mapping(node, deep)


def _whole_number(_: yaml.SafeLoader, node: Any) -> int:
    text = node.value.replace("_", "")
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


OTHER_RULES = ("int", "float", "timestamp")
_Values.yaml_implicit_resolvers = {
    first: [rule for rule in own if rule[0].rpartition(":")[2] not in OTHER_RULES]
    for first, own in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind, form in {
    "int": r"[-+]?[0-9][0-9_]*$|0x[0-9a-fA-F]+$|0o[0-7]+$",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.?[0-9]*)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$"
    r"|\.(nan|NaN|NAN)$",
}.items():
    tag = f"tag:yaml.org,2002:{kind}"
    _Values.add_implicit_resolver(tag, re.compile(form), list("-+.0123456789"))
_Values.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read_yaml(text: str) -> Any:
    """The value that a profile's file or a word of the command line holds.

    >>> read_yaml("[1e-3, 2E5, .5e1, 010, 1:30, 1e, 2026-11-30]")
    [0.001, 200000.0, 5.0, 10, '1:30', '1e', '2026-11-30']
    """
    loader = _Values(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """The profile `name` with `overrides` (key → value). Raises ConfigError, in one sentence."""
    path = PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    require(name in known, "PROFILE", name, f"one of {', '.join(known)}")
    with reworded(ConfigError, f"the profile {name} cannot be read"):
        values = read_yaml(path.read_text(encoding="utf-8"))
    require(isinstance(values, dict), f"the profile {name}", values, "a mapping of its keys")
    values = {**DEFAULTS, **values}
    _require_all(name, values)
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
    layers, given = values["layers"], values["sparsity_coeffs"]
    one_layer = layers == AUTO_MIDDLE or (isinstance(layers, list) and len(layers) == 1)
    values |= dict.fromkeys(OWN_MODEL_KEYS, AUTO) | {"sweeps": {}, "notebook_parameters": {}}
    values |= {key: DEFAULTS[key] for key in ("model_revision", "data_revision")}
    values["layers"] = AUTO_MIDDLE if one_layer else AUTO
    counts = [
        len(grid)
        for grids in (given.values() if isinstance(given, dict) else ())  # else it is auto
        for grid in (grids.values() if isinstance(grids, dict) else [grids])
        if isinstance(grid, list)
    ]
    values["sparsity_coeffs"] = f"{AUTO} {max(counts)} {min(counts)}" if counts else given


def make_profile(name: str, values: Mapping[str, Any]) -> Profile:
    """A Profile out of the file's values: keys, types and ranges checked, `auto` replaced."""
    for key in values:
        require_known(key, KEYS, "key of a profile")
    values = {**DEFAULTS, **values}
    _require_all(name, values)
    shape = model_shape(_checked("model", values["model"]))
    if values["lr"] == AUTO:
        values = {**values, "lr": default_lr(shape.d_model)}
    sized = ("context_size", *BY_OBJECTIVE)  # those that are not one value with one rule
    plain = {key: _checked(key, values[key]) for key in RULES if key not in sized}
    plain |= {key: _by_objective(key, values[key], plain["objectives"]) for key in BY_OBJECTIVE}
    plain |= by_model({**values, **plain}, plain["objectives"], shape)
    plain["sweeps"] = make_sweeps(values["sweeps"], plain)
    check_trainable(plain, shape)
    plain["notebook_parameters"] = checked_notebook_parameters(values["notebook_parameters"])
    check_layers(plain["notebook_parameters"], plain["layers"], shape.n_layers)
    return _profile({"name": name, **plain})


def _require_all(name: str, values: Mapping[str, Any]) -> None:
    for key in KEYS:
        if key not in values:
            raise ConfigError(f"{key} is missing from the profile {name}.")


def _checked(key: str, value: Any, place: str = "") -> Any:
    """`value` of `key`, if its rule allows it; lists come back as tuples."""
    value = RULES[key].checked(place or key, value)
    return tuple(value) if isinstance(value, list) else value


def _by_objective(key: str, value: Any, objectives: tuple[str, ...]) -> dict[str, Any]:
    """A value for each objective, out of one for all or a mapping, which may have others' too."""
    for name in value if isinstance(value, dict) else ():
        require(name in OBJECTIVES, f"{key} key", name, f"one of {', '.join(OBJECTIVES)}")
    given = value if isinstance(value, dict) else dict.fromkeys(objectives, value)
    return {o: _checked(key, given.get(o), f"{key} of {o}") for o in objectives}
