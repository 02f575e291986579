"""One digest of code: of some source, and of every module of the library that it executes.

It changes when what is computed may change, so that a plotting fix retrains nothing: comments,
docstrings, the look of the code, and what Jupyter stores when a notebook is saved do not count.
What makes a stage of the pipeline stale, which checkpoints a training may go on from, and the code
named in provenance are all this digest, of other sources.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent
TRAINING = "from e2e_lib.core import train"  # what a training executes
SPARSIFYING, PLACE = "e2e_lib.core.sparsifiers", re.compile(r'"(e2e_lib[\w.]+):\w+"')
HOLDERS = (ast.stmt, ast.excepthandler, ast.match_case)  # of statements; an expression has none
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(sources: Iterable[str], library: Path = LIBRARY) -> str:
    """A digest of `sources` and of every module of the library behind their imports.

    A package's own files other than code, such as weights, count with its `__init__`; a YAML file
    beside a module of the same name counts with the module.
    """
    sources = list(sources)
    files = sorted({file for source in sources for file in imported(source, library)})
    packages = [f.parent for f in files if f.name == "__init__.py" and f.parent != library]
    content = hashlib.sha256()
    for text in [*map(meaning, sources), *(module_meaning(f.read_text("utf-8")) for f in files)]:
        content.update(text.encode() + b"\0")
    data = {f.with_suffix(".yaml") for f in files}
    data |= {f for package in packages for f in package.rglob("*")}
    for file in sorted(filter(_is_data, data)):
        content.update(file.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def notebook_digest(path: Path, library: Path = LIBRARY) -> str:
    """The digest of a notebook's code cells."""
    try:
        cells = code_cells(path)
    except (OSError, ValueError, LookupError):  # missing or damaged: what runs it will say so
        cells = [path.read_text("utf-8", "replace")] if path.exists() else []
    return digest(cells, library)


@cache
def training_digest() -> str:
    """The digest of what decides the result of a training."""
    return digest([TRAINING])


@cache
def library_digest(library: Path = LIBRARY) -> str:
    """The digest of the whole library: what provenance names."""
    files = sorted(file.relative_to(library).with_suffix("") for file in library.rglob("*.py"))
    return digest([f"import {'.'.join((library.name, *file.parts))}" for file in files], library)


def _is_data(file: Path) -> bool:
    """What Python compiles is none, nor is what it is just writing: that has other suffixes."""
    return "__pycache__" not in file.parts and file.suffix != ".py" and file.is_file()


@cache
def meaning(source: str) -> str:
    """`source` without comments and layout; as it is, if it is no plain Python."""
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:
        return source


@cache
def module_meaning(source: str) -> str:
    """The same without docstrings.

    >>> module_meaning('def f(x):\\n    "Double."\\n    return (2 *  x)  # so')
    'def f(x):\\n    return 2 * x'
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def code_cells(path: Path) -> list[str]:
    """The source of every code cell of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def imported(source: str, library: Path = LIBRARY) -> set[Path]:
    """The library's files that `source` imports, directly or through one another."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        new = _direct_imports(waiting.pop(), library) - found
        found |= new
        waiting += [file.read_text(encoding="utf-8") for file in new]
    return found


@cache
def _direct_imports(source: str, library: Path) -> frozenset[Path]:
    """The library's files behind the import statements of `source`, also those in functions.

    Source with a mistake imports nothing: what runs it will say so.
    """
    plain = "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))
    try:
        names = {name for node in _executed(ast.parse(plain)) for name in _names(node, library)}
    except SyntaxError:
        return frozenset()
    found: set[Path] = set()
    for name in names:
        package, *parts = name.split(".")
        if package == library.name:
            # Packages on the way to a module are executed too.
            places = [library.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            found |= {place / "__init__.py" for place in places} | {places[-1].with_suffix(".py")}
    return frozenset(file for file in found if file.is_file())


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement but those that only a type checker reads."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        waiting += (own for own in ast.iter_child_nodes(node) if isinstance(own, HOLDERS))


def _names(node: ast.AST, library: Path) -> Iterator[str]:
    """The modules that an import statement may mean, by their full names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        if any(alias.name == library.name for alias in node.names):  # as e2e_lib.train, and others
            yield from public_names(library).values()
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if node.module == library.name:
            homes = public_names(library)
            yield from (homes[alias.name] for alias in node.names if alias.name in homes)
        if node.module == SPARSIFYING:  # whose classes are imported by name, when they are wanted
            yield from PLACE.findall((library / "names.py").read_text("utf-8"))


@cache
def public_names(library: Path = LIBRARY) -> dict[str, str]:
    """The module behind each name that the library hands on lazily: told to type checkers."""
    face = library / "__init__.py"
    tree = ast.parse(face.read_text("utf-8")) if face.is_file() else ast.Module([], [])
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    named = ((a, str(node.module)) for node in froms for a in node.names)
    return {alias.name: module for alias, module in named if alias.asname == alias.name}
