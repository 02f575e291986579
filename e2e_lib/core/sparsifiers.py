"""Which latents of an SAE fire: one small class for each rule, and what training adds for it.

| name | codes, of pre-activations z = x W_enc + b_enc | what holds L0 |
|---|---|---|
| `relu` | ReLU(z) | λ · Σ c^p |
| `topk` | the k largest z of each token, where above 0: at most k | k |
| `batchtopk` | the k · n largest of a batch of n tokens; after training z · [z > θ], one θ | k |
| `matryoshka` | the same, trained so that its first latents alone already reconstruct | k |
| `jumprelu` | z · [z > θ], a trained θ for each latent | λ · Σ tanh(4 c), or another penalty |

Decoder rows have unit length, so z itself is what a code contributes (others: Gao et al.
2406.04093, Bussmann et al. 2412.06410 and 2503.17547, Rajamanoharan et al. 2407.14435 with the
recipe of Anthropic's January 2025 update). A sixth is a class in a file of its own and a line in
`names.SPARSIFIERS`: what `Sparsifier` says is all that the rest of the package asks of it.
"""

import math
import random
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from e2e_lib.core.config import TrainConfig
from e2e_lib.engine import selected
from e2e_lib.engine.sae_kernel import Coded, autoencode, count_above, jump
from e2e_lib.errors import require
from e2e_lib.names import SPARSIFIERS, require_k

if TYPE_CHECKING:
    from e2e_lib.core.sae import SAE

In = Float[Tensor, "... d_in"]
Out = Float[Tensor, "... d_out"]
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a matryoshka's latents
# JumpReLU for few tokens; lengths in units of the activation's root mean square.
THRESHOLD, BANDWIDTH, STEEPNESS, REVIVAL = 0.1, 2.0, 4.0, 3e-7


def make_sparsifier(name: str, d_sae: int, k: int | float | None = None) -> "Sparsifier":
    """The rule of this name. Raises ConfigError: an unknown one, or a k that it cannot have."""
    require_k(name, k, d_sae)
    return SPARSIFIERS[name].kind(d_sae, k)


