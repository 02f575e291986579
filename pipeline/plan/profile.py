"""A profile: every choice that one run of the pipeline makes, checked before anything starts.

`load_profile` reads pipeline/profiles/NAME.yaml, applies overrides, fills in what is `auto` from
the model's own size, and returns a `Profile`. Anything wrong is a ConfigError of one sentence.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from e2e_lib.errors import ConfigError, closest, require
from pipeline.plan.checks import RULES, checked
from pipeline.plan.model_size import AUTO, AUTO_MIDDLE, by_model, default_lr, model_shape
from pipeline.plan.notebook_parameters import (
    NotebookParameters,
    checked_notebook_parameters,
    joined,
)
from pipeline.plan.sweeps import Sweep, make_sweeps

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "pipeline" / "profiles"
BY_OBJECTIVE = ("train_tokens", "lr")
OWN_MODEL_KEYS = ("context_size", "layers", "middle_layer", "downstream_coeff", "lr")


@dataclass(frozen=True)
class Profile:
    """Every key of a profile. `auto` in the file means: from the model's size."""

    name: str  # of the file, without .yaml
    model: str  # "storyworld", a hub name or a folder in Hugging Face layout
    train_data: str  # "storyworld", a hub data set, a folder in its layout, or a text file
    validation_data: str  # the same, for text that training never sees
    processed: bool  # fold LayerNorm and centre the weights, as the paper's GPT-2 had it
    context_size: int  # tokens in a row of text
    hook_point: str  # where in a block the SAE sits
    layers: tuple[int, ...]  # blocks that get SAEs
    middle_layer: int  # the block that the summary numbers are about
    objectives: tuple[str, ...]  # of local, e2e, e2e_ds
    sparsity_coeffs: dict[str, dict[int, tuple[float, ...]]]  # λ by objective and layer
    e2e_kl_coeff: float  # weight of the KL term in e2e
    ds_kl_coeff: float  # and in e2e_ds
    downstream_coeff: dict[int, float]  # β of e2e_ds by layer, split over the later blocks
    dict_ratio: float  # dictionary elements per dimension of the activation
    seeds: tuple[int, ...]  # one SAE for each
    train_tokens: dict[str, int]  # tokens of training by objective
    batch_size: int  # rows in an optimiser step
    micro_batch_size: int  # rows in a forward pass; gradients accumulate over the rest
    lr: dict[str, float]  # Adam's learning rate at its peak, by objective
    warmup_fraction: float  # of the steps, from a learning rate of 0
    schedule: str  # after warm-up: constant, linear or cosine
    min_lr_factor: float  # of lr, reached at the last step
    grad_clip: float  # norm that gradients are clipped to
    eval_tokens: int  # held-out tokens behind every metric
    threads: int  # of torch in one notebook; notebooks run side by side
    device: str  # cpu, cuda, cuda:0, mps
    tracker: str  # none or wandb
    sweeps: dict[str, Sweep]  # what is varied beside the main grid, by name
    # Keys that a profile may leave out.
    model_revision: str = "main"  # commit, tag or branch of a hub model
    data_revision: str = "main"  # the same of hub data sets
    prepend_bos: bool = False  # start every row of text with the beginning-of-text token
    downstream_last_block: bool = False  # e2e_ds compares the last block's output too
    precision: str = "auto"  # of a training's products: fp32, tf32, bf16; auto: bf16 on cuda
    checkpoint_seconds: float = 120.0  # a training's state is saved this often
    processes: int = 1  # that share every micro-batch of a training; one a GPU
    one_sae_a_job: bool = False  # for long trainings: a machine that dies loses one SAE
    released: str = ""  # hub name or folder of SAEs to evaluate; then nothing is trained
    released_revision: str = "main"  # its commit, tag or branch
    # What single notebooks get; what an override names is added to what the file does.
    notebook_parameters: NotebookParameters = field(default_factory=dict)

    def to_json(self, results: str) -> str:
        """The profile as JSON, with every value that `auto` stood for and its results folder."""
        facts = {"results": results, **asdict(self)}
        return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


# Values of the keys that a profile may leave out.
DEFAULTS = {own.name: own.default for own in fields(Profile) if own.default is not MISSING}
DEFAULTS["notebook_parameters"] = {}


def read_profile(path: Path) -> tuple[Profile, str]:
    """The profile and the results folder that `Profile.to_json` wrote; nothing is checked again."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    results = facts.pop("results")
    for key in ("layers", "objectives", "seeds"):
        facts[key] = tuple(facts[key])
    facts["downstream_coeff"] = {int(k): beta for k, beta in facts["downstream_coeff"].items()}
    facts["sparsity_coeffs"] = {
        objective: {int(k): tuple(grid) for k, grid in grids.items()}
        for objective, grids in facts["sparsity_coeffs"].items()
    }
    facts["sweeps"] = {name: Sweep.from_json(sweep) for name, sweep in facts["sweeps"].items()}
    return Profile(**facts), results


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """The profile `name` with `overrides` (key → value). Raises ConfigError, in one sentence."""
    path = PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
    require(path.is_file(), "PROFILE", name, f"one of {', '.join(known)}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = dict(overrides or {})
    model = overrides.get("model", values["model"])
    # A folder named like the profile's model is a copy of it, for machines without a network.
    copied = isinstance(model, str) and Path(model).name == Path(values["model"]).name
    if model != values["model"] and not copied and not values.get("released"):
        _use_own_model(values, overrides)
    key = "notebook_parameters"
    overrides[key] = joined(values.get(key, {}), overrides.get(key, {}))
    return make_profile(name, {**values, **overrides})


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
    counts = {
        objective: {k: len(grid) for k, grid in _by_layer(grids).items()}
        for objective, grids in values["sparsity_coeffs"].items()
    }
    middle = max(max(c.values()) for c in counts.values())
    others = min(min(c.values()) for c in counts.values())
    values["sparsity_coeffs"] = f"{AUTO} {middle} {others}"


def _by_layer(grids: Any) -> dict[Any, Any]:
    """A grid for every layer, whether one list was written or a mapping."""
    return grids if isinstance(grids, dict) else {0: grids}


def make_profile(name: str, values: Mapping[str, Any]) -> Profile:
    """A Profile out of the file's values: keys, types and ranges checked, `auto` replaced."""
    keys = [own.name for own in fields(Profile) if own.name != "name"]
    for key in values:
        if key not in keys:
            raise ConfigError(f"{key} is no key of a profile; allowed are {closest(key, keys)} …")
    values = {**DEFAULTS, **values}
    for key in keys:
        if key not in values:
            raise ConfigError(f"{key} is missing from the profile {name}.")
    shape = model_shape(checked("model", values["model"]))
    if values["lr"] == AUTO:
        values = {**values, "lr": default_lr(shape.d_model)}
    plain = {key: checked(key, values[key]) for key in RULES if key not in BY_OBJECTIVE}
    plain |= {key: _by_objective(key, values[key], plain["objectives"]) for key in BY_OBJECTIVE}
    sized = by_model(values, plain["objectives"], shape)
    sweeps = make_sweeps(values["sweeps"], plain | sized)
    own = checked_notebook_parameters(values["notebook_parameters"])
    return Profile(name=name, **plain, **sized, sweeps=sweeps, notebook_parameters=own)


def _by_objective(key: str, value: Any, objectives: tuple[str, ...]) -> dict[str, Any]:
    """A value for each objective, out of one for all or a mapping."""
    given = value if isinstance(value, dict) else dict.fromkeys(objectives, value)
    return {o: checked(key, given.get(o), f"{key} of {o}") for o in objectives}
