"""Thresholds set on held-out text: what ends a training whose L0 must come out exactly."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.core.hooks import clean_pass, hooks_to_keep, spliced_pass
from e2e_lib.core.sae import SAE
from e2e_lib.errors import is_number, require
from e2e_lib.names import TransformerBridge, ends


@torch.no_grad()
def calibrate(
    model: TransformerBridge,
    saes: Mapping[str, SAE],
    rows: Int[Tensor, "rows pos"],
    l0: float | None = None,
    *,
    batch_size: int = 16,
) -> None:
    """Set the SAEs' thresholds so that their mean L0 on `rows` is `l0`, or each one's own k.

    batchtopk and matryoshka get one threshold: midway between the last code that counts and the
    next. A jumprelu SAE's are all moved by one number; what would bring one below 0 moves its
    latent's bias instead, and so does all of it in a relu SAE, whose thresholds are 0. Several SAEs
    are calibrated in the order of their hooks, each on what the ones before it leave.

    Raises:
        ConfigError: a topk, which holds its own k, or an `l0` that these SAEs or rows cannot have.
    """
    for i, (hook, sae) in enumerate(saes.items()):
        rule, wanted = sae.sparsifier, l0 if l0 is not None else sae.sparsifier.k or 0.0
        require(rule.stored != "topk", "sparsifier", hook, "one that does not hold its own k")
        allowed = f"at least one latent on {rows.numel()} tokens and below d_sae ({sae.d_sae})"
        good = is_number(wanted) and 1 <= wanted * rows.numel() < rows.numel() * sae.d_sae
        good = good or (l0 is None and rule.calibrated)  # k may be d_sae: then all above 0 count
        require(good, "l0", wanted, allowed)
        threshold: Any = rule.state_dict().get("threshold")  # shares the rule's memory
        fresh = threshold is None or rule.calibrated
        start = torch.zeros_like(sae.b_enc) if fresh else threshold.clone()
        count, best = round(wanted * rows.numel()), start[:0]
        before = {h: saes[h] for h in list(saes)[:i]}
        for batch in rows.split(batch_size):
            clean = clean_pass(model, batch.to(model.cfg.device), hooks_to_keep(model, saes))
            read = ends(hook)[0]
            x = clean.activations[read]
            if before:
                x = spliced_pass(model, clean, before, [read], logits=False).activations[read]
            over = (F.linear(x, sae.W_enc.T, sae.b_enc) - start).flatten()
            best, _ = torch.cat([best, over]).topk(min(count + 1, len(best) + len(over)))
        shift = float(best[count - 1] + best[count]) / 2 if count < len(best) else 0.0
        moved = start + shift
        if threshold is None:
            sae.b_enc.sub_(moved)
        else:
            threshold.copy_(moved.clamp_min(0))
            if not rule.calibrated:  # one threshold that is 0 counts all that training did
                sae.b_enc.sub_(moved.clamp_max(0))
