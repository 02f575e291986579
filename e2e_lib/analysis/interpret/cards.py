"""Feature cards: one self-contained HTML page that shows what a feature is about.

Everything is in the one file: no script, no picture, no address. Every text is escaped; tokens,
explanations and names may hold anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from e2e_lib.analysis.interpret.features import Example, activation_histogram, firing_summary
from e2e_lib.analysis.interpret.protocol import Sample
from e2e_lib.files import write_text
from e2e_lib.plots.style import COLOURS, LABELS

SHOWN = 8  # contexts on a card
CONTEXT = 10  # tokens on either side of the most active one
INVISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅"}


class Card(NamedTuple):
    """What a card shows of one feature."""

    title: str  # e.g. "layer 2 · latent 17"
    explanation: str  # "" for none
    facts: Mapping[str, str]  # e.g. {"score": "0.81"}
    examples: Sequence[Example]  # strongest first
    histogram: pd.DataFrame  # as `features.activation_histogram` returns it
    effects: pd.DataFrame  # rows of one latent from `features.logit_effects`


def sample_cards(
    sample: Sample, table: pd.DataFrame, effects: pd.DataFrame, title: str, n: int
) -> list[Card]:
    """Cards of `n` of a sample's features, evenly spaced from the best score to the worst.

    table: one row a feature, in the sample's order: explanation, score and, where the truth is
        known, f1 and auroc.
    effects: as `features.logit_effects` returns it.
    """
    summary = firing_summary(sample.codes)
    ranked = table["score"].fillna(-2).argsort(kind="stable").to_numpy()[::-1]
    places = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    cards = []
    for i in ranked[places].tolist():
        row, latent = table.iloc[i], sample.latents[i]
        named = {"score": "score", "f1": "F1", "auroc": "AUROC"}
        facts = {
            text: f"{row[column]:.2f}"
            for column, text in named.items() if column in table and pd.notna(row[column])
        } | {
            "fires on": f"{100 * summary['frequency'][i]:.2g} % of tokens",
            "mean activation there": f"{summary['mean_fired'][i]:.3g}",
        }  # fmt: skip
        cards.append(Card(
            f"{title} · latent {latent}", str(row["explanation"]), facts,
            sample.features[i].scored[:SHOWN], activation_histogram(sample.codes[..., i]),
            effects[effects["latent"] == latent],
        ))  # fmt: skip
    return cards


def write_cards(path: Path, title: str, intro: str, cards: Mapping[str, Sequence[Card]]) -> Path:
    """Write the page, whole or not at all; `cards` by objective. Returns the path."""
    write_text(path, cards_page(title, intro, cards))
    return path


def cards_page(title: str, intro: str, cards: Mapping[str, Sequence[Card]]) -> str:
    """The page as text: a section an objective, a card a feature."""
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    page.filters |= {"visible": visible, "hue": _hue, "raised_beside_lowered": _pairs}
    values = {"title": title, "intro": intro, "cards": cards, "labels": LABELS}
    return page.get_template("cards.html.j2").render(values, context=CONTEXT).lstrip()


def visible(token: str) -> str:
    """A token with signs for what cannot be seen.

    >>> visible(" the"), visible("\\n"), visible("")
    (' the', '⏎', '∅')
    """
    if token in INVISIBLE:
        return INVISIBLE[token]
    return "".join(c if c.isprintable() else INVISIBLE.get(c, "·") for c in token)


def _hue(objective: str) -> str:
    """The objective's colour as CSS takes it: `240 167 10`."""
    return " ".join(str(part) for part in bytes.fromhex(COLOURS.get(objective, "#5b6168")[1:]))


def _pairs(effects: pd.DataFrame) -> list[tuple[Any, Any]]:
    """Tokens that the direction raises, beside those that it lowers."""
    ordered = effects.sort_values("rank")
    sides = (ordered[ordered["effect"] == effect] for effect in ("raised", "lowered"))
    return list(zip(*(side.to_dict("records") for side in sides), strict=True))
