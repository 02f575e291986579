"""A digest of what a notebook executes: its code cells and the library's modules behind them.

It changes when what is computed may change, so that a plotting fix retrains nothing: comments,
docstrings, the look of the code, and what Jupyter stores when a notebook is saved do not count.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import ROOT

LIBRARY = ROOT / "e2e_lib"
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(notebook: str, folder: Path = NOTEBOOKS, library: Path = LIBRARY) -> str:
    """A digest of the notebook's code cells and of every module of the library behind them.

    A package's own files other than code, such as weights, count with its `__init__`.
    """
    path = folder / f"{notebook}.ipynb"
    try:
        cells = code_cells(path)
    except (OSError, ValueError, LookupError):  # missing or damaged: what runs it will say so
        cells = [path.read_text("utf-8", "replace")] if path.exists() else []
    files = sorted({file for cell in cells for file in imported(cell, library)})
    packages = [f.parent for f in files if f.name == "__init__.py" and f.parent != library]
    content = hashlib.sha256()
    for text in [*map(meaning, cells), *(module_meaning(f.read_text("utf-8")) for f in files)]:
        content.update(text.encode() + b"\0")
    for file in sorted(f for package in packages for f in package.rglob("*") if _is_data(f)):
        content.update(file.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def _is_data(file: Path) -> bool:
    return file.is_file() and file.suffix not in (".py", ".pyc")


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
        tree = ast.parse(plain)
    except SyntaxError:
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    found: set[Path] = set()
    for name in names:
        package, *parts = name.split(".")
        if package == library.name:
            # Packages on the way to a module are executed too.
            places = [library.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            found |= {place / "__init__.py" for place in places} | {places[-1].with_suffix(".py")}
    return frozenset(file for file in found if file.is_file())
