"""What a profile sets in single notebooks, and which parameters notebooks have.

    notebook_parameters: {29_faithfulness: {examples: 1000, kept_singly: 100}}

The parameters cell of a notebook says which names there are and of which type. Those that follow
from the profile's own keys, such as the model, cannot be set a second time here.

    python -m pipeline.plan.notebook_parameters

writes the cell of 10_train, a line for each field of `Training`, and in every notebook two cells of
links: to the words it uses, after its title, and to its neighbours, at its end. They have the tag
`links`, which pages leave out: a page has links of its own.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from e2e_lib.core.config import Hyperparameters
from e2e_lib.errors import (
    ConfigError,
    Rule,
    is_integer,
    is_number,
    list_of,
    require,
    require_known,
)
from e2e_lib.names import split_names
from e2e_lib.runs.experiment import Training

FIELD = re.compile(r"\n    (\w+): \w+ = (.+)  # (.+)")
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LINKS = "links"  # the tag of cells that lead to other notebooks
WORDS = (
    "[Words](../docs/ARCHITECTURE.md#words) · [metrics](../docs/metrics.md) · "
    "[all notebooks](00_start_here.ipynb)"
)
# All that these two take comes from the profile's own keys; of the other notebooks, these five.
BY_PROFILE = ("10_train", "11_published")
SET_BY_PIPELINE = ("results_folder", "model", "train_data", "validation_data", "device")
TYPES = {
    "str": Rule(lambda v: isinstance(v, str), "a text"),
    "int": Rule(is_integer, "a whole number"),
    "float": Rule(is_number, "a number"),
    "bool": Rule(lambda v: isinstance(v, bool), "true or false"),
}
# Numbers of things, of which there must be one; no other number may be below 0, but for a -1 that
# a comment explains, and "at least 2" in a comment is a rule.
COUNTED = re.compile(r"n_(?!browsed)\w+|\w+_(rows|pairs|examples)|examples|resamples|window")
ROWS = ("n_rows", "ablation_rows")
MOST = 2**32  # of a seed, which some libraries take no higher
# What texts may be.
WORDS_OF = {
    "backend": ("storyworld", "endpoint", "local", "auto"),
    "objectives": ("finetune", "finetune_ds", "e2e", "e2e_ds"),
    "ranking": ("exact", "attribution"),
}
SEVERAL = ("objectives", "kinds")  # take more than one of their words
INTERPRETABILITY, AUTO = "28_interpretability", "auto"  # its backend, chosen by the environment

Parameter = str | int | float | bool
NotebookParameters = dict[str, dict[str, Parameter]]


def notebook_types(notebook: Path) -> dict[str, str]:
    """Names and types (`str`, `int`, `float`, `bool`) of a notebook's parameters."""
    return {name: facts["inferred_type_name"] for name, facts in _inspected(notebook).items()}


def row_parameters(notebook: Path) -> dict[str, int]:
    """The parameters that say how many rows of held-out text a notebook reads, and how many."""
    found = _inspected(notebook)
    return {name: int(found[name]["default"]) for name in ROWS if name in found}


def _inspected(notebook: Path) -> dict[str, Any]:
    import papermill  # slow to import, and most profiles set nothing here

    found: dict[str, Any] = papermill.inspect_notebook(literal(notebook))
    return found


def literal(path: Path) -> str:
    """A path for papermill, which takes one for a template of Python's.

    >>> literal(Path("{a}/b.ipynb"))
    '{{a}}/b.ipynb'
    """
    return str(path).replace("{", "{{").replace("}", "}}")


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every parameter is in the notebook's parameters cell."""
    known = notebook_types(notebook)
    for key in parameters:
        require_known(key, known, f"parameter of {notebook.name}")


def checked_notebook_parameters(value: Any) -> NotebookParameters:
    """Parameters by notebook, if the notebooks exist and take such parameters.

    Raises:
        ConfigError: an unknown notebook or parameter, one that the pipeline sets, a wrong type.
        ModelError: the model that explains cannot be loaded.
    """
    key = "notebook_parameters"
    require(_nested(value), key, value, "a mapping from notebooks to mappings of their parameters")
    notebooks = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in value:
        require_known(name, notebooks, f"notebook that {key} could set")
        if name in BY_PROFILE:
            raise ConfigError(f"{key} cannot set {name}, whose parameters are the profile's keys.")
    return {name: _checked(name, own) for name, own in value.items() if own}


