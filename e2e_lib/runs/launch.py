"""A notebook's trainings: in several processes of this machine, a GPU each; with a tracker.

`train_in_processes` starts `torchrun` on this module and waits. What the processes leave behind is
the runs' checkpoints at their last step, which the caller then takes up as if it had trained.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.losses import Objective
from e2e_lib.core.train import CHECKPOINT_SECONDS, train
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import load_rows
from e2e_lib.data.text import source_pair
from e2e_lib.engine.distributed import Processes
from e2e_lib.errors import E2EError, require
from e2e_lib.files import source_path, write_json, write_text
from e2e_lib.runs.experiment import Experiment

ERROR = "error.txt"  # beside the specification: what a process that failed has to say


class Tracker:
    """Where a run's training curve may go besides its CSV; off by default.

    Raises:
        ConfigError: `kind` is neither `none` nor `wandb`.
    """

    def __init__(self, kind: str, name: str, config: dict[str, Any]) -> None:
        """`config` is what Weights & Biases shows as the run's parameters.

        It is used with the user's own settings (WANDB_PROJECT, WANDB_MODE, ...).
        """
        require(kind in ("none", "wandb"), "tracker", kind, "one of none, wandb")
        self.run = None
        if kind == "wandb":
            import wandb

            self.run = wandb.init(name=name, config=config, reinit="create_new")

    def log(self, step: int, values: dict[str, float | int]) -> None:
        """Record the values of one step."""
        if self.run is not None:
            self.run.log(values, step=step)

    def finish(self) -> None:
        """No more will come."""
        if self.run is not None:
            self.run.finish()


def train_in_processes(
    experiment: Experiment,
    configs: Sequence[TrainConfig],
    results: Path,
    processes: int,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Train `configs` in so many processes, up to a checkpoint of the last step of each.

    On `cuda`, process i takes GPU i; on `cpu` they share the cores.

    Raises:
        E2EError: a process failed; why is in the sentence.
    """
    require(processes >= 1, "processes", processes, "at least 1")
    spec = {
        "experiment": asdict(experiment),
        "configs": [asdict(config) for config in configs],
        "checkpoints": [str(experiment.checkpoints(results, config)) for config in configs],
        "checkpoint_seconds": checkpoint_seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        path, error = Path(folder, "spec.json"), Path(folder, ERROR)
        write_json(path, spec)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "e2e_lib.runs.launch", str(path)]
        done = subprocess.run(command, check=False)  # the first one's progress bar is seen
        said = error.read_text(encoding="utf-8") if error.is_file() else ""
    if done.returncode:
        last = said.rstrip(".") or f"exit status {done.returncode}"
        raise E2EError(f"training in {processes} processes failed: {last}.")


def read_configs(spec: dict[str, Any]) -> tuple[Experiment, list[TrainConfig]]:
    """The experiment and its configurations from what JSON made of them."""
    facts = spec["experiment"] | {"hook_names": tuple(spec["experiment"]["hook_names"])}
    configs = []
    for values in spec["configs"]:
        objective = values["objective"]
        objective["downstream_hooks"] = tuple(objective["downstream_hooks"])
        values |= {key: tuple(values[key]) for key in ("hook_names", "frozen")}
        configs.append(TrainConfig(**values | {"objective": Objective(**objective)}))
    return Experiment(**facts), configs


def main(path: str) -> None:
    """The work of one process."""
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    experiment, configs = read_configs(spec)
    torch.set_num_threads(experiment.threads)
    accelerator = Accelerator(cpu=experiment.device == "cpu")
    # Accelerate numbers the CPU too.
    device = "cpu" if experiment.device == "cpu" else str(accelerator.device)
    model = load_model(
        source_path(experiment.model),
        device,
        processed=experiment.processed,
        revision=experiment.model_revision,
    )
    sources = source_pair(
        source_path(experiment.train_data),
        source_path(experiment.validation_data),
        experiment.context_size,
        experiment.prepend_bos,
        experiment.data_revision,
    )
    rows = load_rows(
        *sources,
        model.tokenizer,
        model.cfg.d_vocab,
        n_train=experiment.train_rows,
        n_validation=experiment.eval_rows,
        n_paper=experiment.eval_rows,
        seed=experiment.seed,
    )
    folders = [Path(folder) for folder in spec["checkpoints"]]
    train(
        model,
        configs,
        rows.train,
        checkpoints=folders,
        checkpoint_seconds=spec["checkpoint_seconds"],
        processes=Processes(accelerator),
    )
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except E2EError as error:
        write_text(Path(sys.argv[1]).with_name(ERROR), str(error))
        sys.exit(1)