class Sparsifier(nn.Module):
    """ReLU, and the interface: parameters, codes, loss terms, what inference needs.

    Args:
        d_sae: number of latents.
        k: mean number of latents on a token, where the rule holds one.

    Attributes:
        stored: what inference is in files: relu, topk, jumprelu; not inherited: "" is in none.
        calibrated: whether inference needs a threshold that training does not find.
        scaled: whether it starts from what activations are like: how large, and round what.
        tracks: whether it asks which latents are dead.
    """

    stored, calibrated, scaled, tracks = "relu", False, False, False

    def __init_subclass__(cls) -> None:
        """A class says itself how it is stored: what it inherits may code otherwise."""
        cls.stored = vars(cls).get("stored", "")

    def __init__(self, d_sae: int, k: int | float | None = None) -> None:
        super().__init__()
        self.d_sae, self.k = d_sae, k
        self.register_buffer("silent", torch.zeros(d_sae), persistent=False)
        self.silent: Tensor  # tokens since each latent fired
        self.dead_after = math.inf

    def first_encoder(self, dictionary: Float[Tensor, "d_sae d_in"]) -> Tensor | None:
        """A new encoder, from the dictionary; None: drawn apart, as the paper's.

        So small that with all latents on the output is about the input; biases then start at 0.
        """
        return dictionary.T * (dictionary.shape[1] / len(dictionary)) if self.scaled else None

    def prepare(self, config: TrainConfig, scale: float, tokens: int) -> None:
        """Before training on `tokens` tokens of root mean square `scale`: what its terms need."""
        allowed = f"below d_sae ({self.d_sae}): no threshold lets more latents fire"
        require(config.target_l0 < self.d_sae, "target_l0", config.target_l0, allowed)
        self.dead_after = config.dead_share * tokens

    def begin_step(self, step: int, seed: int) -> None:
        """Before each optimiser step of a run of this seed."""

    def end_step(self, fired: Float[Tensor, " d_sae"], tokens: int) -> None:
        """After it; `fired` is above 0 where a latent fired on any of the step's `tokens`."""
        self.silent.add_(tokens).masked_fill_(fired > 0, 0)

    @property
    def dead(self) -> Int[Tensor, " dead"]:
        """Latents that have not fired on the last `dead_share` of the training's tokens."""
        return (self.silent > self.dead_after).nonzero().squeeze(-1)

    def cut(self) -> Float[Tensor, " d_sae"] | None:
        """The thresholds, each at least 0, that codes must exceed at inference; None: 0."""
        return None

    def codes(self, z: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The definition."""
        cut = self.cut()
        return F.relu(z) if cut is None else torch.where(z > cut, z, 0.0)

    def autoencode(self, sae: "SAE", x: In, target: Out, p: float, count: bool) -> Coded:
        """An SAE's pass as training takes it: latents are to make `target`, of an SAE x itself."""
        weights = sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec
        return autoencode(x, *weights, p, threshold=self.cut(), count=count)

    def inference(self) -> dict[str, Any]:
        """What a file must hold beside the four tensors: nothing, `k` or `threshold`."""
        cut = self.cut()
        return {} if cut is None else {"threshold": cut}


class JumpReLU(Sparsifier):
    """z · [z > θ]. Gradients reach θ by straight-through estimates of width ε round it.

    penalty, the sparsity term's sum over a token's latents: `tanh` (Σ tanh(4 c / s), whose estimate
    reaches z too; s is the activation's root mean square), `step` (L0) or `quadratic`
    (2/T · (L0 − T)², T the target). What never exceeds its threshold is pulled up by
    3·10⁻⁶ · Σ ReLU(θ − z) / s.
    """

    stored, scaled, tracks = "jumprelu", True, True

    def __init__(self, d_sae: int, k: int | float | None = None) -> None:
        super().__init__(d_sae, k)
        self.threshold = nn.Parameter(torch.full((d_sae,), THRESHOLD))
        self.scale, self.bandwidth, self.revival = 1.0, BANDWIDTH, REVIVAL
        self.penalty, self.to_z, self.target = "tanh", True, math.nan

    def prepare(self, config: TrainConfig, scale: float, tokens: int) -> None:
        """Thresholds that nobody set start at a tenth of the activation's root mean square."""
        super().prepare(config, scale, tokens)
        self.scale, self.bandwidth = scale, BANDWIDTH * scale
        self.revival = REVIVAL * config.objective.sparsity_coeff
        self.penalty, self.to_z = config.penalty, config.penalty == "tanh"
        self.target = config.target_l0
        if not config.init_from:
            nn.init.constant_(self.threshold, THRESHOLD * scale)

    def end_step(self, fired: Float[Tensor, " d_sae"], tokens: int) -> None:
        """A threshold stays at 0 or above."""
        super().end_step(fired, tokens)
        with torch.no_grad():
            self.threshold.clamp_min_(0)

    def cut(self) -> Float[Tensor, " d_sae"]:
        """θ."""
        return self.threshold.detach()

    def autoencode(self, sae: "SAE", x: In, target: Out, p: float, count: bool) -> Coded:
        """By autograd while it trains; without a gradient to θ, as ReLU's."""
        if not (torch.is_grad_enabled() and self.threshold.requires_grad):
            return super().autoencode(sae, x, target, p, count)
        z = F.linear(x.to(sae.b_enc.dtype), sae.W_enc.T, sae.b_enc).float()
        codes = jump(z, self.threshold, self.bandwidth, self.to_z)
        active = (codes.detach() > 0).float()
        dead = self.dead
        missing = F.relu(self.threshold[dead] - z[..., dead]).sum(-1).mean() / self.scale
        return Coded(
            F.linear(codes, sae.dictionary.T, sae.b_dec).float(),
            self._penalty(z, codes),
            active.sum(tuple(range(z.ndim - 1))),
            active.sum(-1),
            auxiliary=self.revival * missing / len(sae.b_dec),
        )

    def _penalty(self, z: Tensor, codes: Tensor) -> Float[Tensor, "..."]:
        if self.penalty == "tanh":
            return torch.tanh(STEEPNESS * codes / self.scale).sum(-1)
        l0 = count_above(z, self.threshold, self.bandwidth)
        return l0 if self.penalty == "step" else 2 / self.target * (l0 - self.target) ** 2


class TopK(Sparsifier):
    """The k largest of each token, those above 0: at most k. Latents long silent learn by AuxK.

    AuxK: with e the error that the SAE leaves of its own target, the d/2 largest dead latents of
    each token are decoded to predict e; their squared error counts `auxk_coeff` times the share of
    d/2 that is dead. Whatever the objective, no gradient of it reaches a living latent: those are
    moved by the objective alone, and dead ones come back as what local training would make them.
    """

    stored, scaled, tracks = "topk", True, True
    auxk_coeff = 0.0

    def prepare(self, config: TrainConfig, scale: float, tokens: int) -> None:
        """AuxK's share in the loss."""
        super().prepare(config, scale, tokens)
        self.auxk_coeff = config.auxk_coeff

    def codes(self, z: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        """The selected ones where above 0, and 0 elsewhere."""
        if self.calibrated and not self.training:
            return super().codes(z)
        flat = z.reshape(-1, self.d_sae)
        return selected.only(flat, *self._select(flat.detach())).clamp_min(0).view_as(z)

    def autoencode(self, sae: "SAE", x: In, target: Out, p: float, count: bool) -> Coded:
        """Only the selected codes are ever decoded."""
        if self.calibrated and not self.training:
            return super().autoencode(sae, x, target, p, count)
        dictionary = sae.dictionary
        weights = sae.W_enc, sae.b_enc, dictionary, sae.b_dec
        coded = selected.autoencode_selected(x, *weights, self._select, p)
        if not (self.auxk_coeff and self.training and torch.is_grad_enabled()):
            return coded
        error = (target - coded.output).detach()
        return coded._replace(auxiliary=self._auxk(sae, x, error, dictionary))

    def _select(self, z: Float[Tensor, "token d_sae"]) -> tuple[Tensor, Tensor]:
        return selected.largest_of_each(z, int(self.k or 0))

    def _auxk(self, sae: "SAE", x: In, error: Out, dictionary: Tensor) -> Tensor | None:
        """Mean over tokens and dimensions of (what dead latents make of the error − the error)²."""
        dead = self.dead
        if not len(dead):
            return None
        half = error.shape[-1] // 2
        z = F.linear(x.detach(), sae.W_enc[:, dead].T, sae.b_enc[dead])
        values, where = z.topk(min(half, len(dead)), dim=-1)
        codes = torch.zeros_like(z).scatter(-1, where, values)
        left = F.mse_loss(codes @ dictionary[dead], error)
        return self.auxk_coeff * min(len(dead) / half, 1.0) * left

    def inference(self) -> dict[str, Any]:
        """Its k, or the thresholds that stand for it."""
        return super().inference() if self.calibrated else {"k": int(self.k or 0)}


class BatchTopK(TopK):
    """The k · n largest of a batch of n tokens, of each process's own micro-batch.

    After training a token must not depend on the others of its batch: `finetune.calibrate` sets
    one threshold at which held-out text has k latents a token, and inference is z · [z > θ].
    """

    stored, calibrated = "jumprelu", True

    def __init__(self, d_sae: int, k: int | float | None = None) -> None:
        super().__init__(d_sae, k)
        self.register_buffer("threshold", torch.full((d_sae,), math.nan))
        self.threshold: Tensor

    def _select(self, z: Float[Tensor, "token d_sae"]) -> tuple[Tensor, Tensor]:
        return selected.largest_of_all(z, int((self.k or 0) * len(z)))

    def cut(self) -> Float[Tensor, " d_sae"]:
        """The threshold. Raises ConfigError: it was never set."""
        known = not bool(self.threshold[0].isnan())
        require(known, "threshold", "not set", "calibrated on held-out text before inference")
        return self.threshold


class Matryoshka(BatchTopK):
    """BatchTopK whose first 1/16, 1/8, 1/4 and 1/2 of the latents are trained to do alone.

    The reconstruction is averaged over these prefixes and the whole. What lies behind a splice
    would need a pass for each: there one prefix, drawn anew for each step, stands in for all,
    which has the mean's gradient in expectation.
    """

    stored = BatchTopK.stored

    def __init__(self, d_sae: int, k: int | float | None = None) -> None:
        super().__init__(d_sae, k)
        self.widths = tuple(dict.fromkeys(max(1, int(share * d_sae)) for share in PREFIXES))
        self.spliced = d_sae

    def begin_step(self, step: int, seed: int) -> None:
        """Draw the prefix that is spliced in."""
        self.spliced = random.Random(f"{seed} {step}").choice(self.widths)

    def autoencode(self, sae: "SAE", x: In, target: Out, p: float, count: bool) -> Coded:
        """While gradients are kept: the drawn prefix's output, and every prefix's as `nested`."""
        coded = super().autoencode(sae, x, target, p, count)
        if coded.codes is None or not torch.is_grad_enabled():
            return coded
        few = selected.Selected(*coded.codes)
        shorter = (
            selected.decode_selected(few, sae.dictionary, width) + sae.b_dec
            for width in self.widths[:-1]
        )
        nested = (*(output.view(target.shape) for output in shorter), coded.output)
        return coded._replace(output=nested[self.widths.index(self.spliced)], nested=nested)
