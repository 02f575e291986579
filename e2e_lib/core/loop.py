"""The state of a training: which step is next, and every run; one step at a time.

`train` goes through the steps, shows them and saves; the benchmark takes single ones.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.hooks import CleanPass, SplicedPass, clean_pass, hooks_to_keep, spliced_pass
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import TrainedRun, Trainee, loss_terms
from e2e_lib.engine.checkpoint import checkpoint_steps, load_checkpoint, save_checkpoint
from e2e_lib.engine.clock import charged
from e2e_lib.engine.device import check_precision, low_products, tensor_cores
from e2e_lib.engine.distributed import ALONE, Processes
from e2e_lib.engine.logits import kl_divergences, token_metrics
from e2e_lib.engine.memory import keep_freed_memory
from e2e_lib.errors import require
from e2e_lib.source_code import training_digest

# The authors report alive latents from a window of 500k training tokens that opens when 364,400 of
# 400,000 sequences have been seen (facts §1.9), while the weights still move.
PAPER_WINDOW_TOKENS, PAPER_WINDOW_OPENS = 500_000, 364_400 / 400_000
SIDE_BY_SIDE_BYTES = 2 << 30  # of activations kept at once for the backward passes of several runs


class Loop:
    """The state of the loop: which step is next, and every run.

    Attributes:
        step: optimiser steps done; `rows` of the next begin at step · batch_size.
        shapes: in words, for an error about memory.
    """

    def __init__(
        self,
        model: TransformerBridge,
        configs: Sequence[TrainConfig],
        rows: Int[Tensor, "rows pos"],
        logs: int = 20,
        processes: Processes = ALONE,
    ) -> None:
        require(len(configs) > 0, "configs", configs, "at least one configuration")
        self.batch, self.micro = configs[0].batch_size, configs[0].micro_batch_size
        shared = all(
            (c.batch_size, c.micro_batch_size) == (self.batch, self.micro) for c in configs
        )
        require(shared, "batch_size", [c.batch_size for c in configs], "the same in every run")
        self.precision = configs[0].precision
        alike = {c.precision for c in configs}
        require(len(alike) == 1, "precision", sorted(alike), "the same in every run")
        self.steps = len(rows) // self.batch
        allowed = f"at least batch_size ({self.batch})"
        require(self.steps >= 1, "training rows", len(rows), allowed)
        self.device = torch.device(model.cfg.device or "cpu")
        check_precision(self.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        elif self.device.type == "cuda" and rows.is_cpu:
            rows = rows.pin_memory()  # then a batch is moved while the one before is computed
        share = self.micro % processes.count == 0
        allowed = f"a multiple of the number of processes ({processes.count})"
        require(share, "micro_batch_size", self.micro, allowed)
        self.model, self.rows, self.step, self.processes = model, rows, 0, processes
        self.runs = [Trainee(model, config) for config in configs]
        self.wanted = list(dict.fromkeys(h for run in self.runs for h in run.hooks(model)))
        self.wants_logits = any(run.objective.kl_coeff is not None for run in self.runs)
        self.step_tokens = self.batch * rows.shape[1]
        self.window = _paper_window(self.steps, self.step_tokens)
        self.log_every = max(1, self.steps // logs)
        self.groups = _side_by_side(self.runs, model, self.micro * rows.shape[1])
        widths = {(sae.d_in, sae.d_sae) for run in self.runs for sae in run.saes.values()}
        self.shapes = f"{self.micro} × {rows.shape[1]} tokens and SAEs of " + " and ".join(
            f"{d_in} × {d_sae}" for d_in, d_sae in sorted(widths)
        )

    def advance(self) -> list[dict[str, float | int]]:
        """One optimiser step of every run; the new curve entries, if this step is logged."""
        step, batch = self.step, self.batch
        logs_now = step % self.log_every == 0 or step == self.steps - 1
        for micro in self.rows[step * batch : (step + 1) * batch].split(self.micro):
            own = micro.chunk(self.processes.count)[self.processes.rank]
            tokens = own.to(self.device, non_blocking=True).long()
            with tensor_cores(self.precision):
                self._accumulate(tokens, count=logs_now)
            if step in self.window:
                for run in self.runs:
                    run.note_fired()
        for run in self.runs:
            with charged(run.clock):
                run.update(step, self.steps, self.processes)
        self.step += 1
        if not logs_now:
            return []
        increases = ce_increases(self.model, tokens, [run.saes for run in self.runs])
        increases = self.processes.mean(torch.tensor(increases)).tolist()
        for run in self.runs:
            run.share_measurements(self.processes)
        seen = self.step * self.step_tokens
        return [run.log(step, seen, ce) for run, ce in zip(self.runs, increases, strict=True)]

    def _accumulate(self, tokens: Int[Tensor, "micro pos"], count: bool) -> None:
        """Forward and backward of one micro-batch for every run."""
        everyone = [run.clock for run in self.runs]
        with charged(*everyone), low_products(self.precision, self.device):
            clean = clean_pass(self.model, tokens, self.wanted, logits=self.wants_logits)
        for group in self.groups:
            _accumulate(self.model, group, clean, self.micro / self.batch, count)

    def save(self, folders: Sequence[Path]) -> None:
        """Write every run's checkpoint."""
        for run, folder in zip(self.runs, folders, strict=True):
            tensors, facts = run.state()
            save_checkpoint(folder, self.step, tensors, facts | {"code": training_digest()})

    def resume(self, folders: Sequence[Path]) -> None:
        """Go on from the newest step of which every run has a whole checkpoint, if any.

        Checkpoints of other code are left alone: a run's two halves must have one cause.
        """
        common = set.intersection(*(set(checkpoint_steps(folder)) for folder in folders))
        for step in sorted(common, reverse=True):
            saved = [load_checkpoint(folder, step) for folder in folders]
            if all(one.facts.get("code") == training_digest() for one in saved):
                self.step = step
                for run, own in zip(self.runs, saved, strict=True):
                    run.restore(own)
                return

    def finish(self) -> list[TrainedRun]:
        """What each run ended with. Processes that computed none of it have it from the first."""
        tokens, window = self.steps * self.step_tokens, len(self.window) * self.step_tokens
        return [run.finish(tokens, window, self.steps) for run in self.runs]


