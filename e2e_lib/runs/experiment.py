"""A training in one dataclass: the parameters of notebook 10_train, and the runs they stand for.

No torch and no pandas until there are runs: the pipeline plans with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from e2e_lib.core.config import HOOKS, Divisor, Hyperparameters, Seed, TrainConfig
from e2e_lib.data.text import told_names
from e2e_lib.errors import (
    Count,
    Flag,
    Positive,
    Rule,
    Weight,
    is_integer,
    is_text,
    list_of,
    one_of,
    require,
    whole,
)
from e2e_lib.files import shown_name
from e2e_lib.names import (
    EVERY_OBJECTIVE,
    PAIR,
    PRECISIONS,
    SPARSIFIERS,
    Data,
    Device,
    Model,
    Place,
    Revision,
    parse_sparsity_coeffs,
    split_names,
)
from e2e_lib.runs.provenance import content_digest, model_digest

# What evaluating somebody else's SAEs takes too.
EVALUATION = (
    *("model", "model_revision", "processed", "validation_data", "data_revision", "prepend_bos"),
    *("context_size", "eval_tokens", "threads", "device"),
)
# Parameters that a run's name needs no word for: it has them in another form, or their value
# changes no result. Any other one is in the name where it is not its default.
IN_OTHER_FORM = (
    *("hook", "objectives", "sparsity_coeffs", "e2e_kl_coeff", "ds_kl_coeff", "downstream_coeff"),
    *("train_tokens", "eval_tokens", "init_from", "model", "train_data", "validation_data"),
)
TEXT = ("processed", "model_revision", "data_revision", "prepend_bos", "context_size")
# Weights without which an objective is another one, or none.
NEEDED = {"e2e": ("e2e_kl_coeff",), "e2e_ds": ("ds_kl_coeff", "downstream_coeff")}
NEEDED |= {"finetune_ds": ("downstream_coeff",)}
WITHOUT_EFFECT = ("results_folder", "checkpoint_seconds", "processes", "tracker")
# The types of its own parameters: what each may be.
Hooks = Annotated[
    str, Rule(lambda v: is_text(v) and HOOKS.good(v.split("+")), "hooks joined by +, each once")
]
Objectives = Annotated[
    str,
    Rule(
        lambda v: is_text(v) and list_of(EVERY_OBJECTIVE.__contains__)(split_names(v)),
        f"some of {', '.join(EVERY_OBJECTIVE)}, joined by commas, each once",
    ),
]
Context = Annotated[int, whole(2)]
MANY = "a whole number of at least 1, 1024 at most"
Threads = Annotated[int, Rule(lambda v: is_integer(v) and 1 <= v <= 1024, MANY)]
Precision = Annotated[str, one_of("auto", "native", *PRECISIONS)]
Tracker = Annotated[str, one_of("none", "wandb")]
Start = Annotated[str, Rule(lambda v: isinstance(v, str), "a run, a folder with SAEs, or empty")]


@dataclass(frozen=True, kw_only=True)
class Training(Hyperparameters):
    """What notebook 10_train takes: SAEs of one hook point and seed, by objective and λ.

    Raises:
        ConfigError: an unknown parameter, or a value outside what its type allows.
    """

    results_folder: Place = "results/workshop"  # where runs are written, relative to the project
    model: Model = "storyworld"  # storyworld, a folder in Hugging Face layout, or a hub name
    train_data: Data = "storyworld"  # storyworld, a text file, a data folder, or a hub data set
    validation_data: Data = "storyworld"  # the same kinds; never shares a document with train_data
    hook: Hooks = "blocks.2.hook_resid_pre"  # hooks, joined by +; of a transcoder a pair, IN>OUT
    objectives: Objectives = "local,e2e,e2e_ds"  # which objectives to train
    sparsity_coeffs: str = "local:5.1,9.5;e2e:0.5,1.3;e2e_ds:26,54"  # λ of each, or k
    dict_ratio: Positive = 10.0  # latents a dimension of the activation
    train_tokens: Count = 300_000  # tokens that every SAE is trained on; whole batches count
    batch_size: Count = 8  # rows an optimiser step
    micro_batch_size: Divisor = 8  # rows a pass; gradients accumulate over a batch
    context_size: Context = 128  # tokens a row
    lr: Positive = 1e-2  # Adam's learning rate after warm-up
    e2e_kl_coeff: Weight = 1.0  # weight of the KL term in e2e
    ds_kl_coeff: Weight = 0.5  # weight of the KL term in e2e_ds
    downstream_coeff: Weight = 2.5  # β: weight of the later blocks' reconstruction in e2e_ds
    eval_tokens: Count = 16_384  # held-out tokens for every metric, rounded up to whole rows
    threads: Threads = 1  # CPU threads; results are bit-identical for one value of it
    device: Device = "cpu"  # cpu, cuda, cuda:1, ...
    precision: Precision = "auto"  # of products: fp32, tf32, bf16; auto: by device; native: by CPU
    checkpoint_seconds: Weight = 120.0  # the state of the training is saved this often
    processes: Count = 1  # that share every micro-batch; on cuda each has a GPU of its own
    tracker: Tracker = "none"  # none or wandb
    processed: Flag = False  # fold LayerNorm and centre weights, as for the paper's GPT-2 SAEs
    model_revision: Revision = "main"  # commit, tag or branch of a hub model
    data_revision: Revision = "main"  # the same of hub data sets
    prepend_bos: Flag = False  # start every row with the beginning-of-text token
    random_weights: Seed = 0  # a sanity row: seed that the model's weights are shuffled by; 0: not
    init_from: Start = ""  # a finished run here, or a folder, whose SAE every run starts from

    def __post_init__(self) -> None:
        super().__post_init__()
        # Objectives that somebody named are all wanted; of the usual ones, those with a λ.
        n = 1 if self.objectives == type(self).objectives else len({*split_names(self.objectives)})
        allowed = f"for at least {n} of objectives = {self.objectives}"
        require(len(self.grids) >= n, "sparsity_coeffs", self.sparsity_coeffs, allowed)
        usual = self.sparsity_coeffs == type(self).sparsity_coeffs
        allowed = f"given: with sparsifier {self.sparsifier} its numbers are k, latents on a token"
        held = SPARSIFIERS[self.sparsifier].holds_k
        require(not (held and usual), "sparsity_coeffs", self.sparsity_coeffs, allowed)
        topk = self.sparsifier == "topk" and PAIR in self.hook
        allowed = "another, as batchtopk: SAELens' files, which runs are, hold no topk transcoder"
        require(not topk, "sparsifier", self.sparsifier, allowed)
        for objective in self.grids:
            for name in NEEDED.get(objective, ()):
                allowed = f"above 0: without this term {objective} is another objective"
                require(getattr(self, name) > 0, name, getattr(self, name), allowed)
        least = min(map(min, self.grids.values()))
        allowed = "above 0 where target_l0 steers it: what is multiplied must not be 0"
        require(least > 0 or not self.target_l0, "sparsity_coeffs", self.sparsity_coeffs, allowed)
        pairs = all(PAIR in hook for hook in self.hook_names)
        require(pairs or not self.skip, "skip", self.skip, "false where a hook is no pair, IN>OUT")
        batch = self.batch_size * self.context_size
        allowed = f"at least one batch: batch_size · context_size = {batch}"
        require(self.train_tokens >= batch, "train_tokens", self.train_tokens, allowed)
        allowed = f"a divisor of micro_batch_size ({self.micro_batch_size}), which they share"
        require(self.micro_batch_size % self.processes == 0, "processes", self.processes, allowed)

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Where the SAEs sit; several are spliced in together."""
        return tuple(self.hook.split("+"))

    @property
    def grids(self) -> dict[str, list[float]]:
        """λ of every objective that is trained; of topk, batchtopk and matryoshka, k."""
        given = parse_sparsity_coeffs(self.sparsity_coeffs).items()
        return {name: coeffs for name, coeffs in given if name in split_names(self.objectives)}

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
            "model_name": shown_name(self.model),
            "hook_head_index": None,
            "context_size": self.context_size,
            "prepend_bos": self.prepend_bos,
            "dataset_path": shown_name(self.train_data),
            "model_from_pretrained_kwargs": {},
            "neuronpedia_id": None,
        }

    @property
    def calibration_rows(self) -> int:
        """Rows of held-out text, after those of the evaluation, that thresholds are set on."""
        wanted = SPARSIFIERS[self.sparsifier].calibrated or self.target_l0 > 0
        return self.eval_rows if wanted else 0

    def weights(self, objective: str) -> dict[str, float]:
        """The weights of an objective's terms, but λ; those of local are not parameters."""
        kl = {"e2e": self.e2e_kl_coeff, "e2e_ds": self.ds_kl_coeff}.get(objective)
        found = {} if kl is None else {"kl_coeff": kl}
        later = objective in ("e2e_ds", "finetune_ds")
        return found | ({"downstream_coeff": self.downstream_coeff} if later else {})

    @property
    def shared(self) -> dict[str, Any]:
        """What all its runs are described by, whatever their objective: part of `describe`."""
        model, *digests = self._contents.values()
        texts = told_names((self.train_data, self.validation_data), (digests[0], digests[1]))
        return {
            "model": Path(self.model).name if model else shown_name(self.model),
            "train_data": texts[0],
            "validation_data": texts[1],
            "contents": dict(self._contents),
            **{name: getattr(self, name) for name in TEXT},
            "train_tokens": self.train_rows * self.context_size,
            "eval_tokens": self.eval_rows * self.context_size,
            "device": self.device,
            "threads": self.threads,
            **self._others(),
        }

    def configs(self, starts: Mapping[str, str] | None = None) -> list[TrainConfig]:
        """One configuration per objective and λ; `starts`: what `self.starts` found."""
        from e2e_lib.core.losses import named_objective
        from e2e_lib.engine.device import chosen_precision

        shared = {own.name: getattr(self, own.name) for own in fields(Hyperparameters)}
        shared["precision"] = chosen_precision(self.precision, self.device)
        holds_k = SPARSIFIERS[self.sparsifier].holds_k
        return [
            TrainConfig(
                named_objective(name, 0.0 if holds_k else value, **self.weights(name)),
                self.hook_names,
                init_from=starts or {},
                k=value if holds_k else None,
                **shared,
            )
            for name, values in self.grids.items()
            for value in values
        ]

    def starts(self, results: Path) -> dict[str, str]:
        """{hook: folder of the saved SAE that it starts from}; {} for a start from scratch.

        `init_from` is a finished run of `results`, or a folder with a saved SAE, or of several
        hooks with a folder for each.

        Raises:
            ConfigError: there is no such SAE, or its dictionary ratio is another one.
        """
        if not self.init_from:
            return {}
        from e2e_lib.runs.load import start_folders

        return start_folders(results, self.init_from, self.hook_names, self.dict_ratio)

    def describe(self, config: TrainConfig) -> dict[str, Any]:
        """Every value that decides a run's result, as JSON; names the run."""
        from e2e_lib.runs.read import config_dict

        shared = self.shared
        if config.init_from:  # a start of the same name may hold another SAE
            from e2e_lib.runs.load import start_digest

            starts = config.init_from.items()
            shared["contents"]["init_from"] = {hook: start_digest(own) for hook, own in starts}
        return {"objective_name": config.objective.name, **shared, **config_dict(config)}

    def _others(self) -> dict[str, Any]:
        """What nobody has thought of when describing a run: two runs must not share a name."""
        known = {*IN_OTHER_FORM, *WITHOUT_EFFECT, *TEXT, "device", "threads"}
        known |= {own.name for own in fields(TrainConfig)}
        others = {f.name: f.default for f in fields(self) if f.name not in known}
        return {k: v for k in others if (v := getattr(self, k)) != others[k]}

    def name(self, config: TrainConfig) -> str:
        """The run's folder name."""
        from e2e_lib.runs.read import run_name

        return run_name(self.describe(config))

    def checkpoints(self, results: Path, config: TrainConfig) -> Path:
        """Where a run's state is saved until it is finished."""
        return results / "saes" / self.name(config) / "checkpoints"

    def pending(self, results: Path, configs: Sequence[TrainConfig]) -> list[TrainConfig]:
        """The configurations whose run is not finished in `results`."""
        from e2e_lib.runs.read import finished

        return [c for c in configs if not finished(results / "saes" / self.name(c))]
