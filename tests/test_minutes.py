"""How many minutes something takes is a constant of the Makefile; nothing says another number."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MINUTES = {
    name.lower(): value for name, value in re.findall(r"(?m)^(\w+)_MINUTES = (.+)$", MAKEFILE)
}
SPELLED = "one|two|three|four|five|ten|fifteen|twenty|thirty|half|a few"


def test_the_makefile_says_minutes_by_constant_alone() -> None:
    without = re.sub(r"(?m)^\w+_MINUTES = .+$", "", MAKEFILE)
    assert not re.findall(rf"(?i)\b(?:\d+|{SPELLED}) minutes?\b", without)
    used = {name.lower() for name in re.findall(r"\$\((\w+)_MINUTES\)", without)}
    assert used == set(MINUTES)


def test_help_says_them() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    assert (
        f"make run    every notebook of a profile, then a report  ({MINUTES['workshop']} min"
        in (done.stdout)
    )
    assert "MINUTES" not in done.stdout


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_pages_say_no_other_minutes_of_a_command(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, value in re.findall(rf"make (\w+)\b.*?\b(\d[\d to]*|{SPELLED}) minutes", text):
        assert value == MINUTES["workshop" if name == "run" else name]


def test_the_first_notebook_says_those_of_every_profile() -> None:
    notebook = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    for name in ("smoke", "workshop", "storyworld"):
        [value] = re.findall(rf"(?m)^\| `{name}` \|.*\| ([^|]+) \|$", text)
        assert value == MINUTES[name]
