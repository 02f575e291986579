"""The notebooks, run twice: by the smoke pipeline, then as it left them, through nbval.

1. The smoke profile runs end to end into results/smoke, which is deleted first; it trains less
   than the profile says.
2. nbval runs *executed* notebooks again and compares every output: one of each kind, or with
   E2E_SLOW=full one of each notebook. Training goes into a folder of its own there, for runs that
   are finished would not be trained again.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from pipeline.execution.executor import environment
from pipeline.plan.profile import PROFILES, load_profile, read_yaml
from pipeline.plan.stages import Stage, stages
from tests.helpers.forking import fork_server, handing_over
from tests.helpers.weekly import FULL

RESULTS, AGAIN = "results/smoke", "build/again"
# A third of the profile's training: twelve steps an SAE, enough to tell them apart.
SHORTER = {"train_tokens": 12_288, "eval_tokens": 4096, "notebook_parameters": {
    "02_one_sae_by_hand": {"steps": 16},
    "28_interpretability": {"n_features": 6},
    "29_faithfulness": {"examples": 24, "kept_singly": 2},
    "41_functional_importance": {"kinds": "name,object,coin,adverb", "n_stories": 10},
}}  # fmt: skip
SHORTER_SWEEPS = {"train_tokens": [6144], "warm_start": [4096]}
# Training on all of a grid, training by hand, tables and their figures, text and features drawn by
# chance, a model that is changed. UMAP, which compiles for long, has a test of its own for this.
KINDS = (
    *("02_one_sae_by_hand", "10_train", "20_pareto", "28_interpretability"),
    *("42_loudness", "90_claims"),
)
# What jobs and their kernels import. Half of all that the notebooks cost was this.
PACKAGES = (
    *("snakemake.cli", "papermill", "nbconvert", "ipykernel.kernelapp", "ipykernel.ipkernel"),
    *("ipykernel.zmqshell", "seaborn", "scipy.stats", "e2e_lib.core.train", "e2e_lib.data.models"),
    *("transformer_lens.model_bridge.sources.transformers", "tests.helpers.digested"),
)
INLINE = "module://matplotlib_inline.backend_inline"  # where kernels draw
# Without the settings made for the unit tests.
NBVAL = """--disable-plugin-autoload -p nbval -p xdist --nbval --nbval-current-env
    --nbval-cell-timeout=300 -n 2 --dist loadfile -p no:cacheprovider
    --nbval-sanitize-with tests/notebooks/nbval_sanitize.cfg
    -o addopts= -o filterwarnings=default -W default"""


def main() -> int:
    """Do both; returns the exit status of the first that fails."""
    for folder in (RESULTS, AGAIN):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    given = shorter()
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    if status := python("-m", "pipeline.run", "--profile", "smoke", "--results", RESULTS, *words):
        return status
    for stage in chosen(stages(load_profile("smoke", given), RESULTS)):
        copy_executed(stage)
    return python("-m", "pytest", *NBVAL.split(), AGAIN)


def shorter() -> dict[str, Any]:
    """The overrides of the profile."""
    sweeps = read_yaml((PROFILES / "smoke.yaml").read_text(encoding="utf-8"))["sweeps"]
    for kind, values in SHORTER_SWEEPS.items():
        sweeps[kind]["values"] = values
    return SHORTER | {"sweeps": sweeps}


def chosen(todo: list[Stage]) -> list[Stage]:
    """One stage of each notebook; of the training runs the dearest, which uses most of the code."""
    first: dict[str, Stage] = {}
    for stage in todo:
        first.setdefault(stage.notebook, stage)
    return [first[name] for name in (first if FULL else KINDS)]


def copy_executed(stage: Stage) -> None:
    """Copy the executed notebook into build/again; training gets a results folder of its own."""
    text = (ROOT / RESULTS / "notebooks" / f"{stage.name}.ipynb").read_text(encoding="utf-8")
    (ROOT / AGAIN).mkdir(parents=True, exist_ok=True)
    text = text.replace(RESULTS, AGAIN) if stage.saes else text
    (ROOT / AGAIN / f"{stage.name}.ipynb").write_text(text, encoding="utf-8")


def python(*arguments: str) -> int:
    """Run this Python in the project's root, with the pipeline's environment."""
    print("$ python", *arguments, flush=True)
    env = environment()
    # A server each: two runs in which Python's hashes were the same could agree by chance.
    with fork_server(PACKAGES, env | {"MPLBACKEND": INLINE}) as place:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=handing_over(env, place)).returncode


if __name__ == "__main__":
    sys.exit(main())
