"""Training steps side by side in one process: how long each takes, in rounds, or how much memory.

`python -m benchmarks.step CASES FOLDER DEVICE THREADS`, the cases as JSON, prints one JSON line. A
machine that others use too may be twice as slow a minute later: so a round is one step of every
case in turn, and cases are compared within a round. A case alone is measured for its memory, which
one that ran before it would have taken already.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.shapes import Shape, shapes
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import Objective, named_objective
from e2e_lib.core.sae_run import resolved_objective
from e2e_lib.core.train import Trainer
from e2e_lib.data.models import load_model
from e2e_lib.engine.device import AUTO, PRECISIONS, chosen_precision, tensor_cores
from e2e_lib.engine.logits import mean_kls
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.names import SPARSIFIERS
from e2e_lib.runs.provenance import peak_memory
from tests.helpers import oracle

WARM, LEAST_ROUNDS, MOST_ROUNDS, LEAST_SECONDS = 2, 7, 41, 8.0
KL = "kl"  # not an objective but a part of e2e's: the unembedding and what compares its outputs
PRODUCT = 2048  # rows and columns of the matrices whose product is timed in every round
NEVER = 1e6  # what a dead latent's bias is lowered by: more than any pre-activation is

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is measured."""

    shape: str
    objective: str  # local, e2e, e2e_ds; or kl
    # plain: the tests' oracle; default: the library's; fp32, tf32, bf16: so computed; compiled: the
    # default with the blocks through torch.compile.
    path: str = "default"
    saes: int = 1  # trained side by side
    active: float = 0.01  # share of the latents that fire on a token; 0.5 as initialised
    sparsifier: str = "relu"
    # Share of a top-k SAE's latents that are dead and learn by AuxK, as they do in a training; 0:
    # without AuxK, work that relu has no counterpart of.
    dead: float = 0.0
    changes: tuple[tuple[str, float], ...] = ()  # of the shape: names and other sizes

    def facts(self) -> dict[str, Any]:
        """One flat entry for each."""
        own = asdict(self)
        return own | dict(own.pop("changes"))

    def sizes(self, device: str) -> Shape:
        """The shape with its changes."""
        return shapes(device)[self.shape].changed(dict(self.changes))


def configs(shape: Shape, case: Case, device: str) -> list[TrainConfig]:
    """One for each SAE, that differ in λ; products as 10_train has them, or as the path says."""
    precision = chosen_precision(case.path if case.path in PRECISIONS else AUTO, device)
    k = round(case.active * int(shape.dict_ratio * shape.width))
    holds_k = SPARSIFIERS[case.sparsifier].holds_k
    return [
        TrainConfig(
            named_objective(case.objective, 1.0 + i),
            (shape.hook,),
            dict_ratio=shape.dict_ratio,
            batch_size=shape.rows,
            micro_batch_size=shape.rows,
            warmup_fraction=0.0,
            precision=precision,
            sparsifier=case.sparsifier,
            k=max(1, k) if holds_k else None,
            auxk_coeff=TrainConfig.auxk_coeff if case.dead else 0.0,
            lr=1e-9,  # the share of latents that fire must stay what it is
        )
        for i in range(case.saes)
    ]


