"""The project, copied, with the real pipeline and library and few notebooks that only count.

Each stand-in notebook has the parameters and the imports of the real one, the latter where nothing
executes them, and writes a line whenever it runs. The one that trains leaves made-up runs. Cells
run in their job's own process, by a stand-in for papermill, and pages are made by one for
nbconvert, unless a test asks for `kernels`: these cost more than all that the pipeline does.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from e2e_lib.source_code import code_cells
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import ROOT
from tests.helpers.forking import handing_over, shared_server
from tests.helpers.synthetic_results import write_results

STAGES = (
    *("02_one_sae_by_hand", "10_train", "20_pareto", "23_geometry", "90_claims", "91_checklist"),
)
FEW = ("10_train", "20_pareto", "90_claims", "91_checklist")  # for a test that asks no more
# The settings of the made-up runs.
SETTINGS = (
    "seeds=[0,1]", "objectives=[local]", "sparsity_coeffs={local: [0.3, 1.0]}", "sweeps={}",
    "train_tokens=400000", "lr=1e-3", "dict_ratio=10.0", "batch_size=1", "micro_batch_size=1",
    "context_size=64",
)  # fmt: skip
COUNT = "with open('executions.txt', 'a') as log:\n    log.write({name!r} + {suffix} + '\\n')"
TRAIN = """
import shutil
from pathlib import Path
for made in sorted(Path("made/saes").glob(f"local-*-s{seed}")):
    place = Path(results_folder) / "saes" / made.name
    if not (place / "run.json").exists():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, place)
        with open("executions.txt", "a") as log:
            log.write(f"SAE {made.name}\\n")
"""
# By module: papermill and nbconvert, as far as the pipeline calls them.
WITHOUT_KERNELS = {
    "papermill/__init__.py": """
import ast
import json
import os
from pathlib import Path

from papermill.exceptions import PapermillExecutionError


def _cells(path):
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def inspect_notebook(path):
    first = [n for n in ast.parse(_cells(path.format())[0]).body if isinstance(n, ast.AnnAssign)]
    return {n.target.id: {"inferred_type_name": ast.unparse(n.annotation)} for n in first}


def execute_notebook(notebook, executed, parameters, *, cwd, **options):
    # papermill takes these for templates
    notebook, executed, cwd = (path.format(**parameters) for path in (notebook, executed, cwd))
    os.chdir(cwd)
    Path(executed).write_text(Path(notebook).read_text(encoding="utf-8"), encoding="utf-8")
    names = {}
    for count, cell in enumerate(_cells(notebook), 1):
        try:
            exec(cell, names)
        except Exception as error:
            raise PapermillExecutionError(count + 1, error) from error  # papermill adds one cell
        if count == 1:
            names.update(parameters)
""",
    "papermill/exceptions.py": """
class PapermillExecutionError(Exception):
    def __init__(self, count, error):
        self.exec_count, self.ename, self.evalue = count, type(error).__name__, str(error)
""",
    # The pages of executed notebooks, which tests of the report look at.
    "nbconvert/__init__.py": """
class HTMLExporter:
    def __init__(self, **options): pass
    def register_preprocessor(self, kind, enabled): pass
    def from_filename(self, name): return "<p>" + name.split("/")[-1] + "</p>", {}
""",
    "nbconvert/preprocessors.py": """
class Preprocessor:
    def __init__(self, **options): pass


class TagRemovePreprocessor(Preprocessor): pass
""",
    "nbconvert/filters/__init__.py": "",
    "nbconvert/filters/markdown_mistune.py": """
class IPythonRenderer: pass
class MarkdownWithMath: pass
""",
}


def imports_of(name: str) -> str:
    """The real notebook's imports from the library, never executed."""
    trees = [ast.parse(cell) for cell in code_cells(NOTEBOOKS / f"{name}.ipynb")]
    nodes = [node for tree in trees for node in tree.body]
    lines = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    return "\n    ".join(["if False:", *(line for line in lines if "e2e_lib" in line), "pass"])


class SmallProject:
    """A copy of the project in a folder of its own."""

    def __init__(
        self, root: Path, kernels: bool = False, notebooks: tuple[str, ...] = STAGES
    ) -> None:
        self.root = root
        self.kernels = kernels
        self.results = root / "results" / "r"
        for name in ("e2e_lib", "pipeline"):
            torn = shutil.ignore_patterns("*.pyc.*")  # else with what Python compiled
            shutil.copytree(ROOT / name, root / name, ignore=torn)
        stages = root / "pipeline" / "plan" / "stages.py"
        text = stages.read_text()
        introductions, analyses = (
            tuple(name for name in some if name in notebooks) for some in (STAGES[:1], STAGES[2:4])
        )
        for key, value in (("INTRODUCTIONS", introductions), ("ANALYSES", analyses)):
            whole = rf"(?m)^{key} = \((?:[^()]|\([^()]*\))*\)$"
            text, count = re.subn(whole, f"{key} = {value!r}", text)
            assert count == 1
        stages.write_text(text)
        profile = root / "pipeline" / "profiles" / "smoke.yaml"  # names notebooks that are not here
        own = yaml.safe_load(profile.read_text()) | {"notebook_parameters": {}}
        profile.write_text(yaml.safe_dump(own))
        for name, module in WITHOUT_KERNELS.items():
            place = root / "without_kernels" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(module)
        (root / "notebooks").mkdir()
        for name in notebooks:
            self.write(name, "pass")
        write_results(root / "made", layers=(2,), coeffs=(0.3, 1.0), weights=False)

    def write(self, name: str, *cells: str) -> Path:
        """Write the stand-in for a notebook, with more `cells` of code at its end."""
        parameters = code_cells(NOTEBOOKS / f"{name}.ipynb")[0]
        suffix = "f' seed {seed}'" if name == "10_train" else "''"
        count = COUNT.format(name=name, suffix=suffix)
        train = [TRAIN] if name == "10_train" else []
        notebook = new_notebook(
            cells=[
                new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                *map(new_code_cell, [count, imports_of(name), *train, *cells]),
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
        )
        path = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    def command(self, *settings: str) -> list[str]:
        """How the pipeline is started."""
        own = ["--profile", "smoke", "--results", str(self.results), "--cores", "2"]
        return [sys.executable, "-m", "pipeline.run", *own, *SETTINGS, *settings]

    def run(self, *settings: str) -> subprocess.CompletedProcess[str]:
        """Start the pipeline and wait for its end."""
        return subprocess.run(
            self.command(*settings), cwd=self.root, env=self.forking(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        own = [self.root] if self.kernels else [self.root / "without_kernels", self.root]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, own))}

    def forking(self) -> dict[str, str]:
        """The environment in which its processes are forks of one that has imported packages.

        For a pipeline that nobody kills: what kills one of its processes must meet that one.
        """
        return handing_over(self.environment(), "" if self.kernels else shared_server())

    def executions(self) -> Counter[str]:
        """How often each stand-in ran, and each SAE was trained, so far."""
        log = self.root / "executions.txt"
        return Counter(log.read_text().splitlines() if log.exists() else [])

    def done(self) -> set[str]:
        """Stages with a marker."""
        return {path.stem for path in (self.results / "done").glob("*.json")}
