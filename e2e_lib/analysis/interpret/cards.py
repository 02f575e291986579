"""Feature cards: one self-contained HTML page that shows what a feature is about.

Everything is in the one file: no script, no picture, no address. Every text is escaped; tokens,
explanations and names may hold anything.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from e2e_lib.analysis.interpret.features import Example, activation_histogram, firing_summary
from e2e_lib.analysis.interpret.protocol import Sample
from e2e_lib.files import write_text
from e2e_lib.plots.style import COLOURS, LABELS

SHOWN = 8  # contexts on a card
CONTEXT = 10  # tokens on either side of the most active one
INVISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅"}

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5b6168; --line: #d9dce0; --page: #fff;
  --card: #fbfbfd; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8ea; --soft: #a3aab2; --line: #3a4047; --page: #16181b;
    --card: #1d2024; --link: #7db7f5; }
}
a { color: var(--link); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 0.6rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 1rem; padding-left: 0.7rem;
  border-left: 0.35rem solid rgb(var(--hue)); }
h3 { font-size: 0.82rem; font-weight: 600; margin: 0; color: var(--soft); }
h4 { font-size: 0.8rem; font-weight: 600; margin: 0.9rem 0 0.3rem; color: var(--soft); }
p { margin: 0.4rem 0; max-width: 48rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem 1.2rem 1.1rem; margin: 0 0 1.2rem; break-inside: avoid; }
.explanation { font: 1.15rem/1.35 "Charter", "Georgia", serif; margin: 0.25rem 0 0.5rem;
  overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 0.2rem 1.6rem; margin: 0; }
dl div { display: flex; gap: 0.4rem; align-items: baseline; }
dt { color: var(--soft); font-size: 0.82rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; font-size: 0.92rem; }
.halves { display: grid; grid-template-columns: minmax(0, 1fr) 17rem; gap: 0 1.8rem; }
ol { list-style: none; margin: 0; padding: 0; }
ol li { font: 0.84rem/1.75 ui-monospace, "Cascadia Mono", "Menlo", monospace; padding: 0.2rem 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
ol li:first-child { border-top: 0; }
ol span { white-space: pre-wrap; padding: 0.1em 0.15em; border-radius: 3px;
  background: rgb(var(--hue) / var(--a)); }
ol b { font-weight: 600; text-decoration: underline; text-underline-offset: 0.2em;
  text-decoration-color: rgb(var(--hue)); }
svg { display: block; width: 100%; height: auto; }
svg rect { fill: rgb(var(--hue)); }
svg line { stroke: var(--line); }
svg text { font-size: 11px; fill: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: 0.84rem; table-layout: fixed; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 0.8rem; padding: 0; }
td { padding: 0.05rem 0; white-space: pre; overflow: hidden; text-overflow: ellipsis;
  font-family: ui-monospace, "Cascadia Mono", "Menlo", monospace; }
td:nth-child(even) { text-align: right; padding-right: 0.9rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
td:last-child { padding-right: 0; }
col:nth-child(even) { width: 3.6rem; }
@media (max-width: 46rem) { .halves { grid-template-columns: minmax(0, 1fr); } }
"""
# The page may not load or run anything, even if an escape were forgotten.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    sections = "\n".join(_section(name, own) for name, own in cards.items())
    links = " · ".join(
        f"<a href='#{escape(name)}'>{escape(LABELS.get(name, name))}</a>" for name in cards
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(intro)}</p>
<nav>{links}</nav>
{sections}
</main>
</body>
</html>
"""


def _section(objective: str, cards: Sequence[Card]) -> str:
    colour = COLOURS.get(objective, "#5b6168")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return (
        f"<section id='{escape(objective)}' style='--hue: {red} {green} {blue}'>\n"
        f"<h2>{escape(LABELS.get(objective, objective))}</h2>\n"
        + "\n".join(map(card_html, cards))
        + "\n</section>"
    )


def card_html(card: Card) -> str:
    """One card."""
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in card.facts.items()
    )
    examples = "".join(f"<li>{example_html(example)}</li>" for example in card.examples)
    explanation = f"<p class='explanation'>{escape(card.explanation)}</p>"
    return (
        f"<article>\n<h3>{escape(card.title)}</h3>\n{explanation if card.explanation else ''}\n"
        f"<dl>{facts}</dl>\n<div class='halves'>\n"
        f"<div><h4>Strongest contexts</h4><ol>{examples}</ol></div>\n"
        f"<div><h4>Activations above 0</h4>{histogram_svg(card.histogram)}"
        f"{_effects(card.effects)}</div>\n</div>\n</article>"
    )


def example_html(example: Example, context: int = CONTEXT) -> str:
    """Tokens shaded by activation, the most active one underlined; the value is its tooltip.

    Full shade is the example's own largest activation.
    """
    largest = max(example.activations) or 1.0
    start = max(0, example.peak - context)
    parts = []
    for i in range(start, min(len(example.tokens), example.peak + context + 1)):
        text, value = escape(visible(example.tokens[i])), example.activations[i]
        text = f"<b>{text}</b>" if i == example.peak else text
        shade = f" style='--a: {0.65 * value / largest:.2f}' title='{value:.3g}'"
        parts.append(f"<span{shade}>{text}</span>" if value > 0 else text)
    return " ".join(parts)


def visible(token: str) -> str:
    """A token with signs for what cannot be seen.

    >>> visible(" the"), visible("\\n"), visible("")
    (' the', '⏎', '∅')
    """
    if token in INVISIBLE:
        return INVISIBLE[token]
    return "".join(c if c.isprintable() else INVISIBLE.get(c, "·") for c in token)


def histogram_svg(histogram: pd.DataFrame, width: int = 270, height: int = 92) -> str:
    """Bars from 0 to the largest activation, as an inline SVG."""
    if not len(histogram):
        return "<p>none</p>"
    most, largest = int(histogram["tokens"].max()), float(histogram["right"].max())
    step, base = width / len(histogram), height - 16
    bars = []
    for i, row in enumerate(histogram.itertuples()):
        tall = row.tokens / most * (base - 14)
        bars.append(
            f"<rect x='{i * step:.1f}' y='{base - tall:.1f}' width='{step - 1:.1f}' "
            f"height='{tall:.1f}'><title>{row.left:.3g} to {row.right:.3g}: {row.tokens} tokens"
            "</title></rect>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' "
        f"aria-label='Histogram of activations up to {largest:.3g}'>{''.join(bars)}"
        f"<line x1='0' x2='{width}' y1='{base}' y2='{base}'/>"
        f"<text x='0' y='{height - 3}'>0</text><text x='{width}' y='{height - 3}' "
        f"text-anchor='end'>{largest:.3g}</text>"
        f"<text x='0' y='10'>tallest bar: {most} tokens</text></svg>"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _effects(effects: pd.DataFrame) -> str:
    """Tokens that the direction raises, beside those that it lowers."""
    if not len(effects):
        return ""
    cells = {
        effect: [
            f"<td>{escape(visible(row.token))}</td><td>{_signed(row.logit)}</td>"
            for row in own.sort_values("rank").itertuples()
        ]
        for effect, own in effects.groupby("effect")
    }
    raised, lowered = cells.get("raised", []), cells.get("lowered", [])
    rows = "".join(f"<tr>{a}{b}</tr>" for a, b in zip(raised, lowered, strict=True))
    return (
        "<h4>Direct effect on logits</h4><table><colgroup><col><col><col><col></colgroup>"
        "<thead><tr><th scope='col' colspan='2'>raises</th><th scope='col' colspan='2'>lowers</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
