"""What a step must at least take: its multiplications, and how fast the machine multiplies."""

import time

import torch

from benchmarks.shapes import Shape
from benchmarks.step import Case

SIZE = 2048  # of the matrices that measure the machine
COPIED_BYTES = 1 << 28
REPEATS = 10


def ceilings(device: str, threads: int) -> dict[str, float]:
    """Floating-point operations and bytes a second, of one large product and one large copy."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2, SIZE, SIZE, device=device)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, b), device)
    copy = _best(lambda: target.copy_(source), device)
    return {"flops_per_s": 2 * SIZE**3 / product, "copied_bytes_per_s": COPIED_BYTES / copy}


def _best(work, device: str) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def block_parameters(shape: Shape) -> int:
    """Weights of one transformer block that every token is multiplied with."""
    d, config = shape.width, shape.config
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d
    heads = config.num_attention_heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or d // heads
    gated = config.model_type in ("llama", "gemma2")
    return 2 * d * width * (heads + pairs) + (3 if gated else 2) * d * inner


def step_flops(shape: Shape, case: Case) -> float:
    """Multiplications and additions that the objective cannot do without, attention left out.

    The frozen blocks before the SAE once, without gradient; those after it once clean (shared by
    all SAEs) and twice spliced (forward, and backward to their input); the unembedding once clean
    and twice spliced; of the SAE the encoder as a whole, and of the other four products the share
    of latents that fire.
    """
    tokens = shape.rows * shape.context
    d_sae = int(shape.dict_ratio * shape.width)
    block = 2 * tokens * block_parameters(shape)
    head = 2 * tokens * shape.width * shape.vocabulary
    product = 2 * tokens * shape.width * d_sae
    later = shape.blocks - shape.layer
    shared, own = shape.layer * block, product * (1 + 4 * case.active)
    if case.objective != "local":
        shared += later * block + head
        own += 2 * later * block + 2 * head
    return float(shared + case.saes * own)
