"""The parameters of one training run, and the learning rate they prescribe."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e_lib.errors import require
from e2e_lib.losses import Objective


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what one run computes.

    Raises:
        ConfigError: a value outside what its comment allows.
    """

    objective: Objective
    hook_names: tuple[str, ...]  # where SAEs sit; several are spliced in together
    dict_ratio: float = 20.0  # latents a dimension: d_sae = int(dict_ratio · d_in)
    seed: int = 0  # initial weights
    batch_size: int = 16  # rows an optimiser step
    micro_batch_size: int = 16  # rows a pass; gradients accumulate over a batch
    lr: float = 5e-4  # Adam's learning rate after warm-up
    warmup_fraction: float = 0.05  # share of the steps in which the rate rises from 0
    schedule: str = "cosine"  # cosine or linear decay to the floor, or constant
    min_lr_factor: float = 0.1  # the floor, as a share of lr
    grad_clip: float | None = 10.0  # largest norm of a run's gradient; None = no clipping
    init_from: Mapping[str, str] = field(default_factory=dict)  # saved SAE folders by hook
    frozen: tuple[str, ...] = ()  # hooks whose SAE is spliced in but does not train
    # The downstream term compares the last block's output too. The authors' GPT-2 runs do not, and
    # their TinyStories runs do.
    downstream_last_block: bool = False

    def __post_init__(self) -> None:
        require(len(self.hook_names) > 0, "hook_names", self.hook_names, "at least one hook")
        require(self.dict_ratio > 0, "dict_ratio", self.dict_ratio, "above 0")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        divides = self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size == 0
        allowed = f"a divisor of batch_size ({self.batch_size})"
        require(divides, "micro_batch_size", self.micro_batch_size, allowed)
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "in [0, 1)")
        schedules = ("cosine", "linear", "constant")
        require(self.schedule in schedules, "schedule", self.schedule, f"one of {schedules}")
        require(0 <= self.min_lr_factor <= 1, "min_lr_factor", self.min_lr_factor, "in [0, 1]")
        clip = self.grad_clip
        require(clip is None or clip > 0, "grad_clip", clip, "None or above 0")
        stray = [h for h in [*self.init_from, *self.frozen] if h not in self.hook_names]
        require(not stray, "init_from / frozen", stray, f"hooks among {self.hook_names}")
        trained = set(self.hook_names) - set(self.frozen)
        require(bool(trained), "frozen", self.frozen, "fewer than all hooks")


def learning_rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """Share of `lr` used at `step` of `steps`: 0 at step 0 of a warm-up, the floor at the end.

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


def config_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    values = asdict(config)
    # Folders of a machine do not belong in results.
    values["init_from"] = {hook: Path(folder).name for hook, folder in config.init_from.items()}
    return values
