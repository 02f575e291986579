"""Which true latent of StoryWorld does an SAE's latent stand for? No language model is asked.

Every token carries its truth (`storyworld.LABELS`), so an explanation can be looked up instead of
guessed: the value of a label, or of two labels together, that best tells the tokens on which the
latent fires from the others. It is picked by F1 on one part of the text and judged on the other, so
that picking the best of thousands of values does not flatter it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.analysis.interpret.features import Example
from e2e_lib.analysis.interpret.protocol import AnswerError, Feature, Sample, halfway
from e2e_lib.analysis.matched import stacked
from e2e_lib.analysis.statistics import auroc, grouped_means
from e2e_lib.storyworld.lexicon import DECOYS

# The labels of StoryWorld that say something of one token, and the words round it.
SINGLE = (
    "word", "decoy", "role", "entity", "kind", "number", "gender", "place", "mood", "scene",
    "speaker", "seen", "position_in_sentence", "previous", "next",
)  # fmt: skip
PAIRS = (
    ("role", "scene"), ("role", "entity"), ("role", "number"), ("role", "speaker"),
    ("role", "mood"), ("role", "kind"), ("role", "gender"), ("role", "seen"),
    ("role", "previous"), ("role", "next"), ("word", "scene"), ("word", "entity"),
    ("entity", "scene"), ("entity", "mood"), ("entity", "number"),
)  # fmt: skip
MIN_TOKENS = 20  # a value that is rarer where it is picked is no candidate
SIMPLER = 0.02  # by so much F1 must two labels beat one
FOUND = 0.5  # F1 from which on a latent counts as found
SYNONYMS = {form for word in DECOYS.values() for pair in word.forms for form in pair}
JUDGED = ["label", "value", "f1", "precision", "recall", "auroc", "f1_picked"]
KINDS = (SINGLE[0], "one synonym", *SINGLE[1:], "none")


class Labelling(NamedTuple):
    """One way to sort tokens: a label, or two labels together."""

    labels: tuple[str, ...]
    kinds: list[tuple[str, ...]]  # the values, by code
    codes: Int[Tensor, "rows pos"]  # -1 where a label says nothing


class Match(NamedTuple):
    """The value of a labelling that a latent stands for."""

    labelling: Labelling
    code: int
    f1: float  # where it was picked
    level: float  # mean activation on tokens with this value, where it was picked

    @property
    def text(self) -> str:
        """E.g. `role = verb and scene = meeting`."""
        pairs = zip(self.labelling.labels, self.labelling.kinds[self.code], strict=True)
        return " and ".join(f"{label.replace('_', ' ')} = {value}" for label, value in pairs)

    @property
    def where(self) -> Bool[Tensor, "rows pos"]:
        """The tokens that have this value."""
        return self.labelling.codes == self.code


def labellings(
    tokens: Int[Tensor, "rows pos"],
    labels: Mapping[str, np.ndarray],
    spell: Callable[[int], str],
) -> list[Labelling]:
    """The labels of `SINGLE`, then the pairs of `PAIRS`, as codes.

    labels: as `labels.labels_of` returns them. The words before and after a token are
    those of its own row; the row's first token has none before it, its last none after it.
    """
    words = np.array([[spell(token) for token in row] for row in tokens.tolist()])
    ends = labels["role"] == ""  # between stories
    texts = {name: np.where(ends, "", labels[name].astype(str)) for name in SINGLE[1:-2]}
    nothing = np.full_like(words[:, :1], "")
    texts["previous"] = np.concatenate([nothing, words[:, :-1]], axis=1)
    texts["next"] = np.concatenate([words[:, 1:], nothing], axis=1)
    texts["word"] = words
    single = {name: _labelling(name, texts[name]) for name in SINGLE}
    return [*single.values(), *(_together(single[a], single[b]) for a, b in PAIRS)]


def _labelling(label: str, texts: np.ndarray) -> Labelling:
    values, codes = np.unique(texts, return_inverse=True)
    codes = codes.reshape(texts.shape)
    if values[0] == "":  # the empty text sorts first
        values, codes = values[1:], codes - 1
    return Labelling((label,), [(str(value),) for value in values], torch.as_tensor(codes))


def _together(first: Labelling, second: Labelling) -> Labelling:
    n = len(second.kinds)
    both = (first.codes >= 0) & (second.codes >= 0)
    combined = torch.where(both, first.codes * n + second.codes, -1)
    found, codes = combined.unique(return_inverse=True)
    if found[0] == -1:
        found, codes = found[1:], codes - 1
    values = [first.kinds[i // n] + second.kinds[i % n] for i in found.tolist()]
    return Labelling(first.labels + second.labels, values, codes)


def best_matches(
    codes: Float[Tensor, "rows pos latents"], among: Sequence[Labelling]
) -> list[Match | None]:
    """For each latent the value with the highest F1 of "fires" against "has the value".

    codes: activations on the first rows of the labelled text, those for picking. A pair of labels
    counts only where it beats the best single label by `SIMPLER`. None where no value occurs
    `MIN_TOKENS` times.
    """
    rows, n = len(codes), codes.shape[-1]
    flat = codes.flatten(0, 1)
    fires = (flat > 0).to(flat.dtype)
    best: list[Match | None] = [None] * n
    for labelling in among:
        kind = labelling.codes[:rows].flatten() + 1  # 0: no value
        size = torch.bincount(kind, minlength=len(labelling.kinds) + 1)
        shape = (len(size), n)
        hits = torch.zeros(shape).index_add_(0, kind, fires)
        f1 = 2 * hits / (size[:, None] + fires.sum(0)).clamp_min(1)
        f1[(size < MIN_TOKENS) | (torch.arange(len(size)) == 0)] = -1
        values, chosen = f1.max(dim=0)
        total = torch.zeros(shape).index_add_(0, kind, flat)
        level = (total / size[:, None].clamp_min(1)).gather(0, chosen[None])[0]
        margin = SIMPLER * (len(labelling.labels) > 1)
        for i, (value, code) in enumerate(zip(values.tolist(), chosen.tolist(), strict=True)):
            old = best[i]
            if value >= 0 and (
                old is None or value > old.f1 + margin * (len(old.labelling.labels) == 1)
            ):
                best[i] = Match(labelling, code - 1, value, float(level[i]))
    return best


def judge(
    codes: Float[Tensor, "rows pos latents"], matches: Sequence[Match], first_row: int
) -> pd.DataFrame:
    """How well each latent tells its match, on rows that had no part in picking it.

    codes: activations on the labelled rows from `first_row` on. Columns: label (e.g. "role",
    "role and scene"), value, f1, precision, recall (of "fires" for "has the value"), auroc (that a
    token with the value has the larger activation than one without; equal ones count half) and
    f1_picked (F1 where the match was picked). AUROC is NaN where all tokens or none have the value.
    """
    rows = []
    for i, match in enumerate(matches):
        truth, x = match.where[first_row:].flatten(), codes[..., i].flatten()
        hits, fires, true = (float(t.sum()) for t in ((x > 0) & truth, x > 0, truth))
        scores = 2 * hits / max(1.0, fires + true), hits / max(1.0, fires), hits / max(1.0, true)
        labels = match.labelling.labels, match.labelling.kinds[match.code]
        area = float(auroc(x[truth].cpu(), x[~truth].cpu()))
        rows.append((*map(" and ".join, labels), *scores, area, match.f1))
    return pd.DataFrame(rows, columns=JUDGED)


def found_kind(label: str, value: str, f1: float) -> str:
    """What sort of latent was found: the label, or of two labels the second, which narrows it.

    "none" where F1 is below `FOUND`. A word that is one of two synonyms is "one synonym": the
    network has no use for telling it from the other; "decoy" stands for either of the two.

    >>> found_kind("role and scene", "verb and coda", 0.8), found_kind("word", "big", 0.9)
    ('scene', 'one synonym')
    """
    if not f1 >= FOUND:
        return "none"
    kind = label.split(" and ")[-1]
    return "one synonym" if label == "word" and value in SYNONYMS else kind


def kind_shares(matches: pd.DataFrame, by: Sequence[str] = ("objective",)) -> pd.DataFrame:
    """Share of features of each kind, with its 95 % bootstrap over seeds and features.

    matches: one row a feature, columns seed, label, value, f1 and those of `by`. Columns: those of
    `by`, kind, value, low, high, n (features in the group).
    """
    triples = zip(matches["label"], matches["value"], matches["f1"], strict=True)
    kinds = pd.Series([found_kind(*triple) for triple in triples], index=matches.index, dtype=str)
    tables = []
    for kind in KINDS:
        shares = matches.assign(share=(kinds == kind).astype(float))
        tables.append(grouped_means(shares, "share", by).assign(kind=kind))
    return stacked(tables, [*by, "kind", "value", "low", "high", "n"])


def match_samples(
    samples: Sequence[Sample], among: Sequence[Labelling]
) -> tuple[dict[str, Match], pd.DataFrame]:
    """Matches of all samples' latents by key, picked on the first half of the rows, and a table.

    The table has one row a latent: key, and the columns of `judge`, measured on the second half.
    """
    matches: dict[str, Match] = {}
    tables = [pd.DataFrame(columns=["key", *JUDGED])]
    for sample in samples:
        half = halfway(sample.codes)
        best = best_matches(sample.codes[:half], among)
        there = [i for i, match in enumerate(best) if match is not None]
        own = {f.key: m for f, m in zip(sample.features, best, strict=True) if m is not None}
        judged = judge(sample.codes[half:, :, there], list(own.values()), half)
        tables.append(judged.assign(key=list(own)))
        matches |= own
    return matches, pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


class TruthExplainer:
    """Explains a feature by its best match and simulates the match's indicator.

    matches: by the feature's key. Examples must come from the labelled rows.
    """

    name = "storyworld"

    def __init__(self, matches: Mapping[str, Match]) -> None:
        self.matches = matches

    def explain(self, feature: Feature) -> str:
        """`fires where role = verb`."""
        if feature.key not in self.matches:
            raise AnswerError(f"No label has a value that {MIN_TOKENS} tokens share.")
        return f"fires where {self.matches[feature.key].text}"

    def simulate(self, feature: Feature, explanation: str, example: Example) -> list[float]:
        """The mean activation of tokens with the value where they are, 0 elsewhere."""
        match = self.matches[feature.key]
        end = example.start + len(example.tokens)
        there = match.labelling.codes[example.row, example.start : end] == match.code
        return (there * match.level).tolist()
