"""The training loop: `train`, and the `Trainer` whose `step` it repeats.

A list of configurations that differ in objective, coefficients or initial seed is trained on the
same batches and shares the clean pass and its softmax; each one's result is the same as when
trained alone, and the same whether the loop ran through or was stopped and resumed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.core import losses
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import ce_increases
from e2e_lib.core.hooks import CleanPass, SplicedPass, clean_pass
from e2e_lib.core.sae_run import SAERun, TrainedRun
from e2e_lib.engine.checkpoint import (
    StoppedError,
    newest_common,
    save_checkpoint,
    stop_signals,
    token_bar,
)
from e2e_lib.engine.device import ALONE, Processes, explained, products_of, ready_rows, side_by_side
from e2e_lib.engine.model.probes import output_scores
from e2e_lib.engine.records import StepCost, charged, paper_window
from e2e_lib.errors import is_number, require
from e2e_lib.names import TransformerBridge
from e2e_lib.source_code import training_digest

CHECKPOINT_SECONDS = 120.0


def train(
    model: TransformerBridge,
    configs: Sequence[TrainConfig],
    rows: Int[Tensor, "rows pos"],
    *,
    on_log: Callable[[int, dict[str, float | int]], None] | None = None,
    progress: bool = True,
    logs: int = 20,
    checkpoints: Sequence[Path] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    processes: Processes = ALONE,
) -> list[TrainedRun]:
    """Train each configuration's SAEs once through `rows`, in order.

    Args:
        model: a frozen model; its weights never change.
        configs: runs that share batch sizes and are trained side by side on the same batches.
        rows: training tokens of any integer type; whole batches only, a remainder is dropped.
        on_log: called with a run's index and each entry of its curve; after a resumption first with
            those that were there.
        progress: show a bar with tokens, tokens/s, loss, L0, CE increase and time left.
        logs: points on each training curve; fewer where they would cost much (`engine.records`).
        checkpoints: a folder for each run, where its state is saved and taken up again; they must
            have been written by the same call. SIGINT and SIGTERM then save before they stop it.
        checkpoint_seconds: between two of them; one more is written at the end.
        processes: which of several processes this is; each takes its share of every micro-batch,
            and all end with the same weights. Checkpoints of one and of many are alike.

    Raises:
        ConfigError: fewer rows than one batch, or configurations of different batch sizes or
            precisions, or a k or target_l0 that these sizes cannot have.
        DivergedError: a loss became infinite or undefined.
        OutOfMemoryError: a step does not fit into memory.
        StoppedError: a signal came, and the state has been saved.

    >>> import torch
    >>> from e2e_lib import load_model, named_objective
    >>> hook, rows = "blocks.2.hook_resid_pre", torch.randint(451, (32, 16))
    >>> config = TrainConfig(named_objective("e2e", 0.5), (hook,), dict_ratio=2.0)
    >>> [run] = train(load_model("storyworld"), [config], rows, progress=False)
    >>> run.saes[hook].d_sae, run.train_tokens
    (128, 512)
    """
    allowed = "a number of seconds, at least 0"
    good = is_number(checkpoint_seconds) and checkpoint_seconds >= 0
    require(good, "checkpoint_seconds", checkpoint_seconds, allowed)
    trainer = Trainer(model, configs, rows, logs, processes)
    folders, log = list(checkpoints or []), on_log or (lambda index, entry: None)
    if folders:
        allowed = f"{len(configs)} folders"
        require(len(folders) == len(configs), "checkpoints", len(folders), allowed)
        trainer.resume(folders)
        for index, run in enumerate(trainer.runs):
            for entry in run.records.curve:
                log(index, entry)
    trainer.products.tell(configs[0].precision, processes)
    steps, each = trainer.steps, trainer.step_tokens
    shown, saved = progress and processes.first, time.monotonic()
    bar = token_bar(len(configs), steps * each, trainer.done * each, shown)
    with bar, stop_signals(bool(folders)) as received, explained(trainer.shapes):
        while trainer.done < steps:
            entries = trainer.step()
            for index, entry in enumerate(entries):
                log(index, entry)
                last = f"loss {entry['loss']:.4g}, L0 {entry['l0']:.1f}"
                bar.set_postfix_str(f"{last}, CE {entry['ce_increase']:+.3f}", refresh=False)
            bar.update(each)
            due = time.monotonic() - saved >= checkpoint_seconds
            stopping = processes.any(bool(received))
            if folders and processes.first and (due or stopping or trainer.done == steps):
                trainer.save(folders)
                saved = time.monotonic()
            if stopping and trainer.done < steps:
                raise StoppedError(received, trainer.done, steps)
    return trainer.finish()


class Trainer:
    """The state of a training: how many steps are done, and every run.

    Attributes:
        done: optimiser steps done; `rows` of the next begin at done · batch_size.
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
        for name in ("batch_size", "micro_batch_size", "precision"):
            values = sorted({getattr(config, name) for config in configs})
            require(len(values) == 1, name, values, "the same in every run")
        self.batch, self.micro = configs[0].batch_size, configs[0].micro_batch_size
        precision, self.device = configs[0].precision, torch.device(model.cfg.device or "cpu")
        self.products = products_of(precision, self.device, processes)
        self.steps = len(rows) // self.batch
        allowed = f"at least batch_size ({self.batch})"
        require(self.steps >= 1, "training rows", len(rows), allowed)
        rows = ready_rows(rows, precision, self.device)
        own = processes.share(self.micro) * rows.shape[1]
        allowed = f"at least 1/{own}: one latent on the {own} tokens of a micro-batch"
        for config in configs:
            require(int((config.k or 1) * own) >= 1, "k", config.k, allowed)
        self.model, self.rows, self.done, self.processes = model, rows, 0, processes
        self.step_tokens = self.batch * rows.shape[1]
        tokens, first = self.steps * self.step_tokens, rows[: self.micro].long()
        self.runs = [SAERun(model, config, tokens, first) for config in configs]
        self.wanted = list(dict.fromkeys(h for run in self.runs for h in run.hooks(model)))
        self.by_output = [r for r in self.runs if r.objective.fisher_coeff is not None]
        self.scored = list(dict.fromkeys(h for run in self.by_output for h in run.saes))
        compared = any(run.objective.kl_coeff is not None for run in self.runs)
        self.wants_logits = compared or bool(self.scored)
        self.window = paper_window(self.steps, self.step_tokens)
        cost = StepCost.of(model, self.runs, precision)
        sizes = self.batch, self.micro, rows.shape[1]
        logs, self.log_rows = cost.affordable(self.steps, logs, *sizes)
        self.log_every = -(-self.steps // logs)  # rounded up: at most `logs` entries and the last
        widths = sorted({(sae.d_in, sae.d_sae) for run in self.runs for sae in run.saes.values()})
        self.shapes = f"{self.micro} × {rows.shape[1]} tokens and SAEs of "
        self.shapes += " and ".join(f"{d_in} × {d_sae}" for d_in, d_sae in widths)
        self.groups = side_by_side(model, self.runs, self.micro * rows.shape[1])

    def step(self) -> list[dict[str, float | int]]:
        """One optimiser step of every run; the new curve entries, if this step is logged."""
        step, batch = self.done, self.batch
        for run in self.runs:
            run.begin_step(step, self.steps)
        logs_now = step % self.log_every == 0 or step == self.steps - 1
        for i, micro in enumerate(self.rows[step * batch : (step + 1) * batch].split(self.micro)):
            own = micro.chunk(self.processes.count)[self.processes.rank]
            tokens = own.to(self.device, non_blocking=True).long()
            with self.products.of_float32():
                self._accumulate(tokens, count=logs_now, draw=step * batch + i)
            if step in self.window:
                for run in self.runs:
                    run.records.note_fired()
        for run in self.runs:
            with charged(run.records.clock):
                run.update(step, self.steps, self.processes)
        self.done += 1
        if not logs_now:
            return []
        few = tokens[: self.log_rows]
        increases = ce_increases(self.model, few, [run.saes for run in self.runs])
        increases = self.processes.mean(torch.tensor(increases)).tolist()
        for run in self.runs:
            run.records.share(self.processes)
        seen = self.done * self.step_tokens
        logged = zip(self.runs, increases, strict=True)
        return [run.records.log(step, seen, ce, run.rate) for run, ce in logged]

    def _accumulate(self, tokens: Int[Tensor, "micro pos"], count: bool, draw: int) -> None:
        """Forward and backward of one micro-batch for every run; `draw` seeds what is drawn.

        Each run's clock counts its own work and an equal share of what is common.
        """
        everyone = [run.records.clock for run in self.runs]
        with charged(*everyone), self.products.of_blocks():
            clean = clean_pass(self.model, tokens, self.wanted, logits=self.wants_logits)
        if self.scored:
            assert clean.hidden is not None
            clean_states, start = (tokens, clean.hidden), clean.before(self.scored)
            clocks = [run.records.clock for run in self.by_output]
            with charged(*clocks), self.products.of_blocks():
                clean.scores = output_scores(self.model, *clean_states, self.scored, draw, start)
        for group in self.groups:
            self._accumulate_group(group, clean, count)

    def _accumulate_group(self, group: Sequence[SAERun], clean: CleanPass, count: bool) -> None:
        passes: list[SplicedPass] = []
        for run in group:
            with charged(run.records.clock), self.products.of_blocks():
                passes.append(run.forward(self.model, clean, count))
        clocks = [run.records.clock for run in group]
        with charged(*clocks), self.products.of_output():
            terms = losses.compute([run.current for run in group], clean, passes)
        for run, own, spliced in zip(group, terms, passes, strict=True):
            with charged(run.records.clock):
                run.backward(own, spliced, self.micro / self.batch)

    def save(self, folders: Sequence[Path]) -> None:
        """Write every run's checkpoint."""
        for run, folder in zip(self.runs, folders, strict=True):
            tensors, facts = run.state()
            facts |= {"code": training_digest(), "products": self.products.precision}
            save_checkpoint(folder, self.done, tensors, facts)

    def resume(self, folders: Sequence[Path]) -> None:
        """Go on from the newest step of which every run has a whole checkpoint, if any."""
        saved = newest_common(folders, training_digest())
        if saved:
            self.done = saved[0].step
            self.products = replace(self.products, precision=saved[0].facts["products"])
            for run, own in zip(self.runs, saved, strict=True):
                run.restore(own)

    def finish(self) -> list[TrainedRun]:
        """What each run ended with. Processes that computed none of it have it from the first."""
        tokens, window = self.steps * self.step_tokens, len(self.window) * self.step_tokens
        made = self.steps, self.products.precision
        return [run.finish(tokens, window, *made) for run in self.runs]
