"""The workshop in two folders that need no network: one for learners, one for the one who teaches.

    python -m pipeline.workshop.pack [PLATFORM ...]      build/pack/learners, build/pack/teacher

Learners get the exercises, the sources to read, the reference with its report, and every package as
a wheel: of this machine, or of the platforms named as pip names them (win_amd64, macosx_11_0_arm64,
manylinux_2_28_x86_64). Solutions, slides and guide are with the teacher.
"""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from e2e_lib.errors import E2EError, command
from e2e_lib.files import shown_path, write_text
from e2e_lib.runs.read import REFERENCE
from pipeline.plan.profile import ROOT
from pipeline.workshop import slides
from pipeline.workshop.generate import WORKSHOP, generate

TOOLS = ("jupyterlab", "ipykernel")  # of the extra `pipeline`: what opens and runs a notebook
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
README = f"""# End-to-end sparse autoencoders: a workshop

No network is needed. In this folder, with Python {PYTHON}:

    python -m venv .venv
    .venv/bin/pip install --no-index --find-links wheels "e2e_lib[analysis]" {" ".join(TOOLS)}
    .venv/bin/jupyter lab --LabApp.news_url=None exercises/W0_arrive.ipynb

On Windows: `.venv\\Scripts\\pip` and `.venv\\Scripts\\jupyter`.

`exercises/` is yours to write in. `e2e_lib/` holds the library's sources, to read; `notebooks/` the
analyses; `results/reference/index.html` the report, which opens in any browser.
"""


class PackError(E2EError):
    """pip could not build or fetch what the pack needs."""


def lay_out(folder: Path) -> None:
    """Everything but the wheels; what was in the folder goes."""
    shutil.rmtree(folder, ignore_errors=True)
    learners, teacher = folder / "learners", folder / "teacher"
    generate(learners)
    (learners / "solutions").rename(_made(teacher) / "solutions")
    without = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("e2e_lib", "notebooks", REFERENCE):
        shutil.copytree(ROOT / name, learners / name, ignore=without)
    # Results are looked for from the folder that holds these two, as in a checkout.
    shutil.copy(ROOT / "pyproject.toml", learners)
    shutil.copy(ROOT / "requirements.lock", learners)
    write_text(learners / "README.md", README)
    slides.write(ROOT / REFERENCE, teacher)
    shutil.copy(WORKSHOP / "schedule.yaml", teacher)


def fetch_wheels(folder: Path, platforms: Sequence[str] = ()) -> None:
    """The library and all that it needs, as wheels of the lock's versions.

    Raises:
        PackError: pip says no; its last line.
    """
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = facts["optional-dependencies"]
    tools = [line for line in extras["pipeline"] if line.split("==")[0] in TOOLS]
    wanted = [*facts["dependencies"], *extras["analysis"], *tools]
    locked = ("--constraint", str(ROOT / "requirements.lock"))
    # Built here where an index has only the source; what is pure Python then serves all platforms.
    _pip("wheel", "--wheel-dir", str(_made(folder)), *locked, f"{ROOT}[analysis]", *tools)
    for platform in platforms:
        only = ("--only-binary", ":all:", "--platform", platform, "--python-version", PYTHON)
        to = ("--dest", str(folder), "--find-links", str(folder))
        _pip("download", *to, *only, *locked, *wanted)


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise PackError(f"pip {arguments[0]} failed: {last}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@command
def main(arguments: list[str]) -> None:
    """Make the pack, of this machine's wheels or of the platforms named."""
    folder = ROOT / "build" / "pack"
    lay_out(folder)
    fetch_wheels(folder / "learners" / "wheels", arguments)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{shown_path(folder)}: learners and teacher, {size / 1e6:.0f} MB.")


if __name__ == "__main__":
    raise SystemExit(main())
