"""One step of everything that a training will do, on a model nobody here has tried, before it all.

An architecture may load and then fail, hours later, in the kernel: at a hook of a late layer, in
an objective whose turn comes last. So whatever the kernel calls is called once, on a few tokens.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2e_lib.errors import E2EError, reworded
from e2e_lib.names import TransformerBridge
from e2e_lib.runs.experiment import Training
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.plan.grid import jobs
from pipeline.plan.profile import Profile
from pipeline.plan.stages import Stage

TOKENS = 8  # in the one row


def try_model(profile: Profile, results: Path, todo: Sequence[Stage]) -> None:
    """Train and evaluate for one step at each hook and objective, if any training is to come.

    Raises:
        ModelError: the model cannot be loaded, or cannot be trained on in this way.
    """
    pending = [s for s in todo if s.saes and not (results / "done" / f"{s.name}.json").exists()]
    training = profile.training
    if not pending or profile.released or training.model in EMBEDDED_MODELS:
        return
    from e2e_lib.data.models import load_model  # slow to import

    start = time.monotonic()
    model = load_model(
        training.model,
        training.device,
        processed=training.processed,
        revision=training.model_revision,
    )
    tried = {
        (job.training.hook, job.training.objectives): small(job.training) for job in jobs(profile)
    }
    for hook, one in [(hook, own) for (hook, _), own in tried.items()]:
        with reworded(
            E2EError, f"model is {training.model!r}, but it cannot be trained on at {hook}"
        ):
            _one_step(model, one, training.context_size)
    hooks = ", ".join(dict.fromkeys(hook for hook, _ in tried))
    print(f"Tried one step at {hooks}: {time.monotonic() - start:.0f} s.", flush=True)


def small(training: Training) -> Training:
    """One step of `training`, on one short row, with one λ of each objective and few latents."""
    first = {name: coeffs[0] for name, coeffs in training.grids.items()}
    width = min(TOKENS, training.context_size)
    return replace(
        training,
        sparsity_coeffs=";".join(f"{name}:{coeff!r}" for name, coeff in first.items()),
        dict_ratio=0.5,
        batch_size=1,
        micro_batch_size=1,
        context_size=width,
        train_tokens=width,
        seed=0,
    )


def _one_step(model: TransformerBridge, training: Training, context_size: int) -> None:
    """What notebook 10_train does, of one row of random tokens; and a pass over a whole row."""
    import torch

    from e2e_lib import clean_pass, evaluate, train

    clean_pass(model, torch.zeros(1, context_size, dtype=torch.long, device=model.cfg.device))
    generator = torch.Generator().manual_seed(0)
    size = (1, training.context_size)
    rows = torch.randint(model.cfg.d_vocab, size, generator=generator)
    configs = training.configs()
    for spliced in (False, True):
        group = [c for c in configs if c.objective.needs_splice == spliced]
        if group:
            runs = train(model, group, rows, progress=False)
            evaluate(model, [run.saes for run in runs], rows)
