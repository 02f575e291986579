"""From the workshop's masters the learners' notebooks, and the same with solutions.

    python -m pipeline.workshop.generate          workshop/exercises and workshop/solutions

A master marks what a learner writes with nbgrader's comments; nothing else differs:

    ### BEGIN SOLUTION
    return codes.sum(-1).mean() / d_in
    ### END SOLUTION

Cells tagged `instructor` are in the solutions alone.
"""

import copy
import re
from pathlib import Path
from typing import Any

import nbformat

from e2e_lib.errors import ConfigError, command
from e2e_lib.files import shown_path, write_text
from pipeline.plan.profile import ROOT

WORKSHOP = ROOT / "workshop"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "...  # your code here"
SOLUTION = re.compile(
    rf"^(?P<indent>[ ]*){BEGIN}\n(?P<body>.*?)^(?P=indent){END}$", re.MULTILINE | re.DOTALL
)
MARK = re.compile(rf"^[ ]*(?:{BEGIN}|{END})\n?", re.MULTILINE)


def masters() -> list[Path]:
    """The workshop's notebooks, in their order."""
    return sorted(WORKSHOP.glob("[WX]?_*.ipynb"))


def learners(master: Any) -> Any:
    """The notebook without solutions and without the instructor's cells.

    Raises:
        ConfigError: a mark without its counterpart.
    """
    made = copy.deepcopy(master)
    made.cells = [cell for cell in made.cells if "instructor" not in tags(cell)]
    for cell in made.cells:
        cell.source = without_solutions(cell.source) if cell.cell_type == "code" else cell.source
    return made


def solved(master: Any) -> Any:
    """The notebook with solutions, and without their marks."""
    made = copy.deepcopy(master)
    for cell in made.cells:
        without_solutions(cell.source)  # refuses a mark without its counterpart
        cell.source = MARK.sub("", cell.source).rstrip("\n")
    return made


def without_solutions(source: str) -> str:
    """A cell with a stub in place of every marked part.

    >>> cell = "### BEGIN SOLUTION\\nrule = None\\n### END SOLUTION"
    >>> without_solutions(cell)
    '...  # your code here'

    Raises:
        ConfigError: a mark without its counterpart.
    """
    made = SOLUTION.sub(rf"\g<indent>{STUB}", source)
    if "SOLUTION" in made:
        line = next(line for line in made.splitlines() if "SOLUTION" in line)
        raise ConfigError(f"{line.strip()} has no counterpart of the same indentation.")
    return made


def tags(cell: Any) -> list[str]:
    """A cell's tags."""
    found: list[str] = cell.metadata.get("tags", [])
    return found


def generate(folder: Path) -> list[str]:
    """Write exercises/ and solutions/ into a folder; the names of those that stayed as they were.

    A learner's notebook that is there, and is not what would be written, holds somebody's work.
    """
    kept = []
    for path in masters():
        master = nbformat.read(path, as_version=4)
        write_text(folder / "solutions" / path.name, text_of(solved(master)))
        there, new = folder / "exercises" / path.name, text_of(learners(master))
        if there.is_file() and there.read_text(encoding="utf-8") != new:
            kept.append(path.name)
        else:
            write_text(there, new)
    return kept


def text_of(notebook: Any) -> str:
    """The notebook as a file."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


@command
def main(arguments: list[str]) -> None:
    """Write them, by default beside the masters."""
    folder = Path(arguments[0]) if arguments else WORKSHOP
    kept = generate(folder)
    print(f"{len(masters())} notebooks are in {shown_path(folder)}/exercises: begin with W0.")
    if kept:
        print(f"These have work in them and stay; delete them to begin anew: {', '.join(kept)}.")


if __name__ == "__main__":
    raise SystemExit(main())
