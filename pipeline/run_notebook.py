"""Run one notebook with papermill, and say in one sentence what went wrong if it fails.

    python -m pipeline.run_notebook notebooks/20_pareto.ipynb --results results/smoke \
        --parameters '{"results_folder": "results/smoke"}'

Beyond papermill: unknown parameters are errors; success leaves a marker done/NAME.json, written
last (`fresh.py` says what it tells); the executed copy notebooks/NAME.ipynb is kept either way and
names no folder of the machine. Two runs of one name wait for each other.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from e2e_lib.errors import E2EError, command
from e2e_lib.files import write_json
from e2e_lib.source_code import notebook_digest
from pipeline.execution.fresh import facts, require_same
from pipeline.execution.lock import ENDING, end_with_pipeline, sole_job
from pipeline.execution.scrub import scrub_file, scrub_text
from pipeline.plan.notebook_parameters import check_parameters, literal
from pipeline.plan.profile import ROOT


class NotebookError(E2EError):
    """A notebook raised an exception, or its kernel died."""


class SocketKernelManager(AsyncKernelManager):
    """Talks to its kernel through files: kernels that start at once can race for TCP ports.

    Jupyter's own default for such files is one name in the working directory, for all kernels.
    """

    @default("transport")
    def _transport(self) -> str:
        return "ipc"

    @default("ip")
    def _place(self) -> str:
        return str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "kernel")


def run_notebook(
    notebook: Path,
    results: Path,
    parameters: Mapping[str, Any],
    name: str = "",
    plan: str = "",
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """Execute `notebook` into `results`/notebooks/`name`.ipynb and return the marker's path.

    Args:
        plan: the stage's `fresh.plan_digest`, for the marker.
        inputs: its `fresh.inputs_of`, for the marker.

    Raises ConfigError for a parameter the notebook lacks, DataError for an input that is another by
    now or when it ends, NotebookError when it fails.
    """
    name = name or notebook.stem
    code = notebook_digest(notebook)
    own: dict[str, Any] = {"name": name, "notebook": notebook.stem, "plan": plan, "code": code}
    own["inputs"] = dict(inputs or {})
    marker = results / "done" / f"{name}.json"
    there = marker.exists()
    with sole_job(results / "locks" / name) as waited:
        if waited and not there and own.items() <= facts(results, "done", name).items():
            return marker  # the job of a killed pipeline that held the lock came to its end
        _run(notebook, results, own, dict(parameters))
    return marker


def _run(notebook: Path, results: Path, own: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Execute the notebook, with markers of what `own` names: begun, running, failed or done."""
    name = own["name"]
    marker, failure = (results / kind / f"{name}.json" for kind in ("done", "failed"))
    running = results / "running" / f"{name}.json"
    executed = results / "notebooks" / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    for path in (marker, failure):
        path.unlink(missing_ok=True)
    started = time.time()
    write_json(results / "started" / f"{name}.json", own)
    write_json(running, {"name": name, "started": started})
    try:
        check_parameters(notebook, parameters)
        _require_same(own["inputs"], parameters)
        _execute(notebook, executed, parameters)
        _require_same(own["inputs"], parameters)
    except Exception as error:  # a damaged notebook too: it fails alone
        if ENDING.is_set():  # interrupted by us, and the pipeline at work will run it again
            raise
        kind = "" if isinstance(error, E2EError) else f"{type(error).__name__}: "
        write_json(failure, own | {"error": scrub_text(f"{kind}{error}")})
        raise
    finally:
        running.unlink(missing_ok=True)
        scrub_file(executed)
    seconds = round(time.time() - started, 1)
    write_json(marker, own | {"seconds": seconds, "parameters": parameters})


def _require_same(inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
    """`fresh.require_same`, of paths as the kernel finds them: this job is in a results folder."""
    with chdir(ROOT):
        require_same(inputs, parameters)


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Papermill, in the project's root, its errors turned into NotebookError."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="e2e-") as sockets:
        os.environ["JUPYTER_RUNTIME_DIR"] = sockets  # short: a socket's path has a length limit
        try:
            papermill.execute_notebook(
                literal(notebook),
                literal(executed),
                parameters,
                kernel_name="python3",
                cwd=literal(ROOT),
                progress_bar=sys.stderr.isatty(),
                start_timeout=300,
                kernel_manager_class=SocketKernelManager,
            )
        except PapermillExecutionError as error:
            words = " ".join(f"{error.ename}: {error.evalue}".split())
            words = f"{notebook.name}, cell {error.exec_count}: {words}"
            raise NotebookError(scrub_text(words)) from error
        except Exception as error:  # a dead kernel, a missing kernelspec, no space on the disk
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise NotebookError(scrub_text(f"{notebook.name}: {words}")) from error


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run one notebook with papermill.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--results", type=Path, default=Path(), help="results folder")
    parser.add_argument("--name", default="", help="of the executed copy (default: the notebook's)")
    parser.add_argument("--parameters", type=json.loads, default={}, help="as JSON")
    parser.add_argument("--plan", default="", help="digest of the stage, for the marker")
    parser.add_argument("--inputs", type=json.loads, default={}, help="as JSON, for the marker")
    given = parser.parse_args(arguments)
    results = given.results.resolve()
    end_with_pipeline(results)
    notebook, name = given.notebook.resolve(), given.name
    run_notebook(notebook, results, given.parameters, name, given.plan, given.inputs)


if __name__ == "__main__":
    sys.exit(main())
