"""What a training notebook starts: its model and text, several processes, a tracker.

`train_in_processes` starts `torchrun` on this module and waits. What the processes leave behind is
the runs' checkpoints at their last step, which the caller then takes up as if it had trained.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.train import train
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import Rows, load_rows
from e2e_lib.engine.device import Processes
from e2e_lib.errors import E2EError
from e2e_lib.files import write_json, write_text
from e2e_lib.names import TransformerBridge
from e2e_lib.runs.experiment import Training

ERROR = "error.txt"  # beside the specification: what a process that failed has to say


@contextmanager
def tracked(kind: str, runs: Mapping[str, Any]) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """An `on_log` of `train` that shows curves at Weights & Biases too, if `kind` is wandb.

    runs: what it shows as the parameters of each, by name. It is used with the user's own settings
    (WANDB_PROJECT, WANDB_MODE, ...).
    """
    started = []
    if kind == "wandb":
        import wandb

        started = [wandb.init(name=n, config=c, reinit="create_new") for n, c in runs.items()]
    try:
        yield lambda i, entry: started[i].log(entry, step=entry["step"]) if started else None
    finally:
        for run in started:
            run.finish()


def load_inputs(training: Training, device: str = "") -> tuple[TransformerBridge, Rows]:
    """The language model on `device`, or the training's own, and every row that is read.

    Raises:
        ModelError, DataError: model or text cannot be read, or the text is too short.
    """
    model = load_model(
        training.model,
        device or training.device,
        processed=training.processed,
        revision=training.model_revision,
        random_weights=training.random_weights,
    )
    rows = load_rows(
        model,
        training.train_data,
        training.validation_data,
        n_train=training.train_rows,
        n_validation=training.eval_rows,
        n_paper=training.eval_rows,
        n_calibration=training.calibration_rows,
        seed=training.seed,
        context_size=training.context_size,
        prepend_bos=training.prepend_bos,
        revision=training.data_revision,
    )
    return model, rows


def train_in_processes(training: Training, configs: Sequence[TrainConfig], results: Path) -> None:
    """Train `configs` in `training.processes`, up to a checkpoint of the last step of each.

    On `cuda`, process i takes GPU i; on `cpu` they share the cores.

    Raises:
        E2EError: a process failed; why is in the sentence.
    """
    names = [training.name(config) for config in configs]
    spec = {"training": asdict(training), "results": str(results.resolve()), "names": names}
    with tempfile.TemporaryDirectory() as folder:
        path, error = Path(folder, "spec.json"), Path(folder, ERROR)
        write_json(path, spec)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={training.processes}", "-m", "e2e_lib.runs.launch", str(path)),
        ]
        done = subprocess.run(command, check=False)  # the first one's progress bar is seen
        said = error.read_text(encoding="utf-8") if error.is_file() else ""
    if done.returncode:
        last = said.rstrip(".") or f"exit status {done.returncode}"
        raise E2EError(f"training in {training.processes} processes failed: {last}.")


def read_spec(spec: dict[str, Any]) -> tuple[Training, dict[Path, TrainConfig]]:
    """The training, and the meant ones of its configurations by where each saves its state."""
    training, results = Training(**spec["training"]), Path(spec["results"])
    configs = training.configs(training.starts(results))
    named = {training.name(config): config for config in configs}
    return training, {training.checkpoints(results, named[n]): named[n] for n in spec["names"]}


def main(path: str) -> None:
    """The work of one process."""
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    training, configs = read_spec(spec)
    torch.set_num_threads(training.threads)
    accelerator = Accelerator(cpu=training.device == "cpu")
    # Accelerate numbers the CPU too.
    device = "cpu" if training.device == "cpu" else str(accelerator.device)
    model, rows = load_inputs(training, device)
    train(
        model,
        list(configs.values()),
        rows.train,
        checkpoints=list(configs),
        checkpoint_seconds=training.checkpoint_seconds,
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
