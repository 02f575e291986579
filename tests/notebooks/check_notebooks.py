"""The notebooks, run: the smoke pipeline, then each notebook again through nbval.

1. The smoke profile runs end to end into results/smoke, which is deleted first.
2. Lax: `papermill --prepare-only` puts the smoke parameters into every notebook, nbval runs it.
3. Strict: nbval runs the *executed* notebooks again and compares every output. Training goes into
   a folder of its own there, for runs that are finished would not be trained again.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import papermill

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from pipeline.execution.executor import environment
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import load_profile
from pipeline.plan.stages import Stage, stages

RESULTS, LAX, STRICT = "results/smoke", "build/lax", "build/strict"
SANITIZE = "tests/notebooks/nbval_sanitize.cfg"
NBVAL = "--nbval-current-env --nbval-cell-timeout=300 -n 2 --dist loadfile -p no:cacheprovider"


def main() -> int:
    """Do all three; returns the exit status of the first that fails."""
    for folder in (RESULTS, LAX, STRICT):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    if status := python("-m", "pipeline.run", "--profile", "smoke", "--results", RESULTS):
        return status
    todo = chosen(stages(load_profile("smoke"), RESULTS))
    for stage in todo:
        prepare(stage)
        copy_executed(stage)
    return nbval("--nbval-lax", LAX) or nbval("--nbval", STRICT)


def chosen(todo: list[Stage]) -> list[Stage]:
    """One stage of each notebook; of the training runs the dearest, which uses most of the code."""
    first: dict[str, Stage] = {}
    for stage in todo:
        first.setdefault(stage.notebook, stage)
    return list(first.values())


def prepare(stage: Stage) -> None:
    """Write the notebook with the stage's parameters, not executed, into build/lax."""
    parameters = dict(stage.parameters)
    if stage.saes:
        parameters["results_folder"] = LAX
    (ROOT / LAX).mkdir(parents=True, exist_ok=True)
    source, target = NOTEBOOKS / f"{stage.notebook}.ipynb", ROOT / LAX / f"{stage.notebook}.ipynb"
    papermill.execute_notebook(
        str(source), str(target), parameters, prepare_only=True, progress_bar=False
    )


def copy_executed(stage: Stage) -> None:
    """Copy the executed notebook into build/strict; training gets a results folder of its own."""
    text = (ROOT / RESULTS / "notebooks" / f"{stage.name}.ipynb").read_text(encoding="utf-8")
    (ROOT / STRICT).mkdir(parents=True, exist_ok=True)
    text = text.replace(RESULTS, STRICT) if stage.saes else text
    (ROOT / STRICT / f"{stage.name}.ipynb").write_text(text, encoding="utf-8")


def nbval(kind: str, folder: str) -> int:
    """Run pytest with nbval on a folder, without the settings made for the unit tests."""
    plain = ("-o", "addopts=", "-o", "filterwarnings=default", "-W", "default")
    sanitize = ("--nbval-sanitize-with", SANITIZE) if kind == "--nbval" else ()
    return python("-m", "pytest", kind, *NBVAL.split(), *plain, *sanitize, folder)


def python(*arguments: str) -> int:
    """Run this Python in the project's root, with the pipeline's environment."""
    print("$ python", *arguments, flush=True)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
