"""What the page of features shows of a dictionary: where each latent fires, and what it does.

Written as small scripts into `site/` of a results folder, because a page that is opened from a
folder may load scripts and nothing else: the rows of text once, and a file a dictionary.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.analysis.interpret.features import Example, activation_histogram, firing_summary
from e2e_lib.analysis.interpret.protocol import Sample
from e2e_lib.files import write_json, write_text

SITE, INDEX = "site", "features.json"
FACTS = ("run", "objective", "layer", "seed", "l0", "ce_increase", "alive", "d_sae")
SHOWN, AROUND = 6, 10  # contexts of a feature, and words on either side of its strongest one
NEAR = 2  # neighbours in each other dictionary


class Dictionary(NamedTuple):
    """An SAE as the page shows it."""

    key: str  # names it in addresses: OBJECTIVE-LAYER
    facts: Mapping[str, Any]  # `FACTS` of its run
    features: list[dict[str, Any]]  # as `described` returns them
    elements: Float[Tensor, "features d_in"]  # their directions, of unit length


def described(sample: Sample, table: pd.DataFrame, effects: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a feature of the sample, of numbers and texts.

    table: columns key, explanation, score and, where the truth is known, f1. A feature that it
        lacks has no explanation.
    effects: as `features.logit_effects` returns it.

    Keys: id (the latent), label, score, f1, share (of tokens on which it fires), most (the
    largest activation), contexts ([row, peak, [[position, activation], ...]], strongest
    first), bars (tokens by activation, in equal bins up to `most`), raised and lowered
    ([word, logit]).
    """
    told = table.set_index("key").to_dict("index")
    sides = {side: effects[effects["effect"] == side] for side in ("raised", "lowered")}
    words = {
        side: {
            latent: [
                [word, _short(size)] for word, size in zip(g["token"], g["logit"], strict=True)
            ]
            for latent, g in part.sort_values("rank").groupby("latent")
        }
        for side, part in sides.items()
    }
    found = []
    summary = firing_summary(sample.codes).to_dict("records")
    for i, (latent, feature) in enumerate(zip(sample.latents, sample.features, strict=True)):
        own, facts = told.get(feature.key, {}), summary[i]
        found.append({
            "id": latent, "label": own.get("explanation") or "",
            "score": _short(own.get("score")), "f1": _short(own.get("f1")),
            "share": _short(facts["frequency"]), "most": _short(facts["largest"]),
            "contexts": [_context(example) for example in feature.scored[:SHOWN]],
            "bars": activation_histogram(sample.codes[..., i])["tokens"].tolist(),
            **{side: words[side].get(latent, []) for side in words},
        })  # fmt: skip
    return found


def _context(example: Example) -> list[Any]:
    first = max(0, example.peak - AROUND)
    near = enumerate(example.activations[first : example.peak + AROUND + 1], example.start + first)
    return [
        example.row,
        example.start + example.peak,
        [[i, _short(x, 2)] for i, x in near if x > 0],
    ]


def _short(value: float | None, digits: int = 3) -> float | int | None:
    """So many digits; None for no number. Whole ones as such: their ".0" is a byte in fifty."""
    short = None if value is None or pd.isna(value) else float(f"{value:.{digits}g}")
    return int(short) if short is not None and short.is_integer() else short


def neighbours(own: Dictionary, others: Sequence[Dictionary]) -> list[list[list[Any]]]:
    """Of each feature, in each other dictionary the nearest ones: [id, decoder cosine]."""
    near: list[list[list[Any]]] = [[] for _ in own.features]
    for other in others:
        cosines = own.elements @ other.elements.T
        values, places = cosines.topk(min(NEAR, len(other.features)), dim=-1)
        for i, (row, at) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            pairs = zip(at, row, strict=True)
            near[i].append([[other.features[j]["id"], round(cosine, 2)] for j, cosine in pairs])
    return near


def write_browser(
    results: Path, dictionaries: Sequence[Dictionary], rows: Int[Tensor, "rows pos"],
    spell: Callable[[int], str], about: str,
) -> None:  # fmt: skip
    """Write the data of the page, and an index of it; neighbours are those at the same layer.

    rows: the text from which all contexts come. about: a sentence on explainer and text.
    """
    shown = {context[0] for d in dictionaries for f in d.features for context in f["contexts"]}
    ids, places = torch.unique(rows, return_inverse=True)
    text = {
        "around": AROUND,
        "words": [spell(i) for i in ids.tolist()],
        "rows": {row: places[row].tolist() for row in sorted(shown)},
    }
    _write_script(results / SITE / "features_text.js", "TEXT", text)
    index = []
    for one in dictionaries:
        layer = one.facts["layer"]
        same = [d for d in dictionaries if d.facts["layer"] == layer and d is not one]
        others = [d for d in same if d.features]
        near = neighbours(one, others)
        words: dict[str, int] = {}
        features = [_flat(f | {"near": n}, words) for f, n in zip(one.features, near, strict=True)]
        facts = {"key": one.key, **one.facts, "shown": len(features)}
        # A list a key, not a mapping a feature: a quarter of the bytes would be keys.
        columns = {name: [f[name] for f in features] for name in (features or [{}])[0]}
        _write_script(
            results / SITE / f"features_{one.key}.js", f'FEATURES["{one.key}"]',
            {**facts, "others": [d.key for d in others], "words": [*words], "columns": columns},
        )  # fmt: skip
        index.append(facts)
    write_json(results / SITE / INDEX, {"about": about, "dictionaries": index})


def _flat(feature: Mapping[str, Any], words: dict[str, int]) -> dict[str, Any]:
    """The feature with a plain list for each list of pairs, and its logits' words as numbers.

    `featuresOf` in pages/features.js turns it back; a quarter of a page's data is saved.
    words: the numbers, by word; grows.
    """
    one, pairs = dict(feature), chain.from_iterable
    one["contexts"] = [[row, peak, *pairs(fired)] for row, peak, fired in one["contexts"]]
    one["near"] = [[*pairs(other)] for other in one["near"]]
    for side in {"raised", "lowered"} & set(one):
        told = [(words.setdefault(word, len(words)), size) for word, size in one[side]]
        one[side] = [*pairs(told)]
    return one


def _write_script(path: Path, name: str, value: Any) -> None:
    """A script that sets a global variable; ASCII, whatever the words hold."""
    first = "globalThis.FEATURES ??= {};\n" if "[" in name else ""
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    write_text(path, f"{first}globalThis.{name} = {plain};\n")
