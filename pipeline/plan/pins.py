"""What a name stood for when a results folder was begun, pinned: branches of the hub, precision.

A profile names a commit where one is known, and a branch or tag elsewhere. That becomes a commit
before anything starts, is recorded in the results folder's pins.json, and stays the same there, so
that a run which goes on tomorrow reads the files it began with. The precision `native` becomes
what it is on the machine at hand, so that a folder which goes on elsewhere keeps its runs' names.
"""

import json
import re
from pathlib import Path
from typing import Any

from e2e_lib.data.readers import READERS
from e2e_lib.data.text import named_split
from e2e_lib.files import project_path, write_json
from e2e_lib.runs.provenance import cached_commit
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.plan.profile import Profile

COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(profile: Profile, results: Path) -> Profile:
    """`profile` with each hub revision that is no commit replaced by the commit it stands for.

    Where the hub cannot be asked, the revision stays as it is: a cached copy may serve it.
    """
    path = results / "pins.json"
    pins: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    changes: dict[str, Any] = {}
    for key, kind, name in _sources(profile):
        revision = profile.values()[key]
        if not on_hub(name) or COMMIT.fullmatch(revision):
            continue
        pin = f"{kind} {name} {revision}"
        if pin not in pins:
            commit = _commit(kind, name, revision)
            if commit is None:
                print(f"{key} stays {revision!r}: the hub says nothing about {name}.")
                continue
            pins[pin] = commit
        changes[key] = pins[pin]
    training = profile.training
    if training.precision == "native":
        from e2e_lib.engine.device import chosen_precision  # imports torch

        pin = f"precision native on {training.device}"
        pins[pin] = changes["precision"] = pins.get(pin) or chosen_precision(
            training.precision, training.device
        )
        print(f"Products are {pins[pin]}, which is native where this folder was begun.")
    if changes:
        write_json(path, pins)
    return profile.but(**changes)


def _sources(profile: Profile) -> list[tuple[str, str, str]]:
    """Revision key, kind and name of what may come from the hub; one name for each key."""
    training = profile.training
    texts = (training.train_data, training.validation_data)
    data = {named_split(name)[0] for name in texts}
    sources = [("model_revision", "model", training.model)]
    if len(data) == 1:  # a commit of one data set means nothing to another
        sources.append(("data_revision", "dataset", data.pop()))
    if profile.released and ("," not in profile.released or not on_hub(profile.released)):
        sources.append(("released_revision", "model", profile.released))
    return sources


def on_hub(name: str) -> bool:
    """Whether only the hub can have a model or data of this name."""
    local = name in EMBEDDED_MODELS or project_path(name).exists() or name[:1] in (".", "/", "~")
    return not local and Path(name).suffix.lower() not in READERS


def _commit(kind: str, name: str, revision: str) -> str | None:
    """The commit that the hub has for a revision, or else its cache here; None if neither has."""
    from huggingface_hub import HfApi  # slow to import, and rarely needed

    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10).sha
    except Exception:  # the client raises a dozen kinds; loading will say what is wrong
        return cached_commit(f"{kind}s", name, revision)
