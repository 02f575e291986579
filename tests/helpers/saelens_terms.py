"""Our loss terms as SAELens' training classes have them, of their weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from e2e_lib.core.sae import SAE
from e2e_lib.names import SPARSIFIERS


def saelens_terms(
    case: str,
    own: Mapping[str, Tensor],
    x: Tensor,
    dead: Tensor,
    *,
    coeff: float,
    k: float | None = None,
    widths: tuple[int, ...] = (),
    **settings: Any,
) -> list[Tensor]:
    """Errors (of each width), the sparsity term where there is one, what dead latents learn from.

    Theirs are sums over dimensions and means over tokens, and work with free decoder rows of length
    r: ours are W_enc r, b_enc r, W_dec / r and θ r.

    case: a sparsifier, or a penalty of jumprelu, perhaps "… to z"; then perhaps "…, no input bias".
    own: W_enc, b_enc, W_dec, b_dec and of jumprelu threshold. settings: of jumprelu's class, in
    their units: bandwidth, revival, target.
    """
    name, _, extra = case.partition(", ")
    jump = name not in SPARSIFIERS
    length = own["W_dec"].norm(dim=1)
    d_in, d_sae = own["W_enc"].shape
    sae = SAE(d_in, d_sae, "jumprelu" if jump else name, k)
    rule = sae.sparsifier
    rule.silent, rule.dead_after = dead.float(), 0.5
    weights = {"W_enc": own["W_enc"] * length, "b_enc": own["b_enc"] * length}
    weights |= {"W_dec": own["W_dec"], "b_dec": own["b_dec"]}
    if extra != "no input bias":
        weights["b_enc"] = weights["b_enc"] - own["b_dec"] @ weights["W_enc"]
    if jump:
        rule.penalty, rule.to_z = name.split()[0], name.endswith("to z")
        rule.bandwidth = settings["bandwidth"] * length.detach()
        rule.revival, rule.target = settings["revival"], settings.get("target", 2.0)
        weights["sparsifier.threshold"] = own["threshold"] * length.detach()
    elif name != "relu":
        rule.auxk_coeff = 1.0
    if widths:
        rule.widths, rule.spliced = widths, d_sae
    wrapped = torch.nn.Module()
    wrapped.sae, wrapped.forward = sae, sae.autoencode
    coded = functional_call(wrapped, {f"sae.{key}": value for key, value in weights.items()}, (x,))
    outputs = coded.nested or [coded.output]
    parts = [(output - x).square().sum(-1).mean() for output in outputs]
    parts += [coeff * coded.penalty.mean()] if jump or name == "relu" else []
    return parts + ([d_in * coded.auxiliary] if coded.auxiliary is not None else [])
