"""The benchmark's JSON lines as a table."""

import json
import sys
from pathlib import Path
from typing import Any

from e2e_lib.files import replace_block

CHANGED = ("dict_ratio", "context", "layer", "vocabulary")


def markdown(lines: list[dict[str, Any]], *, short: bool = False) -> str:
    """A row for each case: both paths' milliseconds, their ratio, memory, share of the floor.

    short: leave out how the time grows with a size, and all but e2e as initialised.
    """
    cases = [line for line in lines if "ms" in line]
    if short:
        whole = [line for line in cases if not any(key in line for key in CHANGED)]
        cases = [x for x in whole if x["active"] < 0.5 or x["objective"] == "e2e"]
    keys = ("shape", "objective", "saes", "active")
    plain = {tuple(line[k] for k in keys): line for line in cases if line["path"] == "plain"}
    rows = [
        "| shape | objective | SAEs | latents firing | plain ms | ms | times faster | tokens/s |"
        " plain MB | MB | floor reached |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in cases:
        if line["path"] == "plain":
            continue
        changed = ", ".join(f"{k} {line[k]:g}" for k in CHANGED if k in line)
        other = None if changed else plain.get(tuple(line[k] for k in keys))
        cells = [
            line["shape"] + (f" ({changed})" if changed else ""),
            line["objective"] + ("" if line["path"] == "default" else f", {line['path']}"),
            str(line["saes"]),
            f"{100 * line['active']:g} %",
            f"{other['ms']:.0f}" if other else "",
            f"{line['ms']:.0f}",
            f"{other['ms'] / line['ms']:.1f}" if other else "",
            f"{line['tokens_per_s']:,}",
            f"{other['peak_mb']:.0f}" if other else "",
            f"{line['peak_mb']:.0f}",
            f"{line['floor']:.2f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


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
