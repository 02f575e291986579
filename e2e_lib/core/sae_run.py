"""One run inside the training loop: its SAEs, its objective, its steps."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.core.config import TrainConfig, learning_rate_factor, sparsity_factor
from e2e_lib.core.hooks import (
    CleanPass,
    SplicedPass,
    apply_saes,
    hooks_to_keep,
    later_blocks,
    spliced_pass,
)
from e2e_lib.core.losses import Objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sparsifiers import make_sparsifier
from e2e_lib.engine.checkpoint import Checkpoint
from e2e_lib.engine.device import ALONE, Processes
from e2e_lib.engine.model.probes import check_hook, hook_widths, typical_activations
from e2e_lib.engine.optimiser import (
    average_gradients,
    centre,
    clip,
    hold_near,
    optimiser_tensors,
    restore_optimiser,
    steering,
)
from e2e_lib.engine.records import Records
from e2e_lib.errors import require
from e2e_lib.names import SPARSIFIERS, TransformerBridge, ends, layer_of

NEAR = 0.8  # cosine that a decoder held near its start keeps to it


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
    products: str | None = None  # what they were made in (`engine.device`); None: not trained here


class SAERun:
    """One configuration's SAEs, optimiser and records.

    Args:
        model, config: what is trained on, and how.
        tokens: of the whole training.
        rows: the first of them; some sparsifiers look at how large activations are.

    Raises:
        ConfigError: a hook or coefficient that this model cannot have.
    """

    def __init__(
        self,
        model: TransformerBridge,
        config: TrainConfig,
        tokens: int,
        rows: Int[Tensor, "micro pos"],
    ) -> None:
        self.config, self.objective = config, resolved_objective(model, config)
        self.saes = build_saes(model, config)
        looks = any(sae.sparsifier.scaled for sae in self.saes.values())
        seen = typical_activations(model, rows, list(self.saes)) if looks else {}
        for hook, sae in self.saes.items():
            own = [seen[end] for end in ends(hook) if seen]
            sae.sparsifier.prepare(config, own[-1].scale if own else 1.0, tokens)
            if own and not config.init_from:
                centre(sae.W_enc, sae.b_enc, sae.b_dec, own[0], own[-1])
        fixed = {"none": (), "near": (), "decoder": ("W_dec",), "encoder": ("W_enc",)}
        self.parameters = {
            f"{hook}.{name}": parameter
            for hook, sae in self.saes.items()
            if hook not in config.frozen
            for name, parameter in sae.named_parameters()
            if name not in fixed.get(config.still, ())
        }
        near = self.saes if config.still == "near" else {}
        self.starts = {h: sae.dictionary.detach().clone() for h, sae in near.items()}
        self.current, self.rate = self.objective, config.lr
        self.steering = steering(config.target_l0, config.sparsifier, bool(config.init_from))
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.lr, fused=True)
        biases = {hook: sae.b_enc.detach() for hook, sae in self.saes.items()}
        words = f"objective {self.objective.name} with sparsity_coeff "
        words += f"{self.objective.sparsity_coeff:g}: choose an lr below {config.lr:g}"
        self.records = Records(biases, words)
        self.fired = {h: torch.zeros_like(b, dtype=torch.bool) for h, b in biases.items()}
        self.tokens = 0  # of this step, on which these latents fired

    def begin_step(self, step: int, steps: int) -> None:
        """Set `current`, the step's objective: its λ may rise or be steered."""
        for sae in self.saes.values():
            sae.sparsifier.begin_step(step, self.config.seed)
        factor = sparsity_factor(step, steps, self.config) * self.steering.factor()
        coeff = self.objective.sparsity_coeff * factor
        self.current = replace(self.objective, sparsity_coeff=coeff)

    def hooks(self, model: TransformerBridge) -> list[str]:
        """What it needs of the clean pass."""
        return [*hooks_to_keep(model, self.saes), *self.objective.downstream_hooks]

    def forward(self, model: TransformerBridge, clean: CleanPass, count: bool) -> SplicedPass:
        """The pass that its objective needs; `count` its codes only where somebody looks."""
        objective = self.objective
        count = count or self.config.target_l0 > 0
        options: dict[str, Any] = {"p_norm": objective.p_norm, "count": count}
        if objective.needs_splice:
            record, logits = objective.downstream_hooks, objective.kl_coeff is not None
            return spliced_pass(model, clean, self.saes, record, logits=logits, **options)
        return apply_saes(clean, self.saes, **options)

    def backward(self, terms: dict[str, Tensor], run: SplicedPass, share: float) -> None:
        """Add the gradient of one micro-batch, a `share` of the batch, to its parameters'."""
        (terms["loss"] * share).backward()
        self.records.note(terms, run.coded)
        for hook, coded in self.records.coded.items():
            self.fired[hook] |= coded.fired > 0
        self.tokens += next(iter(run.coded.values())).l0.numel()

    def update(self, step: int, steps: int, processes: Processes = ALONE) -> None:
        """One optimiser step on the gradient, averaged over processes, its joint norm clipped."""
        parameters = list(self.parameters.values())
        norm = self.records.grad_norm = average_gradients(parameters, processes)
        if norm.is_cpu:  # an accelerator would have to stop and wait: there, `log` looks
            self.records.check_finite(step)
        clip(parameters, norm, self.config.grad_clip)
        self.rate = self.config.lr * learning_rate_factor(step, steps, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        if self.config.still != "all":
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for hook, sae in self.saes.items():
            if sae.sparsifier.tracks:
                fired = processes.mean(self.fired[hook].float())
                sae.sparsifier.end_step(fired, self.tokens * processes.count)
            if hook in self.starts:
                hold_near(sae.W_dec, self.starts[hook], NEAR)
            self.fired[hook].zero_()
        self.tokens = 0
        if self.config.target_l0 and self.config.penalty != "quadratic":
            own = [coded.l0.mean() for coded in self.records.coded.values()]
            self.steering.note(float(processes.mean(torch.stack(own).mean())), steps)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that later steps depend on: tensors, and what is none."""
        tensors, facts = self.records.state()
        tensors |= optimiser_tensors(self.parameters, self.optimiser)
        tensors |= {f"silent/{hook}": sae.sparsifier.silent for hook, sae in self.saes.items()}
        return tensors, facts | {"steering": {**vars(self.steering)}}

    def restore(self, saved: Checkpoint) -> None:
        """Take up the state that `state` gave."""
        self.records.restore(saved)
        restore_optimiser(self.parameters, self.optimiser, saved.tensors)
        for hook, sae in self.saes.items():
            sae.sparsifier.silent.copy_(saved.tensors[f"silent/{hook}"])
        vars(self.steering).update(saved.facts["steering"])

    def finish(self, tokens: int, window_tokens: int, steps: int, products: str) -> TrainedRun:
        """What the run ended with."""
        return TrainedRun(
            config=replace(self.config, objective=self.objective),
            saes={h: sae.eval().requires_grad_(False) for h, sae in self.saes.items()},
            curve=self.records.curve,
            grad_norm=self.records.mean_grad_norm(steps),
            alive_paper=self.records.alive(),
            alive_window_tokens=window_tokens,
            train_tokens=tokens,
            train_seconds=self.records.clock.read(),
            products=products,
        )


def resolved_objective(model: TransformerBridge, config: TrainConfig) -> Objective:
    """The objective with the hooks that its downstream term compares; all hooks checked."""
    objective = config.objective
    for hook in [*config.hook_names, *objective.downstream_hooks]:
        check_hook(model, hook)
    first = min(map(layer_of, config.hook_names))
    early = [h for h in objective.downstream_hooks if layer_of(h) < first]
    allowed = f"hooks from the first SAE's block ({config.hook_names[0]}) on"
    require(not early, "downstream_hooks", early, allowed)
    if objective.downstream_coeff is None or objective.downstream_hooks:
        return objective
    hooks = later_blocks(model, config.hook_names)
    if config.downstream_last_block:
        hooks = (*hooks, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")
    allowed = f"before the last block ({model.cfg.n_layers - 1}) for a downstream term, unless "
    allowed += "downstream_last_block is True"
    require(len(hooks) > 0, "layer", config.hook_names[-1], allowed)
    return replace(objective, downstream_hooks=hooks)


def build_saes(model: TransformerBridge, config: TrainConfig) -> dict[str, SAE]:
    """The SAEs a run starts from: initialised from its seed, or warm-started from saved ones."""
    saes = {}
    widths = {hook: hook_widths(model, hook) for hook in config.hook_names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for hook, (d_in, d_out) in widths.items():
            if hook in config.init_from:
                sae = _started(config.init_from[hook], (d_in, d_out), config)
            else:
                d_sae = int(config.dict_ratio * d_in)
                allowed = f"at least 1/{d_in}: d_sae >= 1"
                require(d_sae >= 1, "dict_ratio", config.dict_ratio, allowed)
                made = d_out if len(ends(hook)) > 1 else None
                sae = SAE(d_in, d_sae, config.sparsifier, config.k, d_out=made, skip=config.skip)
            saes[hook] = sae.to(model.cfg.device)
    for hook in config.frozen:
        saes[hook].requires_grad_(False)
    return saes


def _started(folder: str, widths: tuple[int, int], config: TrainConfig) -> SAE:
    """The SAE saved in `folder`, with the sparsifier and thresholds that its training goes on with.

    From any start a top-k rule may follow, which looks at the order of codes alone; otherwise the
    start's own rule, or jumprelu after relu, with thresholds of 0, the same at first.
    """
    sae = SAE.load(Path(folder))
    same = (sae.d_in, sae.d_out) == widths and config.skip == (sae.W_skip is not None)
    allowed = f"of d_in {widths[0]}, d_out {widths[1]} and skip {config.skip}"
    require(same, "init_from", folder, allowed)
    own, after = sae.sparsifier, make_sparsifier(config.sparsifier, sae.d_sae, config.k)
    follows = SPARSIFIERS[config.sparsifier].holds_k or after.stored == own.stored
    follows = follows or (own.stored, after.stored) == ("relu", "jumprelu")
    allowed = f"one that may follow {own.stored}, which the SAE in init_from has"
    require(follows, "sparsifier", config.sparsifier, allowed)
    if after.stored == "jumprelu" and not after.calibrated:
        start = own.inference().get("threshold", torch.zeros_like(sae.b_enc))
        after.load_state_dict({"threshold": start})
    sae.sparsifier = after
    return sae
