"""The terms of the training loss, one plain function each, and the objective that weighs them.

Every term is a mean (over tokens, or over all elements), as the authors compute it; the paper's
equations print un-normalised sums. With x the activation replaced (width d_in), x̂ the output and c
its codes:

    loss =  λ · sparsity            mean over tokens of ‖c‖₁ / d_in
          + local · reconstruction  mean over tokens and dimensions of (x̂ − x)²
          + κ · kl                  mean over tokens of KL(clean ‖ spliced)
          + β · downstream          mean over the compared hook positions of the mean squared
                                    difference between spliced and clean activations

β is split over the compared positions by that last mean. A sparsifier may add a term of its own,
`auxiliary`, its weight included. The paper's objectives (sections 2.2–2.4) are `local`
(reconstruction), `e2e` (kl 1) and `e2e_ds` (kl 0.5 and downstream). Beside them:

    finetune, finetune_ds   ½ (α · (κ · kl + β · downstream) + reconstruction), where α, a number
                            that is not differentiated, makes both halves equal at every step: from
                            a finished SAE, and on the scale of its λ (Karvonen 2503.17272)
    gradmse                 the same with fisher in kl's place: of small errors the mean over
                            tokens of ½ (g · (x̂ − x))², g as `output_scores` draws it: in
                            expectation KL to second order, positions apart, without a splice

`compute` is the loss: the training loop calls nothing else of this module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.core.hooks import CleanPass, SplicedPass
from e2e_lib.engine.logits import mean_kls
from e2e_lib.errors import Checked, ConfigError, Flag, OptionalWeight, Positive, Weight, require


def sparsity_loss(power_sums: Float[Tensor, "..."], d_in: int, p: float = 1.0) -> Float[Tensor, ""]:
    """Mean over tokens of ‖c‖_p / d_in (φ = λ/d in section 2.1), from each token's Σ cᵖ.

    >>> codes = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    >>> float(sparsity_loss(codes.sum(-1), d_in=2))
    1.5
    """
    norms = power_sums if p == 1 else power_sums ** (1 / p)
    return norms.mean() / d_in


def reconstruction_loss(
    output: Float[Tensor, "... d"], target: Float[Tensor, "... d"]
) -> Float[Tensor, ""]:
    """Mean over tokens and dimensions of (output − target)²; the target is not trained on.

    >>> float(reconstruction_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])))
    2.5
    """
    return F.mse_loss(output, target.detach())


def downstream_loss(
    spliced: Mapping[str, Tensor], clean: Mapping[str, Tensor], hook_names: tuple[str, ...]
) -> Float[Tensor, ""]:
    """Mean over `hook_names` of the mean squared difference between spliced and clean activations.

    The paper divides β by L − l; the authors' code, followed here, by the number of positions.
    """
    return torch.stack([reconstruction_loss(spliced[h], clean[h]) for h in hook_names]).mean()


def token_kl(
    clean_logits: Float[Tensor, "... vocab"], spliced_logits: Float[Tensor, "... vocab"]
) -> Float[Tensor, "..."]:
    """KL(clean ‖ spliced) of every token, in nats: what training minimises and evaluation reports.

    The direction is that of the authors' code; section 2.3 prints the other one. Training takes it
    from `engine.logits.kl_to`, the same with its gradient in closed form; for another loss of the
    output, give `means_over_tokens` `by_autograd` of a function like this one, in `compute`.

    >>> clean = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> spliced = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(float(token_kl(clean, spliced)), 4)  # ½ ln 2 + ½ ln ⅔
    0.1438
    """
    clean = F.log_softmax(clean_logits.detach(), dim=-1)
    spliced = F.log_softmax(spliced_logits, dim=-1)
    return F.kl_div(spliced, clean, reduction="none", log_target=True).sum(-1)


def fisher_loss(
    output: Float[Tensor, "... d"], target: Float[Tensor, "... d"], score: Float[Tensor, "... d"]
) -> Float[Tensor, ""]:
    """Mean over tokens of √(1 + (score · (output − target))²) − 1.

    Of a small error that is half its square, the error's KL to second order; of a large one it
    grows as slowly as KL does, where the square would let few tokens decide.

    >>> one = torch.tensor([[1.0, 2.0]])
    >>> round(float(fisher_loss(one, torch.zeros(1, 2), torch.tensor([[2.0, 1.0]]))), 4)
    3.1231
    """
    along = ((output - target.detach()) * score).sum(-1)
    return torch.hypot(along, torch.ones_like(along)).mean() - 1


@dataclass(frozen=True)
class Objective(Checked):
    """Weights of the loss terms. None leaves a term out; 0 computes and logs it, untrained.

    Raises:
        ConfigError: an unknown or negative weight, p_norm not above 0, no term beside sparsity.

    >>> Objective(1.5, kl_coeff=1.0).name, Objective(1.5, kl_coeff=1.0, local_coeff=0.1).name
    ('e2e', 'custom')
    """

    sparsity_coeff: Weight  # λ
    local_coeff: OptionalWeight = None  # weight of the reconstruction at the SAE itself
    kl_coeff: OptionalWeight = None  # κ
    downstream_coeff: OptionalWeight = None  # β, split over the compared positions
    # Positions that the downstream term compares; empty = resid_pre of every later block.
    downstream_hooks: tuple[str, ...] = ()
    p_norm: Positive = 1.0  # the sparsity term's norm
    fisher_coeff: OptionalWeight = None  # weight of the error seen through the output's gradients
    balanced: Flag = False  # half reconstruction, half what is behind the splice, made as large

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any((self.local_coeff, self.kl_coeff, self.downstream_coeff, self.fisher_coeff)):
            raise ConfigError(
                "local_coeff, kl_coeff, downstream_coeff and fisher_coeff are all 0 or None, but "
                "at least one must be above 0."
            )
        allowed = "false, or local_coeff and one of kl_coeff and fisher_coeff above 0"
        both = bool(self.local_coeff and (self.kl_coeff or self.fisher_coeff))
        require(both or not self.balanced, "balanced", self.balanced, allowed)

    @property
    def name(self) -> str:
        """One of `names.EVERY_OBJECTIVE`, or `custom`, from which terms are trained on."""
        weights = self.local_coeff, self.kl_coeff, self.downstream_coeff, self.fisher_coeff
        trained = (*(bool(weight) for weight in weights), self.balanced)
        return next((name for name, own in TERMS.items() if own == trained), "custom")

    @property
    def needs_splice(self) -> bool:
        """Whether any term needs the model after the SAE."""
        return self.kl_coeff is not None or self.downstream_coeff is not None

    def total(self, terms: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The weighted sum of the `terms` that have a weight; terms by the names above."""
        weights = {
            "sparsity": self.sparsity_coeff,
            "reconstruction": self.local_coeff,
            "kl": self.kl_coeff,
            "downstream": self.downstream_coeff,
            "fisher": self.fisher_coeff,
            "auxiliary": 1.0 if "auxiliary" in terms else None,
        }
        weighted = {name: w * terms[name] for name, w in weights.items() if w}
        if self.balanced:
            every = "kl", "downstream", "fisher"
            behind = [weighted.pop(name) for name in every if name in weighted]
            other, own = torch.stack(behind).sum(), weighted["reconstruction"]
            scale = own.detach() / (other.detach() + 1e-8)
            weighted["reconstruction"] = (scale * other + own) / 2
        return torch.stack(list(weighted.values())).sum()


