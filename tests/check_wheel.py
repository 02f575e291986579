"""What a user gets: the wheel, in an empty environment outside the checkout, runs README's lines.

    python tests/check_wheel.py [--lowest | --newest]

Without extras, so a module of training or evaluating that needs one fails here. The versions are
those of requirements.lock, or the ends of pyproject.toml's ranges. Takes a minute or two.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("matplotlib", "scipy", "umap", "snakemake", "IPython", "pytest")
WHERE = f"""
import importlib.util, pkgutil, sys
import e2e_lib
assert e2e_lib.__file__.startswith(sys.prefix), e2e_lib.__file__
for module in pkgutil.walk_packages(e2e_lib.__path__, "e2e_lib."):
    if not module.name.startswith(("e2e_lib.analysis", "e2e_lib.plots", "e2e_lib.teach")):
        importlib.import_module(module.name)
print(*[name for name in {EXTRAS} if importlib.util.find_spec(name)])
"""


def lowest() -> list[str]:
    """`name==version` of the lower end of every range."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.sub(r">=([^,]+),.*", r"==\1", line) for line in lines]


def check(pins: list[str], folder: Path) -> None:
    """Build, install and run.

    Raises:
        subprocess.CalledProcessError, AssertionError: what is wrong.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}

    def run(*command: str | Path) -> str:
        return subprocess.check_output(command, text=True, cwd=folder, env=clean)

    shutil.rmtree(
        ROOT / "build" / "lib", ignore_errors=True
    )  # of an older tree: it would be packed
    quiet = ("--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    files = {f.relative_to(ROOT).as_posix() for f in (ROOT / "e2e_lib").rglob("*") if f.is_file()}
    lacking = {f for f in files if "/__pycache__/" not in f} - {*zipfile.ZipFile(wheel).namelist()}
    assert not lacking, f"the wheel lacks {sorted(lacking)}"
    run(sys.executable, "-m", "venv", "new")
    python = folder / "new" / "bin" / "python"
    # Compiled is what is imported: all of it would take longer than all the rest here.
    run(python, "-m", "pip", "install", *quiet, "--no-compile", wheel, *pins)
    assert not (found := run(python, "-c", WHERE).split()), f"the base brings {found}"
    lines = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert lines is not None
    ce_increase, l0 = map(float, run(python, "-c", lines[1]).split())
    assert math.isfinite(ce_increase) and 0 < l0 < 1280, (ce_increase, l0)
    print(f"The wheel alone trains and evaluates: CE increase {ce_increase:.3f}, L0 {l0:.1f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--lowest", action="store_true", help="the lower ends of the ranges")
    ends.add_argument("--newest", action="store_true", help="the newest that the ranges allow")
    arguments = parser.parse_args()
    locked = ["--constraint", str(ROOT / "requirements.lock")]
    pins = lowest() if arguments.lowest else [] if arguments.newest else locked
    with tempfile.TemporaryDirectory() as folder:
        check(pins, Path(folder))


if __name__ == "__main__":
    main()
