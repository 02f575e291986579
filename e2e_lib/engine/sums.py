"""Running sums behind the metrics of `core.evaluate`, batch by batch, in double precision.

What has no spread has no explained variance, and an activation of length 0 no L2 ratio: NaN.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.engine.sae_kernel import Coded

NO_SPREAD = 1e-11  # of the mean square: float32 rounds a mean by less


class Reconstruction:
    """Running mean squared error and explained variance of a prediction of an activation."""

    def __init__(self) -> None:
        self.tokens, self.width, self.late_tokens = 0, 0, 0
        self.error, self.late_error, self.ratio, self.layernorm_ratio = 0.0, 0.0, 0.0, 0.0
        self.sum: Tensor | None = None
        self.sum_of_squares = 0.0

    def add(
        self,
        predicted: Float[Tensor, "batch pos d"],
        target: Float[Tensor, "batch pos d"],
        *,
        swapped: bool = False,
    ) -> None:
        """Count one batch; `swapped` exchanges the two in the authors' explained variance."""
        error = (predicted - target).double().square().sum(-1)
        wide = target.double()
        self.tokens += error.numel()
        self.width = target.shape[-1]
        self.error += float(error.sum())
        self.late_error += float(error[:, 1:].sum())
        self.late_tokens += error[:, 1:].numel()
        total = wide.sum((0, 1))
        self.sum = total if self.sum is None else self.sum + total
        self.sum_of_squares += float(wide.square().sum())
        pair = (target, predicted) if swapped else (predicted, target)
        self.ratio += float(_token_explained_variance(*pair).sum())
        normed = (F.layer_norm(t, t.shape[-1:]) for t in pair)
        self.layernorm_ratio += float(_token_explained_variance(*normed).sum())

    def result(self) -> dict[str, float | int]:
        """The metrics over everything added."""
        assert self.sum is not None, "add at least one batch"
        spread = self.sum_of_squares - float(self.sum.square().sum()) / self.tokens
        return {
            "mse": self.error / self.tokens / self.width,
            "mse_after_first": self.late_error / max(1, self.late_tokens) / self.width,
            "explained_variance": (
                1 - self.error / spread if spread > NO_SPREAD * self.sum_of_squares else math.nan
            ),
            "explained_variance_paper": self.ratio / self.tokens,
            "explained_variance_layernorm": self.layernorm_ratio / self.tokens,
        }


def _token_explained_variance(
    predicted: Float[Tensor, "batch pos d"], target: Float[Tensor, "batch pos d"]
) -> Float[Tensor, "batch pos"]:
    """The authors' form: per token, against the spread round this batch's mean target."""
    spread = (target - target.mean((0, 1))).square().sum(-1)
    spread = spread.where(spread > NO_SPREAD * target.square().sum(-1), math.nan)
    return 1 - (predicted - target).square().sum(-1) / spread


class LatentCounts:
    """Running counts of codes and norms of one SAE."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self.fired = torch.zeros(d_sae, device=device)
        self.l0_rows: list[Tensor] = []
        self.ratio_sums = torch.zeros(2, dtype=torch.double)
        self.ratio_counts = torch.zeros(2)

    def add(self, inputs: Float[Tensor, "batch pos d"], coded: Coded) -> None:
        """Count one batch."""
        self.fired += coded.fired
        self.l0_rows.append(coded.l0.mean(-1).cpu())
        lengths = inputs.norm(dim=-1)
        lengths = lengths.where(lengths > 0, math.nan)
        ratio = (coded.output.norm(dim=-1) / lengths).double().cpu()
        for i, part in enumerate((ratio[:, :1], ratio[:, 1:])):
            self.ratio_sums[i] += part.sum()
            self.ratio_counts[i] += part.numel()

    def result(self) -> dict[str, float | int]:
        """l0, alive and the L2 ratios over everything added."""
        first, after = (self.ratio_sums / self.ratio_counts).tolist()
        return {
            "l0": float(torch.cat(self.l0_rows).mean()),
            "alive": int((self.fired > 0).sum()),
            "l2_ratio": float(self.ratio_sums.sum() / self.ratio_counts.sum()),
            "l2_ratio_first": first,
            "l2_ratio_after_first": after,
        }
