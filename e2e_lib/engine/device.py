"""What a training asks of its devices: bits of a product, memory, other processes.

Everything but products is always float32. `precision` says what these are:

    fp32    float32 products
    tf32    the same through a CUDA GPU's tensor cores, which read 10 bits of each fraction
    bf16    in bfloat16, sums in float32. The unembedding's, whose small differences are the KL
            divergence, as with tf32 on a GPU. On a CPU they too, for there they are most of a step;
            and all are float32 if that is what the CPU multiplies faster (`products_of`)

`auto` is bf16 on CUDA and fp32 elsewhere, `native` bf16 where the machine is faster with it. On a
CPU tf32 is float32. The weights that train, the optimiser, the residual stream, sums and
losses are float32 in all three, and evaluation runs in fp32.

Several processes train together through Hugging Face Accelerate (`torchrun`, `accelerate launch`,
one process a GPU). Each takes an equal share of every micro-batch, so the effective batch is the
same for any number of them, and the loop needs no more than a mean over them.
"""

import ctypes
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2e_lib.errors import E2EError, require
from e2e_lib.names import PRECISIONS, layer_of

AUTO, NATIVE = "auto", "native"
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last, of ARM processors
TRIAL = (1024, 576, 1536)  # tokens, d_in, d_out of a product that is tried: of a model of 135 M
PAYS = 0.8  # share of float32's time that bfloat16 may take; near 1 the rest of a step decides
SIDE_BY_SIDE_BYTES = 3 << 30  # of activations kept at once for the backward passes of several runs
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def chosen_precision(precision: str, device: str) -> str:
    """What `auto` and `native` mean; other precisions are themselves.

    auto: bf16 on CUDA, else fp32. It depends on the name of the device alone, so that a run is
    called the same on every machine, and small models, which bf16 slows down, stay fast.
    native: bf16 where this machine has units for it and on a CPU, by trial, is faster with them,
    else fp32. Runs are called by what it was; the pipeline asks once, when it begins a results
    folder.

    >>> chosen_precision("auto", "cuda:1"), chosen_precision("auto", "cpu")
    ('bf16', 'fp32')

    Raises:
        ConfigError: an unknown precision.
    """
    allowed = f"one of {', '.join((AUTO, NATIVE, *PRECISIONS))}"
    require(precision in (AUTO, NATIVE, *PRECISIONS), "precision", precision, allowed)
    if precision == NATIVE:
        return "bf16" if bf16_pays(device) else "fp32"
    return precision if precision != AUTO else "bf16" if device.startswith("cuda") else "fp32"


def bf16_pays(device: str) -> bool:
    """Whether bfloat16 makes a step faster: where there are units for it, on a CPU by trial."""
    return multiplies_bf16(device) and (device != "cpu" or bf16_is_faster())


def multiplies_bf16(device: str) -> bool:
    """Whether this machine's `device` has units for bfloat16 products; False where none says so."""
    if device.startswith("cuda"):
        there = torch.cuda.is_available()
        return there and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and not BF16_FLAGS.isdisjoint(_processor_flags())


@cache
def bf16_is_faster() -> bool:
    """Whether a product in bfloat16, conversions included, takes a CPU less time than in float32.

    Its flags do not say: of two processors with AVX-512 bf16 and no AMX one took half of the time
    for large products, the other more for a training step (docs/benchmarks.md).
    """
    tokens, d_in, d_out = TRIAL
    x, weights = torch.ones(tokens, d_in), torch.ones(d_in, d_out)  # no draw: seeds go on
    ratios = [_seconds(x, weights, "bf16") / _seconds(x, weights, "fp32") for _ in range(11)]
    return statistics.median(ratios[2:]) < PAYS


def _seconds(x: Tensor, weights: Tensor, precision: str) -> float:
    started = time.perf_counter()
    with low_products(precision, x.device):
        x @ weights
    return time.perf_counter() - started


def _processor_flags() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # not Linux
        return []


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


def ready_rows(rows: Tensor, precision: str, device: torch.device) -> Tensor:
    """`rows` as a training on this device reads them fastest.

    Raises:
        ConfigError: a precision that the device would emulate.
    """
    check_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda" and rows.is_cpu:
        return rows.pin_memory()  # then a batch is moved while the one before is computed
    return rows


