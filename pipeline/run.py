"""`make run`: load a profile, run its notebooks through Snakemake, say where the report is.

python -m pipeline.run --profile smoke seeds=[0] train_tokens=20000
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from e2e_lib.errors import ConfigError, E2EError, require
from pipeline.pins import pinned
from pipeline.profile import ROOT, Profile, load_profile
from pipeline.report import write_report
from pipeline.shrink import shrunk
from pipeline.stages import Stage, stages
from pipeline.table import set_aside

WORDS = {"model": "MODEL", "train_data": "TRAIN", "validation_data": "VALIDATION"}
MARK = {True: "✓ holds", False: "✗ does not hold", None: "– not testable here"}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run every notebook of a profile.")
    parser.add_argument("--profile", default="workshop")
    parser.add_argument("--results", default="", help="folder (default: results/PROFILE[-MODEL])")
    parser.add_argument("--cores", default="", help="notebooks side by side (default: all; 1 GPU)")
    parser.add_argument("--shrink", action="store_true", help="a few steps, to try the whole path")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the profile")
    given = parser.parse_args(arguments)
    try:
        overrides = parse_overrides(given.overrides)
        profile = load_profile(given.profile, overrides)
        profile = shrunk(profile) if given.shrink else profile
        # A GPU holds one training notebook; several would share its memory.
        cores = number_of_cores(given.cores or ("" if profile.device == "cpu" else "1"))
        results = results_folder(given.results, profile, own_model="model" in overrides)
        return run(profile, results, cores)
    except E2EError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on where this one was.", file=sys.stderr)
        return 130


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as a dict, values read as YAML. Paths become relative to the project."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        require(bool(equals and key), "override", pair, "KEY=VALUE, such as train_tokens=100000")
        key = {variable: key for key, variable in WORDS.items()}.get(key, key)
        try:
            overrides[key] = yaml.safe_load(value) if key not in WORDS else _local(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key} is {value!r}, but it must be a YAML value.") from error
    return overrides


def _local(value: str) -> str:
    """A path that exists, relative to the project's root; any other text unchanged."""
    path = Path(value).expanduser()
    return os.path.relpath(path, ROOT) if value and path.exists() else value


def number_of_cores(text: str) -> int:
    """How many notebooks run side by side."""
    count = os.cpu_count() or 2
    text = text or str(count)
    require(text.isdigit() and int(text) > 0, "CORES", text, "a whole number of at least 1")
    return int(text)


def results_folder(text: str, profile: Profile, own_model: bool) -> Path:
    """Where the run writes: results/PROFILE, or results/PROFILE-MODEL with a model of one's own."""
    if text:
        return Path(text).expanduser().resolve()
    suffix = f"-{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(profile.model).name)}" if own_model else ""
    return ROOT / "results" / f"{profile.name}{suffix}"


def run(profile: Profile, results: Path, cores: int) -> int:
    """Run the notebooks of `profile` into `results`; returns the exit status."""
    folder = os.path.relpath(results, ROOT)
    results.mkdir(parents=True, exist_ok=True)
    profile = pinned(profile, results)
    todo = stages(profile, folder)
    (results / "profile.json").write_text(profile.to_json(folder), encoding="utf-8")
    if strangers := set_aside(results, profile):
        print(f"{len(strangers)} runs of other settings moved to {folder}/set_aside/")
    saes = sum(stage.saes for stage in todo)
    print(
        f"Profile {profile.name} on {profile.model}: {saes} SAEs at layers "
        f"{', '.join(map(str, profile.layers))}, {len(todo)} notebooks, {cores} side by side.\n"
        f"Results go to {folder}/ and are kept: a run that was stopped goes on where it was.",
        flush=True,
    )
    for old in [*(results / "failed").glob("*.json"), *(results / "running").glob("*.json")]:
        old.unlink()
    log = results / "snakemake.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            snakemake_command(results, cores), stdout=stream, stderr=stream, env=environment()
        )
        try:
            watch(process, todo, results)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    failures = [json.loads(p.read_text()) for p in sorted((results / "failed").glob("*.json"))]
    for failure in failures:
        print(f"error: {failure['name']} failed. {failure['error']}", file=sys.stderr)
        print(f"       Its notebook: {folder}/notebooks/{failure['name']}.ipynb", file=sys.stderr)
    if process.returncode:
        if not failures:
            print("".join(log.read_text().splitlines(keepends=True)[-25:]), file=sys.stderr)
        write_report(results)  # of what there is; it says at the top what is not finished
        print(f"error: the run is not complete; see {folder}/snakemake.log", file=sys.stderr)
        return 1
    print_claims(results)
    print(f"\nThe report: {folder}/index.html (every SAE: {folder}/metrics.csv)")
    return 0


def snakemake_command(results: Path, cores: int, *more: str) -> list[str]:
    """How Snakemake is started: in the results folder, going on after a failure."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "pipeline" / "Snakefile")),
        *("--directory", str(results), "--cores", str(cores), "--keep-going", "--nolock"),
        *("--rerun-incomplete", "--scheduler", "greedy", "--quiet", "rules", *more),
    ]


def environment() -> dict[str, str]:
    """The environment of Snakemake and of the kernels: one thread each, no telemetry, our code."""
    quiet = {"WANDB_MODE": "disabled"} if "WANDB_API_KEY" not in os.environ else {}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    own = {"JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # of loading weights: timings, never the same
    own |= {"PYTHONWARNINGS": "ignore:IProgress not found"}  # tqdm asks for widgets we do not need
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **threads, **quiet, **own, "PYTHONPATH": path}


def watch(process: "subprocess.Popen[bytes]", todo: list[Stage], results: Path) -> None:
    """Show one bar over all notebooks, and a line as each of them ends, until Snakemake does."""
    started, seen = time.time(), set(_markers(results, "done"))
    before = sum(stage.seconds for stage in todo if stage.name in seen)
    layout = "{percentage:3.0f}% |{bar:24}| {desc} [{elapsed} gone, {remaining} left]"
    total = sum(stage.seconds for stage in todo)
    with tqdm(total=total, initial=before, bar_format=layout, file=sys.stdout, disable=None) as bar:
        while process.poll() is None:
            time.sleep(1)
            done, running = _markers(results, "done"), _markers(results, "running")
            for name in sorted(set(done) - seen, key=lambda n: done[n].get("seconds", 0)):
                line = f"{_clock(time.time() - started)}  {name} ({done[name]['seconds']:.0f} s)"
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            seen |= set(done)
            bar.n = sum(_progress(stage, done, running) for stage in todo)
            finished = sum(stage.name in done for stage in todo)
            bar.set_description_str(f"{finished}/{len(todo)} notebooks; {', '.join(running)}")


def _progress(stage: Stage, done: Mapping[str, Any], running: Mapping[str, Any]) -> float:
    """Guessed seconds of work behind us; a stage that runs longer than guessed waits at 95 %."""
    if stage.name in done:
        return stage.seconds
    gone = time.time() - running.get(stage.name, {}).get("started", time.time())
    return min(gone, 0.95 * stage.seconds)


def _markers(results: Path, kind: str) -> dict[str, Any]:
    """The markers of this kind by stage; one that vanishes while we look is left out."""
    found = {}
    for path in sorted((results / kind).glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"


def print_claims(results: Path) -> None:
    """The ledger in a few lines."""
    path = results / "claims.json"
    if not path.is_file():
        return
    print("\nThe paper's claims, on these SAEs:")
    claims: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for claim in claims:
        print(f"  {MARK[claim['holds']]:20s} {claim['id']:4s} {claim['claim']}")


if __name__ == "__main__":
    sys.exit(main())
