"""`make same A=… B=…`: whether two results folders of one profile hold the same, to the last bit.

Two runs of a profile on one machine, at once, interrupted or in another clone, give the same
weights, metrics, tables and pictures. Left out is what a clock or the system's memory says: columns
of seconds, claim C8, which is a ratio of seconds, and the figures and tables made of them alone.
Exit status 1 if anything else differs; each file that does is named.

    python -m pipeline.same results/smoke ../elsewhere/results/smoke
"""

import json
import sys
from pathlib import Path
from typing import Any

from e2e_lib.errors import ResultsError, command, require, reworded
from pipeline.compare.differences import FILES, matches, read_csv, read_text

SAES = ("saes/**/*.safetensors", "saes/**/cfg.json", "saes/*/metrics.json", "saes/*/*.csv")
OF_CLOCKS = (
    *("figures/30_cost_*", "figures/90_claims.png", "tables/30_training_cost.*"),
    *("tables/91_c*.*", "saes/*/checkpoints/*"),
)
CLAIM = "C8"  # its ids begin so


def compare(one: Path, other: Path) -> tuple[list[str], int]:
    """What differs, in words, and how many files are the same.

    Raises:
        ResultsError: a folder holds no metrics.csv, or a file of one is damaged.
    """
    found = [_files(folder) for folder in (one, other)]
    different = [f"{name} is in one of them alone" for name in sorted(found[0] ^ found[1])]
    common = sorted(found[0] & found[1])
    unequal = [name for name in common if _content(one / name) != _content(other / name)]
    return different + [f"{name} differs" for name in unequal], len(common) - len(unequal)


def _files(folder: Path) -> set[str]:
    """Files that are made anew by every run and depend on no clock, by their names inside."""
    if not (folder / "metrics.csv").is_file():
        raise ResultsError(f"results folder {str(folder)!r} has no metrics.csv to compare.")
    names = {p.relative_to(folder).as_posix() for f in (*FILES, *SAES) for p in folder.glob(f)}
    return {name for name in names if not matches(name, OF_CLOCKS)}


def _content(path: Path) -> bytes:
    """The file, without what a clock says."""
    if path.suffix == ".csv":
        table = read_csv(path)
        clocks = [column for column in table if "seconds" in str(column)]
        kept = table.drop(columns=clocks)
        if "id" in kept:
            kept = kept[~kept["id"].astype(str).str.startswith(CLAIM)]
        return kept.to_csv(index=False).encode()
    if path.suffix == ".json":
        with reworded(ResultsError, f"{path.name!r} is no JSON"):
            return json.dumps(_without_clocks(json.loads(read_text(path)))).encode()
    return path.read_bytes()


def _without_clocks(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_clocks(v) for v in value if not _is_ratio_of_seconds(v)]
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if "seconds" not in k and k != "order"}
        return {k: _without_clocks(v) for k, v in kept.items()}  # older folders have no order
    return value


def _is_ratio_of_seconds(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("id", "")).startswith(CLAIM)


@command
def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    require(len(arguments) == 2, "make same's A and B", arguments, "two results folders")
    different, same = compare(*map(Path, arguments))
    print(*different, f"{same:,} files are the same, {len(different)} are not.", sep="\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
