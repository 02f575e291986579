"""Profiles for clusters: what they ask for, and the Kubernetes one against a stand-in server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from e2e_lib.errors import ConfigError
from pipeline.execution.executor import (
    CLUSTERS,
    cluster_folder,
    environment,
    job_prefix,
    snakemake_command,
)
from pipeline.plan.profile import ROOT, load_profile
from pipeline.plan.stages import WITH_MODEL, stages
from tests.helpers.kube_server import cluster_of_one
from tests.helpers.small_project import SmallProject


def test_a_cluster_is_named_or_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_folder("") is None
    assert cluster_folder("kubernetes") == CLUSTERS / "kubernetes"
    with pytest.raises(ConfigError, match=r"CLUSTER is 'slrum'.*kubernetes, slurm, or a folder"):
        cluster_folder("slrum")
    own = tmp_path / "own"
    shutil.copytree(CLUSTERS / "slurm", own)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch there
    with pytest.raises(ConfigError, match="no sbatch"):
        cluster_folder(str(own))
    sbatch = tmp_path / "sbatch"
    sbatch.touch(mode=0o755)
    assert cluster_folder(str(own)) == own


def test_a_gpu_is_for_stages_that_run_a_model_on_one() -> None:
    on_gpu = {s.name for s in stages(load_profile("smoke", {"device": "cuda"}), "x") if s.gpus}
    trained = {s.name for s in stages(load_profile("smoke"), "x") if s.saes}
    assert on_gpu == trained | set(WITH_MODEL)
    assert not any(s.gpus for s in stages(load_profile("smoke"), "x"))
    assert {s.threads for s in stages(load_profile("smoke", {"threads": 3}), "x")} == {1, 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_rule_asks_for_what_it_needs(tmp_path: Path, name: str, device: str) -> None:
    """Snakemake reads the profile with the real plugin and prints the resources of every job."""
    profile = load_profile("smoke", {"device": device, "threads": 2, "sweeps": {}})
    (tmp_path / "profile.json").write_text(profile.to_json(os.path.relpath(tmp_path, ROOT)))
    dry_run = ("--dry-run", "--cores", "4")
    command = snakemake_command(tmp_path, None, *dry_run, cluster=CLUSTERS / name)
    command = [part for part in command if part not in ("--quiet", "rules")]
    dry = subprocess.run(command, env=environment("x"), capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    asked: dict[str, str] = {}
    for line in dry.stdout.splitlines():
        if line.startswith(("rule ", "localrule ")):
            rule = line.split()[1].rstrip(":")
        elif line.strip().startswith(("threads:", "resources:")):
            asked[rule] = asked.get(rule, "") + line
    expected = {s.name: s for s in stages(profile, "x")}
    assert expected.keys() <= asked.keys()
    for rule, stage in expected.items():
        assert ("gpu=1" in asked[rule]) == bool(stage.gpus)
        assert "mem_mb=24000" in asked[rule]
        assert ("threads: 2" in asked[rule]) == (stage.saes > 0)
        assert ("runtime=" in asked[rule]) == (name == "slurm")


def test_jobs_are_known_by_their_results_folder(tmp_path: Path) -> None:
    command = snakemake_command(tmp_path, 7, cluster=CLUSTERS / "slurm")
    assert command[command.index("--jobs") + 1] == "7" and "--cores" not in command
    assert command[command.index("--slurm-jobname-prefix") + 1] == job_prefix(tmp_path)
    assert job_prefix(tmp_path) != job_prefix(tmp_path / "other")
    assert command[0] == sys.executable


@pytest.mark.slow
def test_pods_run_the_pipeline_on_a_shared_volume(tmp_path: Path) -> None:
    """Every stage as a Kubernetes job; GPUs for those that need one; nothing else changes."""
    project = SmallProject(tmp_path / "p")
    profile = tmp_path / "cluster"
    shutil.copytree(CLUSTERS / "kubernetes", profile)
    config = yaml.safe_load((profile / "config.yaml").read_text())
    config |= {"latency-wait": 5, "max-status-checks-per-second": 10}
    (profile / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "nodes").mkdir()
    with cluster_of_one(tmp_path / "nodes") as server:
        env = project.environment() | {"KUBECONFIG": str(tmp_path / "nodes" / "kubeconfig")}
        done = subprocess.run(
            [*project.command("device=cuda"), "--cluster", str(profile)], cwd=project.root, env=env,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        logs = "\n".join(path.read_text() for path in (tmp_path / "nodes").glob("*.log"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        containers = [
            job["spec"]["template"]["spec"]["containers"][0] for job in server.jobs.values()
        ]
    assert len(containers) == len(project.done()) == 7  # table and report stay with the controller
    gpus = [c for c in containers if "nvidia.com/gpu" in c["resources"]["requests"]]
    assert len(gpus) == 2 and all("10_train" in c["args"][1] for c in gpus)
    for container in containers:
        assert container["image"] == "python:3.11"
        assert {"name": "e2e", "mountPath": "/e2e"} in container["volumeMounts"]
        assert "PYTHONPATH" in {variable["name"] for variable in container["env"]}
    assert (project.results / "index.html").is_file()
