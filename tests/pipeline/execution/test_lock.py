"""One pipeline in a results folder, one job of a name; and locks that no one holds block nobody."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e_lib.errors import ResultsError
from pipeline.execution.fresh import drop_torn_copies
from pipeline.execution.lock import FILE, VARIABLE, retire, sole_job, sole_pipeline
from pipeline.plan.profile import ROOT

HOLD = """
import sys, time
from pathlib import Path
from pipeline.execution.lock import sole_pipeline
with sole_pipeline(Path(sys.argv[1]), "r"):
    print("held", flush=True)
    time.sleep(60)
"""
JOB = """
import sys, time
from pathlib import Path
from pipeline.execution.lock import end_with_pipeline
end_with_pipeline(Path(sys.argv[1]))
print("begun", flush=True)
time.sleep(60)
"""


def start(code: str, folder: Path, token: str = "") -> "subprocess.Popen[str]":
    """A process that runs `code` and has said its first word."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: token}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline()
    return process


def test_the_second_is_told_who_holds_the_folder_until_that_one_is_killed(tmp_path: Path) -> None:
    with start(HOLD, tmp_path) as holder:
        with (
            pytest.raises(ResultsError, match=rf"r is in use by another .*process {holder.pid} "),
            sole_pipeline(tmp_path, "r"),
        ):
            pytest.fail("held twice")
        holder.kill()
        holder.wait()
    assert str(holder.pid) in (tmp_path / FILE).read_text()  # what it left behind blocks nobody
    with sole_pipeline(tmp_path, "r"):
        assert str(os.getpid()) in (tmp_path / FILE).read_text()
    assert (tmp_path / FILE).read_text() == ""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_to_be_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with sole_pipeline(tmp_path, "results/r") as token:
        assert token in (tmp_path / FILE).read_text()
    assert "results/r is on a file system without locks" in capsys.readouterr().out
    with sole_job(tmp_path / "locks" / "a") as waited:
        assert not waited


def test_another_mistake_of_the_file_system_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken"), sole_pipeline(tmp_path, "r"):
        pass


def test_a_job_ends_with_its_pipeline(tmp_path: Path) -> None:
    """Soon after another pipeline took over the folder, and after its own was stopped."""
    with sole_pipeline(tmp_path, "r") as token:
        job = start(JOB, tmp_path, token)
        by_hand = start(JOB, tmp_path)
        time.sleep(1.5)
        assert job.poll() is None
    with sole_pipeline(tmp_path, "r") as token:
        assert job.wait(5) == 2
        second = start(JOB, tmp_path, token)
        retire(tmp_path)
        assert second.wait(5) == 2
    assert by_hand.poll() is None  # a notebook run by hand belongs to no pipeline
    by_hand.kill()
    for process in (job, second, by_hand):
        process.communicate()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_training_that_outlives_its_pipeline_saves_its_state(tmp_path: Path) -> None:
    parameters = {
        "results_folder": str(tmp_path), "train_data": "storyworld", "objectives": "local",
        "sparsity_coeffs": "local:5", "train_tokens": 1_000_000, "checkpoint_seconds": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "pipeline.run_notebook", "notebooks/10_train.ipynb"]
    command += ["--results", str(tmp_path), "--parameters", json.dumps(parameters)]

    def saved() -> set[Path]:
        return set(tmp_path.glob("saes/*/checkpoints/step-*.safetensors"))

    with sole_pipeline(tmp_path, "r") as token:
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, VARIABLE: token},
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not saved():
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.1)
        before = saved()
    [said] = job.communicate(timeout=60)[1:]
    assert job.returncode == 2
    assert "training was stopped by SIGINT" in said and "its state is saved" in said
    assert saved() - before, "once more than it does every second"
    assert not (tmp_path / "failed" / "10_train.json").exists(), "it did not fail"
    assert not (tmp_path / "running" / "10_train.json").exists()


def test_torn_copies_go_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, text in (("whole", '{"cells": []}'), ("torn", '{"cells": ['), ("empty", "")):
        (folder / f"{name}.ipynb").write_text(text)
    drop_torn_copies(tmp_path)
    assert [path.stem for path in folder.iterdir()] == ["whole"]
