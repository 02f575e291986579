"""`make bench SHAPE=<shape>`: the library's training step against others, in pairs.

Each comparison is measured in one process, a step of every side in turn: the three objectives by
the library and plainly; e2e over local; of e2e the unembedding and KL divergence alone; five SAEs
trained side by side over one; the precisions that are not the device's default; the blocks through
torch.compile, where it can compile; topk and batchtopk over relu at equal L0, and topk with dead
latents that AuxK trains; and the shape over the same with half the dictionary, context, blocks
after the SAE or vocabulary. Each side becomes a JSON line on standard output, with its ratio to the
comparison's first, its memory and its share of a large product's speed; then comes a table.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.floor import step_flops
from benchmarks.shapes import shapes, write_model
from benchmarks.step import KL, PRODUCT, Case
from benchmarks.table import markdown
from e2e_lib.analysis.statistics import median_interval
from e2e_lib.data.models import check_device
from e2e_lib.errors import E2EError, command, require
from e2e_lib.runs.provenance import provenance

OBJECTIVES = ("local", "e2e", "e2e_ds")
DEAD = 0.1  # share of latents that are dead where AuxK is measured
ROOT = Path(__file__).resolve().parent.parent


def comparisons(name: str, device: str = "cpu") -> Iterator[tuple[str, list[Case]]]:
    """Every comparison of a shape: what the others are held against, and the cases, it first."""
    shape, case, e2e = shapes(device)[name], partial(Case, name), Case(name, "e2e")
    yield "plain", [case("e2e", path, active=0.5) for path in ("plain", "default")]
    for objective in OBJECTIVES:
        yield "plain", [case(objective, path) for path in ("plain", "default")]
    yield "local", [case(objective) for objective in OBJECTIVES]
    yield "e2e", [e2e, case(KL)]
    yield "one SAE", [e2e, case("e2e", saes=5)]
    precisions = ("fp32", "tf32") if device.startswith("cuda") else ("bf16",)
    yield "default", [e2e, *(case("e2e", precision) for precision in precisions)]
    yield "eager", [e2e, case("e2e", "compiled")]
    for objective in ("local", "e2e"):
        same = [case(objective, sparsifier=s) for s in ("relu", "topk", "batchtopk")]
        yield "relu", [*same, case(objective, sparsifier="topk", dead=DEAD)]
    halves = {
        "dict_ratio": shape.dict_ratio / 2,
        "context": shape.context // 2,
        "layer": shape.layer + (shape.blocks - shape.layer) // 2,
        "vocabulary": shape.vocabulary // 2,
    }
    yield "whole", [e2e, *(case("e2e", changes=(half,)) for half in halves.items())]


def measured(cases: Sequence[Case], folder: Path, device: str, threads: int) -> dict[str, Any]:
    """What `benchmarks.step` says of them. Raises E2EError with what that process said."""
    command = [sys.executable, "-m", "benchmarks.step", json.dumps([asdict(c) for c in cases])]
    command += [str(folder), device, str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last, case = (done.stderr.strip() or "no message").splitlines()[-1], cases[-1]
        raise E2EError(f"{case.shape} {case.objective} {case.path} cannot be measured: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def ratio(own: Sequence[float], other: Sequence[float]) -> list[float]:
    """Median of the rounds' ratios, and its 95 % interval by the sign test."""
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    return [float(f"{x:.4g}") for x in median_interval(ratios)]


def sides(
    against: str, cases: Sequence[Case], rounds: Sequence[Sequence[float]], device: str
) -> list[dict[str, Any]]:
    """A line for each case of a comparison; `ratio` is of the time that one SAE takes."""
    *of_cases, products = zip(*rounds, strict=True)
    lines, first = [], [ms / cases[0].saes for ms in of_cases[0]]
    for case, ms in zip(cases, of_cases, strict=True):
        shape, median = case.sizes(device), statistics.median(ms)
        least = [t * step_flops(shape, case) / (2 * PRODUCT**3) for t in products]
        line = case.facts() | {
            "against": against,
            "ms": median,
            "tokens_per_s": round(1e3 * shape.rows * shape.context * case.saes / median),
            "floor": round(statistics.median(map(float.__truediv__, least, ms)), 3),
            "device": device,
            "rounds": ms,
        }
        if lines:
            line["ratio"] = ratio([t / case.saes for t in ms], first)
        lines.append(line)
    return lines


def hardware(device: str, threads: int) -> dict[str, Any]:
    """What the numbers were measured on; no name of a machine."""
    own = provenance()
    facts = {k: own[k] for k in ("cpu", "cpus", "commit") if k in own}
    facts |= {"threads": threads, "torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts | {"device": device, "day": time.strftime("%Y-%m-%d")}


def run(
    name: str, device: str, threads: int, out: Path | None, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Measure a shape; print each line as it comes, and the table at the end."""
    check_device(device)
    known = shapes(device)
    require(name in known, "SHAPE", name, f"one of {', '.join(known)}")
    todo = [(a, cases) for a, cases in comparisons(name, device) if not only or a in only]
    words = dict.fromkeys(a for a, _ in comparisons(name, device))
    require(set(only) <= set(words), "only", ",".join(only), f"some of {','.join(words)}")
    lines: list[dict[str, Any]] = [{"hardware": hardware(device, threads)}]
    print(json.dumps(lines[0]), flush=True)
    peaks: dict[Case, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, sizes = Path(place), [c.sizes(device) for _, cases in todo for c in cases]
        for shape in {shape.vocabulary: shape for shape in sizes}.values():
            write_model(shape, folder / str(shape.vocabulary))
        for against, cases in tqdm(todo, desc=name, unit="comparison", disable=None):
            try:
                found = measured(cases, folder, device, threads)
                new = [case for case in cases if case not in peaks]
                peaks |= {case: measured([case], folder, device, threads) for case in new}
            except E2EError as error:
                if against != "eager":  # needs a C++ compiler and blocks that it understands
                    raise
                print(f"left out: {error}", file=sys.stderr)
                continue
            for case, line in zip(cases, sides(against, cases, found["ms"], device), strict=True):
                lines.append(line | peaks[case])
                print(json.dumps(lines[-1]), flush=True)
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
    parser.add_argument("--only", default="", help="comparisons, by what is held against")
    chosen = parser.parse_args(arguments)
    only = [word for word in chosen.only.split(",") if word]
    run(chosen.shape, chosen.device, chosen.threads, chosen.out, only)


if __name__ == "__main__":
    sys.exit(main())
