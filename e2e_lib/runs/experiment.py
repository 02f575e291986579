"""One experiment: a model, data and hook points shared by a list of runs; what is still to do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from e2e_lib.core.config import TrainConfig, are_hooks, config_dict
from e2e_lib.core.losses import named_objective
from e2e_lib.data.formats import CONFIG, WEIGHTS
from e2e_lib.engine.device import AUTO, chosen_precision
from e2e_lib.errors import is_integer, is_number, is_text, require
from e2e_lib.files import project_path
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.runs.read import finished, run_name

TRAINING_PARAMETERS = (  # of notebook 10_train, that go to `Experiment.configs`
    *("e2e_kl_coeff", "ds_kl_coeff", "downstream_coeff", "downstream_last_block"),
    *("lr", "warmup_fraction", "schedule", "min_lr_factor", "grad_clip", "precision"),
)


def parse_sparsity_coeffs(text: str) -> dict[str, list[float]]:
    """λ values by objective from `local:0.3,1;e2e:0.1`: a list that fits one notebook parameter.

    >>> parse_sparsity_coeffs("local:0.3,1;e2e:0.1")
    {'local': [0.3, 1.0], 'e2e': [0.1]}

    Raises:
        ConfigError: text of another form.
    """
    form = "like 'local:0.3,1;e2e:0.1,0.3': different numbers of at least 0, each objective once"
    try:
        pairs = [part.split(":") for part in text.split(";") if part.strip()]
        found = {name.strip(): [float(v) for v in values.split(",")] for name, values in pairs}
    except (ValueError, AttributeError):
        pairs, found = [], {}
    grids = found.values()
    good = all(is_number(v) and v >= 0 for grid in grids for v in grid)
    alone = len(found) == len(pairs) and all(len(set(grid)) == len(grid) for grid in grids)
    require(bool(found) and good and alone, "sparsity_coeffs", text, form)
    return found


def from_parameters(
    parameters: Mapping[str, Any], sparsity_coeffs: Mapping[str, Sequence[float]]
) -> tuple["Experiment", list[TrainConfig]]:
    """What notebook 10_train trains with these `parameters` of its own; no warm start."""
    shared = {f.name for f in fields(Experiment)} & parameters.keys()
    experiment = Experiment(
        hook_names=tuple(parameters["hook"].split("+")), **{key: parameters[key] for key in shared}
    )
    training = {key: parameters[key] for key in TRAINING_PARAMETERS}
    return experiment, experiment.configs(sparsity_coeffs, **training)


def planned(
    parameters: Mapping[str, Any], sparsity_coeffs: Mapping[str, Sequence[float]]
) -> list[str]:
    """Folder names of the runs that notebook 10_train makes with these `parameters` of its own."""
    experiment, configs = from_parameters(parameters, sparsity_coeffs)
    return [experiment.name(config) for config in configs]


@dataclass(frozen=True)
class Experiment:
    """What a list of runs has in common.

    Raises:
        ConfigError: a value outside what its comment allows.
    """

    model: str  # storyworld, a folder, or a hub name
    train_data: str
    validation_data: str
    hook_names: tuple[str, ...]
    seed: int  # initial weights and order of the text
    dict_ratio: float
    train_tokens: int  # rounded down to whole batches
    eval_tokens: int  # held-out tokens, rounded up to whole rows
    context_size: int
    batch_size: int
    micro_batch_size: int
    processed: bool = False
    model_revision: str = "main"  # of a hub model
    data_revision: str = "main"  # of hub data sets
    prepend_bos: bool = False  # every row starts with the beginning-of-text token
    device: str = "cpu"
    threads: int = 1  # part of the result on a CPU: sums are taken in another order

    def __post_init__(self) -> None:
        for name in ("model", "train_data", "validation_data", "device"):
            value = getattr(self, name)
            require(is_text(value) and "\0" not in value, name, value, "a name or a path")
        hooks = self.hook_names
        require(are_hooks(hooks), "hook_names", hooks, "at least one hook, none of them twice")
        wholes = {"seed": 0, "context_size": 2, "threads": 1, "eval_tokens": 1}
        for name, low in (wholes | {"batch_size": 1, "train_tokens": 1}).items():
            value = getattr(self, name)
            good = is_integer(value) and value >= low
            require(good, name, value, f"a whole number of at least {low}")
        good = is_number(self.dict_ratio) and self.dict_ratio > 0
        require(good, "dict_ratio", self.dict_ratio, "a number above 0")
        batch = self.batch_size * self.context_size
        allowed = f"at least one batch: batch_size · context_size = {batch}"
        require(self.train_tokens >= batch, "train_tokens", self.train_tokens, allowed)

    @cached_property
    def _contents(self) -> dict[str, str | None]:
        """Digests of local files: two folders of one name are not the same model."""
        return {
            "model": model_digest(self.model),
            "train": content_digest(self.train_data),
            "validation": content_digest(self.validation_data),
        }

    @property
    def train_rows(self) -> int:
        """Rows of training text: whole batches only."""
        batch = self.batch_size * self.context_size
        return self.train_tokens // batch * self.batch_size

    @property
    def eval_rows(self) -> int:
        """Rows of held-out text."""
        return -(-self.eval_tokens // self.context_size)

    @property
    def source(self) -> dict[str, Any]:
        """Metadata that goes into each SAE's cfg.json."""
        return {
            "model_name": self._shown(self.model),
            "hook_head_index": None,
            "context_size": self.context_size,
            "prepend_bos": self.prepend_bos,
            "dataset_path": self._shown(self.train_data),
            "model_from_pretrained_kwargs": {},
            "neuronpedia_id": None,
        }

    def configs(
        self,
        sparsity_coeffs: Mapping[str, Sequence[float]],
        *,
        e2e_kl_coeff: float = 1.0,
        ds_kl_coeff: float = 0.5,
        downstream_coeff: float = 2.5,
        precision: str = AUTO,
        **training: Any,
    ) -> list[TrainConfig]:
        """One configuration per objective and λ; `training` goes to `TrainConfig`."""
        precision = chosen_precision(precision, self.device)
        kl = {"local": 0.0, "e2e": e2e_kl_coeff, "e2e_ds": ds_kl_coeff}
        return [
            TrainConfig(
                named_objective(
                    name,
                    coeff,
                    kl_coeff=kl.get(name, 0.0),
                    downstream_coeff=downstream_coeff,
                ),
                self.hook_names,
                dict_ratio=self.dict_ratio,
                seed=self.seed,
                batch_size=self.batch_size,
                micro_batch_size=self.micro_batch_size,
                precision=precision,
                **training,
            )
            for name, coeffs in sparsity_coeffs.items()
            for coeff in coeffs
        ]

    def starts(self, results: Path, init_from: str) -> dict[str, str]:
        """{hook: folder of the saved SAE that it starts from}; {} for a start from scratch.

        Args:
            init_from: a finished run of `results`, or a folder with a saved SAE (of several hooks:
                with a folder for each); empty for none.

        Raises:
            ConfigError: there is no such SAE, or its dictionary ratio is another one.
        """
        if not init_from:
            return {}
        run = results / "saes" / init_from
        base = run if finished(run) else project_path(init_from)
        found = {}
        for hook in self.hook_names:
            folder = base / hook if (base / hook).is_dir() else base
            saved = (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
            allowed = "a finished run with weights, or a folder with a saved SAE for each hook"
            require(saved, "init_from", init_from, allowed)
            d_in, d_sae = _sizes(folder)
            same = int(self.dict_ratio * d_in) == d_sae
            allowed = f"that of init_from, which has {d_sae} latents for {d_in}"
            require(same, "dict_ratio", self.dict_ratio, allowed)
            found[hook] = str(folder)
        return found

    def describe(self, config: TrainConfig) -> dict[str, Any]:
        """Every value that decides a run's result, as JSON; names the run."""
        contents: dict[str, Any] = dict(self._contents)
        if config.init_from:  # a start of the same name may hold other weights
            contents["init_from"] = {
                hook: content_digest(str(Path(folder) / WEIGHTS))
                for hook, folder in config.init_from.items()
            }
        return {
            "objective_name": config.objective.name,
            "model": self._shown(self.model),
            "train_data": self._shown(self.train_data),
            "validation_data": self._shown(self.validation_data),
            "contents": contents,
            "processed": self.processed,
            "model_revision": self.model_revision,
            "data_revision": self.data_revision,
            "prepend_bos": self.prepend_bos,
            "context_size": self.context_size,
            "train_tokens": self.train_rows * self.context_size,
            "eval_tokens": self.eval_rows * self.context_size,
            "device": self.device,
            "threads": self.threads,
        } | config_dict(config)

    def name(self, config: TrainConfig) -> str:
        """The run's folder name."""
        return run_name(self.describe(config))

    def checkpoints(self, results: Path, config: TrainConfig) -> Path:
        """Where a run's state is saved until it is finished."""
        return results / "saes" / self.name(config) / "checkpoints"

    def pending(self, results: Path, configs: Sequence[TrainConfig]) -> list[TrainConfig]:
        """The configurations whose run is not finished in `results`."""
        return [c for c in configs if not finished(results / "saes" / self.name(c))]

    @staticmethod
    def _shown(name: str) -> str:
        """A local path by its last part: folders of a machine do not belong in results."""
        return Path(name).name if name.count("/") > 1 or name.startswith(("/", ".", "~")) else name


def _sizes(folder: Path) -> tuple[int, int]:
    """d_in and d_sae of a saved SAE, without its weights."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        sizes = config["d_in"], config["d_sae"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        sizes = None, None
    good = all(is_integer(size) and 1 <= size < 2**31 for size in sizes)
    require(good, f"d_in and d_sae of {folder.name}/{CONFIG}", sizes, "whole numbers of at least 1")
    return sizes
