"""One measurement in a process of its own: how long a training step takes, and how much memory.

`python -m benchmarks.step CASE CHANGES FOLDER DEVICE THREADS`, the first two as JSON, prints one
JSON line. A process each, because memory that one path has once taken would count for the next.
"""

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shapes import Shape, shapes
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import Objective, named_objective
from e2e_lib.core.sae_run import resolved_objective
from e2e_lib.core.train import Trainer
from e2e_lib.data.models import load_model
from e2e_lib.engine.device import AUTO, PRECISIONS, chosen_precision
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.runs.provenance import peak_memory
from tests.helpers import oracle

LEAST_SECONDS, LEAST_STEPS, MOST_STEPS = 2.0, 3, 200


@dataclass(frozen=True)
class Case:
    """What is measured."""

    shape: str
    objective: str  # local, e2e, e2e_ds
    # plain: the tests' oracle; default: the library's; fp32, tf32, bf16: so computed; compiled: the
    # default with the blocks through torch.compile.
    path: str
    saes: int  # trained side by side
    active: float  # share of the latents that fire on a token; 0.5 as initialised


def configs(shape: Shape, case: Case, device: str) -> list[TrainConfig]:
    """One for each SAE, that differ in λ; products as 10_train has them, or as the path says."""
    precision = chosen_precision(case.path if case.path in PRECISIONS else AUTO, device)
    return [
        TrainConfig(
            named_objective(case.objective, 1.0 + i),
            (shape.hook,),
            dict_ratio=shape.dict_ratio,
            batch_size=shape.rows,
            micro_batch_size=shape.rows,
            warmup_fraction=0.0,
            precision=precision,
            lr=1e-9,  # the share of latents that fire must stay what it is
        )
        for i in range(case.saes)
    ]


def bias_for(active: float, activations: Tensor, W_enc: Tensor) -> float:
    """What to add to b_enc so that this share of pre-activations is above 0."""
    sample = (activations.flatten(0, -2)[:256] @ W_enc).flatten()
    every = max(1, len(sample) // 100_000)  # quantile takes no more than some millions
    return -float(torch.quantile(sample[::every], 1 - active))


def default_step(model, shape: Shape, case: Case, rows: Tensor) -> Callable[[], None]:
    """The library's step."""
    trainer = Trainer(
        model, configs(shape, case, str(rows.device)), rows.cpu().repeat(MOST_STEPS + 2, 1), logs=1
    )
    trainer.log_every = MOST_STEPS + 9  # logged steps evaluate; few steps of a training are
    trainer.steps += 9  # so that no measured step is the last
    trainer.done = 1
    with torch.no_grad():
        seen = clean_pass(model, rows, [shape.hook], logits=False).activations[shape.hook]
        for run in trainer.runs:
            for sae in run.saes.values():
                sae.b_enc += bias_for(case.active, seen, sae.W_enc)
    return lambda: trainer.step() and None


def compile_blocks(model) -> None:
    """From here on this process runs such blocks through torch.compile, hooks outside of them."""
    torch._dynamo.config.recompile_limit = 4 * model.cfg.n_layers  # each block is a case of its own
    for kind in {type(block) for block in runner(model, []).blocks}:
        kind.forward = torch.compile(kind.forward, dynamic=False)


def plain_terms(objective: Objective) -> oracle.Terms:
    """The objective in the oracle's words."""
    return oracle.Terms(
        objective.sparsity_coeff,
        objective.local_coeff,
        objective.kl_coeff,
        objective.downstream_coeff,
        objective.downstream_hooks,
    )


def plain_step(model, shape: Shape, case: Case, rows: Tensor) -> Callable[[], None]:
    """The tests' oracle: two full hooked passes, full logits, eager, Adam as it comes."""
    settings = configs(shape, case, str(rows.device))
    objectives = [resolved_objective(model, config) for config in settings]
    trainer = Trainer(model, settings, rows.cpu(), logs=1)  # for its initial weights alone
    _, activations = oracle.clean(model, rows)
    sets = []
    for run in trainer.runs:
        weights = {n: p.detach().clone() for n, p in run.saes[shape.hook].named_parameters()}
        weights["b_enc"] += bias_for(case.active, activations[shape.hook], weights["W_enc"])
        sets.append({n: w.contiguous().requires_grad_() for n, w in weights.items()})
    del trainer
    optimisers = [torch.optim.Adam(weights.values(), lr=1e-9) for weights in sets]

    def step() -> None:
        for objective, weights, optimiser in zip(objectives, sets, optimisers, strict=True):
            loss = oracle.losses(model, rows, {shape.hook: weights}, plain_terms(objective))["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), 10.0)
            optimiser.step()
            optimiser.zero_grad()

    return step


def timed(step: Callable[[], None], device: str) -> float:
    """Median milliseconds of a step, after two that warm up."""
    cuda = device.startswith("cuda")
    for _ in range(2):
        step()
    times: list[float] = []
    while (len(times) < LEAST_STEPS or sum(times) < LEAST_SECONDS) and len(times) < MOST_STEPS - 3:
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def memory_mb(device: str) -> float:
    """Most memory taken so far: of the accelerator, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return float(peak_memory()["peak_memory_mb"] or 0)


def measure(folder: Path, shape: Shape, case: Case, device: str) -> dict[str, float]:
    """Milliseconds, tokens a second, and megabytes above what the loaded model takes."""
    model = load_model(str(folder), device)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(1, shape.vocabulary, (shape.rows, shape.context), generator=generator)
    rows = rows.to(device)
    before = memory_mb(device)
    if case.path == "compiled":
        compile_blocks(model)
    make = plain_step if case.path == "plain" else default_step
    step = make(model, shape, case, rows)
    ms = timed(step, device)
    tokens = shape.rows * shape.context * case.saes
    return {
        "ms": round(ms, 2),
        "tokens_per_s": round(1e3 * tokens / ms),
        "peak_mb": round(memory_mb(device) - before, 1),
    }


def main(arguments: list[str]) -> None:
    """Measure one case and print it."""
    case, changes = Case(**json.loads(arguments[0])), json.loads(arguments[1])
    folder, device, threads = arguments[2:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    shape = shapes(device)[case.shape].changed(changes)
    found = measure(Path(folder), shape, case, device)
    print(json.dumps(asdict(case) | changes | found | {"device": device}))


if __name__ == "__main__":
    main(sys.argv[1:])
