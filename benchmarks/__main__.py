"""`make bench SHAPE=<shape>`: the library's training step against the plain one, side by side.

Each measurement is a JSON line on standard output, then comes a table. What is measured: the three
objectives by both paths, with the share of latents that fire as initialised (a half) and as late
in a training (one per cent); five SAEs trained side by side; the precisions that are not the
device's default; the blocks through torch.compile, where it can compile; how the time grows with
the dictionary, the context, the blocks after the SAE and the vocabulary; and the machine's own
speed of multiplying and copying, against which the arithmetic of a step is held.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.floor import ceilings, step_flops
from benchmarks.shapes import Shape, shapes, write_model
from benchmarks.step import Case
from benchmarks.table import markdown
from e2e_lib.data.models import check_device
from e2e_lib.errors import E2EError, command, require
from e2e_lib.runs.provenance import provenance

OBJECTIVES = ("local", "e2e", "e2e_ds")
LATE = 0.01  # share of latents that fire late in a training, roughly
ROOT = Path(__file__).resolve().parent.parent


def cases(shape: str, device: str = "cpu") -> Iterator[tuple[Case, dict[str, Any]]]:
    """Every measurement of a shape: the case, and what of the shape is changed for it."""
    for active in (0.5, LATE):
        for objective in OBJECTIVES:
            for path in ("plain", "default"):
                yield Case(shape, objective, path, 1, active), {}
    for path in ("plain", "default"):
        yield Case(shape, "e2e", path, 5, LATE), {}
    precisions = ("fp32", "tf32") if device.startswith("cuda") else ("bf16",)
    for path in (*precisions, "compiled"):
        yield Case(shape, "e2e", path, 1, LATE), {}


def growth(name: str, shape: Shape) -> Iterator[tuple[Case, dict[str, Any]]]:
    """e2e by the default path, with one size of the shape halved."""
    case = Case(name, "e2e", "default", 1, LATE)
    yield case, {"dict_ratio": shape.dict_ratio / 2}
    yield case, {"context": shape.context // 2}
    yield case, {"layer": shape.layer + (shape.blocks - shape.layer) // 2}
    yield case, {"vocabulary": shape.vocabulary // 2}


def measured(
    case: Case, changes: dict[str, Any], folder: Path, device: str, threads: int
) -> dict[str, Any]:
    """One measurement, in a process of its own. Raises E2EError with what that process said."""
    command = [sys.executable, "-m", "benchmarks.step", json.dumps(asdict(case))]
    command += [json.dumps(changes), str(folder), device, str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise E2EError(f"{case.shape} {case.objective} {case.path} cannot be measured: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def hardware(device: str, threads: int) -> dict[str, Any]:
    """What the numbers were measured on; no name of a machine."""
    own = provenance()
    facts = {k: own[k] for k in ("cpu", "cpus", "commit") if k in own}
    facts |= {"threads": threads, "torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts | {"device": device, "day": time.strftime("%Y-%m-%d")}


def run(name: str, device: str, threads: int, out: Path | None) -> list[dict[str, Any]]:
    """Measure everything of one shape; print each line as it comes, and the table at the end."""
    check_device(device)
    known = shapes(device)
    require(name in known, "SHAPE", name, f"one of {', '.join(known)}")
    shape = known[name]
    lines = [{"hardware": hardware(device, threads)} | {"ceilings": ceilings(device, threads)}]
    print(json.dumps(lines[0]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        whole, half = Path(folder, "whole"), Path(folder, "half")
        write_model(shape, whole)
        write_model(shape.changed({"vocabulary": shape.vocabulary // 2}), half)
        todo = [*cases(name, device), *growth(name, shape)]
        for case, changes in tqdm(todo, desc=name, unit="case", disable=None):
            place = half if "vocabulary" in changes else whole
            try:
                line = measured(case, changes, place, device, threads)
            except E2EError as error:
                if case.path != "compiled":  # needs a C++ compiler and blocks that it understands
                    raise
                print(f"left out: {error}", file=sys.stderr)
                continue
            flops = step_flops(shape.changed(changes), case)
            line["floor"] = round(flops / lines[0]["ceilings"]["flops_per_s"] * 1e3 / line["ms"], 3)
            lines.append(line)
            print(json.dumps(line), flush=True)
    print(markdown(lines))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--shape", required=True, help=", ".join(shapes("cpu")))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0")
    parser.add_argument("--threads", type=int, default=2, help="of torch on a CPU")
    parser.add_argument("--out", type=Path, help="a file for the JSON lines")
    chosen = parser.parse_args(arguments)
    run(chosen.shape, chosen.device, chosen.threads, chosen.out)


if __name__ == "__main__":
    sys.exit(main())
