"""A process that has imported what most others import, and is forked in their place.

A `python -m ...` of the tests costs seconds before it does anything: torch, pandas, Snakemake,
Jupyter. In the environment of `handing_over` such a process hands its command line, environment,
folder and open files over to a fork of a server, and ends as that one ends. So do its children,
Jupyter's kernels among them. Weekly, with E2E_SLOW=full, all start as users' do.

    python tests/helpers/forking.py SOCKET MODULE...
"""

import atexit
import ctypes
import importlib
import marshal
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
SHARED = "E2E_SHARED_SERVER"  # where the one is that all tests use
# What tests' children import; none of the project's own, of which a test may start a copy, and none
# that it may put stand-ins in place of.
PACKAGES = (
    *("snakemake.cli", "pandas", "nbformat", "jupyter_client.manager", "jinja2", "pygments"),
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "torch.distributed.run"),
    "transformer_lens.model_bridge.sources.transformers",  # half of all the imports
)
CLIENT = Path(__file__).parent / "handed_over"
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)  # none to be lost in a fork


@contextmanager
def fork_server(modules: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """A server with `modules`; yields the path of its socket.

    An empty one without a server: with E2E_SLOW=full, and where there is no Linux.

    `environment` is that of the forks, as far as modules read it when they are imported.
    """
    if os.environ.get("E2E_SLOW") == "full" or sys.platform != "linux":
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="e2e-") as folder:
        place = f"{folder}/s"  # short: a socket's path has a length limit
        command = [sys.executable, __file__, place, *modules]
        # Kernels look for a parent: without the server they end.
        env = {**environment, **dict.fromkeys(THREADS, "1"), "JPY_PARENT_PID": str(os.getpid())}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=env, **pipes) as process:
            try:
                assert process.stdout and process.stdout.readline() == "ready\n"
                yield place
            finally:
                process.kill()


@cache
def shared_server() -> str:
    """That of `tests/run_all.py`, or one that lives as long as this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return os.environ.get(SHARED) or stack.enter_context(fork_server(PACKAGES, os.environ))


def handing_over(environment: Mapping[str, str], place: str) -> dict[str, str]:
    """The environment in which every `python -m` is a fork of the server at `place`."""
    paths = (str(CLIENT), environment.get("PYTHONPATH", ""))
    own = {"E2E_FORK_SERVER": place, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {**environment, **(own if place else {})}


def serve(place: str, modules: list[str]) -> None:
    """Fork for each connection until whoever started this closes its standard input."""
    for name in modules:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork has none of the others' threads"
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as events:
        listener.bind(place)
        listener.listen(64)
        print("ready", flush=True)
        events.register(listener, selectors.EVENT_READ)
        events.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fileobj == 0:
                    return
                if key.fileobj is listener:
                    _begin(listener, events)
                elif key.fd in events.get_map():  # else ended in this round
                    _attend(key, events)


def _begin(listener: socket.socket, events: selectors.BaseSelector) -> None:
    """Fork one."""
    client, _ = listener.accept()
    length, files, *_ = socket.recv_fds(client, 4, 3)
    if not length:  # killed as it began
        client.close()
        return
    told = client.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    if not (child := os.fork()):
        run(*marshal.loads(told), files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    events.register(client, selectors.EVENT_READ, (child, client, ended))
    events.register(ended, selectors.EVENT_READ, (child, client, ended))


def _attend(key: selectors.SelectorKey, events: selectors.BaseSelector) -> None:
    """A signal for one, whose client says so or is gone; or the end of one, which it is told."""
    child, client, ended = key.data
    if key.fileobj is client:
        try:
            numbers = client.recv(16)
        except OSError:
            numbers = b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(child, number)
        if not numbers:
            events.unregister(client)
        return
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in (client, ended):
        if file in events.get_map():
            events.unregister(file)
    with suppress(OSError):  # gone
        client.sendall(status.to_bytes(2, "big", signed=True))
    client.close()
    os.close(ended)


def run(arguments: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    """In the fork: `python -m` with these arguments. Does not return."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # none outlives the server
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, 1024)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        paths = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [folder, *filter(None, paths)]
        sys.argv = ["-m", *arguments[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # each its own chance, as Python's
        runpy._run_module_as_main(arguments[0])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    serve(sys.argv[1], sys.argv[2:])
