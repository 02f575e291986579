"""Locks that the system gives back when their holder dies, by `kill -9` too: nothing is left over.

`flock` on an open file: what counts is that a living process holds it, not that the file exists.
The pipeline's file also names the pipeline at work, so that a job which a killed one left behind,
here or on a node of a cluster, sees that it belongs to none and ends itself.
"""

import errno
import fcntl
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from e2e_lib.errors import ResultsError

FILE = "pipeline.lock"
VARIABLE = "E2E_PIPELINE"  # in the environment of jobs: the token of their pipeline
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
LOOK_EVERY = 1.0  # seconds
GRACE = 60.0  # seconds that a kernel has for saving the state of its training
ENDING = threading.Event()  # whether this process is a job that outlived its pipeline


@contextmanager
def sole_pipeline(results: Path, folder: str) -> Iterator[str]:
    """Hold the results folder, called `folder` in messages; yields the token of this pipeline.

    A file system without locks is said to be one, and not held.

    Raises:
        ResultsError: another pipeline is at work in it.
    """
    with (results / FILE).open("a+", encoding="utf-8") as file:
        held = _take(file)
        if held is None:
            print(f"{folder} is on a file system without locks: start no second pipeline on it.")
        elif not held:
            file.seek(0)
            holder = file.readline().strip() or "a process"
            raise ResultsError(
                f"{folder} is in use by another pipeline, {holder}: "
                "wait for it, stop it, or name another folder with RESULTS=."
            )
        token = uuid.uuid4().hex
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        _rewrite(file, f"process {os.getpid()} on {socket.gethostname()} since {started}\n{token}")
        try:
            yield token
        finally:
            _rewrite(file, "")


def retire(results: Path) -> None:
    """Have every job of the pipeline at work end itself, wherever it runs."""
    (results / FILE).write_text("", encoding="utf-8")


@contextmanager
def sole_job(path: Path) -> Iterator[bool]:
    """Hold the lock file of one job, waiting until another lets go; yields whether it had to wait.

    The other can only be a job of a killed pipeline that has not noticed yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        waited = False
        while _take(file) is False:
            waited = True
            time.sleep(0.2)
        yield waited


def end_with_pipeline(results: Path) -> None:
    """End this process, which is a job, soon after its pipeline is no more the one at work.

    Without effect on a notebook that is run by hand.
    """
    if token := os.environ.get(VARIABLE):
        threading.Thread(target=_watch, args=(results / FILE, token), daemon=True).start()


def _watch(path: Path, token: str) -> None:
    """End the process as soon as the file names another token.

    Its kernel is interrupted first, which makes a training save its state; what does not come to
    its end then sees that its parent is gone.
    """
    while _token(path) in (token, None):
        time.sleep(LOOK_EVERY)
    ENDING.set()
    kernels = psutil.Process().children(recursive=True)
    for kernel in kernels:
        with suppress(psutil.Error):
            kernel.send_signal(signal.SIGINT)
    psutil.wait_procs(kernels, timeout=GRACE)
    if kernels:
        threading.main_thread().join(timeout=GRACE)  # papermill, which has something to write
    os._exit(2)  # as after any other error


def _token(path: Path) -> str | None:
    """The token of the pipeline at work, empty without one; None if the file cannot be read now."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[2]
    except OSError:
        return None


def _take(file: IO[str]) -> bool | None:
    """Whether this process holds the lock of the open file now; None: the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # NFS refuses with EACCES
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _rewrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
