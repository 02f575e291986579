"""The report by question: which figures, tables and claims answer it, and the answer in numbers.

What goes where is said in questions.yaml beside this file.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from e2e_lib.errors import is_number
from pipeline.pages.render import PAGES
from pipeline.pages.result_files import Json

PLAN = yaml.safe_load((PAGES / "questions.yaml").read_text(encoding="utf-8"))
REST = {"id": "more", "question": "What else was measured?", "begins": [""], "first": ""}
LINES = 3  # of the answer
MINUS = "\N{MINUS SIGN}"


class Section(NamedTuple):
    """One question with what answers it, headline first, then in order of saving."""

    id: str
    question: str
    figures: list[Json]
    tables: list[Json]


class Line(NamedTuple):
    """One line of the answer: which claims, and what they found."""

    label: str
    parts: list[tuple[str, str, Json]]  # objective, sentence, its claim


def sections(figures: Iterable[Json], tables: Iterable[Json]) -> list[Section]:
    """Every question to which there is a figure or table; each of them stands once."""
    plan = [*PLAN["questions"], REST]

    def answering(question: Json, items: Iterable[Json]) -> list[Json]:
        own = [item for item in items if _question(item, plan) is question]
        return sorted(own, key=lambda item: item["name"] != question["first"])

    figures, tables = list(figures), list(tables)
    found = [
        Section(q["id"], q["question"], answering(q, figures), answering(q, tables)) for q in plan
    ]
    return [one for one in found if one.figures or one.tables]


def _question(item: Json, plan: Sequence[Json]) -> Json:
    """The question that a figure or table answers."""
    return next(q for q in plan if item["name"].startswith(tuple(q["begins"])))


def linked(claims: Sequence[Json], names: Iterable[str]) -> dict[str, str]:
    """The figure or table, of those of these names, that shows a claim's number, by its id."""
    there, plan = set(names), PLAN["shown_by"]
    found = {}
    for claim in claims:
        prefixes = [p for p in plan if str(claim.get("id", "")).startswith(p)]
        closest = max(prefixes, key=len, default="")  # C10 is none of C1
        shown = [name for name in plan.get(closest, []) if name in there]
        if shown:
            found[claim["id"]] = shown[0]
    return found


def answer(claims: Sequence[Json]) -> list[Line]:
    """The first lines of the plan whose numbers are there; none where no claim has a number. Of
    lines of one label that with the most verdicts for or against, of equals the first."""
    by_id = {claim.get("id"): claim for claim in claims}
    lines: list[Line] = []
    for plan in PLAN["answer"]:
        parts = [
            (objective, plan["text"].format(value), by_id[name])
            for objective, name in plan["claims"].items()
            if (value := _measured(by_id.get(name, {}), plan["as"]))
        ]
        if parts:
            lines.append(Line(plan["label"], parts))
    best = {label: max((x for x in lines if x.label == label), key=_decided) for label, _ in lines}
    return [*best.values()][:LINES]


def _decided(line: Line) -> int:
    return sum(claim.get("verdict") in ("holds", "refuted") for _, _, claim in line.parts)


def _measured(claim: Mapping[str, Any], form: str) -> str:
    """A claim's value with its interval, e.g. "33 % [25, 41]"; "" where it has none."""
    ends = [claim.get(end) for end in ("low", "high")]
    value = _written(claim.get("value"), form)
    if value and all(_written(end, form) for end in ends):
        value += f" [{', '.join(_written(end, form).removesuffix(' %') for end in ends)}]"
    return value


def _written(value: object, form: str) -> str:
    if not isinstance(value, int | float) or not is_number(value):
        return ""
    text = {"percent": f"{100 * value:.0f} %", "signed": f"{value:+.2f}"}.get(form, f"{value:.2g}")
    return text.replace("-", MINUS)
