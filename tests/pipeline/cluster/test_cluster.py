"""Profiles for clusters: by name or by folder, and what they ask for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_cluster_is_named_or_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_folder("") is None
    with pytest.raises(ConfigError, match=r"CLUSTER is 'slrum'.*slurm or a folder"):
        cluster_folder("slrum")
    own = tmp_path / "own"
    shutil.copytree(CLUSTERS / "slurm", own)
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch there
    with pytest.raises(ConfigError, match="no sbatch"):
        cluster_folder(str(own))
    sbatch = tmp_path / "sbatch"
    sbatch.touch(mode=0o755)
    assert cluster_folder(str(own)) == own
    config = own / "config.yaml"
    config.write_text(config.read_text().replace("executor: slurm", "executor: other-kind"))
    with pytest.raises(ConfigError, match="snakemake-executor-plugin-other-kind, is not installed"):
        cluster_folder(str(own))


def test_a_gpu_is_for_stages_that_run_a_model_on_one() -> None:
    on_gpu = {s.name for s in stages(load_profile("smoke", {"device": "cuda"}), "x") if s.gpus}
    trained = {s.name for s in stages(load_profile("smoke"), "x") if s.saes}
    assert on_gpu == trained | set(WITH_MODEL)
    assert not any(s.gpus for s in stages(load_profile("smoke"), "x"))
    assert {s.threads for s in stages(load_profile("smoke", {"threads": 3}), "x")} == {1, 3}


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_rule_asks_for_what_it_needs(tmp_path: Path, device: str) -> None:
    """Snakemake reads the profile with the real plugin and prints the resources of every job."""
    profile = load_profile("smoke", {"device": device, "threads": 2, "sweeps": {}})
    (tmp_path / "profile.json").write_text(profile.to_json(os.path.relpath(tmp_path, ROOT)))
    dry_run = ("--dry-run", "--cores", "4")
    command = snakemake_command(tmp_path, None, *dry_run, cluster=CLUSTERS / "slurm")
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
        assert "runtime=" in asked[rule]


def test_jobs_are_known_by_their_results_folder(tmp_path: Path) -> None:
    command = snakemake_command(tmp_path, 7, cluster=CLUSTERS / "slurm")
    assert command[command.index("--jobs") + 1] == "7" and "--cores" not in command
    assert command[command.index("--slurm-jobname-prefix") + 1] == job_prefix(tmp_path)
    assert job_prefix(tmp_path) != job_prefix(tmp_path / "other")
    assert command[0] == sys.executable
