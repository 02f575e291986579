"""How Snakemake is started: on this machine, or with a profile of its own for a cluster.

A cluster is a folder with a Snakemake profile, `config.yaml`: SLURM's in pipeline/cluster, or
anyone's own, for whatever executor of Snakemake's is installed. Every node must see the project and
the results folder at the same path.
"""

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import yaml

from e2e_lib.errors import ConfigError, require
from e2e_lib.files import expanded
from pipeline.execution.lock import VARIABLE
from pipeline.plan.profile import ROOT

SNAKEFILE = ROOT / "pipeline" / "Snakefile"
CLUSTERS = ROOT / "pipeline" / "cluster"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PASSED_ON = ("HF_", "WANDB_", "E2E_")  # beginnings of what else a job on a cluster is told
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def cluster_folder(text: str) -> Path | None:
    """The folder of the cluster's profile: by its name here or by path; None without a cluster.

    Raises:
        ConfigError: there is no such profile, its executor is not installed, or SLURM's commands
            are not on this machine.
    """
    if not text:
        return None
    known = sorted(path.parent.name for path in CLUSTERS.glob("*/config.yaml"))
    folder = CLUSTERS / text if text in known else expanded(text).resolve()
    allowed = f"{', '.join(known)} or a folder with a config.yaml"
    require((folder / "config.yaml").is_file(), "CLUSTER", text, allowed)
    package = f"snakemake-executor-plugin-{executor_of(folder)}"
    if executor_of(folder) != "local" and not find_spec(re.sub(r"\W", "_", package)):
        raise ConfigError(f"CLUSTER is {text!r}, but its executor, {package}, is not installed.")
    if executor_of(folder) == "slurm" and not shutil.which("sbatch"):
        raise ConfigError(f"CLUSTER is {text!r}, but this machine has no sbatch: no SLURM client.")
    return folder


def executor_of(cluster: Path) -> str:
    """Snakemake's name of the executor that a cluster's profile chooses."""
    return str(yaml.safe_load((cluster / "config.yaml").read_text("utf-8")).get("executor", ""))


def snakemake_command(
    results: Path, cores: int | None, *more: str, cluster: Path | None = None
) -> list[str]:
    """How Snakemake is started: in the results folder, going on after a failure.

    That a marker exists means that it is whole, and `fresh.settle` has taken back those that are
    of other code or parameters: Snakemake compares times and nothing else.

    Args:
        cores: notebooks side by side; on a cluster None leaves it to its profile.
    """
    count = [] if cores is None else ["--jobs" if cluster else "--cores", str(cores)]
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)),
        *("--directory", str(results), *count, "--keep-going", "--nolock"),
        *("--ignore-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy"),
        *("--quiet", "rules", *(_on_cluster(results, cluster) if cluster else ()), *more),
    ]


def _on_cluster(results: Path, cluster: Path) -> list[str]:
    """What a cluster's profile cannot say: the environment, and whose jobs these are."""
    own = environment()
    names = {*THREADS, VARIABLE, "PYTHONPATH", "PYTHONWARNINGS"}
    names |= {name for name in own if name.startswith(PASSED_ON)}
    slurm = executor_of(cluster) == "slurm"
    return [
        *("--workflow-profile", str(cluster), "--envvars", *sorted(names)),
        *(("--slurm-jobname-prefix", job_prefix(results)) if slurm else ()),
    ]


def job_prefix(results: Path) -> str:
    """What the names of a results folder's SLURM jobs begin with."""
    return f"e2e-{hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:8]}"


def cancel_leftovers(results: Path, cluster: Path) -> int:
    """Cancel SLURM jobs of this results folder that a killed pipeline left; returns how many.

    Other clusters' are not looked for: they end themselves when they see another pipeline's token.
    """
    if executor_of(cluster) != "slurm":
        return 0
    listed = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%A %j"], capture_output=True, text=True
    )
    jobs = [line.split(maxsplit=1) for line in listed.stdout.splitlines() if " " in line]
    ours = [number for number, name in jobs if name.startswith(job_prefix(results))]
    if ours:
        subprocess.run(["scancel", "--full", *ours], check=False)
    return len(ours)


def environment(token: str = "") -> dict[str, str]:
    """The environment of Snakemake and of the kernels: one thread each, no telemetry, our code.

    `token` names the pipeline at work (`lock.py`).
    """
    quiet = {"WANDB_MODE": "disabled"} if "WANDB_API_KEY" not in os.environ else {}
    own = {"JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # of loading weights: timings, never the same
    own |= {"PYTHONWARNINGS": "ignore:IProgress not found"}  # tqdm asks for widgets we do not need
    own |= dict.fromkeys(THREADS, "1") | quiet | ({VARIABLE: token} if token else {})
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start_snakemake(command: list[str], token: str, log: IO[str]) -> "subprocess.Popen[bytes]":
    """Start Snakemake; on Linux it dies with this process, however that ends."""
    linux = sys.platform == "linux"
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        env=environment(token),
        preexec_fn=_die_with_parent if linux else None,
    )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
