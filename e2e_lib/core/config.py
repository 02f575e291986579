"""What one run computes: its objective, its hyperparameters, the learning rate they prescribe.

No torch here: the pipeline plans trainings with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from e2e_lib.errors import (
    Checked,
    Count,
    Flag,
    OptionalPositive,
    Positive,
    Rule,
    Share,
    Weight,
    is_integer,
    is_number,
    is_text,
    list_of,
    one_of,
    require,
    whole,
)
from e2e_lib.names import PRECISIONS, SPARSIFIERS, ends, require_k

if TYPE_CHECKING:
    from e2e_lib.core.losses import Objective

HOOKS = Rule(list_of(is_text), "at least one hook, none of them twice")
Seed = Annotated[int, whole(0)]
Divisor = Annotated[int, Rule(lambda v: is_integer(v) and v >= 1, "a divisor of batch_size")]
Part = Annotated[float, Rule(lambda v: is_number(v) and 0 <= v < 1, "a number in [0, 1)")]
Schedule = Annotated[str, one_of("cosine", "linear", "constant")]
Precision = Annotated[str, one_of(*PRECISIONS)]
Firing = Annotated[str, one_of(*SPARSIFIERS)]
Penalty = Annotated[str, one_of("tanh", "step", "quadratic")]
Still = Annotated[str, one_of("none", "decoder", "encoder", "near", "all")]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(Checked):
    """What decides a run in one number or word each; `TrainConfig` and `runs`' `Training` have all.

    So a field that is added here is a parameter of the library, of every profile and of notebook
    10_train, whose cell `python -m pipeline.plan.notebook_parameters` then writes.
    """

    dict_ratio: Positive = 20.0  # latents a dimension of the activation
    seed: Seed = 0  # initial weights and the order of the training text
    batch_size: Count = 16  # rows an optimiser step
    micro_batch_size: Divisor = 16  # rows a pass; gradients accumulate over a batch
    lr: Positive = 5e-4  # Adam's learning rate after warm-up
    warmup_fraction: Part = 0.05  # share of the steps in which the rate rises from 0
    schedule: Schedule = "cosine"  # cosine, linear or constant
    min_lr_factor: Share = 0.1  # the rate's floor, as a share of lr
    grad_clip: OptionalPositive = 10.0  # largest gradient norm
    # The authors' GPT-2 runs do not, and their TinyStories runs do.
    downstream_last_block: Flag = False  # e2e_ds compares the last block's output too
    precision: Precision = "fp32"  # of products: fp32, tf32 or bf16
    sparsifier: Firing = "relu"  # which latents fire: relu, topk, batchtopk, jumprelu, matryoshka
    penalty: Penalty = "tanh"  # of jumprelu's latents: tanh, step or quadratic
    target_l0: Weight = 0.0  # λ is steered to this L0 of the training text; 0: λ stays
    sparsity_warmup: Share = 0.0  # share of the steps in which λ rises; all of a new jumprelu's
    auxk_coeff: Weight = 0.03125  # weight of what dead latents of a top-k SAE learn from; 1/32
    dead_share: Share = 0.05  # a latent silent for this share of the training is dead
    skip: Flag = False  # a transcoder has a linear path from input to output, which trains too
    # What of an SAE does not train: a sanity row. `near`: the decoder stays near its start.
    still: Still = "none"  # none, decoder, encoder, near or all

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = f"a divisor of batch_size ({self.batch_size})"
        divides = self.batch_size % self.micro_batch_size == 0
        require(divides, "micro_batch_size", self.micro_batch_size, allowed)
        aims, wants = self.target_l0 > 0, self.penalty == "quadratic"
        allowed = "a number above 0, the L0 that penalty quadratic aims at"
        require(aims or not wants, "target_l0", self.target_l0, allowed)
        allowed = f"0, for {self.sparsifier} has its own number of latents, k"
        held = SPARSIFIERS[self.sparsifier].holds_k
        require(not (aims and held), "target_l0", self.target_l0, allowed)


@dataclass(frozen=True)
class TrainConfig(Hyperparameters):
    """Everything that decides what one run computes.

    Raises:
        ConfigError: an unknown parameter, or a value outside what its type or comment allows.

    >>> from e2e_lib.core.losses import named_objective
    >>> TrainConfig(named_objective("e2e", 1.5), ("blocks.6.hook_resid_pre",), dict_ratio=-1.0)
    Traceback (most recent call last):
    e2e_lib.errors.ConfigError: dict_ratio is -1.0, but it must be a number above 0.
    """

    objective: "Objective"
    hook_names: Annotated[tuple[str, ...], HOOKS]  # where SAEs sit; several are spliced in together
    init_from: Mapping[str, str] = field(default_factory=dict)  # saved SAE folders by hook
    frozen: tuple[str, ...] = ()  # hooks whose SAE is spliced in but does not train
    k: OptionalPositive = None  # latents on a token, of topk, batchtopk and matryoshka

    def __post_init__(self) -> None:
        super().__post_init__()
        good = isinstance(self.init_from, Mapping) and all(map(is_text, self.init_from.values()))
        require(good, "init_from", self.init_from, "a mapping from hooks to folders")
        pairs = all(len(ends(hook)) > 1 for hook in self.hook_names)
        require(pairs or not self.skip, "skip", self.skip, "False where a hook is no pair, IN>OUT")
        require(isinstance(self.frozen, list | tuple), "frozen", self.frozen, "a tuple of hooks")
        stray = [h for h in [*self.init_from, *self.frozen] if h not in self.hook_names]
        require(not stray, "init_from / frozen", stray, f"hooks among {self.hook_names}")
        trained = set(self.hook_names) - set(self.frozen)
        require(bool(trained), "frozen", self.frozen, "fewer than all hooks")
        require_k(self.sparsifier, self.k)
        coeff = self.objective.sparsity_coeff
        allowed = "above 0 where target_l0 steers it: what is multiplied must not be 0"
        require(coeff > 0 or not self.target_l0, "sparsity_coeff", coeff, allowed)


def learning_rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Share of `lr` used at `step` of `steps`: 0 at step 0 of a warm-up, the floor at the end.

    >>> from e2e_lib.core.losses import Objective
    >>> c = TrainConfig(Objective(1.0, kl_coeff=1.0), ("blocks.1.hook_resid_pre",))
    >>> [round(learning_rate_factor(s, 100, c), 3) for s in (0, 4, 5, 100)]
    [0.0, 0.8, 1.0, 0.1]
    """
    warmup = int(config.warmup_fraction * steps)
    if step < warmup:
        return step / warmup  # the first step has rate 0, as the authors' has
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if config.schedule == "constant":
        return 1.0
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.min_lr_factor + (1 - config.min_lr_factor) * fall


def sparsity_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Share of λ used at `step`: it rises linearly over `sparsity_warmup` of the steps.

    Over all of them with a jumprelu from scratch, whose latents would die before they are of use.
    """
    new = config.sparsifier == "jumprelu" and not config.init_from
    share = 1.0 if new else config.sparsity_warmup
    return min(1.0, (step + 1) / (share * steps)) if share else 1.0
