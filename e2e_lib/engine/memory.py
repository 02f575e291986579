"""Memory on a CPU: what is freed is kept for the next step, and running out is said in words."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from e2e_lib.errors import E2EError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


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
