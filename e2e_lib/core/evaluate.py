"""Every metric's one definition. Evaluation reads text that training never saw.

| metric | definition | averaged over |
|---|---|---|
| ce_clean, ce_spliced | next-token cross-entropy, nats; last position dropped | predicted tokens |
| ce_increase | ce_spliced − ce_clean | predicted tokens |
| kl | KL(clean ‖ spliced) in nats | all tokens |
| top1_agreement | share of tokens with the same most likely next token in both | all tokens |
| l0 | number of codes above 0 | all tokens |
| alive | latents that fired at least once on the evaluation tokens (a count) | – |
| mse | squared error of one element of the activation | tokens and dimensions |
| explained_variance | 1 − Σ‖error‖² / Σ‖target − mean target‖² (a ratio of sums) | all tokens |
| l2_ratio | ‖SAE output‖ / ‖target‖ | all tokens |

What has no spread has no explained variance, and an activation of length 0 no L2 ratio: NaN. The
sums behind them are in `engine.sums`.

The suffix `_paper` marks the authors' variant: `explained_variance_paper` is the mean over tokens
of each token's ratio, with prediction and target swapped at the SAE itself (facts §1.10), and
`ce_increase_paper`, `kl_paper`, `l0_paper` are read off rows drawn from the training text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.core.hooks import (
    CleanPass,
    SplicedPass,
    clean_pass,
    hooks_to_keep,
    later_blocks,
    spliced_pass,
)
from e2e_lib.core.sae import SAE
from e2e_lib.engine.logits import TokenMetrics, token_metrics
from e2e_lib.engine.sums import LatentCounts, Reconstruction
from e2e_lib.errors import require
from e2e_lib.names import TransformerBridge, block_of


@dataclass
class Evaluation:
    """Metrics of one set of SAEs spliced in together."""

    # ce_clean, ce_spliced, ce_increase, kl, top1_agreement, eval_tokens
    model: dict[str, float | int]
    saes: dict[str, dict[str, float | int]]  # by hook: l0, alive, mse, explained_variance, ...
    blocks: pd.DataFrame  # one row a position of the residual stream from the SAE on
    rows: pd.DataFrame  # one row a row of text: ce_clean, ce_increase, kl, l0 (means over tokens)
    frequency: dict[str, Float[Tensor, " d_sae"]]  # by hook: share of tokens a latent fired on


class _Evaluator:
    """Running metrics of one set of SAEs."""

    def __init__(self, model: TransformerBridge, saes: Mapping[str, SAE]) -> None:
        self.saes = saes
        last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        later = [*later_blocks(model, list(saes)), last]
        self.later = [h for h in later if h not in saes]
        self.reconstructions = {h: Reconstruction() for h in [*saes, *self.later]}
        device = next(iter(saes.values())).b_enc.device
        self.latents = {h: LatentCounts(sae.d_sae, device) for h, sae in saes.items()}
        self.rows: list[dict[str, Tensor]] = []

    def add(
        self,
        run: SplicedPass,
        clean: Mapping[str, Tensor],
        clean_ce: Float[Tensor, "batch predicted"],
        metrics: TokenMetrics,
    ) -> None:
        for hook in self.saes:
            self.latents[hook].add(run.targets[hook], run.coded[hook])
            self.reconstructions[hook].add(run.outputs[hook], run.targets[hook], swapped=True)
        for hook in self.later:
            self.reconstructions[hook].add(run.activations[hook], clean[hook])
        per_row = {"ce_clean": clean_ce, "ce_spliced": metrics.cross_entropy}
        per_row |= {"kl": metrics.kl, "top1_agreement": metrics.top1_agreement}
        self.rows.append({k: v.mean(-1).cpu() for k, v in per_row.items()})

    def result(self, tokens: int) -> Evaluation:
        rows = pd.DataFrame(
            {k: torch.cat([r[k] for r in self.rows]).double().numpy() for k in self.rows[0]}
        )
        rows["ce_increase"] = rows.ce_spliced - rows.ce_clean
        l0 = torch.stack([torch.cat(x.l0_rows) for x in self.latents.values()]).mean(0)
        rows["l0"] = l0.double().numpy()
        rows.insert(0, "row", range(len(rows)))
        model = {k: float(v) for k, v in rows.drop(columns=["row", "l0"]).mean().items()}
        results = {h: r.result() for h, r in self.reconstructions.items()}
        blocks = [{"hook": h, "block": block_of(h)} | r for h, r in results.items()]
        saes = {h: results[h] | self.latents[h].result() for h in self.saes}
        frequency = {h: x.fired.cpu() / tokens for h, x in self.latents.items()}
        keep = ["row", "ce_clean", "ce_increase", "kl", "l0"]
        return Evaluation(
            model | {"eval_tokens": tokens}, saes, pd.DataFrame(blocks), rows[keep], frequency
        )


@torch.no_grad()
def evaluate(
    model: TransformerBridge,
    sae_sets: Sequence[Mapping[str, SAE]],
    rows: Int[Tensor, "rows pos"],
    *,
    batch_size: int = 16,
) -> list[Evaluation]:
    """Evaluate several sets of SAEs on the same rows; each set is spliced in together.

    Args:
        model: a frozen model.
        sae_sets: each a mapping from hook name to SAE; the sets share the clean passes.
        rows: held-out text, at least one row of at least two tokens.
        batch_size: rows a pass. Only `explained_variance_paper` depends on it.

    Raises:
        ConfigError: an SAE whose latents still depend on the batch, or whose threshold is not set.

    >>> from e2e_lib import load_model
    >>> model, saes = load_model("storyworld"), {"blocks.2.hook_resid_pre": SAE(64, 128)}
    >>> [result] = evaluate(model, [saes], torch.randint(451, (2, 16)))
    >>> result.model["eval_tokens"], result.model["kl"] > 0
    (32, True)
    """
    for sae in (sae for saes in sae_sets for sae in saes.values()):
        alone = not (sae.training and sae.sparsifier.calibrated)  # else by the others of its batch
        require(alone, "SAE", "in training mode", "in eval mode: call its eval() first")
    evaluators = [_Evaluator(model, saes) for saes in sae_sets]
    later = [e.later for e in evaluators]
    for batch in rows.split(batch_size):
        clean, runs, clean_ce, metrics = _compared(model, batch, sae_sets, later)
        for evaluator, run, own in zip(evaluators, runs, metrics, strict=True):
            evaluator.add(run, clean.activations, clean_ce, own)
    return [e.result(rows.numel()) for e in evaluators]


def _compared(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sae_sets: Sequence[Mapping[str, SAE]],
    later: Sequence[Sequence[str]],
    count: bool = True,
) -> tuple[CleanPass, list[SplicedPass], Float[Tensor, "batch predicted"], list[TokenMetrics]]:
    """The clean pass, each set's spliced one with the activations at its `later`, and outputs."""
    pairs = list(zip(sae_sets, later, strict=True))
    kept = [h for saes, own in pairs for h in [*hooks_to_keep(model, saes), *own]]
    clean = clean_pass(model, tokens.to(model.cfg.device), list(dict.fromkeys(kept)))
    assert clean.hidden is not None
    runs = [spliced_pass(model, clean, saes, own, count=count) for saes, own in pairs]
    hidden = [run.hidden for run in runs if run.hidden is not None]
    return clean, runs, *token_metrics(clean.head, clean.tokens, clean.hidden, hidden)


@torch.no_grad()
def ce_increases(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sae_sets: Sequence[Mapping[str, SAE]],
) -> list[float]:
    """CE increase in nats per predicted token of each set of SAEs on one batch of training text."""
    _, _, clean_ce, metrics = _compared(model, tokens, sae_sets, [()] * len(sae_sets), count=False)
    return [float(m.cross_entropy.mean()) - float(clean_ce.mean()) for m in metrics]
