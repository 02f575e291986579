"""The pipeline on a real SLURM of one host, through Snakemake's executor plugin."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.execution.executor import CLUSTERS
from pipeline.plan.profile import ROOT
from tests.helpers.slurm_host import command, missing_programs, slurm_host
from tests.helpers.small_project import FEW, SmallProject
from tests.helpers.weekly import FULL

LACKING = missing_programs()
WHOLE = "E2E_SLURM" in os.environ
MINUTES = "three minutes, most of them waiting: asked for by E2E_SLURM=1, and every week"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (WHOLE or FULL), reason=MINUTES),
    pytest.mark.skipif(bool(LACKING), reason=f"no SLURM here: {', '.join(LACKING)} not found"),
]


@pytest.fixture(scope="module")
def slurm():
    with slurm_host() as env:
        yield env


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """The project's SLURM profile, with what this small host wants changed as a user would."""
    folder = tmp_path / "cluster"
    shutil.copytree(CLUSTERS / "slurm", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["default-resources"] |= {"mem_mb": 1500, "runtime": 30}
    config |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2}
    config["latency-wait"] = 10
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def first_training(process: "subprocess.Popen[str]", results: Path) -> str:
    """The name of the training that is at work first."""
    while not (running := sorted((results / "running").glob("10_train*.json"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    return running[0].stem


def lose_and_finish(start: list[str], root: Path, results: Path, env: dict[str, str]) -> None:
    """Start, cancel the job of the first training, then start again; what was finished stays.

    Trainings that wait while there is a file `root/hold` go on once the cancelled one is gone.
    """
    env = {**os.environ, **env}
    with subprocess.Popen(start, cwd=root, env=env, stderr=subprocess.PIPE, text=True) as first:
        lost = first_training(first, results)
        running = ("squeue", "--noheader", "--states=running", "--format=%A %k")
        listed = [line.split() for line in command(env, *running).splitlines()]
        [job] = [job for job, rule in listed if rule == f"rule_{lost}"]
        command(env, "scancel", job)
        while command(env, "squeue", "--noheader", f"--jobs={job}").strip():
            time.sleep(0.2)
        (root / "hold").unlink(missing_ok=True)
        errors = first.communicate()[1]
    assert first.returncode == 1, errors
    assert f"{lost} failed. It was killed: cancelled" in errors
    finished = {path: path.read_text() for path in (results / "done").glob("*.json")}
    assert (results / "done" / f"{lost}.json") not in finished and finished
    assert not (results / "metrics.csv").exists()

    second = subprocess.run(start, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (results / "done" / f"{lost}.json").is_file() and (results / "metrics.csv").is_file()
    assert all(path.read_text() == text for path, text in finished.items())  # seconds and all


def test_a_cancelled_job_costs_itself_alone_and_a_killed_pipeline_leaves_none(
    tmp_path: Path, slurm: dict[str, str], cluster: Path
) -> None:
    """`kill -9` leaves jobs in SLURM's queue: at the next start they end."""
    project = SmallProject(tmp_path / "p", notebooks=FEW)
    start = [*project.command(), "--cluster", str(cluster)]
    where = project.environment() | slurm
    project.write("10_train", "import os, time\nwhile os.path.exists('hold'): time.sleep(0.1)")
    (project.root / "hold").touch()
    one = [*start, "--cores", "1"]  # so that nothing waits in the queue when its pipeline dies
    with subprocess.Popen(
        one, cwd=project.root, env=where, stdout=subprocess.DEVNULL, text=True
    ) as killed:
        left = first_training(killed, project.results)
        killed.kill()
    for marker in (project.results / "running").iterdir():
        marker.unlink()  # what runs now is what the next start runs
    before = project.executions()

    lose_and_finish(start, project.root, project.results, where)
    # Cancelled by the next start, or ended by itself at the sight of its token: none goes on.
    assert not command(slurm, "squeue", "--noheader").strip(), left
    counts = project.executions() - before
    # Two trainings, one of which was cancelled and ran once more.
    assert sorted(n for name, n in counts.items() if name.startswith("10_train")) == [1, 2]
    assert {counts[name] for name in ("20_pareto", "90_claims")} == {1}


@pytest.mark.skipif(not WHOLE, reason="the whole smoke profile: asked for by E2E_SLURM=1")
def test_smoke_profile_on_slurm(tmp_path: Path, slurm: dict[str, str], cluster: Path) -> None:
    """Every notebook, shrunk."""
    results = tmp_path / "results"
    program = [sys.executable, "-m", "pipeline.run", "--profile", "smoke", "--shrink"]
    start = [*program, "--results", str(results), "--cluster", str(cluster)]
    lose_and_finish(start, ROOT, results, slurm)
    assert (results / "done" / "00_start_here.json").is_file()
    assert (results / "index.html").is_file() and (results / "claims.json").is_file()
