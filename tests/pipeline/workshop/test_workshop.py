"""The workshop as files: what learners get, the schedule, slides; slow: every notebook executed."""

import ast
import json
import math
import os
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from e2e_lib.errors import ConfigError, ResultsError
from e2e_lib.teach.lesson import PLACES, check, exercise
from pipeline.plan.profile import ROOT
from pipeline.workshop import pack, slides
from pipeline.workshop.generate import (
    BEGIN,
    END,
    STUB,
    generate,
    learners,
    masters,
    solved,
    tags,
    text_of,
    without_solutions,
)

MASTERS = masters()
every = pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
RESULTS = ROOT / "results" / "reference"
CELL_SECONDS = 60


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_masters_are_those_of_the_readme() -> None:
    names = re.findall(r"^\| `(\w+)` \|", (ROOT / "workshop/README.md").read_text(), re.MULTILINE)
    assert [path.stem for path in MASTERS] == names
    assert len(names) == 9


@every
def test_a_master_is_stripped_and_short(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert "parameters" in tags(code(notebook)[0])
    assert len(code(notebook)) <= 30
    for cell in code(notebook):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= 24, cell.source[:80]


@every
def test_only_marked_parts_differ_and_none_leaks(path: Path) -> None:
    master, given, done = read(path), learners(read(path)), solved(read(path))
    visible = "\n".join(cell.source for cell in code(given))
    kept = [cell for cell in master.cells if "instructor" not in tags(cell)]
    assert [cell.id for cell in given.cells] == [cell.id for cell in kept]
    assert [cell.id for cell in done.cells] == [cell.id for cell in master.cells]
    for before, after in zip(kept, given.cells, strict=True):
        if BEGIN not in before.source:
            assert before.source == after.source
            continue
        head, rest = before.source.split(BEGIN)
        body, tail = rest.split(END)
        indent = head.rsplit("\n", 1)[-1]
        assert after.source == head + STUB + tail
        for line in filter(None, map(str.strip, body.splitlines())):
            if line not in ("try:", "finally:") and len(line) > 12:
                assert line not in visible, line
        assert indent.strip() == ""
    assert BEGIN not in text_of(done) and END not in text_of(done)
    assert "instructor" not in text_of(given)


@every
def test_every_cell_of_both_can_be_parsed_and_stubs_end_their_function(path: Path) -> None:
    for cell in [*code(learners(read(path))), *code(solved(read(path)))]:
        for node in ast.walk(ast.parse(cell.source)):
            body = getattr(node, "body", None)
            if isinstance(body, list) and isinstance(node, ast.FunctionDef):
                stub = [i for i, own in enumerate(body) if ast.unparse(own) == "..."]
                assert not stub or stub == [len(body) - 1]  # nothing after it asks for its result


def test_every_exercise_is_in_a_notebook_and_in_the_schedule() -> None:
    asked = {
        name
        for path in MASTERS
        for cell in code(read(path))
        if BEGIN in cell.source
        for name in re.findall(r'check\("(\w+)"', cell.source)
    }
    assert asked == set(PLACES)
    for block in slides.schedule():
        source = text_of(read(ROOT / f"workshop/{block.notebook}.ipynb")) if block.notebook else ""
        assert set(block.short_exercises) <= set(block.exercises) <= set(PLACES)
        assert all(f'check(\\"{name}\\"' in source for name in block.exercises)


def test_marks_need_their_counterpart() -> None:
    for source in (f"{BEGIN}\nx = 1", f"x = 1\n{END}", f"  {BEGIN}\n  x = 1\n{END}"):
        with pytest.raises(ConfigError, match="has no counterpart of the same indentation"):
            without_solutions(source)


def test_a_learner_s_work_is_never_overwritten(tmp_path: Path) -> None:
    assert generate(tmp_path) == [] == generate(tmp_path)
    own = tmp_path / "exercises" / MASTERS[1].name
    text = own.read_text().replace(STUB, "return 1")
    own.write_text(text)
    assert generate(tmp_path) == [own.name]
    assert own.read_text() == text
    assert len(list((tmp_path / "solutions").glob("*.ipynb"))) == len(MASTERS)


def test_the_schedule_is_three_hours_and_its_cut_ninety_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = slides.schedule()
    assert sum(block.minutes for block in blocks) == 180
    assert sum(block.short for block in blocks) == 90
    assert all(block.cut and block.stretch for block in blocks)
    minutes = {
        path.stem: int(re.search(r"\*\*minutes\*\* \| (\d+)", read(path).cells[0].source)[1])
        for path in MASTERS
    }
    assert {b.notebook: b.minutes for b in blocks if b.notebook} == {
        name: number for name, number in minutes.items() if name[0] == "W"
    }
    entries = yaml.safe_load((ROOT / "workshop/schedule.yaml").read_text())
    entries[2]["minutes"] += 1
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(slides, "WORKSHOP", tmp_path)
    with pytest.raises(ConfigError, match="start is '0:50', but it must be 0:51"):
        slides.schedule()


def test_every_claim_and_figure_of_slides_and_guide_resolves(tmp_path: Path) -> None:
    slides.write(RESULTS, tmp_path)
    page, guide = ((tmp_path / name).read_text() for name in ("slides.html", "guide.html"))
    text = (ROOT / "workshop/slides.md").read_text()
    assert page.count("<section") == text.count("\n---\n") + 1 > 10
    figures = [name for kind, name in slides.PLACE.findall(text) if kind == "figure"]
    assert page.count('src="data:image/png;base64,') == len(figures) >= 3
    for own in (page, guide):
        assert not re.search(r"\{(claim|figure|schedule|cuts)", own) and "<table" in own
        assert not re.search(r'(src|href)="(?!data:|#)', own)  # nothing is fetched
    assert all(re.findall(r'alt="([^"]*)"', page)) and "Does it forget the coin?" in page
    named = {name for kind, name in slides.PLACE.findall(text) if kind == "claim"}
    for entry in json.loads((RESULTS / "claims.json").read_text()):
        if entry["id"] in named and entry["value"] is not None:
            assert f"{entry['value']:.3g}" in page and entry["verdict"] in page


def test_numbers_are_those_of_the_folder(tmp_path: Path) -> None:
    entry = {"value": 0.123, "low": 0.1, "high": None, "verdict": "holds", "why": ""}
    entries = [{"id": "C2a", **entry, "high": 0.2}, {"id": "C1a", **entry, "value": None}]
    (tmp_path / "claims.json").write_text(json.dumps(entries))
    found = slides.Results(tmp_path)
    assert found.fill("{claim:C2a}") == "**0.123** [0.1, 0.2], *holds*"
    with pytest.raises(ConfigError, match="C9 is no claim; allowed are C2a, C1a"):
        found.fill("{claim:C9}")
    with pytest.raises(ResultsError, match="figure 'no' is not in"):
        found.fill("{figure:no}")
    with pytest.raises(ResultsError, match="cannot be read"):
        slides.Results(tmp_path / "none")


def test_text_of_workshop_says_no_measured_number() -> None:
    """Numbers of results come from files: none with three digits behind the point is written."""
    for path in (ROOT / "workshop").glob("*.md"):
        assert not re.findall(r"\b\d\.\d{3,}", path.read_text()), path
    for path in MASTERS:
        for cell in read(path).cells:
            if cell.cell_type == "markdown":
                assert not re.findall(r"\b\d\.\d{3,}", cell.source), path


def test_the_pack_parts_learners_from_teacher(tmp_path: Path) -> None:
    pack.lay_out(tmp_path)
    learner, teacher = tmp_path / "learners", tmp_path / "teacher"
    assert len(list((learner / "exercises").glob("*.ipynb"))) == len(MASTERS)
    assert not list(learner.rglob("solutions")) and not (learner / "workshop").exists()
    assert len(list((teacher / "solutions").glob("*.ipynb"))) == len(MASTERS)
    assert {"slides.html", "guide.html", "schedule.yaml"} <= {p.name for p in teacher.iterdir()}
    assert (learner / "results/reference/claims.json").is_file()
    assert (learner / "e2e_lib/core/losses.py").is_file()


@every
@pytest.mark.parametrize("make", [learners, solved], ids=lambda make: make.__name__)
def test_exercises_alone_say_what_they_should(
    path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cells with a check, without the rest of their notebook: ✓, or not yet written."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from e2e_lib.core.sae import SAE

    [(mine,)] = exercise("rule").inputs()
    given = {"torch": torch, "F": F, "math": math, "np": np, "SAE": SAE, "mine": mine}
    asked = 0
    for cell in code(make(read(path))):
        if re.search(r'= check\("', cell.source):
            exec(cell.source, {**given, "check": check})
            asked += 1
    marks = [m for m in capsys.readouterr().out.splitlines() if re.match(r"[✓✗…] \w", m)]
    assert len(marks) == asked
    mark = "✓" if make is solved else "…"
    assert all(line.startswith(mark) for line in marks), marks


# ------------------------------------------------------------------ executed
@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("E2E_WORKSHOP") != "full",
    reason="E2E_WORKSHOP=full executes the workshop's notebooks: minutes",
)
@pytest.mark.parametrize("make", [learners, solved], ids=lambda make: make.__name__)
@every
def test_a_notebook_runs_to_its_end(path: Path, make: Any) -> None:
    """Unsolved too. With solutions every check says ✓; no cell takes longer than a minute."""
    from nbclient import NotebookClient

    notebook = make(read(path))
    place = {"metadata": {"path": str(ROOT / "workshop")}}
    NotebookClient(notebook, timeout=600, record_timing=True, resources=place).execute()
    said = [line for cell in code(notebook) for line in printed(cell).splitlines()]
    marks = [line for line in said if re.match(r"[✓✗…] \w+", line)]
    asked = sum(cell.source.count('check("') for cell in code(notebook))
    assert len(marks) == asked
    assert make is learners or all(line.startswith("✓") for line in marks), marks
    assert make is solved or all("not yet written" in line for line in marks), marks
    times, slower = [seconds(cell) for cell in code(notebook)], slowness()
    assert max(times) <= CELL_SECONDS * slower, code(notebook)[times.index(max(times))].source[:80]
    minutes = {block.notebook: block.minutes for block in slides.schedule()}
    assert sum(times) <= 60 * minutes.get(path.stem, math.inf) * slower, "longer than its block"


def printed(cell: Any) -> str:
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def seconds(cell: Any) -> float:
    at = cell.metadata.execution
    ends = (datetime.fromisoformat(at[k]) for k in ("iopub.execute_input", "shell.execute_reply"))
    start, end = ends
    return (end - start).total_seconds()


def slowness() -> float:
    """How many times slower than two idle cores this machine is now: at least 1."""
    import torch

    x, start = torch.randn(512, 512), time.perf_counter()
    for _ in range(40):
        x = x @ x / 512
    return max(1.0, (time.perf_counter() - start) / 0.2)
