"""A SLURM of one host in a folder of its own: Debian's slurmctld, slurmd, slurm-client and munge.

No systemd, no accounting, nothing of the machine's own SLURM: own key, sockets, ports and state.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian puts the daemons
CONF = """ClusterName=e2e
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MinJobAge=300
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed of what this needs."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SBIN)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def slurm_host() -> Iterator[dict[str, str]]:
    """A running SLURM; yields the environment variables by which its commands find it."""
    # Short, because a socket's path has a length limit, and of a folder that all may enter.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        conf = folder / "slurm.conf"
        facts = {"host": socket.gethostname().split(".")[0], "folder": folder}
        facts |= {"controller_port": free_port(), "node_port": free_port()}
        facts |= {"user": psutil.Process().username(), "cpus": psutil.cpu_count()}
        memory = psutil.virtual_memory().available // 2**20
        conf.write_text(CONF.format(**facts, memory=memory))
        env = {"SLURM_CONF": str(conf), "PATH": f"{folder}/bin:{SBIN}"}
        _write_srun(folder / "bin" / "srun", conf)
        own = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        _start(stack, env, "munged", "--foreground", f"--socket={folder}/munge.socket", *own)
        _start(stack, env, "slurmctld", "-D", "-f", str(conf))
        _start(stack, env, "slurmd", "-D", "-f", str(conf))
        _wait_until_idle(env, folder)
        yield env


def _write_srun(path: Path, conf: Path) -> None:
    """srun that knows this SLURM: the executor plugin 2.8 takes SLURM_CONF from it in every job."""
    path.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun", path=SBIN)} "$@"\n')
    path.chmod(0o755)


def _start(stack: ExitStack, env: dict[str, str], program: str, *arguments: str) -> None:
    """Start a daemon, which ends with the stack."""
    folder = Path(env["SLURM_CONF"]).parent
    log = stack.enter_context((folder / f"{program}.log").open("w"))
    command = [shutil.which(program, path=SBIN) or program, *arguments]
    process = subprocess.Popen(command, env=os.environ | env, stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    time.sleep(0.5)  # munge's socket must be there before the others ask for it


def _wait_until_idle(env: dict[str, str], folder: Path) -> None:
    """Wait for the node to be ready; says what the daemons said if it never is."""
    for _ in range(60):
        if "idle" in command(env, "sinfo", "--noheader", "--format=%T"):
            return
        time.sleep(0.5)
    logs = [f"{path.name}: {path.read_text()[-1500:]}" for path in folder.glob("*.log")]
    raise RuntimeError("SLURM did not start.\n" + "\n".join(logs))


def command(env: dict[str, str], *words: str) -> str:
    """What a SLURM command prints; nothing while it cannot reach the controller."""
    done = subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False)
    return done.stdout
