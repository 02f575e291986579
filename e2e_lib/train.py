"""One training loop for SAEs on a frozen model: `train`; its parameters are in `config.py`.

A list of configurations that differ in objective, coefficients or initial seed is trained on the
same batches and shares the clean pass; each one's result is the same as when trained alone.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm import tqdm
from transformer_lens.model_bridge import TransformerBridge

from e2e_lib.config import TrainConfig, learning_rate_factor
from e2e_lib.errors import E2EError, require
from e2e_lib.evaluate import token_cross_entropy
from e2e_lib.hooks import (
    CleanPass,
    SplicedPass,
    apply_saes,
    check_hook,
    clean_pass,
    hook_width,
    hooks_to_keep,
    later_blocks,
    layer_of,
    spliced_pass,
)
from e2e_lib.losses import (
    Objective,
    downstream_loss,
    kl_divergence,
    reconstruction_loss,
    sparsity_loss,
)
from e2e_lib.sae import SAE

# The authors report alive latents from a window of 500k training tokens that opens when 364,400 of
# 400,000 sequences have been seen (facts §1.9), while the weights still move.
PAPER_WINDOW_TOKENS, PAPER_WINDOW_OPENS = 500_000, 364_400 / 400_000


__all__ = ["DivergedError", "TrainConfig", "TrainedRun", "build_saes", "loss_terms", "train"]


class DivergedError(E2EError):
    """The loss, its gradient or the CE increase is no longer a finite number."""


@dataclass
class TrainedRun:
    """A finished run: its SAEs and what was measured while they trained."""

    config: TrainConfig
    saes: dict[str, SAE]
    # One entry a log step: step, tokens, loss, every term, l0, ...
    curve: list[dict[str, float | int]]
    grad_norm: float  # mean pre-clip gradient norm over log steps after the first 2.5 % (§1.8)
    alive_paper: dict[str, int]  # latents that fired in the authors' late training window
    alive_window_tokens: int
    train_tokens: int
    train_seconds: float  # own work plus an equal share of the clean passes


class _Run:
    """One configuration's SAEs, optimiser and records inside the loop."""

    def __init__(self, model: TransformerBridge, config: TrainConfig) -> None:
        for hook in [*config.hook_names, *config.objective.downstream_hooks]:
            check_hook(model, hook)
        first = min(map(layer_of, config.hook_names))
        early = [h for h in config.objective.downstream_hooks if layer_of(h) < first]
        allowed = f"hooks from the first SAE's block ({config.hook_names[0]}) on"
        require(not early, "downstream_hooks", early, allowed)
        self.config, self.objective = config, config.objective
        self.saes = build_saes(model, config)
        if self.objective.downstream_coeff is not None and not self.objective.downstream_hooks:
            hooks = later_blocks(model, config.hook_names)
            if config.downstream_last_block:
                hooks = (*hooks, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
            require(
                len(hooks) > 0,
                "layer",
                config.hook_names[-1],
                f"before the last block ({model.cfg.n_layers - 1}) for a downstream term, or "
                "downstream_hooks must be given",
            )
            self.objective = replace(self.objective, downstream_hooks=hooks)
        self.parameters = [
            p for h, sae in self.saes.items() if h not in config.frozen for p in sae.parameters()
        ]
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.lr)
        self.curve: list[dict[str, float | int]] = []
        self.fired = {h: torch.zeros(s.d_sae, dtype=torch.bool) for h, s in self.saes.items()}
        self.seconds = 0.0
        self.grad_norm = math.nan
        self.last: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}

    def hooks(self, model: TransformerBridge) -> list[str]:
        """What it needs of the clean pass."""
        return [*hooks_to_keep(model, self.saes), *self.objective.downstream_hooks]

    def forward(self, model: TransformerBridge, clean: CleanPass) -> dict[str, Tensor]:
        """The loss terms of one micro-batch; sums over hooks, means within."""
        if self.objective.needs_splice:
            wants_logits = self.objective.kl_coeff is not None
            run = spliced_pass(
                model, clean, self.saes, self.objective.downstream_hooks, logits=wants_logits
            )
        else:
            run = apply_saes(clean, self.saes)
        self.codes = {h: c.detach() for h, c in run.codes.items()}
        return loss_terms(self.objective, clean, run)

    def update(self, step: int, steps: int) -> None:
        """One optimiser step on the accumulated gradient."""
        clip = self.config.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip or math.inf)
        self.grad_norm = float(norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * learning_rate_factor(step, steps, self.config)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def note_fired(self) -> None:
        for hook, codes in self.codes.items():
            fired: Bool[Tensor, " d_sae"] = (codes > 0).flatten(0, -2).any(0).cpu()
            self.fired[hook] |= fired

    def log(self, step: int, tokens: int, ce_increase: float) -> dict[str, float | int]:
        """Append one line to the training curve."""
        terms = {k: float(v) for k, v in self.last.items()}
        l0 = [float((c > 0).sum(-1).float().mean()) for c in self.codes.values()]
        entry = {"step": step, "tokens": tokens} | terms
        entry |= {"l0": sum(l0) / len(l0), "ce_increase": ce_increase}
        entry |= {"grad_norm": self.grad_norm, "lr": self.optimiser.param_groups[0]["lr"]}
        if not all(map(math.isfinite, (terms["loss"], self.grad_norm, ce_increase))):
            before = next((e["loss"] for e in reversed(self.curve)), None)
            raise DivergedError(
                f"loss is {terms['loss']}, gradient norm {self.grad_norm} and CE increase "
                f"{ce_increase} at step {step} of a {self.objective.name} run with "
                f"sparsity_coeff {self.objective.sparsity_coeff} (last finite loss: {before}): "
                f"choose an lr below {self.config.lr} or a smaller grad_clip."
            )
        self.curve.append(entry)
        return entry

    def finish(self, tokens: int, window_tokens: int, steps: int) -> TrainedRun:
        norms = [e["grad_norm"] for e in self.curve if e["step"] > 0.025 * steps]
        return TrainedRun(
            config=replace(self.config, objective=self.objective),
            saes={h: sae.eval().requires_grad_(False) for h, sae in self.saes.items()},
            curve=self.curve,
            grad_norm=sum(norms) / max(1, len(norms)),
            alive_paper={h: int(f.sum()) for h, f in self.fired.items()},
            alive_window_tokens=window_tokens,
            train_tokens=tokens,
            train_seconds=self.seconds,
        )


def build_saes(model: TransformerBridge, config: TrainConfig) -> dict[str, SAE]:
    """The SAEs a run starts from: initialised from its seed, or warm-started from saved ones."""
    saes = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for hook in config.hook_names:
            width = hook_width(model, hook)
            d_sae = int(config.dict_ratio * width)
            require(d_sae >= 1, "dict_ratio", config.dict_ratio, f"at least 1/{width}: d_sae >= 1")
            sae = SAE(width, d_sae)
            if hook in config.init_from:
                sae = SAE.load(Path(config.init_from[hook]))
                require(sae.d_in == width, "init_from", config.init_from[hook], f"of d_in {width}")
            saes[hook] = sae.to(model.cfg.device)
    for hook in config.frozen:
        saes[hook].requires_grad_(False)
    return saes


def loss_terms(objective: Objective, clean: CleanPass, run: SplicedPass) -> dict[str, Tensor]:
    """Every term the objective computes, and `loss`, their weighted sum.

    Terms of several SAEs are summed over the hooks, as in the authors' code.
    """
    terms: dict[str, Tensor] = {}
    sparsities = [
        sparsity_loss(run.codes[h], run.inputs[h].shape[-1], objective.p_norm) for h in run.codes
    ]
    terms["sparsity"] = torch.stack(sparsities).sum()
    if objective.local_coeff is not None:
        parts = [reconstruction_loss(run.outputs[h], run.inputs[h]) for h in run.outputs]
        terms["reconstruction"] = torch.stack(parts).sum()
    if objective.kl_coeff is not None:
        assert clean.logits is not None and run.logits is not None
        terms["kl"] = kl_divergence(clean.logits, run.logits)
    if objective.downstream_coeff is not None:
        hooks = objective.downstream_hooks
        terms["downstream"] = downstream_loss(run.activations, clean.activations, hooks)
    terms["loss"] = objective.total(terms)
    return terms


def train(
    model: TransformerBridge,
    configs: Sequence[TrainConfig],
    rows: Int[Tensor, "rows pos"],
    *,
    on_log: Callable[[int, dict[str, float | int]], None] | None = None,
    progress: bool = True,
    logs: int = 20,
) -> list[TrainedRun]:
    """Train each configuration's SAEs once through `rows`, in order.

    Args:
        model: a frozen model; its weights never change.
        configs: runs that share batch sizes and are trained side by side on the same batches.
        rows: training tokens of any integer type; whole batches only, a remainder is dropped.
        on_log: called with a run's index and its new curve entry.
        progress: show a bar with tokens, tokens/s, loss, L0, CE increase and time left.
        logs: points on each training curve.

    Raises:
        ConfigError: fewer rows than one batch, or configurations of different batch sizes.
        DivergedError: a loss became infinite or undefined.
    """
    require(len(configs) > 0, "configs", configs, "at least one configuration")
    batch, micro = configs[0].batch_size, configs[0].micro_batch_size
    shared = all((c.batch_size, c.micro_batch_size) == (batch, micro) for c in configs)
    require(shared, "batch_size", [c.batch_size for c in configs], "the same in every run")
    steps = len(rows) // batch
    require(steps >= 1, "training rows", len(rows), f"at least batch_size ({batch})")
    runs = [_Run(model, config) for config in configs]
    wanted = list(dict.fromkeys(h for run in runs for h in run.hooks(model)))
    wants_logits = any(run.objective.kl_coeff is not None for run in runs)
    step_tokens = batch * rows.shape[1]
    window = _paper_window(steps, step_tokens)
    log_every = max(1, steps // logs)
    accumulate = batch // micro
    bar = tqdm(
        total=steps * step_tokens,
        unit="tok",
        unit_scale=True,
        disable=not progress,
        desc=f"{len(runs)} SAE{'s' * (len(runs) > 1)}",
        mininterval=1.0,  # executed notebooks keep every update
    )
    for step in range(steps):
        for tokens in rows[step * batch : (step + 1) * batch].split(micro):
            started = time.perf_counter()
            tokens = tokens.to(model.cfg.device, torch.long)
            clean = clean_pass(model, tokens, wanted, logits=wants_logits)
            clean_seconds = (time.perf_counter() - started) / len(runs)
            for run in runs:
                started = time.perf_counter()
                terms = run.forward(model, clean)
                (terms["loss"] / accumulate).backward()
                run.last = {name: term.detach() for name, term in terms.items()}
                if step in window:
                    run.note_fired()
                run.seconds += time.perf_counter() - started + clean_seconds
        for run in runs:
            started = time.perf_counter()
            run.update(step, steps)
            run.seconds += time.perf_counter() - started
        bar.update(step_tokens)
        if step % log_every == 0 or step == steps - 1:
            increases = ce_increases(model, tokens, [run.saes for run in runs])
            for index, (run, increase) in enumerate(zip(runs, increases, strict=True)):
                entry = run.log(step, (step + 1) * step_tokens, increase)
                if on_log is not None:
                    on_log(index, entry)
            bar.set_postfix_str(
                f"loss {entry['loss']:.4g}, L0 {entry['l0']:.1f}, CE +{entry['ce_increase']:.3f}"
            )
    bar.close()
    return [run.finish(steps * step_tokens, len(window) * step_tokens, steps) for run in runs]


@torch.no_grad()
def ce_increases(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    sae_sets: Sequence[Mapping[str, SAE]],
) -> list[float]:
    """CE increase in nats per predicted token of each set of SAEs on one batch of training text."""
    kept = list(dict.fromkeys(h for saes in sae_sets for h in hooks_to_keep(model, saes)))
    clean = clean_pass(model, tokens, kept)
    runs = [spliced_pass(model, clean, saes).logits for saes in sae_sets]
    clean_ce, *ces = (
        float(token_cross_entropy(x, tokens).mean()) for x in [clean.logits, *runs] if x is not None
    )
    return [ce - clean_ce for ce in ces]


def _paper_window(steps: int, step_tokens: int) -> range:
    """Steps in which the authors' alive count looks: 500k tokens from 91 % of training on.

    A run too short for that ends its window with its last step.
    """
    opens = int(PAPER_WINDOW_OPENS * steps)
    return range(opens, min(steps, opens + math.ceil(PAPER_WINDOW_TOKENS / step_tokens)))
