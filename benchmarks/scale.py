"""Memory and hours on GPUs that nobody here had: `python -m benchmarks.scale docs/scale.md`.

Hours are the floor's multiplications (`floor.step_flops`) at the speed of a GPU's data sheet, over
the share of that speed which this library reached on GPT-2's shape where it was measured, on a CPU
(`benchmarks/results/cpu-gpt2.jsonl`); and the time that `traffic` takes through the GPU's memory,
which is slower beside its products than a CPU's. The authors' own share, on an A100, from their
hours (Table 6), stands beside ours for comparison.
"""

import heapq
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from transformers import Gemma2Config, GPT2Config, LlamaConfig

from benchmarks.floor import block_parameters, step_flops
from benchmarks.shapes import Shape
from benchmarks.step import Case
from e2e_lib import paper
from e2e_lib.engine.logits import DEVICE_CHUNK_VALUES
from e2e_lib.files import replace_block
from pipeline.plan.grid import jobs
from pipeline.plan.model_size import default_layers
from pipeline.plan.profile import Profile, load_profile

RESULTS = Path(__file__).parent / "results" / "cpu-gpt2.jsonl"
ACTIVE = 0.01  # latents that fire, as where the share was measured
FINETUNE_TOKENS = 25_600_000  # 25,000 rows, Karvonen (2503.17272)
A100_FP32 = 19.5e12  # products a second, its data sheet; the authors used no tensor cores
KEPT_A_BLOCK = 15  # values that a block keeps for each of the residual stream's, roughly
TOUCHED_CODES, TOUCHED_LOGITS = 6, 12  # how often a step reads or writes each, roughly
TOUCHED_WEIGHTS = 7  # a weight of the SAE by the optimiser: weight, gradient, moments
GPUS_AT_ONCE = (1, 8, 64)


class GPU(NamedTuple):
    """Of a data sheet: memory in GB, bytes a second, dense products in bfloat16 and in tf32."""

    gigabytes: float
    bytes: float
    bf16: float
    tf32: float


GPUS = {
    "H100 SXM": GPU(80, 3.35e12, 989.4e12, 494.7e12),
    "H200": GPU(141, 4.8e12, 989.4e12, 494.7e12),
}
GEMMA_2B = Gemma2Config(
    hidden_size=2304,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    intermediate_size=9216,
    vocab_size=256_000,
)
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128_256,
    tie_word_embeddings=False,
)
MODELS = {"GPT-2 small": GPT2Config(), "Gemma-2-2B": GEMMA_2B, "Llama-3-8B": LLAMA_8B}


def shape_of(model: str, profile: Profile, layer: int, dict_ratio: float, rows: int) -> Shape:
    """One pass of `profile` on `model`; `layer` counts among the three of the profile."""
    config = MODELS[model]
    places = default_layers(config.num_hidden_layers)
    here = places[profile.layers.index(layer)]
    return Shape(config, rows, profile.training.context_size, dict_ratio, here)


@cache
def reached() -> dict[str, float]:
    """Share of the machine's products a second that a training step of GPT-2 reached, measured."""
    lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {x["objective"]: x["floor"] for x in lines if x.get("against") == "local"}


def authors_reached(layer: int = 6) -> dict[str, float]:
    """The same of the authors' A100, from their hours; they multiply whole matrices of codes."""
    profile, hours = load_profile("gpt2"), paper.table(6)
    shape = shape_of("GPT-2 small", profile, layer, profile.training.dict_ratio, 8)
    found = {}
    for row in hours[hours.layer == layer].itertuples():
        flops = step_flops(shape, Case("gpt2", row.objective, "default", 1, 1.0))
        steps = profile.train_tokens[row.objective] / (shape.rows * shape.context)
        found[row.objective] = flops * steps / (row.hours * 3600 * A100_FP32)
    return found


def traffic(shape: Shape, objective: str, batch_tokens: int) -> float:
    """Bytes that a pass reads and writes in float32: activations, codes, logits, its weights."""
    d_sae, later = int(shape.dict_ratio * shape.width), shape.blocks - shape.layer
    tokens = shape.rows * shape.context
    blocks = shape.layer if objective == "local" else shape.layer + 4 * later  # and backward: twice
    values = 2 * KEPT_A_BLOCK * shape.width * blocks + TOUCHED_CODES * d_sae
    if objective != "local":
        values += TOUCHED_LOGITS * shape.vocabulary
    weights = TOUCHED_WEIGHTS * 2 * shape.width * d_sae
    return 4.0 * tokens * (values + weights / batch_tokens)


