"""The house stays small: a module is read in a sitting, a room is held in the head."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES, MODULES, CORE_LINES = 300, 8, 1700
CODE = [
    path for room in ("e2e_lib", "pipeline", "benchmarks") for path in (ROOT / room).rglob("*.py")
]


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_module_is_long():
    assert {p.relative_to(ROOT).as_posix(): n for p in CODE if (n := lines(p)) > LINES} == {}


def test_no_room_is_crowded():
    modules = Counter(p.parent for p in CODE if not p.name.startswith("__"))
    crowded = {room.relative_to(ROOT).as_posix(): n for room, n in modules.items() if n > MODULES}
    assert crowded == {}


def test_the_method_is_read_in_one_sitting():
    """Every line counts: comments, docstrings and empty ones among them."""
    core = [lines(p) for p in CODE if "core" in p.parts]
    assert len(core) >= 8
    assert sum(core) <= CORE_LINES


def test_the_first_line_of_every_module_says_what_it_is() -> None:
    said = {p: ast.get_docstring(ast.parse(p.read_text("utf-8"))) or "" for p in CODE}
    first = {p.relative_to(ROOT).as_posix(): text.split("\n")[0] for p, text in said.items()}
    assert {name: line for name, line in first.items() if line[-1:] not in (*".?:",)} == {}
