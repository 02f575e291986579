"""What saving its state costs a training: `python -m benchmarks.checkpoint OUT [PROFILE]`.

The longest training notebook of a profile: its steps and its saves are timed, on its real lists of
SAEs, and put together as the training would: a save every `CHECKPOINT_SECONDS` and one at the end.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.__main__ import ROOT, hardware
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.train import CHECKPOINT_SECONDS, Trainer
from e2e_lib.data.models import load_model
from e2e_lib.runs.experiment import Training
from pipeline.plan.profile import load_profile
from pipeline.plan.stages import stages

STEPS, SAVES, WARM = 30, 7, 3  # timed; and steps before


def measure(training: Training, configs: Sequence[TrainConfig]) -> dict[str, float]:
    """Seconds of training and of saving for one list that trains side by side."""
    model = load_model(training.model, training.device)
    generator = torch.Generator().manual_seed(1)
    shape = (training.train_rows, training.context_size)
    rows = torch.randint(1, model.cfg.d_vocab, shape, generator=generator, dtype=torch.int32)
    trainer = Trainer(model, configs, rows)
    for _ in range(WARM):
        trainer.step()
    step = statistics.median(_seconds(trainer.step) for _ in range(STEPS))
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as place:
        folders = [Path(place, str(i)) for i in range(len(configs))]
        save = statistics.median(_seconds(lambda: trainer.save(folders)) for _ in range(SAVES))
        size = sum(max(f.stat().st_size for f in folder.iterdir()) for folder in folders)
    seconds = step * trainer.steps
    saves = math.floor(seconds / CHECKPOINT_SECONDS) + 1
    return {
        "saes": len(configs),
        "mb": round(size / 2**20, 1),
        "save_seconds": round(save, 4),
        "train_seconds": round(seconds, 1),
        "saves": saves,
        "share_of_training": round(saves * save / seconds, 5),
        "share_of_interval": round(save / CHECKPOINT_SECONDS, 5),
    }


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(out: str, name: str = "workshop") -> None:
    """Measure, write and print."""
    profile = load_profile(name)
    longest = max((s for s in stages(profile, "build") if s.saes), key=lambda s: s.seconds)
    training = Training(**longest.parameters)
    torch.set_num_threads(training.threads)
    configs = training.configs()
    lines: list[dict] = [{"hardware": hardware(training.device, training.threads)}]
    for spliced in (False, True):
        group = [c for c in configs if c.objective.needs_splice == spliced]
        facts = {"profile": name, "stage": longest.name, "spliced": spliced}
        lines.append(facts | measure(training, group))
        print(json.dumps(lines[-1]), flush=True)
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