def low_products(precision: str, device: torch.device) -> torch.autocast:
    """The context in which bf16 takes effect; of other precisions, one without effect."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class Products:
    """What a training's products are made in, as contexts for the parts of its step."""

    precision: str
    device: torch.device

    def of_blocks(self) -> torch.autocast:
        """The frozen blocks' and the SAEs'."""
        return low_products(self.precision, self.device)

    def of_output(self) -> torch.autocast:
        """The unembedding's, which a GPU makes in tf32.

        Logits of SmolLM2, rounded to bfloat16, moved KL by 0.1 % and its gradient by 3 % of its
        length at three trained SAEs; what a training makes of that is in docs/benchmarks.md.
        """
        low = self.precision if self.device.type == "cpu" else "fp32"
        return low_products(low, self.device)

    def of_float32(self) -> AbstractContextManager[None]:
        """Those that are float32 still (`tensor_cores`)."""
        return tensor_cores(self.precision)

    def tell(self, asked: str, processes: "Processes") -> None:
        """Say so if they are not what was asked for."""
        if processes.first and self.precision != asked:
            print(f"precision is {asked!r}, but a CPU here multiplies float32 faster: fp32.")


def products_of(precision: str, device: torch.device, processes: "Processes") -> Products:
    """What a training of this precision multiplies in: in it, but fp32 where bf16 is slower.

    That is so on a CPU without units for bfloat16, or with such whose trial says so; of several
    processes, in all as soon as in one. On a GPU bf16 is refused where it would be emulated.
    """
    slow = precision == "bf16" and device.type == "cpu" and not bf16_pays("cpu")
    return Products("fp32" if processes.any(slow) else precision, device)


class OutOfMemoryError(E2EError, MemoryError):
    """A step needs more memory than there is."""


def keep_freed_memory() -> bool:
    """Ask the C library to reuse freed memory instead of returning it; whether it was possible.

    A step frees tens of megabytes, a matrix at a time. Returned to the system, each comes back
    page by page, filled with zeros, which takes a CPU longer than the arithmetic on it. Known to
    glibc alone; elsewhere nothing happens. The process keeps its largest size until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    large = 2**31 - 1
    return bool(mallopt(MMAP_THRESHOLD, large)) and bool(mallopt(TRIM_THRESHOLD, large))


def side_by_side(model: Any, runs: Sequence[Any], tokens: int) -> list[Sequence[Any]]:
    """`SAERun`s in groups whose passes over so many tokens fit into memory together.

    By a rough count of what they keep: a block from the first SAE's on about fifteen values for
    each of the residual stream's, an SAE its codes. Runs that compare outputs are apart: what that
    takes is charged to no other's clock.
    """
    latents = max(sae.d_sae for run in runs for sae in run.saes.values())
    blocks = model.cfg.n_layers - min(layer_of(hook) for run in runs for hook in run.saes)
    one = 4 * tokens * (latents + 15 * model.cfg.d_model * blocks)
    size = max(1, SIDE_BY_SIDE_BYTES // one)
    by_kl = [run for run in runs if run.objective.kl_coeff is not None]
    others = [run for run in runs if run.objective.kl_coeff is None]
    return [kind[i : i + size] for kind in (others, by_kl) for i in range(0, len(kind), size)]


@contextmanager
def explained(shapes: str) -> Iterator[None]:
    """Turn an out-of-memory error inside into one sentence that names `shapes` and what to do.

    Raises:
        OutOfMemoryError: the machine or its accelerator has no more memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
            raise OutOfMemoryError(
                f"memory is not enough for a step of {shapes}: choose a smaller micro_batch_size "
                f"or a smaller dict_ratio."
            ) from error
        raise


class Processes:
    """This process among its kind; alone, nothing is exchanged."""

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.count: int = accelerator.num_processes if accelerator else 1
        self.rank: int = accelerator.process_index if accelerator else 0

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and reports."""
        return self.rank == 0

    def share(self, rows: int) -> int:
        """Rows of a micro-batch of so many that each takes. Raises ConfigError: a rest is left."""
        allowed = f"a multiple of the number of processes ({self.count})"
        require(rows % self.count == 0, "micro_batch_size", rows, allowed)
        return rows // self.count

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes of a tensor that all have."""
        if self.count == 1:
            return value
        # Exchanged as one run of memory, and given back in the memory order that it came in.
        device = self._accelerator.device
        order = torch.empty_like(value)
        mean: Tensor = self._accelerator.reduce(value.contiguous().to(device), reduction="mean")
        return order.copy_(mean)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return bool(self.mean(torch.tensor(float(flag))) > 0)


ALONE = Processes()
