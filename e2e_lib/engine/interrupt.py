"""How a training is seen at work and told to stop: its bar, and the signals that it heeds."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


def token_bar(saes: int, tokens: int, done: int, shown: bool) -> tqdm:
    """A bar over the tokens of the whole training."""
    return tqdm(
        total=tokens,
        initial=done,
        unit="tok",
        unit_scale=True,
        disable=not shown,
        desc=f"{saes} SAE{'s' * (saes > 1)}",
        mininterval=1.0,  # executed notebooks keep every update
    )


@contextmanager
def stop_signals(wanted: bool) -> Iterator[list[str]]:
    """The names of the signals to stop that have come; only a main thread can ask for them."""
    received: list[str] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
