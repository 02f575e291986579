"""The unit tests, and beside them lint and the notebooks, on what of the cores they leave idle.

    python tests/run_all.py

Some tests only wait: for a pipeline to end, for a job to be killed. What runs beside them has a
lower priority and says what it does in build/NAME.txt, which is shown after the tests.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.helpers.forking import PACKAGES, SHARED, fork_server

BESIDE = {
    "lint": ["make", "--silent", "lint"],
    "notebooks": [sys.executable, str(ROOT / "tests" / "notebooks" / "check_notebooks.py")],
}
NICENESS = 5  # of 19: a test that watches a clock comes first
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]


def main() -> int:
    """Run all; the exit status of the first that fails."""
    beside = {name: started(command, log_of(name)) for name, command in BESIDE.items()}
    try:
        with fork_server(PACKAGES, os.environ) as place:
            env = os.environ | {SHARED: place}
            status = subprocess.run([sys.executable, *PYTEST], cwd=ROOT, env=env).returncode
        for process in beside.values():
            status = status or process.wait()
    finally:
        for process in beside.values():
            if process.poll() is None:  # something failed, or somebody stopped the tests
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    for name in beside:
        print(log_of(name).read_text(errors="replace"))
    return status


def log_of(name: str) -> Path:
    return ROOT / "build" / f"{name}.txt"


def started(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """A process of low priority and a group of its own, which writes to `log`."""
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=stream,
            start_new_session=True, preexec_fn=lambda: os.nice(NICENESS),
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
