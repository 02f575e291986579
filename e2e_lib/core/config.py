"""The parameters of one training run, and the learning rate they prescribe."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e_lib.core.losses import Objective
from e2e_lib.engine.device import PRECISIONS
from e2e_lib.errors import is_integer, is_number, is_text, require


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what one run computes.

    Raises:
        ConfigError: a value outside what its comment allows.

    >>> TrainConfig(Objective(1.5, kl_coeff=1.0), ("blocks.6.hook_resid_pre",), dict_ratio=-1.0)
    Traceback (most recent call last):
    e2e_lib.errors.ConfigError: dict_ratio is -1.0, but it must be above 0.
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
    precision: str = "fp32"  # of products: fp32, tf32 or bf16

    def __post_init__(self) -> None:
        hooks = self.hook_names
        require(are_hooks(hooks), "hook_names", hooks, "at least one hook, none of them twice")
        for name in ("dict_ratio", "lr", "warmup_fraction", "min_lr_factor"):
            value = getattr(self, name)
            require(is_number(value), name, value, "a number")
        for name, low in (("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            good = is_integer(value) and value >= low
            require(good, name, value, f"a whole number of at least {low}")
        require(self.dict_ratio > 0, "dict_ratio", self.dict_ratio, "above 0")
        micro = self.micro_batch_size
        divides = is_integer(micro) and micro >= 1 and self.batch_size % micro == 0
        allowed = f"a divisor of batch_size ({self.batch_size})"
        require(divides, "micro_batch_size", micro, allowed)
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(0 <= self.warmup_fraction < 1, "warmup_fraction", self.warmup_fraction, "in [0, 1)")
        schedules = ("cosine", "linear", "constant")
        require(self.schedule in schedules, "schedule", self.schedule, f"one of {schedules}")
        require(0 <= self.min_lr_factor <= 1, "min_lr_factor", self.min_lr_factor, "in [0, 1]")
        allowed = f"one of {', '.join(PRECISIONS)}"
        require(self.precision in PRECISIONS, "precision", self.precision, allowed)
        clip = self.grad_clip
        good = clip is None or (is_number(clip) and clip > 0)
        require(good, "grad_clip", clip, "None or above 0")
        good = isinstance(self.init_from, Mapping) and all(map(is_text, self.init_from.values()))
        require(good, "init_from", self.init_from, "a mapping from hooks to folders")
        require(isinstance(self.frozen, list | tuple), "frozen", self.frozen, "a tuple of hooks")
        stray = [h for h in [*self.init_from, *self.frozen] if h not in self.hook_names]
        require(not stray, "init_from / frozen", stray, f"hooks among {self.hook_names}")
        trained = set(self.hook_names) - set(self.frozen)
        require(bool(trained), "frozen", self.frozen, "fewer than all hooks")


def are_hooks(value: Any) -> bool:
    """Whether it is a list or tuple, not empty, of different names."""
    listed = isinstance(value, list | tuple) and len(value) > 0 and all(map(is_text, value))
    return listed and len(set(value)) == len(value)


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
