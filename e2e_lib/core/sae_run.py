"""One run inside the training loop: its SAEs, optimiser, loss and records."""

import math
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
    activation_scale,
    apply_saes,
    check_hook,
    hook_width,
    hooks_to_keep,
    later_blocks,
    spliced_pass,
)
from e2e_lib.core.losses import Objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sparsifiers import make_sparsifier
from e2e_lib.engine.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser
from e2e_lib.engine.device import ALONE, Clock, Processes
from e2e_lib.engine.sae_kernel import Coded
from e2e_lib.errors import E2EError, require
from e2e_lib.names import SPARSIFIERS, TransformerBridge, layer_of

NEAR = 0.8  # cosine that a decoder held near its start keeps to it
# Where an L0 is aimed at, log λ moves over a training by up to STEER. An SAE that is there is near
# it and answers over some steps: there log λ moves at once too, by up to PROMPT where log L0 is off
# by BAND, or it would overshoot.
STEER, PROMPT, BAND = 10.0, 2.0, 0.1


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
        sizes = dict.fromkeys(self.saes, 1.0)
        if any(sae.sparsifier.scaled for sae in self.saes.values()):
            sizes = activation_scale(model, rows, list(self.saes))
        for hook, sae in self.saes.items():
            sae.sparsifier.prepare(config, sizes[hook], tokens)
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
        self.current, self.steered = self.objective, 0.0  # log of what λ is multiplied by, so far
        self.off = 0.0  # log of the last step's L0 over the target
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.lr, fused=True)
        self.curve: list[dict[str, float | int]] = []
        self.fired = {h: torch.zeros_like(s.b_enc, dtype=torch.bool) for h, s in self.saes.items()}
        self.clock = Clock(torch.device(model.cfg.device or "cpu"))
        self.grad_norm: Tensor = torch.tensor(math.nan)
        self.finite = "none"  # the last values that were finite, in words
        self.last: dict[str, Tensor] = {}
        self.coded: dict[str, Coded] = {}
        self.step_fired = {h: torch.zeros_like(f) for h, f in self.fired.items()}
        self.step_tokens = 0

    def begin_step(self, step: int, steps: int) -> None:
        """Set `current`, the step's objective: its λ may rise or be steered."""
        for sae in self.saes.values():
            sae.sparsifier.begin_step(step)
        factor = sparsity_factor(step, steps, self.config)
        prompt = PROMPT * max(-1.0, min(1.0, self.off / BAND)) if self.config.init_from else 0.0
        factor *= math.exp(self.steered + prompt)
        coeff = self.objective.sparsity_coeff * factor
        self.current = (
            self.objective if factor == 1 else replace(self.objective, sparsity_coeff=coeff)
        )

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
        self.last = {name: term.detach() for name, term in terms.items()}
        self.coded = {hook: coded.measured() for hook, coded in run.coded.items()}
        for hook, coded in self.coded.items():
            self.step_fired[hook] |= coded.fired > 0
        self.step_tokens += next(iter(self.coded.values())).l0.numel()

    def update(self, step: int, steps: int, processes: Processes = ALONE) -> None:
        """One optimiser step on the gradient, averaged over processes, its joint norm clipped."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad = processes.mean(parameter.grad)
        parameters, clip = list(self.parameters.values()), self.config.grad_clip
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self.grad_norm.is_cpu:  # an accelerator would have to stop and wait: there, `log` looks
            self.check_finite(step)
        # On a CPU the norm is at hand, and a gradient within it need not be read and written again.
        if clip is not None and not (self.grad_norm.is_cpu and self.grad_norm <= clip):
            torch.nn.utils.clip_grads_with_norm_(parameters, clip, self.grad_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.lr * learning_rate_factor(step, steps, self.config)
        if self.config.still != "all":
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for hook, sae in self.saes.items():
            fired, tokens = self.step_fired[hook], self.step_tokens * processes.count
            if sae.sparsifier.tracks:
                sae.sparsifier.end_step(processes.mean(fired.float()), tokens)
            if hook in self.starts:
                sae.hold_near(self.starts[hook], NEAR)
            fired.zero_()
        self.step_tokens = 0
        if self.config.target_l0 and self.config.penalty != "quadratic":
            l0 = processes.mean(torch.stack([c.l0.mean() for c in self.coded.values()]).mean())
            off = math.log(max(float(l0), 1e-3) / self.config.target_l0)
            self.off = min(1.0, max(-1.0, off))
            self.steered += STEER / steps * self.off

    def check_finite(self, step: int, **others: float) -> None:
        """Raise DivergedError unless loss, gradient norm and `others` are finite numbers."""
        values = {"loss": float(self.last["loss"]), "gradient norm": float(self.grad_norm)}
        values |= {name.replace("_", " "): value for name, value in others.items()}
        shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        if all(map(math.isfinite, values.values())):
            self.finite = f"{shown} at step {step}"
            return
        raise DivergedError(
            f"training diverged at step {step} with {shown} (last finite: {self.finite}), in a run "
            f"of objective {self.objective.name} with sparsity_coeff "
            f"{self.objective.sparsity_coeff:g}: choose an lr below {self.config.lr:g} or a "
            "smaller grad_clip."
        )

    def note_fired(self) -> None:
        """Remember which latents fired in the last micro-batch."""
        for hook, coded in self.coded.items():
            self.fired[hook] |= coded.fired > 0

    def share_measurements(self, processes: Processes) -> None:
        """Make every process see the means over all of them, and every latent that fired."""
        self.last = {name: processes.mean(value) for name, value in self.last.items()}
        self.coded = {
            hook: coded._replace(l0=processes.mean(coded.l0.mean()))
            for hook, coded in self.coded.items()
        }
        for hook, fired in self.fired.items():
            self.fired[hook] = processes.mean(fired.float()) > 0

    def log(self, step: int, tokens: int, ce_increase: float) -> dict[str, float | int]:
        """Append one line to the training curve. Raises DivergedError."""
        terms = {k: float(v) for k, v in self.last.items()}
        l0 = [float(coded.l0.mean()) for coded in self.coded.values()]
        self.check_finite(step, CE_increase=ce_increase)
        entry = {"step": step, "tokens": tokens} | terms
        entry |= {"l0": sum(l0) / len(l0), "ce_increase": ce_increase}
        entry |= {"grad_norm": float(self.grad_norm), "lr": self.optimiser.param_groups[0]["lr"]}
        self.curve.append(entry)
        return entry

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that later steps depend on: tensors, and what is none."""
        tensors = optimiser_tensors(self.parameters, self.optimiser)
        tensors |= {f"fired/{hook}": fired for hook, fired in self.fired.items()}
        tensors |= {f"silent/{hook}": sae.sparsifier.silent for hook, sae in self.saes.items()}
        facts = {"curve": self.curve, "seconds": self.clock.read(), "steered": self.steered}
        return tensors, facts | {"off": self.off}

    def restore(self, saved: Checkpoint) -> None:
        """Take up the state that `state` gave."""
        restore_optimiser(self.parameters, self.optimiser, saved.tensors)
        for hook in self.fired:
            self.fired[hook].copy_(saved.tensors[f"fired/{hook}"])
            self.saes[hook].sparsifier.silent.copy_(saved.tensors[f"silent/{hook}"])
        self.curve = saved.facts["curve"]
        self.steered, self.off = saved.facts["steered"], saved.facts["off"]
        self.clock = Clock(self.clock.device, saved.facts["seconds"])

    def finish(self, tokens: int, window_tokens: int, steps: int) -> TrainedRun:
        """What the run ended with."""
        norms = [e["grad_norm"] for e in self.curve if e["step"] > 0.025 * steps]
        return TrainedRun(
            config=replace(self.config, objective=self.objective),
            saes={h: sae.eval().requires_grad_(False) for h, sae in self.saes.items()},
            curve=self.curve,
            grad_norm=sum(norms) / max(1, len(norms)),
            alive_paper={h: int(f.sum()) for h, f in self.fired.items()},
            alive_window_tokens=window_tokens,
            train_tokens=tokens,
            train_seconds=self.clock.read(),
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
    require(
        len(hooks) > 0,
        "layer",
        config.hook_names[-1],
        f"before the last block ({model.cfg.n_layers - 1}) for a downstream term, unless "
        "downstream_last_block is True",
    )
    return replace(objective, downstream_hooks=hooks)


def build_saes(model: TransformerBridge, config: TrainConfig) -> dict[str, SAE]:
    """The SAEs a run starts from: initialised from its seed, or warm-started from saved ones."""
    saes = {}
    widths = {hook: hook_width(model, hook) for hook in config.hook_names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for hook, width in widths.items():
            if hook in config.init_from:
                sae = _started(config.init_from[hook], width, config)
            else:
                d_sae = int(config.dict_ratio * width)
                allowed = f"at least 1/{width}: d_sae >= 1"
                require(d_sae >= 1, "dict_ratio", config.dict_ratio, allowed)
                sae = SAE(width, d_sae, config.sparsifier, config.k)
            saes[hook] = sae.to(model.cfg.device)
    for hook in config.frozen:
        saes[hook].requires_grad_(False)
    return saes


def _started(folder: str, width: int, config: TrainConfig) -> SAE:
    """The SAE saved in `folder`, with the sparsifier and thresholds that its training goes on with.

    From any start a top-k rule may follow, which looks at the order of codes alone; otherwise the
    start's own rule, or jumprelu after relu, with thresholds of 0, the same at first.
    """
    sae = SAE.load(Path(folder))
    require(sae.d_in == width, "init_from", folder, f"of d_in {width}")
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
