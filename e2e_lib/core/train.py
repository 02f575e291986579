"""The training loop: `train`; its parameters are in `config.py`, its steps in `loop.py`.

A list of configurations that differ in objective, coefficients or initial seed is trained on the
same batches and shares the clean pass and its softmax; each one's result is the same as when
trained alone, and the same whether the loop ran through or was stopped and resumed.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.loop import Loop
from e2e_lib.core.sae_run import DivergedError, TrainedRun, build_saes, loss_terms
from e2e_lib.engine.distributed import ALONE, Processes
from e2e_lib.engine.memory import explained
from e2e_lib.errors import E2EError, is_number, require

CHECKPOINT_SECONDS = 120.0

__all__ = [
    "DivergedError",
    "StoppedError",
    "TrainConfig",
    "TrainedRun",
    "build_saes",
    "loss_terms",
    "train",
]


class StoppedError(E2EError):
    """Training was asked to stop and has saved its state."""


def train(
    model: TransformerBridge,
    configs: Sequence[TrainConfig],
    rows: Int[Tensor, "rows pos"],
    *,
    on_log: Callable[[int, dict[str, float | int]], None] | None = None,
    progress: bool = True,
    logs: int = 20,
    checkpoints: Sequence[Path] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    processes: Processes = ALONE,
) -> list[TrainedRun]:
    """Train each configuration's SAEs once through `rows`, in order.

    Args:
        model: a frozen model; its weights never change.
        configs: runs that share batch sizes and are trained side by side on the same batches.
        rows: training tokens of any integer type; whole batches only, a remainder is dropped.
        on_log: called with a run's index and each entry of its curve; after a resumption first with
            those that were there.
        progress: show a bar with tokens, tokens/s, loss, L0, CE increase and time left.
        logs: points on each training curve.
        checkpoints: a folder for each run, where its state is saved and taken up again; they must
            have been written by the same call. SIGINT and SIGTERM then save before they stop it.
        checkpoint_seconds: between two of them; one more is written at the end.
        processes: which of several processes this is; each takes its share of every micro-batch,
            and all end with the same weights. Checkpoints of one and of many are alike.

    Raises:
        ConfigError: fewer rows than one batch, or configurations of different batch sizes or
            precisions.
        DivergedError: a loss became infinite or undefined.
        OutOfMemoryError: a step does not fit into memory.
        StoppedError: a signal came, and the state has been saved.

    >>> import torch
    >>> from e2e_lib import load_model, named_objective
    >>> hook, rows = "blocks.2.hook_resid_pre", torch.randint(451, (32, 16))
    >>> config = TrainConfig(named_objective("e2e", 0.5), (hook,), dict_ratio=2.0)
    >>> [run] = train(load_model("storyworld"), [config], rows, progress=False)
    >>> run.saes[hook].d_sae, run.train_tokens
    (128, 512)
    """
    allowed = "a number of seconds, at least 0"
    good = is_number(checkpoint_seconds) and checkpoint_seconds >= 0
    require(good, "checkpoint_seconds", checkpoint_seconds, allowed)
    loop = Loop(model, configs, rows, logs, processes)
    folders, log = list(checkpoints or []), on_log or (lambda index, entry: None)
    if folders:
        allowed = f"{len(configs)} folders"
        require(len(folders) == len(configs), "checkpoints", len(folders), allowed)
        loop.resume(folders)
        for index, run in enumerate(loop.runs):
            for entry in run.curve:
                log(index, entry)
    bar, saved = _bar(loop, shown=progress and processes.first), time.monotonic()
    with bar, _signals(bool(folders)) as received, explained(loop.shapes):
        while loop.step < loop.steps:
            entries = loop.advance()
            _show(bar, loop, entries)
            for index, entry in enumerate(entries):
                log(index, entry)
            due = time.monotonic() - saved >= checkpoint_seconds
            stopping = processes.any(bool(received))
            if folders and processes.first and (due or stopping or loop.step == loop.steps):
                loop.save(folders)
                saved = time.monotonic()
            if stopping and loop.step < loop.steps:
                cause = received[0] if received else "a signal to another process"
                raise StoppedError(
                    f"training was stopped by {cause} at step {loop.step} of {loop.steps}, "
                    "and its state is saved: start it again to go on."
                )
    return loop.finish()


def _bar(loop: Loop, shown: bool) -> tqdm:
    """A bar over the tokens of the whole training."""
    count = len(loop.runs)
    return tqdm(
        total=loop.steps * loop.step_tokens,
        initial=loop.step * loop.step_tokens,
        unit="tok",
        unit_scale=True,
        disable=not shown,
        desc=f"{count} SAE{'s' * (count > 1)}",
        mininterval=1.0,  # executed notebooks keep every update
    )


def _show(bar: tqdm, loop: Loop, entries: Sequence[Mapping[str, float | int]]) -> None:
    """Move the bar on by a step, with what the last run has logged, if it has."""
    if entries:
        entry = entries[-1]
        bar.set_postfix_str(
            f"loss {entry['loss']:.4g}, L0 {entry['l0']:.1f}, CE {entry['ce_increase']:+.3f}",
            refresh=False,
        )
    bar.update(loop.step_tokens)


@contextmanager
def _signals(wanted: bool) -> Iterator[list[str]]:
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
