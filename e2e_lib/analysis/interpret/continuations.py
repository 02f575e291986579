"""Texts that a model writes with SAEs spliced in."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.core.hooks import SplicedPass, splice
from e2e_lib.core.sae import SAE
from e2e_lib.engine.model.forward import run_hooked
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.errors import require
from e2e_lib.names import TransformerBridge


@torch.no_grad()
def generate(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    saes: Mapping[str, SAE] | None = None,
    *,
    max_new_tokens: int = 40,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "batch new_pos"]:
    """Continue `tokens` with the SAEs spliced in (none: the model itself); temperature 0 = greedy.

    Returns prompt and continuation. Sampling is seeded and leaves the global generator alone.

    >>> from e2e_lib import load_model
    >>> generate(load_model("storyworld"), torch.tensor([[7, 8]]), max_new_tokens=3).shape
    torch.Size([1, 5])
    """
    require(temperature >= 0, "temperature", temperature, "at least 0")
    require(top_k is None or top_k >= 1, "top_k", top_k, "None or at least 1")
    generator = torch.Generator(tokens.device).manual_seed(seed)
    unused, saes = SplicedPass(), saes or {}
    run = runner(model, list(saes))
    hooks = {name: partial(splice, unused, name, sae, 1.0, False) for name, sae in saes.items()}
    for _ in range(max_new_tokens):  # no cache: SAEs may sit anywhere, and texts are short
        hidden = run_hooked(run, tokens[:, -model.cfg.n_ctx :], hooks, whole=True)
        assert hidden is not None
        scores = run.head(hidden[:, -1:])[:, -1]
        if temperature == 0:
            new = scores.argmax(-1, keepdim=True)
        else:
            if top_k is not None:
                kth = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[:, -1:]
                scores = scores.masked_fill(scores < kth, -torch.inf)
            probabilities = (scores / temperature).softmax(-1)
            new = torch.multinomial(probabilities, 1, generator=generator)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens
