"""What runs again, and what does not: counted, on a copy of the project with small notebooks.

A start of the pipeline costs seconds, so one answers for several changes where they cannot hide
each other. Kernels are there where one has to end with its pipeline.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import nbformat
import psutil
import pytest

from e2e_lib.source_code import notebook_digest
from tests.helpers.small_project import FEW, SmallProject
from tests.helpers.small_project import STAGES as STAND_INS
from tests.helpers.tiny_models import write_jsonl

pytestmark = pytest.mark.slow
TRAINING = {"10_train seed 0", "10_train seed 1"}
ANALYSES = {"20_pareto", "23_geometry", "90_claims", "91_checklist"}
EVERYTHING = {"02_one_sae_by_hand"} | TRAINING | ANALYSES
SAES = {f"SAE local-blocks.2.hook_resid_pre-l{c}-s{s}" for c in (0.3, 1.0) for s in (0, 1)}
STAGES = 7
KILLS = int(os.environ.get("E2E_KILLS", "2"))  # of the whole pipeline, in the test of that


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SmallProject:
    """A project whose pipeline has run once."""
    project = SmallProject(tmp_path_factory.mktemp("project"))
    first = project.run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert project.executions() == dict.fromkeys(EVERYTHING | SAES, 1)
    assert len(project.done()) == STAGES
    return project


def ran_again(project: SmallProject, *settings: str) -> set[str]:
    """What a start of the pipeline, to a good end, executes."""
    before = project.executions()
    again = project.run(*settings)
    assert again.returncode == 0, again.stdout + again.stderr
    new = project.executions() - before
    assert set(new.values()) <= {1}
    return set(new)


def save_in_jupyter(path: Path) -> None:
    """Outputs, execution counts, metadata and cell ids are new, and prose; the code is not."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["language_info"] = {"name": "python", "version": "3.12.1"}
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"new-{number}"
        cell.metadata["editable"] = True
        cell["execution_count"] = number
        cell["outputs"] = [nbformat.v4.new_output("stream", text="seen")]
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("A thought."))
    nbformat.write(notebook, path)


def test_a_changed_cell_runs_its_notebook_and_what_reads_it_and_what_is_no_code_nothing(
    project: SmallProject,
) -> None:
    """No code: all that saving in Jupyter does; comments and docstrings of the library."""
    project.write("20_pareto", "level = 2")
    for path in (project.root / "notebooks").glob("*.ipynb"):
        save_in_jupyter(path)
    module = project.root / "e2e_lib" / "core" / "train.py"
    module.write_text(module.read_text().replace('"""', '"""Namely: ', 1) + "\n# The end.\n")
    assert ran_again(project) == {"20_pareto", "90_claims"}


def test_a_changed_module_is_code_of_the_notebooks_that_import_it(project: SmallProject) -> None:
    """By digest: that a notebook of another one runs again, the other tests show."""
    library = project.root / "e2e_lib"

    def digests() -> set[tuple[str, str]]:
        folder = project.root / "notebooks"
        return {(name, notebook_digest(folder / f"{name}.ipynb", library)) for name in STAND_INS}

    for module, importing in (
        ("analysis/geometry.py", {"23_geometry"}),
        ("plots/style.py", ANALYSES | {"02_one_sae_by_hand"}),  # all that draw, no training
    ):
        path, before = library / module, digests()
        text = path.read_text()
        path.write_text(text + "\nMORE = 1\n")
        assert {name for name, _ in digests() - before} == importing
        path.write_text(text)
    before, compiled = digests(), library / "storyworld" / "__pycache__" / "x.pyc.140234"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_text("half of it")
    assert digests() == before, "another process compiles a module just now"


def test_changed_training_code_trains_again_and_keeps_the_old(project: SmallProject) -> None:
    """The folders of finished runs must not make training skip them."""
    with (project.root / "e2e_lib" / "core" / "losses.py").open("a") as module:
        module.write("\nMORE = 1\n")
    assert ran_again(project) == EVERYTHING | SAES
    kept = {f"SAE {f.name}" for f in (project.results / "set_aside").iterdir()}
    assert kept == SAES


def test_a_changed_parameter_runs_what_it_goes_to(project: SmallProject) -> None:
    fewer = ran_again(project, "tracker=wandb", "seeds=[0]")  # the other seed's runs are set aside
    assert fewer == {"10_train seed 0"} | ANALYSES
    assert "s1" not in (project.results / "metrics.csv").read_text()
    back = ran_again(project)  # seed 0 for its tracker, without training its SAEs again
    assert back == TRAINING | ANALYSES | {s for s in SAES if s.endswith("s1")}


def test_a_failed_notebook_is_kept_named_and_tried_again(project: SmallProject) -> None:
    project.write("20_pareto", "raise ValueError('no such level')")
    project.write("23_geometry", "x = 1")
    before = project.executions()
    broken = project.run()
    assert broken.returncode == 1
    assert "20_pareto failed. 20_pareto.ipynb, cell 5: ValueError: no such level" in broken.stderr
    assert "notebooks/20_pareto.ipynb" in broken.stderr
    assert "no such level" in (project.results / "notebooks" / "20_pareto.ipynb").read_text()
    assert "no such level" in (project.results / "index.html").read_text()
    assert set(project.executions() - before) == {"20_pareto", "23_geometry"}  # the rest goes on
    assert project.run().returncode == 1
    assert project.executions()["20_pareto"] == before["20_pareto"] + 2  # tried again
    assert project.executions()["23_geometry"] == before["23_geometry"] + 1
    project.write("20_pareto", "level = 3")
    # The checklist named it, so that it is made again too.
    assert ran_again(project) == {"20_pareto", "90_claims", "91_checklist"}
    assert ran_again(project) == set()


def test_kill_9_needs_no_manual_step_and_repeats_nothing(tmp_path: Path) -> None:
    """Killed again and again, all of it or the first process alone, as a notebook runs.

    Of more kills than two, E2E_KILLS, every third comes at any moment.
    """
    project = SmallProject(tmp_path / "p", notebooks=FEW)
    for name in FEW:
        project.write(name, "import time; time.sleep(1)")  # so that some are killed midway
    dice = random.Random(5)
    for kill in range(KILLS):
        finished = project.done()
        process = subprocess.Popen(
            project.command(), cwd=project.root, env=project.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        midway, whole = kill % 3 != 2, kill % 3 != 1
        if midway:  # else at any moment, most of them before a notebook runs
            before = project.executions()
            while process.poll() is None and project.executions() == before:
                time.sleep(0.05)
        try:
            assert process.wait(dice.uniform(0.2, 0.8 if midway else 15)) == 0
        except subprocess.TimeoutExpired:
            family = [psutil.Process(process.pid)]
            if whole:  # else its children are left behind, at work
                family += family[0].children(recursive=True)
            for member in family:
                _kill(member)
        assert "in use" not in process.communicate()[1]
        assert finished <= project.done()
    earlier, finished = project.executions(), project.done()
    last = project.run()
    assert last.returncode == 0, last.stdout + last.stderr
    names = {name.replace("-layer2-", " ").replace("seed", "seed ") for name in finished}
    assert not names & set(project.executions() - earlier)
    assert len(project.done()) == 1 + len(FEW) and (project.results / "index.html").is_file()
    assert {n for n in project.executions() if n.startswith("SAE")} == SAES
    assert max(project.executions().values()) > 1  # a notebook was killed midway and ran again
    assert ran_again(project) == set()


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def wait_for(project: SmallProject, name: str, process: "subprocess.Popen[bytes]") -> Counter[str]:
    """Wait until a notebook has begun once more; returns the counts then."""
    before = project.executions()[name]
    while project.executions()[name] == before:
        assert process.poll() is None
        time.sleep(0.1)
    return project.executions()


def test_a_second_pipeline_says_so_and_a_signal_ends_the_first_with_its_jobs(
    project: SmallProject,
) -> None:
    project.kernels = True
    project.write("20_pareto", "import time; time.sleep(600)")
    first = subprocess.Popen(
        project.command(), cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL
    )
    before = wait_for(project, "20_pareto", first)
    second = project.run()
    assert second.returncode == 2 and project.executions() == before
    [sentence] = second.stderr.splitlines()
    assert sentence.startswith("error: results/r is in use by another pipeline, process ")
    assert str(first.pid) in sentence and "RESULTS=" in sentence
    assert first.poll() is None, "it is not disturbed"

    family = psutil.Process(first.pid).children(recursive=True)
    first.terminate()
    assert first.wait(30) == 130
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    project.kernels = False
    project.write("20_pareto", "pass")  # the next test's start goes on with it


TELL = """
import json
from pathlib import Path
from e2e_lib.runs.provenance import content_digest, model_digest
for record in Path(results_folder, "saes").glob(f"*-s{seed}*/run.json"):
    facts = json.loads(record.read_text())
    facts["config"]["train_data"] = Path(train_data).name
    contents = {"model": model_digest(model), "train": content_digest(train_data)}
    facts["config"]["contents"] = contents | {"validation": None}
    record.write_text(json.dumps(facts))
"""


def test_text_rewritten_in_place_trains_again(project: SmallProject) -> None:
    """Its old runs are set aside, and the pipeline says why."""
    project.write("10_train", TELL)  # made-up runs say which text they were trained on
    text = project.root / "text.jsonl"
    write_jsonl(text, [{"text": "one " * 20_000}])  # enough for what the profile asks
    assert ran_again(project, f"TRAIN={text}") == TRAINING | ANALYSES | SAES
    assert ran_again(project, f"TRAIN={text}") == set()
    write_jsonl(text, [{"text": "two " * 20_000}])
    before = project.executions()
    again = project.run(f"TRAIN={text}")
    assert again.returncode == 0, again.stdout + again.stderr
    stages = "10_train-layer2-seed0, 10_train-layer2-seed1"
    assert f"Runs again: {stages} (TRAIN has changed)." in again.stdout
    assert "4 runs of other settings or code moved" in again.stdout
    assert set(project.executions() - before) == TRAINING | ANALYSES | SAES
