"""The unit tests, and beside them the notebooks, which take what of the cores the tests leave idle.

    python tests/run_all.py

Some tests only wait: for a pipeline to end, for a job to be killed. The notebooks run at a lower
priority and say what they do in build/notebooks.txt, which is shown after the tests.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "tests" / "notebooks" / "check_notebooks.py"
LOG = ROOT / "build" / "notebooks.txt"
NICENESS = 5  # of 19: a test that watches a clock comes first
PYTEST = ["-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]


def main() -> int:
    """Run both; the exit status of the first that fails."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        notebooks = subprocess.Popen(
            [sys.executable, NOTEBOOKS], cwd=ROOT, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=lambda: os.nice(NICENESS),
        )  # fmt: skip
        try:
            status = subprocess.run([sys.executable, *PYTEST], cwd=ROOT, check=False).returncode
            status = status or notebooks.wait()
        finally:
            if notebooks.poll() is None:  # the tests failed, or somebody stopped them
                os.killpg(notebooks.pid, signal.SIGTERM)
                notebooks.wait()
    print(LOG.read_text(errors="replace"))
    return status


if __name__ == "__main__":
    sys.exit(main())