# Which of local, kl, downstream and fisher each objective trains on, and whether balanced.
TERMS = {
    "local": (True, False, False, False, False),
    "e2e": (False, True, False, False, False),
    "e2e_ds": (False, True, True, False, False),
    "finetune": (True, True, False, False, True),
    "finetune_ds": (True, True, True, False, True),
    "gradmse": (True, False, False, True, True),
}


def named_objective(
    name: str,
    sparsity_coeff: float,
    *,
    kl_coeff: float | None = None,
    downstream_coeff: float = 2.5,
) -> Objective:
    """One of `names.EVERY_OBJECTIVE`; kl_coeff defaults to 1, for e2e_ds to 0.5 (§1.4).

    >>> named_objective("e2e", 1.5).kl_coeff
    1.0

    Raises:
        ConfigError: an unknown name or a weight that is not allowed.
    """
    require(name in TERMS, "objective", name, f"one of {', '.join(TERMS)}")
    local, kl, downstream, fisher, balanced = TERMS[name]
    usual = 0.5 if name == "e2e_ds" else 1.0
    return Objective(
        sparsity_coeff,
        local_coeff=1.0 if local else None,
        kl_coeff=(usual if kl_coeff is None else kl_coeff) if kl else None,
        downstream_coeff=downstream_coeff if downstream else None,
        fisher_coeff=1.0 if fisher else None,
        balanced=balanced,
    )


def compute(
    objectives: Sequence[Objective], clean: CleanPass, passes: Sequence[SplicedPass]
) -> list[dict[str, Float[Tensor, ""]]]:
    """Every term that each objective computes of its own pass, and `loss`, their weighted sum.

    Terms of several SAEs are summed over the hooks, as in the authors' code. The outputs of all
    passes are compared with the clean one together, a few tokens at a time.
    """
    compared = [i for i, own in enumerate(objectives) if own.kl_coeff is not None]
    kls: dict[int, Tensor] = {}
    if compared:
        hidden = [h for h in (passes[i].hidden for i in compared) if h is not None]
        assert clean.hidden is not None
        found = mean_kls(clean.head, clean.hidden, hidden)
        kls = dict(zip(compared, found, strict=True))
    every = []
    for i, (objective, own) in enumerate(zip(objectives, passes, strict=True)):
        coded = own.coded.values()
        sparsities = [sparsity_loss(c.penalty, c.output.shape[-1], objective.p_norm) for c in coded]
        terms = {"sparsity": torch.stack(sparsities).sum()}
        if objective.local_coeff is not None:
            pairs = zip(own.targets.values(), coded, strict=True)
            errors = [[reconstruction_loss(x, y) for x in c.nested or [c.output]] for y, c in pairs]
            terms["reconstruction"] = torch.stack([torch.stack(e).mean() for e in errors]).sum()
        if i in kls:
            terms["kl"] = kls[i]
        if objective.downstream_coeff is not None:
            hooks = objective.downstream_hooks
            terms["downstream"] = downstream_loss(own.activations, clean.activations, hooks)
        if objective.fisher_coeff is not None:
            triples = [(own.outputs[h], own.targets[h], clean.scores[h]) for h in own.coded]
            terms["fisher"] = torch.stack([fisher_loss(*three) for three in triples]).sum()
        auxiliary = [c.auxiliary for c in coded if c.auxiliary is not None]
        if auxiliary:
            terms["auxiliary"] = torch.stack(auxiliary).sum()
        every.append(terms | {"loss": objective.total(terms)})
    return every
