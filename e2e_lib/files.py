"""Where the project's files are; and files that are there whole or not at all.

They are written beside their place, then moved into it.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from e2e_lib.errors import ResultsError, first_sentence, reworded


def expanded(path: str | Path) -> Path:
    """A path whose `~` is the home folder; where nobody is called so, a name like any other."""
    path = Path(path)
    with suppress(RuntimeError):
        path = path.expanduser()
    return path


def project_path(path: str | Path) -> Path:
    """An absolute path as it is; a relative one under the project's root.

    The root is the folder of the nearest pyproject.toml above the working directory, else above
    the package, else the working directory: notebooks and the pipeline start in different folders.
    """
    path = expanded(path)
    if path.is_absolute():
        return path
    here = Path.cwd()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "e2e_lib").is_dir():
                return folder / path
    return here / path


def source_path(name: str) -> str:
    """A model or data parameter with a relative local path resolved; other names unchanged.

    `storyworld` is the embedded one, whatever lies there: a folder of that name is `./storyworld`.
    """
    local = name != "storyworld" and project_path(name).exists()
    return str(project_path(name)) if local else name


def shown_path(path: Path) -> str:
    """A path as notebooks print it: relative to the project, so that no machine's folders show."""
    root = project_path(".")
    return os.path.relpath(path, root) if path.is_relative_to(root) else path.name


def shown_name(name: str) -> str:
    """A model's or text's local path by its last part: no folder of a machine is in results."""
    return Path(name).name if name.count("/") > 1 or name.startswith(("/", ".", "~")) else name


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence that `path` cannot be written.

    Raises:
        ResultsError: its folder cannot be written to, or the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_sentence(error)
        raise ResultsError(
            f"{path.name!r} cannot be written to the folder {path.parent.name!r}: {reason}."
        ) from error


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to first, gone afterwards; ResultsError as in `writing`."""
    part = path.with_name(path.name + ".part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
        finally:
            with suppress(OSError):  # a folder that cannot be written to has no part in it
                part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises ResultsError."""
    with part_of(path) as part:
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_plain(values), indent=1, ensure_ascii=False) + "\n")


def replace_block(path: Path, name: str, text: str) -> None:
    """Put `text` between the comments <!-- name:begin --> and <!-- name:end --> of a file.

    Raises:
        ResultsError: the file cannot be read or written, or lacks the two comments.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    with reworded(ResultsError, f"{path.name} cannot be read"):
        old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ResultsError(f"{path.name} must hold {begin} and, after it, {end}, once each.")
    write_text(path, f"{old.split(begin)[0]}{begin}\n{text}\n{end}{old.split(end)[1]}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else value
    return value if value is None or isinstance(value, bool | int | str) else str(value)
