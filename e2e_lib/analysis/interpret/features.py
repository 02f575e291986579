"""What one looks at to understand a latent: where it fires, how strongly, what it does to logits.

Source: the paper's section 3.4 and what Neuronpedia shows of a feature. Activations are those of
SAEs on the clean model's activations. No latent is told from its activations alone: the examples
are the strongest ones, the histogram shows the rest.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from e2e_lib.core.sae import SAE
from e2e_lib.names import TransformerBridge

ROWS_AT_ONCE = 64
CODES_AT_ONCE = 2**28  # 1 GiB of them: large dictionaries take fewer rows at once


class Example(NamedTuple):
    """A stretch of one row of text round the token on which a latent is most active there."""

    row: int
    start: int  # position of the first token in its row
    peak: int  # index of the most active token, counted from `start`
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


class Spelling:
    """Token ids to the strings they stand for, each decoded once."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode, self.known = decode, dict[int, str]()

    def __call__(self, token: int) -> str:
        if token not in self.known:
            self.known[token] = self.decode([token])
        return self.known[token]


@torch.no_grad()
def firing_rows(sae: SAE, activations: Float[Tensor, "rows pos d_in"]) -> Int[Tensor, " d_sae"]:
    """In how many rows each latent fires at least once."""
    parts = [(sae.encode(x) > 0).any(dim=1).sum(0) for x in _split(activations, sae)]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def latent_activations(
    sae: SAE, activations: Float[Tensor, "rows pos d_in"], latents: Sequence[int]
) -> Float[Tensor, "rows pos latents"]:
    """The codes of some latents; the other codes are not kept."""
    parts = [sae.encode(x)[..., list(latents)] for x in _split(activations, sae)]
    return torch.cat(parts)


def _split(
    activations: Float[Tensor, "rows pos d_in"], sae: SAE
) -> Sequence[Float[Tensor, "some pos d_in"]]:
    """Rows whose codes fit into memory together."""
    fitting = CODES_AT_ONCE // (activations.shape[1] * sae.d_sae)
    return activations.split(max(1, min(ROWS_AT_ONCE, fitting)))


def choose_latents(usable: Bool[Tensor, " d_sae"], n: int, seed: int = 0) -> list[int]:
    """Up to `n` random latents among the usable ones, in rising order."""
    candidates = torch.nonzero(usable).flatten().cpu()
    generator = torch.Generator().manual_seed(seed)
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[:n]]
    return sorted(chosen.tolist())


def top_examples(
    codes: Float[Tensor, "rows pos"],
    tokens: Int[Tensor, "rows pos"],
    spell: Callable[[int], str],
    n: int,
    window: int = 16,
    first_row: int = 0,
) -> list[Example]:
    """The `n` rows in which a latent is most active, strongest first; each row gives one example.

    Args:
        codes: the latent's activations. Rows on which it never fires give no example.
        spell: the string of a token id.
        window: tokens shown on either side of the most active one, as far as the row has them.
        first_row: number of the first of these rows, where they are part of a larger set.
    """
    strongest = codes.amax(dim=1)
    # Stable, so that rows of equal activation come in the same order on every machine.
    order = torch.argsort(strongest, descending=True, stable=True)[:n].tolist()
    examples = []
    for row in order:
        if strongest[row] <= 0:
            break
        peak = int(codes[row].argmax())
        start, end = max(0, peak - window), min(codes.shape[1], peak + window + 1)
        texts = tuple(spell(token) for token in tokens[row, start:end].tolist())
        values = tuple(codes[row, start:end].tolist())
        examples.append(Example(first_row + row, start, peak - start, texts, values))
    return examples


def firing_summary(codes: Float[Tensor, "rows pos latents"]) -> pd.DataFrame:
    """One row a latent: frequency (share of tokens on which it fires), largest activation, and
    mean over the tokens on which it fires (NaN if it never does)."""
    flat = codes.flatten(0, 1)
    fired = (flat > 0).sum(0)
    mean = (flat.sum(0) / fired).where(fired > 0, torch.nan)
    columns = {"frequency": fired / len(flat), "largest": flat.amax(0), "mean_fired": mean}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def activation_histogram(codes: Float[Tensor, "rows pos"], bins: int = 20) -> pd.DataFrame:
    """Activations above 0 in `bins` equal bins from 0 to the largest: left, right, tokens."""
    fired = codes[codes > 0].cpu()
    if not len(fired):
        return pd.DataFrame({"left": [], "right": [], "tokens": []})
    counts, edges = torch.histogram(fired, bins, range=(0.0, float(fired.max())))
    columns = {"left": edges[:-1], "right": edges[1:], "tokens": counts.long()}
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


@torch.no_grad()
def logit_effects(
    sae: SAE,
    model: TransformerBridge,
    latents: Sequence[int],
    spell: Callable[[int], str],
    k: int = 8,
) -> pd.DataFrame:
    """The `k` tokens that each latent's direction raises most, and the `k` that it lowers most.

    The direct path only: the unit decoder direction times the unembedding matrix, less its mean
    over the vocabulary (which the softmax ignores). What later blocks make of the direction is
    left out, and so is the final LayerNorm: its scale, and its gain unless that is folded into the
    unembedding, as it is in `processed` models. Trust it less the earlier the layer.

    Columns: latent, effect ("raised" or "lowered"), rank (0: most), token, logit (per unit of
    activation). Empty where the SAE's width is not the residual stream's: then there is no direct
    path.
    """
    columns = ["latent", "effect", "rank", "token", "logit"]
    unembed = model.W_U.float()
    if sae.d_in != unembed.shape[0]:
        return pd.DataFrame(columns=columns)
    logits = sae.dictionary[list(latents)].to(unembed.device) @ unembed
    logits = logits - logits.mean(dim=-1, keepdim=True)
    rows = []
    for effect, sign in (("raised", 1), ("lowered", -1)):
        strength, tokens = (sign * logits).topk(min(k, logits.shape[1]))
        for latent, ids, sizes in zip(latents, tokens, sign * strength, strict=True):
            pairs = zip(ids.tolist(), sizes.tolist(), strict=True)
            rows += [(latent, effect, rank, spell(i), x) for rank, (i, x) in enumerate(pairs)]
    return pd.DataFrame(rows, columns=columns)
