"""What a fine-tuning left in an SAE's folder: the SAE as it came in, and its card."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from e2e_lib.core.evaluate import Evaluation
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.data.formats.sae_files import FORMATS, format_of, write_sae
from e2e_lib.data.formats.stored import StoredSAE
from e2e_lib.files import write_json, writing
from e2e_lib.runs.provenance import provenance

STAYED = 0.9  # cosine from which a latent counts as having kept its direction
SIDES = ("before", "after")
WORDS = {
    "ce_increase": "CE increase (nats a token)",
    "kl": "KL (nats a token)",
    "l0": "L0 (latents a token)",
    "mse": "squared error at the SAE",
    "explained_variance": "explained variance",
    "dead": "dead latents",
}
Card: TypeAlias = dict[str, Any]


def sae_place(place: Path, format_name: str) -> Path:
    """Where in the folder `place` the SAE lies: the name of a folder says a layer in some formats.

    >>> sae_place(Path("out/layers.3"), "sparsify").as_posix()
    'out/layers.3/layers.3'
    """
    return place / (place.name if FORMATS[format_name].files else f"{place.name}.pt")


def state_folder(place: Path, asked: Card) -> Path:
    """Where the state of the training that is `asked` for lies; of any other, it goes.

    Raises:
        ResultsError: it cannot be written to, which would else be known after the training.
    """
    text = json.dumps(asked, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    own = place / f"checkpoints-{digest}"
    with writing(own):
        for other in {*place.glob("checkpoints*")} - {own}:
            shutil.rmtree(other)
        own.mkdir(parents=True, exist_ok=True)
    return own


def write_outcome(
    place: Path,
    stored: StoredSAE,
    run: TrainedRun,
    before: Evaluation,
    after: Evaluation,
    asked: Card,
) -> None:
    """The SAE as it came in, then `card.json`, which makes it count: one that was there goes first.

    Dead are latents that never fired on the held-out text; `stayed` is the share, of those that
    did after training, whose direction has a cosine above 0.9 with what it was.
    """
    [(hook, sae)] = run.saes.items()
    (place / "card.json").unlink(missing_ok=True)
    write_sae(
        sae_place(place, stored.format),
        replace(stored, weights=sae.stored().weights),
        frequency=after.frequency[hook] if stored.format == "saelens" else None,
    )
    cosine = (sae.dictionary.cpu() * stored.weights["W_dec"]).sum(-1)
    alive = after.frequency[hook] > 0
    card = {
        "asked": asked,
        "hook": hook,
        "format": stored.format,
        "sparsifier": stored.sparsifier,
        "before": _metrics(before, hook, sae.d_sae),
        "after": _metrics(after, hook, sae.d_sae),
        "stayed": float((cosine[alive] > STAYED).float().mean()) if bool(alive.any()) else math.nan,
        "train_tokens": run.train_tokens,
        "train_seconds": run.train_seconds,
        "provenance": provenance(),
    }
    write_json(place / "card.json", card)


def read_card(place: Path) -> Card:
    """The card in a folder; nothing where there is no whole one, or no whole SAE beside it."""
    try:
        card: Card = json.loads((place / "card.json").read_text("utf-8"))
        return card if format_of(sae_place(place, card["format"])) == card["format"] else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _metrics(found: Evaluation, hook: str, d_sae: int) -> Card:
    own, model = found.saes[hook], found.model
    blocks = found.blocks[found.blocks["hook"] != hook]
    return {
        **{key: model[key] for key in ("ce_clean", "ce_increase", "kl", "eval_tokens")},
        **{key: own[key] for key in ("l0", "mse", "explained_variance")},
        "dead": d_sae - int(own["alive"]),
        "later_mse": dict(zip(blocks["hook"], blocks["mse"].tolist(), strict=True)),
    }


def card_table(cards: Iterable[Card]) -> pd.DataFrame:
    """One row a card and side (before, after): objective, sae, side, and the metrics of `WORDS`.

    `stayed`, `train_tokens` and `train_seconds` stand with `after` alone.
    """
    rows = []
    for card in cards:
        labels = {"objective": card["asked"]["objective"], "sae": card["asked"]["sae"]}
        later = {key: card[key] for key in ("stayed", "train_tokens", "train_seconds")}
        for side in SIDES:
            own = {key: card[side][key] for key in WORDS}
            rows.append(labels | {"side": side} | own | (later if side == "after" else {}))
    return pd.DataFrame(rows)


def error_table(card: Card) -> pd.DataFrame:
    """Squared error at the SAE and before every later block: hook, side (before, after), mse."""
    return pd.DataFrame(
        [
            {"hook": hook, "side": side, "mse": mse}
            for side in SIDES
            for hook, mse in {card["hook"]: card[side]["mse"], **card[side]["later_mse"]}.items()
        ]
    )
