"""The workshop's slides and guide, with what a results folder says filled in.

    python -m pipeline.workshop.slides [results folder] [where to]

    {claim:C2a}                   value, interval and verdict of a claim
    {figure:20_pareto_middle}     a figure, with its alt text
    {schedule}                    the three hours as a table
    {cuts}                        what to leave out of each block, and what to add

Both pages are one file each: pictures are in them, and nothing is fetched.
"""

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape
from nbconvert.filters import markdown2html

from e2e_lib.errors import Checked, ConfigError, Count, ResultsError, command, require, reworded
from e2e_lib.files import project_path, shown_path, write_text
from e2e_lib.runs.read import REFERENCE
from pipeline.pages.render import render
from pipeline.workshop.generate import WORKSHOP

PLACE = re.compile(r"\{(claim|figure|schedule|cuts)(?::([\w.-]+))?\}")
MINUTES, SHORT = 180, 90  # what a day takes, and its cut


@dataclass(frozen=True)
class Block(Checked):
    """One block of the day.

    Raises:
        ConfigError: an unknown field, or minutes that are none.
    """

    block: str
    notebook: str  # its name; empty for a talk or a break
    start: str  # hours:minutes from the beginning
    minutes: Count
    short: int  # minutes in the cut; 0: left out
    exercises: list[str]
    short_exercises: list[str]
    cut: str  # if it is late
    stretch: str  # if it is early


def schedule() -> list[Block]:
    """The blocks of schedule.yaml, in their order.

    Raises:
        ConfigError: a block that does not begin when the one before ends, or sums that are not
            those of a day and of its cut.
    """
    found = [Block(**b) for b in yaml.safe_load((WORKSHOP / "schedule.yaml").read_text("utf-8"))]
    now = 0
    for block in found:
        hours, minutes = divmod(now, 60)
        due = f"{hours}:{minutes:02}"
        require(block.start == due, "start", block.start, due)
        now += block.minutes
    require(now == MINUTES, "minutes", now, f"{MINUTES} in all")
    short = sum(block.short for block in found)
    require(short == SHORT, "short", short, f"{SHORT} in all")
    return found


def schedule_table() -> str:
    """The schedule as Markdown."""
    lines = ["| | block | minutes | short | exercises |", "|---|---|---|---|---|"]
    for own in schedule():
        short = str(own.short or "–")
        exercises = ", ".join(f"`{name}`" for name in own.exercises) or "–"
        lines.append(f"| {own.start} | {own.block} | {own.minutes} | {short} | {exercises} |")
    return "\n".join(lines)


def cuts_table() -> str:
    """What to do with each block if it is late or early, as Markdown."""
    lines = ["| block | if it is late, leave out | if it is early |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {b.block} | {b.cut} | {b.stretch} |" for b in schedule())])


class Results:
    """What is filled in.

    Raises:
        ResultsError: the folder has no readable claims.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with reworded(ResultsError, f"claims.json of {folder.name!r} cannot be read"):
            entries = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
            self.claims: dict[str, Any] = {entry["id"]: entry for entry in entries}

    def fill(self, text: str) -> str:
        """The text with every place filled in.

        Raises:
            ConfigError: a claim that is not in the ledger.
            ResultsError: a figure that is not there.
        """
        return PLACE.sub(lambda place: getattr(self, f"_{place[1]}")(place[2]), text)

    def _schedule(self, _: None) -> str:
        return schedule_table()

    def _cuts(self, _: None) -> str:
        return cuts_table()

    def _claim(self, name: str) -> str:
        if name not in self.claims:
            raise ConfigError(f"{name} is no claim; allowed are {', '.join(self.claims)}.")
        own = self.claims[name]
        if own["value"] is None:
            return f"**{own['verdict']}** ({own['why']})"
        ends = "" if own["low"] is None else f" [{own['low']:.3g}, {own['high']:.3g}]"
        return f"**{own['value']:.3g}**{ends}, *{own['verdict']}*"

    def _figure(self, name: str) -> str:
        path = self.folder / "figures" / f"{name}.png"
        with reworded(ResultsError, f"figure {name!r} is not in {self.folder.name!r}"):
            picture = base64.b64encode(path.read_bytes()).decode()
            alt = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["alt"]
        return f'<img src="data:image/png;base64,{picture}" alt="{escape(alt)}">'


def slides(text: str, results: Results) -> str:
    """The page of all slides, which `---` parts in the Markdown."""
    parts = [Markup(markdown2html(results.fill(part))) for part in text.split("\n---\n")]
    return render("slides.html.j2", title=_title(text), slides=parts)


def page(text: str, results: Results) -> str:
    """One page of text, for the guide."""
    body = Markup(markdown2html(results.fill(text)))
    return render("slides.html.j2", title=_title(text), page=body)


def _title(text: str) -> str:
    heading = re.search(r"^# (.*)$", text, re.MULTILINE)
    return heading[1].replace("*", "") if heading else "Workshop"


def write(results: Path, folder: Path) -> None:
    """Write slides.html and guide.html. Raises as `Results` does."""
    found = Results(results)
    for name, make in (("slides", slides), ("guide", page)):
        text = (WORKSHOP / f"{name}.md").read_text(encoding="utf-8")
        write_text(folder / f"{name}.html", make(text, found))


@command
def main(arguments: list[str]) -> None:
    """Write both, of the reference and into build/workshop unless told otherwise."""
    results = arguments[0] if arguments else REFERENCE
    folder = arguments[1] if len(arguments) > 1 else "build/workshop"
    write(project_path(results), project_path(folder))
    print(f"{shown_path(project_path(folder))}: slides.html and guide.html, of {results}.")


if __name__ == "__main__":
    raise SystemExit(main())
