"""The benchmark's JSON lines as a table."""

import json
import sys
from pathlib import Path
from typing import Any

from e2e_lib.files import replace_block

CHANGED = ("dict_ratio", "context", "layer", "vocabulary")
USUAL = {"path": "default", "sparsifier": "relu"}
COLUMNS = ("shape", "step", "SAEs", "latents firing", "ms", "tokens/s", "MB", "floor reached")
COLUMNS += ("against", "its ms", "its MB", "ratio (95 %)", "day")


def markdown(lines: list[dict[str, Any]], *, short: bool = False) -> str:
    """A row for each line with a ratio, beside the line that it was held against; machines by day.

    short: leave out how the time grows with a size.
    """
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    machine, other, machines = {}, {}, {}
    for line in lines:
        machine = line.get("hardware", machine)
        if "ratio" not in line:
            other = line
            continue
        if short and line["against"] == "whole":
            continue
        name, threads = machine.get("gpu", machine.get("cpu")), machine["threads"]
        machines[machine["day"]] = f"{machine['day']}: {name}, threads: {threads}"
        unusual = [line[key] for key in USUAL if line[key] != USUAL[key]]
        unusual += [f"AuxK, {100 * line['dead']:g} % dead"] if line.get("dead") else []
        changed = [f"{k} {line[k]:g}" for k in CHANGED if k in line]
        ratio, *between = (f"{x:.2f}" for x in line["ratio"])
        cells = [
            line["shape"],
            ", ".join([line["objective"], *unusual, *changed]),
            str(line["saes"]),
            f"{100 * line['active']:g} %",
            f"{line['ms']:.0f}",
            f"{line['tokens_per_s']:,}",
            f"{line['peak_mb']:.0f}",
            f"{line['floor']:.2f}",
            line["against"],
            f"{other['ms']:.0f}",
            f"{other['peak_mb']:.0f}",
            ratio + (f" ({'–'.join(between)})" if between else ""),
            machine["day"],
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", "; ".join(machines.values()) + "."])


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The JSON lines of several files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def main(arguments: list[str]) -> int:
    """Print the table of some files; with a page last, docs/benchmarks.md, put it there too."""
    readmes = [Path(name) for name in arguments if name.endswith(".md")]
    lines = read([Path(name) for name in arguments if not name.endswith(".md")])
    print(markdown(lines))
    for readme in readmes:
        replace_block(readme, "benchmark", markdown(lines, short=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