def hours(shape: Shape, objective: str, tokens: float, gpu: GPU, batch: int = 16) -> float:
    """Of one training on one GPU: bf16 products, the unembedding's in tf32 (`engine.device`)."""
    case = Case("", objective, "default", 1, ACTIVE)
    flops, head = step_flops(shape, case), 0.0
    if objective != "local":
        head = 3 * 2 * shape.rows * shape.context * shape.width * shape.vocabulary
    seconds = ((flops - head) / gpu.bf16 + head / gpu.tf32) / reached()[objective]
    seconds += traffic(shape, objective, batch * shape.context) / gpu.bytes
    return seconds * tokens / (shape.rows * shape.context) / 3600


def gigabytes(shape: Shape) -> float:
    """Of an e2e training: weights, the SAE with its optimiser, and what a pass keeps, all float32.

    The chunk of logits counts four times: clean, spliced, their distributions, the gradient.
    """
    width, d_sae = shape.width, int(shape.dict_ratio * shape.width)
    tokens = shape.rows * shape.context
    tables = 1 if shape.config.tie_word_embeddings else 2
    model = shape.blocks * block_parameters(shape) + tables * width * shape.vocabulary
    sae = 4 * 2 * width * d_sae  # weights, gradients, two moments
    later = KEPT_A_BLOCK * width * (shape.blocks - shape.layer)
    chunk = min(4 * DEVICE_CHUNK_VALUES, 4 * tokens * shape.vocabulary)
    return 4 * (model + sae + tokens * (d_sae + later) + chunk) / 1e9


def fitting(shape: Shape, gpu: GPU, most: int) -> Shape | None:
    """`shape` with the most rows, a divisor of `most`, that fit on the GPU; None: not one."""
    for rows in range(most, 0, -1):
        if most % rows == 0 and gigabytes(replace(shape, rows=rows)) <= 0.95 * gpu.gigabytes:
            return replace(shape, rows=rows)
    return None


def makespan(lengths: Sequence[float], machines: int) -> float:
    """Hours until jobs, the longest first, are done on so many machines."""
    ends = [0.0] * machines
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def table() -> str:
    """The page's table: a row for each model and GPU."""
    whole = load_profile("gpt2", {"sweeps": {}})
    middle, most = whole.middle_layer, whole.training.micro_batch_size
    rows = [
        "| model | GPU | latents | rows a pass | GB | "
        + " | ".join(f"grid, {n} GPU{'s' * (n > 1)}" for n in GPUS_AT_ONCE)
        + " | e2e alone | fine-tune | on 8 GPUs |",
        "|---" * (8 + len(GPUS_AT_ONCE)) + "|",
    ]
    for model in MODELS:
        for name, gpu in GPUS.items():
            shape = shape_of(model, whole, middle, whole.training.dict_ratio, most)
            fits = fitting(shape, gpu, most)
            cells = [model, name, f"{int(shape.dict_ratio * shape.width):,}"]
            if fits is None:
                need = gigabytes(replace(shape, rows=1))
                cells += ["not one", f"{need:.0f}", *["–"] * (3 + len(GPUS_AT_ONCE))]
            else:
                grid = _grid_hours(model, whole, fits.rows, gpu)
                tokens = whole.train_tokens["e2e"]
                tune = hours(fits, "e2e_ds", FINETUNE_TOKENS, gpu)
                cells += [str(fits.rows), f"{gigabytes(fits):.0f}"]
                cells += [_shown(makespan(grid, n)) for n in GPUS_AT_ONCE]
                cells += [_shown(hours(fits, "e2e", tokens, gpu)), _shown(tune), _shown(tune / 8)]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _grid_hours(model: str, profile: Profile, rows: int, gpu: GPU) -> list[float]:
    """Of every job of the profile's main grid."""
    found = []
    for job in jobs(profile):
        shape = shape_of(model, profile, job.layer, job.training.dict_ratio, rows)
        objective = job.training.objectives
        found.append(hours(shape, objective, job.training.train_tokens, gpu))
    return found


def _shown(value: float) -> str:
    """Two digits: hours, or minutes where it is less than one."""
    if value < 1:
        return f"{60 * value:.2g} min"
    return f"{value:,.0f} h" if value >= 10 else f"{value:.2g} h"


def checks() -> str:
    """The two measured shares, of one product's speed in float32, beside each other."""
    ours, theirs = reached(), authors_reached()
    rows = ["| | local | e2e | e2e+ds |", "|---|---|---|---|"]
    for name, own in (("a CPU core, this library", ours), ("the authors' A100", theirs)):
        rows.append(f"| {name} | " + " | ".join(f"{own[o]:.2f}" for o in ours) + " |")
    return "\n".join(rows)


def main(arguments: list[str]) -> None:
    """Print both tables; put them into the pages that are named."""
    print(checks(), table(), sep="\n\n")
    for page in arguments:
        replace_block(Path(page), "shares", checks())
        replace_block(Path(page), "scale", table())


if __name__ == "__main__":
    main(sys.argv[1:])
