"""`make run`: load a profile, run its notebooks through Snakemake, say where the report is.

python -m pipeline.run --profile smoke seeds=[0] train_tokens=20000
"""

import argparse
import os
import re
import shlex
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e2e_lib.data.text import open_source, source_pair
from e2e_lib.errors import ConfigError, ResultsError, command, first_sentence, require, reworded
from e2e_lib.files import expanded, project_path, write_json, write_text, writing
from e2e_lib.names import FETCHED_MODELS
from e2e_lib.runs.experiment import Training
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.execution.executor import (
    cancel_leftovers,
    cluster_folder,
    executor_of,
    snakemake_command,
    start_snakemake,
)
from pipeline.execution.fresh import (
    INPUTS,
    WORDS,
    drop_torn_copies,
    in_words,
    input_digests,
    of_other_code,
    set_aside,
    settle,
)
from pipeline.execution.lock import retire, sole_pipeline
from pipeline.execution.progress import watch
from pipeline.pages.result_files import read_all, read_json
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.pins import on_hub, pinned
from pipeline.plan.preflight import check_amounts, shrunk, tried_apart
from pipeline.plan.profile import ROOT, Profile, load_profile, read_yaml
from pipeline.plan.stages import Stage, stages

MARK = {"holds": "✓", "refuted": "✗", "undecided": "?"}
LOG = "snakemake.log"


class Stopped(KeyboardInterrupt):
    """A signal to end this process, other than a terminal's Ctrl-C."""


@command
def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run every notebook of a profile.")
    parser.add_argument("--profile", default="workshop")
    parser.add_argument("--results", default="", help="folder (default: results/PROFILE[-MODEL])")
    parser.add_argument("--cores", default="", help="notebooks side by side (default: all; 1 GPU)")
    parser.add_argument("--cluster", default="", help="slurm, or a folder like its own")
    parser.add_argument("--shrink", action="store_true", help="a few steps, to try the whole path")
    parser.add_argument("--set", default="", help="more of them in one text, quoted as in a shell")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the profile")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _stop)
    overrides = parse_overrides([*given.overrides, *words_of(given.set)])
    profile = load_profile(given.profile, overrides)
    profile = shrunk(profile) if given.shrink else profile
    cluster = cluster_folder(given.cluster)
    check_inputs(profile.training, on_this_machine=cluster is None)
    check_amounts(profile, on_this_machine=cluster is None)
    # A GPU holds one training notebook; several would share its memory.
    usual = "" if profile.training.device == "cpu" else "1"
    cores = number_of_cores(given.cores or usual) if given.cores or not cluster else None
    results = results_folder(given.results, profile, own_model="model" in overrides)
    try:
        return run(profile, results, cores, cluster)
    except OSError as error:  # a disk that filled up meanwhile
        reason = error.strerror or first_sentence(error)
        raise ResultsError(f"the run stopped on a file: {reason}; start it again.") from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on where this one was") from stop


def check_inputs(training: Training, on_this_machine: bool) -> None:
    """What the first notebook would refuse, before all: device, model to fetch, tracker, text.

    Raises:
        ConfigError, ModelError, DataError: one of them is not there, or cannot be read.
    """
    if on_this_machine and training.device != "cpu":
        from e2e_lib.data.models import check_device  # imports torch, which a plan does without

        check_device(training.device)
    if training.model in FETCHED_MODELS.values() and not project_path(training.model).is_dir():
        from e2e_lib.data.models import model_path

        model_path(training.model)
    there = training.tracker == "none" or find_spec(training.tracker) is not None
    require(there, "tracker", training.tracker, "none, for its package is not installed")
    for source in dict.fromkeys(source_pair(training.train_data, training.validation_data)):
        if not on_hub(source.name):
            open_source(source)


def _stop(number: int, frame: object) -> None:
    raise Stopped


def words_of(text: str) -> list[str]:
    """The words of SET. A shell's quotes hold one together, and nothing else in it is a shell's.

    >>> words_of("seeds=[0] notebook_parameters='{24_umap: {seed: 1}}' train_data=$x*")
    ['seeds=[0]', 'notebook_parameters={24_umap: {seed: 1}}', 'train_data=$x*']
    """
    with reworded(ConfigError, f"SET is {text!r}, but each quote in it must have its other one"):
        return shlex.split(text)


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs as a dict, values read as YAML. Paths become relative to the project."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        require(bool(equals and key), "override", pair, "KEY=VALUE, such as train_tokens=100000")
        key = {variable: key for key, variable in WORDS.items()}.get(key, key)
        with reworded(ConfigError, f"{key} is {value!r}, but it must be a YAML value"):
            literal = key in WORDS or key.endswith("_revision")  # 0123456 is a commit, no number
            overrides[key] = (
                _local(value) if key in WORDS else value if literal else read_yaml(value)
            )
        if key == "model":
            overrides[key] = FETCHED_MODELS.get(overrides[key], overrides[key])
        if key == "notebook_parameters":
            overrides[key] = _with_local_paths(overrides[key])
    return overrides


def _with_local_paths(value: Any) -> Any:
    """The same mapping with `_local` paths; a word without a slash is no path."""
    if isinstance(value, dict):
        return {key: _with_local_paths(own) for key, own in value.items()}
    return _local(value) if isinstance(value, str) and "/" in value else value


