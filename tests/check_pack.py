"""The workshop's pack, in an empty folder with no network at all: it installs and runs.

    python tests/check_pack.py [NOTEBOOK ...]

Builds build/pack unless it is there, copies what learners get, and there, under `unshare -n`,
installs the extra `workshop` alone from the pack's wheels and executes every exercise with it, the
package taken from there and not from the sources beside it. Then it does what the README says: it
installs the rest and opens JupyterLab. Nothing else of this machine is seen: home is empty, pip has
no settings. Takes some minutes; needs a kernel that lets one unshare the network.
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
from pipeline.workshop.site import EXTRA

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
import importlib.util, socket, sys, time
import nbformat
from nbclient import NotebookClient
try:
    socket.create_connection(("1.1.1.1", 80), 2)
    raise SystemExit("there is a network")
except OSError:
    pass
assert not importlib.util.find_spec("umap"), "the extra `workshop` is not alone"
PACKED = '''
import sys, e2e_lib
assert e2e_lib.__file__.startswith(sys.prefix), e2e_lib.__file__
'''
for name in sys.argv[1:]:
    notebook = nbformat.read(f"exercises/{name}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PACKED))
    started, place = time.monotonic(), {"metadata": {"path": "exercises"}}
    NotebookClient(notebook, timeout=300, resources=place).execute()
    print(f"{name} runs to its end in {time.monotonic() - started:.0f} s")
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
        light = [word.replace("[analysis]", f"[{EXTRA}]") for word in install]
        assert light != install, "the README installs another extra"
        every = sorted(path.stem for path in (folder / "exercises").glob("*.ipynb"))
        alone(*light, "--quiet", "--disable-pip-version-check")
        alone(".venv/bin/python", "exercises/execute.py", *(sys.argv[1:] or every))
        alone(*install, "--quiet", "--disable-pip-version-check")
        alone(".venv/bin/python", "-c", OPEN, *lab)
    print("The pack installs and runs without a network.")


if __name__ == "__main__":
    main()
