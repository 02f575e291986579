"""Run one notebook with papermill, and say in one sentence what went wrong if it fails.

    python -m pipeline.run_notebook notebooks/20_pareto.ipynb --results results/smoke \
        --parameters '{"results_folder": "results/smoke"}'

Beyond papermill: unknown parameters are errors; success leaves a marker done/NAME.json, written
last; the executed copy notebooks/NAME.ipynb is kept either way and names no folder of the machine.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from e2e_lib.errors import ConfigError, E2EError, closest
from e2e_lib.files import write_json
from pipeline.profile import ROOT
from pipeline.scrub import scrub_file


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
    notebook: Path, results: Path, parameters: Mapping[str, Any], name: str = ""
) -> Path:
    """Execute `notebook` into `results`/notebooks/`name`.ipynb and return the marker's path.

    Raises ConfigError for a parameter the notebook lacks, NotebookError when it fails.
    """
    name = name or notebook.stem
    marker, failure = (results / kind / f"{name}.json" for kind in ("done", "failed"))
    running = results / "running" / f"{name}.json"
    executed = results / "notebooks" / f"{name}.ipynb"
    for path in (marker, failure, running, executed):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path in (marker, failure):
        path.unlink(missing_ok=True)
    started = time.time()
    write_json(running, {"name": name, "started": started})
    try:
        check_parameters(notebook, parameters)
        _execute(notebook, executed, dict(parameters))
    except E2EError as error:
        write_json(failure, {"name": name, "notebook": notebook.stem, "error": str(error)})
        raise
    finally:
        running.unlink(missing_ok=True)
        scrub_file(executed)
    seconds = round(time.time() - started, 1)
    facts = {
        "name": name,
        "notebook": notebook.stem,
        "seconds": seconds,
        "parameters": dict(parameters),
    }
    write_json(marker, facts)
    return marker


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every parameter is in the notebook's parameters cell."""
    known = papermill.inspect_notebook(str(notebook))
    for key in parameters:
        if key not in known:
            raise ConfigError(
                f"{key} is no parameter of {notebook.name}; its parameters include "
                f"{closest(key, known)}."
                if known
                else f"{key} is no parameter of {notebook.name}, which takes none."
            )


def _execute(notebook: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Papermill, in the project's root, its errors turned into NotebookError."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="e2e-") as sockets:
        os.environ["JUPYTER_RUNTIME_DIR"] = sockets  # short: a socket's path has a length limit
        try:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                parameters,
                kernel_name="python3",
                cwd=str(ROOT),
                progress_bar=sys.stderr.isatty(),
                start_timeout=300,
                kernel_manager_class=SocketKernelManager,
            )
        except PapermillExecutionError as error:
            words = " ".join(f"{error.ename}: {error.evalue}".split())
            raise NotebookError(f"{notebook.name}, cell {error.exec_count}: {words}") from error
        except Exception as error:  # a dead kernel, a missing kernelspec, no space on the disk
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise NotebookError(f"{notebook.name}: {words}") from error


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run one notebook with papermill.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--results", type=Path, default=Path(), help="results folder")
    parser.add_argument("--name", default="", help="of the executed copy (default: the notebook's)")
    parser.add_argument("--parameters", type=json.loads, default={}, help="as JSON")
    given = parser.parse_args(arguments)
    try:
        run_notebook(
            given.notebook.resolve(), given.results.resolve(), given.parameters, given.name
        )
    except E2EError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
