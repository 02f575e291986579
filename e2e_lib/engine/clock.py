"""Seconds that a run's work takes, on a device that may still be at it when the call returns."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds charged to one run. On CUDA the device notes the times, and nothing waits for it.

    Args:
        device: where the work is done.
        seconds: charged before.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self._seconds = seconds
        self._open: deque[tuple[Any, Any, float]] = deque()  # events not yet read, and the share

    def read(self) -> float:
        """Seconds so far; waits for the device."""
        if self._open:
            torch.cuda.synchronize(self.device)
            self._drain()
        return self._seconds

    def charge(self, start: Any, end: Any, share: float) -> None:
        """Add a share of what lies between two marks of `mark`."""
        if self.device.type != "cuda":
            self._seconds += (end - start) * share
            return
        self._open.append((start, end, share))
        self._drain()

    def _drain(self) -> None:
        """Read the events that have come to pass, so that they do not pile up."""
        while self._open and self._open[0][1].query():
            start, end, share = self._open.popleft()
            self._seconds += 1e-3 * start.elapsed_time(end) * share


def mark(device: torch.device) -> Any:
    """This moment in the device's work."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def charged(*clocks: Clock) -> Iterator[None]:
    """Charge what happens inside to all of these clocks of one device, an equal part to each."""
    start = mark(clocks[0].device)
    yield
    end = mark(clocks[0].device)
    for clock in clocks:
        clock.charge(start, end, 1 / len(clocks))
