"""Optional experiment tracking. Off by default; nothing else depends on it."""

from typing import Any, Protocol, runtime_checkable

from e2e_lib.errors import require


@runtime_checkable
class Tracker(Protocol):
    """Where a run's training curve may go besides its CSV."""

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Record the values of one step."""

    def finish(self) -> None:
        """No more will come."""


class NoTracker:
    """Tracks nothing."""

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases, with the user's own settings (WANDB_PROJECT, WANDB_MODE, ...)."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        import wandb

        self.run = wandb.init(name=name, config=config, reinit="create_new")

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Record the values of one step."""
        self.run.log(values, step=step)

    def finish(self) -> None:
        """Close the run."""
        self.run.finish()


def make_tracker(kind: str, name: str, config: dict[str, Any]) -> Tracker:
    """`none` or `wandb`; `config` is what the tracker shows as the run's parameters."""
    require(kind in ("none", "wandb"), "tracker", kind, "one of none, wandb")
    return WandbTracker(name, config) if kind == "wandb" else NoTracker()