def _local(value: str) -> str:
    """A path that exists, relative to the project's root; any other text unchanged.

    One part alone gets ./ before it: nobody may take a folder `gpt2` for the hub's model.
    """
    path = expanded(value)
    if not value or value in EMBEDDED_MODELS or not path.exists():
        return value
    local = os.path.relpath(path, ROOT)
    if not path.samefile(ROOT / local):  # `..` behind a link leads elsewhere than the letters say
        local = os.path.relpath(path.parent.resolve() / path.name, ROOT)
    return local if os.sep in local else f".{os.sep}{local}"


def number_of_cores(text: str) -> int:
    """How many notebooks run side by side."""
    count = os.cpu_count() or 2
    text = text or str(count)
    require(text.isdecimal() and int(text) > 0, "CORES", text, "a whole number of at least 1")
    return int(text)


def results_folder(text: str, profile: Profile, own_model: bool) -> Path:
    """Where the run writes: results/PROFILE, or results/PROFILE-MODEL with a model of one's own."""
    if text:
        return expanded(text).resolve()
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(profile.training.model).name)
    return ROOT / "results" / (f"{profile.name}-{model}" if own_model else profile.name)


def run(
    profile: Profile,
    results: Path,
    cores: int | None,
    cluster: Path | None = None,
    notebooks: Path = NOTEBOOKS,
) -> int:
    """Run the notebooks of `profile` into `results`; returns the exit status.

    Args:
        cores: notebooks side by side; on a cluster None leaves it to its profile.
        cluster: folder of the cluster's profile; None for this machine.

    Raises:
        ResultsError: another pipeline is at work in `results`, or it cannot be written to.
    """
    folder = os.path.relpath(results, ROOT)
    with writing(results / LOG):
        results.mkdir(parents=True, exist_ok=True)
        (results / LOG).touch()
    with sole_pipeline(results, folder) as token:
        profile = pinned(profile, results)
        todo = stages(profile, folder)
        prepare(profile, todo, results, folder, notebooks)
        if cluster is None:  # whose machines are others than this one
            tried_apart(profile, results, todo)
        where = f"{cores} side by side" if cluster is None else f"on {executor_of(cluster)}"
        saes = sum(stage.saes for stage in todo)
        print(
            f"Profile {profile.name} on {profile.training.model}: {saes} SAEs at layers "
            f"{', '.join(map(str, profile.layers))}, {len(todo)} notebooks, {where}.\n"
            f"Results go to {folder}/ and are kept: a run that was stopped goes on where it was.",
            flush=True,
        )
        if cluster and (count := cancel_leftovers(results, cluster)):
            print(f"{count} jobs that a killed pipeline left on the cluster were cancelled.")
        # Snakemake reads the value as YAML, and again in each job: odd names do not survive that.
        own = notebooks.resolve() != NOTEBOOKS.resolve()
        config = ("--config", f"notebooks={notebooks.resolve()}") if own else ()
        command = snakemake_command(results, cores, *config, cluster=cluster)
        status = execute(command, todo, results, token)
        return conclude(status, results, folder)


def prepare(
    profile: Profile, todo: list[Stage], results: Path, folder: str, notebooks: Path
) -> None:
    """Write the resolved profile, and take back what earlier runs made of other settings or code.

    Markers go before the runs that they speak of: a kill in between costs no more than a look.
    """
    for line in in_words(settle(results, todo, notebooks)):
        print(line)
    if moved := set_aside(results, profile, of_other_code(results, todo, notebooks)):
        (results / "metrics.csv").unlink(missing_ok=True)
        print(f"{len(moved)} runs of other settings or code moved to {folder}/set_aside/")
    write_json(results / INPUTS, input_digests(todo))
    write_text(results / "profile.json", profile.to_json(folder))


def execute(command: list[str], todo: list[Stage], results: Path, token: str) -> int:
    """Start Snakemake and show what it does until it ends; returns its exit status."""
    with (results / LOG).open("w", encoding="utf-8") as stream:
        process = start_snakemake(command, token, stream)
        try:
            watch(process, todo, results)
        except KeyboardInterrupt as stop:
            retire(results)
            if isinstance(stop, Stopped):  # Ctrl-C reaches Snakemake too, other signals only us
                process.send_signal(signal.SIGINT)
            process.wait()
            raise
    return process.returncode


def conclude(status: int, results: Path, folder: str) -> int:
    """Say what failed or where the report is; returns the pipeline's exit status."""
    for name in sorted(path.stem for path in (results / "running").glob("*.json")):
        lost = "It was killed: cancelled, or out of memory or time."
        write_json(results / "failed" / f"{name}.json", {"name": name, "error": lost})
    drop_torn_copies(results)
    failures = read_all(results / "failed")
    for failure in failures:
        print(f"error: {failure['name']} failed. {failure['error']}", file=sys.stderr)
        notebook = f"notebooks/{failure['name']}.ipynb"
        if (results / notebook).is_file():
            print(f"       Its notebook: {folder}/{notebook}", file=sys.stderr)
    if status:
        if not failures:
            print("\n".join((results / LOG).read_text().splitlines()[-25:]), file=sys.stderr)
        from pipeline.report import write_report  # here: it brings nbconvert, a second

        write_report(results)  # of what there is; it says at the top what is not finished
        print(f"error: the run is not complete; see {folder}/{LOG}", file=sys.stderr)
        return 1
    claims = read_json(results / "claims.json", [])
    lines = [
        f"  {MARK.get(word, '–')} {word:17s} {claim['id']:5s} {claim['claim']}"
        for claim in claims
        for word in [claim["verdict"]]
    ]
    print(*(["\nThe paper's claims, on these SAEs:", *lines] if lines else lines), sep="\n")
    print(f"\nThe report: {folder}/index.html (every SAE: {folder}/metrics.csv)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