def _accumulate(
    model: TransformerBridge, group: Sequence[Trainee], clean: CleanPass, share: float, count: bool
) -> None:
    """Forward and backward of one micro-batch for every run of the group.

    The spliced outputs of all are compared with the clean one together: its softmax is made once.
    Each run's clock counts its own work and an equal share of what is common.
    """
    passes: list[SplicedPass] = []
    for run in group:
        with charged(run.clock), low_products(run.config.precision, clean.tokens.device):
            passes.append(run.forward(model, clean, count))
    compared = [i for i, run in enumerate(group) if run.objective.kl_coeff is not None]
    found: dict[int, Tensor] = {}
    if compared and clean.hidden is not None:
        with charged(*(group[i].clock for i in compared)):
            hidden = [h for h in (passes[i].hidden for i in compared) if h is not None]
            kls = kl_divergences(clean.head, clean.hidden, hidden)
            found = dict(zip(compared, kls, strict=True))
    for i, run in enumerate(group):
        with charged(run.clock):
            terms = loss_terms(run.objective, clean, passes[i], found.get(i))
            run.backward(terms, passes[i], share)


def _side_by_side(
    runs: Sequence[Trainee], model: TransformerBridge, tokens: int
) -> list[Sequence[Trainee]]:
    """The runs in groups whose passes fit into memory together, by a rough count of what they keep.

    A block keeps about fifteen values for each of the residual stream's, an SAE its codes.
    """
    latents = max(sae.d_sae for run in runs for sae in run.saes.values())
    one = 4 * tokens * (latents + 15 * model.cfg.d_model * model.cfg.n_layers)
    size = max(1, SIDE_BY_SIDE_BYTES // one)
    return [runs[i : i + size] for i in range(0, len(runs), size)]


@torch.no_grad()
def ce_increases(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sae_sets: Sequence[Mapping[str, SAE]],
) -> list[float]:
    """CE increase in nats per predicted token of each set of SAEs on one batch of training text."""
    kept = list(dict.fromkeys(h for saes in sae_sets for h in hooks_to_keep(model, saes)))
    clean = clean_pass(model, tokens, kept)
    runs = [spliced_pass(model, clean, saes, count=False) for saes in sae_sets]
    assert clean.hidden is not None
    hidden = [run.hidden for run in runs if run.hidden is not None]
    clean_ce, metrics = token_metrics(clean.head, tokens, clean.hidden, hidden)
    return [float(m.cross_entropy.mean()) - float(clean_ce.mean()) for m in metrics]


def _paper_window(steps: int, step_tokens: int) -> range:
    """Steps in which the authors' alive count looks: 500k tokens from 91 % of training on.

    A run too short for that ends its window with its last step.
    """
    opens = int(PAPER_WINDOW_OPENS * steps)
    return range(opens, min(steps, opens + math.ceil(PAPER_WINDOW_TOKENS / step_tokens)))
