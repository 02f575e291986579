"""Where the project is, and which code, versions and hardware stand behind a result."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from e2e_lib.storyworld import STORYWORLD_FOLDER

PACKAGES = ("torch", "transformers", "transformer-lens", "datasets", "numpy", "pandas")


def project_path(path: str | Path) -> Path:
    """An absolute path as it is; a relative one under the project's root.

    The root is the folder of the nearest pyproject.toml above the working directory, else above
    the package, else the working directory: notebooks and the pipeline start in different folders.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    here = Path.cwd()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "e2e_lib").is_dir():
                return folder / path
    return here / path


def source_path(name: str) -> str:
    """A model or data parameter with a relative local path resolved; other names unchanged."""
    return str(project_path(name)) if project_path(name).exists() else name


def shown_path(path: Path) -> str:
    """A path as notebooks print it: relative to the project, so that no machine's folders show."""
    root = project_path(".")
    return os.path.relpath(path, root) if path.is_relative_to(root) else path.name


def content_digest(name: str) -> str | None:
    """Digest of a local file, or of a model folder's configuration and weights; None if not local.

    Text from `storyworld` is made by the package, whose version and commit are recorded: None too.
    """
    return _digest(project_path(name))


def model_digest(name: str) -> str | None:
    """`content_digest` of a language model; of `storyworld`, that of the shipped weights."""
    return _digest(STORYWORLD_FOLDER) if name == "storyworld" else content_digest(name)


def _digest(path: Path) -> str | None:
    files = [path] if path.is_file() else sorted(path.glob("*.json")) + sorted(path.glob("*.saf*"))
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware behind a result; names no host and no folder."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "clean_tree": _git("status", "--porcelain", "--untracked-files=no") == "",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(project_path(".")), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
