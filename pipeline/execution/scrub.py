"""Take the machine's folders and the user's keys out of an executed notebook."""

import os
import re
from pathlib import Path
from typing import Any

import nbformat

from pipeline.plan.profile import ROOT

# Any other absolute path: its last part says enough. Relative ones (../x/y) and URLs are left.
ABSOLUTE = re.compile(
    r"(?<![\w.~>:/+-])/(?:home|root|Users|tmp|private|var|usr|opt|mnt|srv|work|data|builds)"
    r"(?:/[^\s/'\"<>:,;()\[\]]+)*/([^\s/'\"<>:,;()\[\]]+)"
)
SECRETS = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD)$")  # names of environment variables
PICTURES = ("image/png", "image/jpeg", "application/pdf")  # base64, where a path is chance


def scrub_text(text: str) -> str:
    """`text` with paths relative to the project, and `…/name` for what lies outside it.

    >>> scrub_text("/usr/lib/python3/json.py, ../data/x.txt, https://a.b/usr/lib/c")
    '…/json.py, ../data/x.txt, https://a.b/usr/lib/c'
    """
    for secret in _secrets():
        text = text.replace(secret, "[secret]")
    for folder, short in _folders():
        text = text.replace(f"{folder}/", f"{short}/" if short else "").replace(
            folder, short or "."
        )
    return ABSOLUTE.sub(r"…/\1", text)


def _secrets() -> list[str]:
    """Values of the environment that nobody else may read, longest first.

    Nothing here prints one; this is for what another library, or a notebook's own cell, might.
    """
    values = [v.strip() for name, v in os.environ.items() if SECRETS.search(name.upper())]
    return sorted((v for v in values if len(v) >= 8), key=len, reverse=True)


def _folders() -> list[tuple[str, str]]:
    """The project's and the user's folder and their short names, longest first."""
    folders = {str(ROOT): "", str(Path.home()): "~"}
    return sorted(((f, s) for f, s in folders.items() if len(f) > 1), key=lambda p: -len(p[0]))


def scrub(value: Any) -> Any:
    """The same JSON value with every string in it scrubbed, pictures excepted."""
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, dict):
        return {k: v if k in PICTURES else scrub(v) for k, v in value.items()}
    return [scrub(item) for item in value] if isinstance(value, list) else value


def last_of_bars(outputs: list[Any]) -> list[Any]:
    """Outputs with each run of text from one stream joined, and of a progress bar its last state.

    A bar rewrites its line a hundred times; a terminal shows the last one, a notebook keeps all.
    """
    joined: list[Any] = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output["output_type"] == "stream" and before.get("name") == output["name"]:
            before["text"] += output["text"]
        else:
            joined.append(output)
    for output in joined:
        if output["output_type"] == "stream":
            output["text"] = re.sub(r"[^\n]*\r(?!\n)", "", output["text"])
    return [o for o in joined if o["output_type"] != "stream" or o["text"]]


def scrub_file(path: Path) -> None:
    """Scrub a notebook's metadata and outputs; its sources are the author's and stay."""
    if not path.is_file():
        return
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = scrub(notebook.metadata)
    for cell in notebook.cells:
        cell.metadata = scrub(cell.metadata)
        if cell.cell_type == "code":
            cell.outputs = scrub(last_of_bars(cell.outputs))
    nbformat.write(nbformat.from_dict(notebook), path)
