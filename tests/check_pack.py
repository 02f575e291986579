"""The workshop's pack, in an empty folder with no network at all: it installs and runs.

    python tests/check_pack.py [NOTEBOOK ...]

Builds build/pack unless it is there, copies what learners get, and there, under `unshare -n`, does
what its README says: it installs, opens JupyterLab and executes notebooks. Nothing else of this
machine is seen: home is empty, pip has no settings. Takes some minutes; needs a kernel that lets
one unshare the network.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from pipeline.workshop import pack

NOTEBOOKS = ("W0_arrive", "W4_features", "W5_the_coin")
OPEN = """
import json, subprocess, sys, time, urllib.request
options = ("--no-browser", "--allow-root", "--IdentityProvider.token=")
server = subprocess.Popen([*sys.argv[1:], *options])
url = "http://127.0.0.1:8888/api/contents/W0_arrive.ipynb"  # beside which it opens
try:
    for _ in range(60):
        time.sleep(1)
        try:
            found = json.load(urllib.request.urlopen(url))
            break
        except OSError:
            assert server.poll() is None, "JupyterLab ended"
finally:
    server.terminate()
    server.wait()
print("JupyterLab opens", found["name"])
"""
EXECUTE = """
import socket, sys
import nbformat
from nbclient import NotebookClient
try:
    socket.create_connection(("1.1.1.1", 80), 2)
    raise SystemExit("there is a network")
except OSError:
    pass
import e2e_lib
assert e2e_lib.__file__.startswith(sys.prefix), e2e_lib.__file__
for name in sys.argv[1:]:
    notebook = nbformat.read(f"exercises/{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "exercises"}}).execute()
    print(name, "runs to its end")
"""


def main() -> None:
    made = ROOT / "build" / "pack"
    if not (made / "learners" / "wheels").is_dir():
        pack.main([])
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty) / "learners"
        shutil.copytree(made / "learners", folder)
        environment = {"PATH": os.environ["PATH"], "HOME": empty, "PIP_CONFIG_FILE": os.devnull}
        steps = [line.strip() for line in pack.README.splitlines() if line.startswith("    ")]
        (folder / "exercises" / "execute.py").write_text(EXECUTE)  # sees no sources beside it

        def alone(*command: str) -> None:
            # Loopback is brought up: a notebook talks with its kernel over it.
            network = "-n" if os.geteuid() == 0 else "-rn"
            offline = ["unshare", network, "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
            subprocess.run([*offline, *command], cwd=folder, check=True, env=environment)

        alone(sys.executable, "-m", "venv", ".venv")
        install, lab = ([*line.replace('"', "").split()] for line in steps[-2:])
        alone(*install, "--quiet", "--disable-pip-version-check")
        alone(".venv/bin/python", "-c", OPEN, *lab)
        alone(".venv/bin/python", "exercises/execute.py", *(sys.argv[1:] or NOTEBOOKS))
    print("The pack installs and runs without a network.")


if __name__ == "__main__":
    main()
