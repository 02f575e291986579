"""What a training needs to be stopped and to go on where it was: on disk, verified, two kept.

A checkpoint is one safetensors file, `step-<n>-<digest>.safetensors`, with everything that is no
tensor as JSON in its header. It is written beside its place, synced and renamed; the digest of its
bytes is part of its name: a torn or damaged one is known, and the one before it used. Beside it:
the bar that shows a training at work, and the signals that it heeds.
"""

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from e2e_lib.errors import E2EError, ResultsError
from e2e_lib.files import part_of

KEPT = 2  # newest checkpoints of a run
NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoint(NamedTuple):
    """The state of one run after `step` optimiser steps."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]  # numbers, text, lists and dictionaries


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> Path:
    """Write one, and delete all but the last two.

    Raises:
        ResultsError: the folder cannot be written to, or the disk is full; what was there stays.
    """
    flat = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with part_of(folder / f"step-{step}") as part:
        save_file(flat, part, metadata={"facts": json.dumps({**facts, "step": step})})
        with part.open("rb+") as stream:
            digest = _digest(stream)
            os.fsync(stream.fileno())
        path = folder / f"step-{step}-{digest}.safetensors"
        part.replace(path)
        _sync(folder)
        for _, _, old in _found(folder)[KEPT:]:
            old.unlink()
    return path


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, the newest first."""
    return [step for step, digest, path in _found(folder) if _whole(path, digest)]


def load_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step.

    Raises:
        ResultsError: there is none, or it is damaged.
    """
    for found, digest, path in _found(folder):
        if found == step and _whole(path, digest):
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                names: list[str] = list(file.keys())
                return Checkpoint(step, {name: file.get_tensor(name) for name in names}, facts)
    raise ResultsError(f"step is {step}, but {folder.name!r} has no whole checkpoint of it.")


def newest_common(folders: Sequence[Path], code: str) -> list[Checkpoint]:
    """A checkpoint of every folder, of the newest step that all have whole; [] if there is none.

    Those of other code are left alone: a run's two halves must have one cause.
    """
    common = set.intersection(*(set(checkpoint_steps(folder)) for folder in folders))
    for step in sorted(common, reverse=True):
        saved = [load_checkpoint(folder, step) for folder in folders]
        if all(one.facts.get("code") == code for one in saved):
            return saved
    if common:
        print("Checkpoints of other code are there: this training starts anew.")
    return []


def clear_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a run and their folder."""
    for path in [*(path for _, _, path in _found(folder)), *folder.glob("*.part")]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _found(folder: Path) -> list[tuple[int, str, Path]]:
    """Checkpoints by their names: step and digest, the newest first."""
    named = [(NAME.fullmatch(path.name), path) for path in folder.glob("step-*.safetensors")]
    return sorted(((int(m[1]), m[2], path) for m, path in named if m), reverse=True)


def _whole(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as stream:
            return _digest(stream) == digest
    except OSError:
        return False


def _digest(stream: Any) -> str:
    return hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=8)).hexdigest()


def _sync(folder: Path) -> None:
    """Make a rename outlive a crash, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


class StoppedError(E2EError):
    """A training was asked to stop and has saved its state."""

    def __init__(self, received: Sequence[str], done: int, steps: int) -> None:
        cause = received[0] if received else "a signal to another process"
        super().__init__(
            f"training was stopped by {cause} at step {done} of {steps}, "
            "and its state is saved: start it again to go on."
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
