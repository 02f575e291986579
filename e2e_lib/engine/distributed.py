"""Training in several processes: what each takes, and how their gradients become one.

Hugging Face Accelerate brings them together (`torchrun`, `accelerate launch`, one process a GPU);
the loop needs no more of it than a mean over processes. Each takes an equal share of every
micro-batch, so the effective batch is the same for any number of them.
"""

from typing import Any

import torch
from torch import Tensor


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
