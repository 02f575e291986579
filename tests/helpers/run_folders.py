"""Run folders made by hand, as a finished training leaves them, and of a small experiment."""

import json
from pathlib import Path

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import Evaluation, evaluate
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.core.train import train
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.save import save_run
from tests.helpers.tiny_models import random_tokens, tiny_model

HOOK = "blocks.1.hook_resid_pre"
METRICS = {
    "d_sae": 100, "d_in": 10, "l0": 5.0, "alive": 80, "ce_clean": 1.0, "ce_spliced": 1.1,
    "ce_increase": 0.1, "kl": 0.1, "mse": 0.2, "explained_variance": 0.8, "top1_agreement": 0.9,
    "grad_norm": 1.0, "train_seconds": 10.0, "train_tokens": 1000,
}  # fmt: skip
NEW = {
    "commit": "a" * 40, "clean_tree": True, "code": "c0de", "python": "3.11.7", "system": "Linux",
    "packages": {"torch": "2.0"}, "machine": "x86_64", "cpus": 4, "cpus_usable": 2, "cpu": "Quick",
    "instruction_set": "AVX2", "blas": "mkl", "memory_mb": 16000, "threads": 1, "gpu": None,
    "hub_commits": {"model": "f" * 40, "train_data": None},
}  # fmt: skip
OLD = {"commit": "b" * 40, "clean_tree": False, "python": "3.11.7", "machine": "x86_64", "cpus": 4}


def small_training(**values: object) -> Training:
    """A training of a few steps on words; `values` replace its own."""
    standard = {
        "model": "tiny", "train_data": "words", "validation_data": "words", "hook": HOOK, "seed": 0,
        "dict_ratio": 2.0, "train_tokens": 80, "eval_tokens": 40, "context_size": 10,
        "batch_size": 4, "micro_batch_size": 4,
    }  # fmt: skip
    return Training(**(standard | values))


def write_run(
    results: Path,
    name: str,
    *,
    origin: dict[str, object] = NEW,
    cost: dict[str, object] | None = None,
    seed: int = 0,
    objective: str = "local",
    coeff: float = 1.0,
    status: str = "ok",
    **metrics: float | None,
) -> None:
    """One run's folder, without weights; `metrics` replace some of METRICS."""
    folder = results / "saes" / name
    folder.mkdir(parents=True)
    config = {
        "model": "tiny", "objective_name": objective, "seed": seed, "hook_names": [HOOK],
        "dict_ratio": 10.0, "lr": 0.001, "device": "cpu", "train_tokens": 1000, "eval_tokens": 500,
        "objective": {"sparsity_coeff": coeff, "kl_coeff": None, "downstream_coeff": None},
        "contents": {"model": "d1gest"}, "init_from": {},
    }  # fmt: skip
    record = {"status": status, "config": config, "provenance": origin, "cost": cost or {}}
    (folder / "run.json").write_text(json.dumps(record))
    values = {"saes": {HOOK: METRICS | metrics}, "blocks": []}
    (folder / "metrics.json").write_text(json.dumps(values))


Made = tuple[Training, list[TrainConfig], list[TrainedRun], list[Evaluation]]


def make(**values: object) -> Made:
    """A run of each objective, trained and evaluated."""
    plan = small_training(sparsity_coeffs="local:0.5;e2e:0.1;e2e_ds:0.2", **values)
    configs = plan.configs()
    trained = train(tiny_model(), configs, random_tokens(plan.train_rows), progress=False)
    held_out = evaluate(tiny_model(), [r.saes for r in trained], random_tokens(plan.eval_rows))
    return plan, configs, trained, held_out


def save_all(results: Path, made: Made) -> list[Path]:
    """The folders of the runs."""
    plan, configs, trained, held_out = made
    return [
        save_run(results, plan.describe(c), t, e, e, source=plan.source)
        for c, t, e in zip(configs, trained, held_out, strict=True)
    ]
