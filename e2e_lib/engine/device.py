"""In how many bits a training's products are computed; everything else is always float32.

    fp32    float32 products
    tf32    the same through a CUDA GPU's tensor cores, which read 10 bits of each fraction
    bf16    the frozen blocks' and the SAE's products in bfloat16, the unembedding's, whose small
            differences are the KL divergence, as with tf32

On a CPU tf32 is float32. The weights that train, the optimiser, the residual stream, sums and
losses are float32 in all three, and evaluation runs in fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from e2e_lib.errors import require

PRECISIONS = ("fp32", "tf32", "bf16")
AUTO = "auto"


def chosen_precision(precision: str, device: str) -> str:
    """What `auto` means: bf16 on a CUDA GPU, else fp32: a CPU took longer for bf16 (benchmarks/).

    It depends on the name of the device alone, so that a run is called the same on every machine.

    >>> chosen_precision("auto", "cuda:1"), chosen_precision("auto", "cpu")
    ('bf16', 'fp32')

    Raises:
        ConfigError: an unknown precision.
    """
    allowed = f"one of {', '.join((AUTO, *PRECISIONS))}"
    require(precision in (AUTO, *PRECISIONS), "precision", precision, allowed)
    return precision if precision != AUTO else "bf16" if device.startswith("cuda") else "fp32"


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if the products of this precision would be emulated, which is slow."""
    if precision == "bf16" and device.type == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        require(good, "precision", precision, "fp32 or tf32 on this GPU, which has no bfloat16")


@contextmanager
def tensor_cores(precision: str) -> Iterator[None]:
    """Let float32 products on CUDA be computed as tf32 inside, unless `precision` is fp32."""
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "ieee" if precision == "fp32" else "tf32"
    try:
        yield
    finally:
        setting.fp32_precision = before


def low_products(precision: str, device: torch.device) -> torch.autocast:
    """The context in which bf16 takes effect; of other precisions, one without effect."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