def _checked(notebook: str, own: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of one notebook; numbers that YAML reads as text are numbers."""
    path = NOTEBOOKS / f"{notebook}.ipynb"
    check_parameters(path, own)
    types, found = notebook_types(path), dict[str, Parameter]()
    for name, value in own.items():
        place = f"{name} of {notebook}"
        if name in SET_BY_PIPELINE:
            raise ConfigError(f"{place} is set by the pipeline, from other keys.")
        found[name] = given = TYPES[types[name]].checked(place, value)
        if isinstance(given, str):
            known = _known_words(name)
            words = split_names(given) if (several := name in SEVERAL) else [given]
            allowed = f"{'some' if several else 'one'} of {', '.join(known)}"
            allowed += ", joined by commas, each once" * several
            good = not known or not given or list_of(known.__contains__)(words)
            require(good, place, given, allowed)
        elif not isinstance(given, bool):
            low = _least(path, name)
            require(given >= low, place, given, f"at least {low}")
            require(given < MOST or not name.endswith("seed"), place, given, f"below {MOST}")
    if notebook == INTERPRETABILITY and found.get("backend") == AUTO:
        # Imports torch, which few profiles need here.
        from e2e_lib.analysis.interpret.endpoint import chosen_backend

        # Who explains features is decided before anything starts, so that an endpoint that is named
        # later has the notebook run again, and one that is named by half is an error at once.
        found["backend"] = chosen_backend()
    if notebook == INTERPRETABILITY and found.get("backend") == "local":
        from e2e_lib.analysis.interpret.explainers import explainer_tokenizer  # torch too

        explainer_tokenizer(str(found.get("explainer_model", "")))  # before hours of training
    return found


def _least(notebook: Path, name: str) -> int:
    """The least that a number may be which a notebook takes as its parameter."""
    comment = _inspected(notebook)[name]["help"]
    if said := re.search(r"at least (\d+)", comment):
        return int(said[1])
    return -1 if "-1:" in comment else int(bool(COUNTED.fullmatch(name)))


def _known_words(name: str) -> tuple[str, ...]:
    """The words that a parameter takes; none where it may be any text."""
    if name == "kinds":
        from e2e_lib.storyworld.pairs import KINDS

        return tuple(KINDS)
    return WORDS_OF.get(name, ())


def _nested(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(own, dict) for own in value.values())


def joined(below: Any, above: Any) -> Any:
    """Parameters of both, by notebook; where both set one, that of `above`.

    What is no mapping of mappings comes back as it is, for `checked_notebook_parameters`.

    >>> joined({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": {"z": 4}})
    {'a': {'x': 1, 'y': 3}, 'b': {'z': 4}}
    """
    if not (_nested(below) and _nested(above)):
        return above
    return {name: {**below.get(name, {}), **above.get(name, {})} for name in {**below, **above}}


def training_cell() -> str:
    """The parameters cell of 10_train: `name: type = default  # comment` of each field."""
    types = {own.name: getattr(own.type, "__origin__", own.type) for own in fields(Training)}
    words = {name: (get_args(kind) or (kind,))[0].__name__ for name, kind in types.items()}
    lines: dict[str, str] = {}
    for kind in (Training, Hyperparameters):
        for name, default, comment in FIELD.findall(inspect.getsource(kind)):
            lines.setdefault(name, f"{name}: {words[name]} = {default}  # {comment}")
    return "\n".join(lines.values())


def links(notebook: Path, row: list[Path]) -> tuple[str, str]:
    """The cells of links after the title and at the end of a notebook; row: all, in order."""

    def link(path: Path) -> str:
        [title] = re.findall(r'"# (\d\d · .*?)(?:\\n)?"', path.read_text(encoding="utf-8"))[:1]
        return f"[{title}]({path.name})"

    here = row.index(notebook)
    around = [f"← {link(row[here - 1])}"] if here else []
    around += [f"{link(row[here + 1])} →"] if here + 1 < len(row) else []
    return WORDS, " · ".join(around)


def with_links(notebook: Any, cells: tuple[str, str]) -> Any:
    """The notebook with these two cells of links, and no others."""
    import nbformat

    kept = [c for c in notebook.cells if LINKS not in c.metadata.get("tags", ())]
    head, foot = (
        nbformat.v4.new_markdown_cell(text, id=name, metadata={"tags": [LINKS]})
        for name, text in zip(("links-words", "links-around"), cells, strict=True)
    )
    notebook.cells = [kept[0], head, *kept[1:], foot]
    return notebook


def main() -> None:
    """Write those cells into the notebooks."""
    import nbformat

    row = sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in row:
        notebook = nbformat.read(path, as_version=4)
        if path.stem == BY_PROFILE[0]:
            [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
            cell.source = training_cell()
        nbformat.write(with_links(notebook, links(path, row)), path)


if __name__ == "__main__":
    main()