def bias_for(active: float, activations: Tensor, W_enc: Tensor) -> float:
    """What to add to b_enc so that this share of pre-activations is above 0."""
    sample = (activations.flatten(0, -2)[:256] @ W_enc).flatten()
    every = max(1, len(sample) // 100_000)  # quantile takes no more than some millions
    return -float(torch.quantile(sample[::every], 1 - active))


def as_said():
    """Trainings begun inside multiply in bfloat16 if told so, on a CPU that is slower at it too."""
    return patch("e2e_lib.engine.device.bf16_pays", return_value=True)


def default_step(model, shape: Shape, case: Case, rows: Tensor) -> Step:
    """The library's step."""
    many = WARM + MOST_ROUNDS + 2
    settings = configs(shape, case, str(rows.device))
    with as_said():
        trainer = Trainer(model, settings, rows.cpu().repeat(many, 1), logs=1)
    trainer.log_every = many + 9  # logged steps evaluate; few steps of a training are
    trainer.steps += 9  # so that no measured step is the last
    trainer.done = 1
    with torch.no_grad():
        seen = clean_pass(model, rows, [shape.hook], logits=False).activations[shape.hook]
        for run in trainer.runs:
            for sae in run.saes.values():
                if sae.sparsifier.k is None:
                    sae.b_enc += bias_for(case.active, seen, sae.W_enc)
                dead = round(case.dead * sae.d_sae)
                sae.sparsifier.silent[:dead] = torch.inf
                sae.b_enc[:dead] -= NEVER
    return trainer.step


def kl_step(model, shape: Shape, case: Case, rows: Tensor) -> Step:
    """The KL divergence of outputs and its gradient to the hidden states of each spliced pass."""
    head = runner(model, [shape.hook]).head
    precision = configs(shape, replace(case, objective="e2e"), str(rows.device))[0].precision
    generator = torch.Generator().manual_seed(2)
    sizes = (1 + case.saes, *rows.shape, shape.width)
    clean, *spliced = torch.randn(sizes, generator=generator).to(rows.device)

    def step() -> list[Tensor]:
        with tensor_cores(precision):
            own = [hidden.requires_grad_() for hidden in spliced]
            values = mean_kls(head, clean, own)
            return [*torch.autograd.grad(sum(values), own)]

    return step


def compiled(model, step: Step) -> Step:
    """The same step with the model's blocks, hooks outside of them, through torch.compile."""
    torch._dynamo.config.recompile_limit = 4 * model.cfg.n_layers  # each block is a case of its own
    eager = {kind: kind.forward for kind in {type(b) for b in runner(model, []).blocks}}
    fast = {kind: torch.compile(forward, dynamic=False) for kind, forward in eager.items()}

    def one_step() -> None:
        for kind, forward in fast.items():
            kind.forward = forward
        step()
        for kind, forward in eager.items():
            kind.forward = forward

    return one_step


def plain_terms(objective: Objective) -> oracle.Terms:
    """The objective in the oracle's words."""
    return oracle.Terms(
        objective.sparsity_coeff,
        objective.local_coeff,
        objective.kl_coeff,
        objective.downstream_coeff,
        objective.downstream_hooks,
    )


def plain_step(model, shape: Shape, case: Case, rows: Tensor) -> Step:
    """The tests' oracle: two full hooked passes, full logits, eager, Adam as it comes."""
    [settings] = configs(shape, case, str(rows.device))
    terms = plain_terms(resolved_objective(model, settings))
    trainer = Trainer(model, [settings], rows.cpu(), logs=1)  # for its initial weights alone
    _, activations = oracle.clean(model, rows)
    initial = trainer.runs[0].saes[shape.hook].named_parameters()
    weights = {name: p.detach().clone().contiguous() for name, p in initial}
    weights["b_enc"] += bias_for(case.active, activations[shape.hook], weights["W_enc"])
    del trainer, activations
    optimiser = torch.optim.Adam([w.requires_grad_() for w in weights.values()], lr=1e-9)

    def step() -> None:
        oracle.losses(model, rows, {shape.hook: weights}, terms)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 10.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def product(device: str) -> Step:
    """One large product of float32 matrices, against which a step's arithmetic is held."""
    a, b = torch.randn(2, PRODUCT, PRODUCT, device=device)
    return lambda: torch.mm(a, b)


def in_rounds(steps: Sequence[Step], device: str) -> list[list[float]]:
    """Milliseconds (round, step), after rounds that warm up. Every second round goes backwards."""
    times: list[list[float]] = []
    for _ in range(WARM):
        for step in steps:
            step()
    while len(times) < LEAST_ROUNDS or (
        sum(map(sum, times)) < 1e3 * LEAST_SECONDS and len(times) < MOST_ROUNDS
    ):
        turn = [0.0] * len(steps)
        for i in range(len(steps))[:: 1 if len(times) % 2 else -1]:
            turn[i] = round(1e3 * seconds(steps[i], device), 2)
        times.append(turn)
    return times


def seconds(work: Step, device: str) -> float:
    """Of one call, all that it asked of the device included."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory_mb(device: str) -> float:
    """Most memory taken so far: of the accelerator, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return float(peak_memory()["peak_memory_mb"] or 0)


def measure(cases: Sequence[Case], folder: Path, device: str) -> dict[str, Any]:
    """Several: `ms` (round, case) and, last in each round, of a product. One: `peak_mb`, the
    megabytes above what the loaded model takes."""
    sizes = [case.sizes(device) for case in cases]
    models = {n: load_model(str(folder / str(n)), device) for n in {s.vocabulary for s in sizes}}
    before, steps = memory_mb(device), []
    for case, shape in zip(cases, sizes, strict=True):
        model = models[shape.vocabulary]
        generator = torch.Generator().manual_seed(1)
        rows = torch.randint(1, shape.vocabulary, (shape.rows, shape.context), generator=generator)
        make = plain_step if case.path == "plain" else default_step
        make = kl_step if case.objective == KL else make
        step = make(model, shape, case, rows.to(device))
        steps.append(compiled(model, step) if case.path == "compiled" else step)
    if len(cases) > 1:
        return {"ms": in_rounds([*steps, product(device)], device)}
    for _ in range(WARM):
        steps[0]()
    return {"peak_mb": round(memory_mb(device) - before, 1)}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    cases = [Case(**case) for case in json.loads(arguments[0])]
    folder, device, threads = arguments[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    print(json.dumps(measure(cases, Path(folder), device)))


if __name__ == "__main__":
    main(sys.argv[1:])
