"""What a run shows of itself while it trains: its curve and what that costs, seconds, latents."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from e2e_lib.engine.checkpoint import Checkpoint
from e2e_lib.engine.device import Processes
from e2e_lib.engine.sae_kernel import Coded
from e2e_lib.errors import E2EError
from e2e_lib.names import layer_of

# The authors report alive latents from a window of 500k training tokens that opens when 364,400 of
# 400,000 sequences have been seen (facts §1.9), while the weights still move.
PAPER_WINDOW_TOKENS, PAPER_WINDOW_OPENS = 500_000, 364_400 / 400_000
# Points of training curves may cost this share of a training, if one is dear: more than so many
# operations for each SAE, about a tenth of a second on two CPU cores.
LOG_SHARE, DEAR_POINT = 0.03, 1e10
EARLY = 0.025  # share of the steps that the mean gradient norm leaves out (§1.8)


class DivergedError(E2EError):
    """The loss, its gradient or the CE increase is no longer a finite number."""


def paper_window(steps: int, step_tokens: int) -> range:
    """Steps in which the authors' alive count looks; a short run's window ends with its last."""
    opens = int(PAPER_WINDOW_OPENS * steps)
    return range(opens, min(steps, opens + math.ceil(PAPER_WINDOW_TOKENS / step_tokens)))


class StepCost(NamedTuple):
    """Products a token, roughly: of a training step, and of a curve point, of all SAEs together.

    A point is a whole clean pass and, for each SAE, a spliced one, in float32. A step has the
    blocks before the SAEs once; the others once clean and twice for each SAE that is spliced in.
    """

    step: float
    point: float
    saes: int

    @classmethod
    def of(cls, model: Any, runs: Sequence[Any], precision: str) -> "StepCost":
        """Of `SAERun`s that train side by side."""
        saes = [(h, sae.d_sae, r.objective.needs_splice) for r in runs for h, sae in r.saes.items()]
        width, first = model.cfg.d_model, min(layer_of(hook) for hook, *_ in saes)
        blocks, head = 12 * width**2 * model.cfg.n_layers, width * model.cfg.d_vocab
        later = blocks * (1 - first / model.cfg.n_layers) + head
        spliced = sum(splice for *_, splice in saes)
        codes = 2 * width * sum(latents for _, latents, _ in saes)
        step = blocks + head - later + codes + (1 + 2 * spliced) * later * (spliced > 0)
        dearer = 2 if precision == "bf16" else 1
        return cls(step, dearer * (blocks + head + len(saes) * later + codes), len(saes))

    def affordable(
        self, steps: int, points: int, batch: int, micro: int, context: int
    ) -> tuple[int, int]:
        """Points of a curve, and rows of the micro-batch that each CE increase is measured on.

        All of both where a point is not dear; else what stays below `LOG_SHARE` of the training:
        first fewer rows, then fewer points.
        """
        if 2 * self.point * micro * context <= DEAR_POINT * self.saes:
            return points, micro
        rows = int(LOG_SHARE * steps * batch * self.step / self.point)  # in all points together
        return min(points, max(2, rows - 1)), max(1, min(micro, rows // (points + 1)))


class Records:
    """Records of one run.

    Args:
        biases: an encoder bias for each hook: as many as latents, on the run's device.
        words: the run and its learning rate, for the error that it diverged.
    """

    def __init__(self, biases: Mapping[str, Tensor], words: str) -> None:
        self.curve: list[dict[str, float | int]] = []
        self.fired = {h: torch.zeros_like(b, dtype=torch.bool) for h, b in biases.items()}
        self.clock = Clock(next(iter(biases.values())).device)
        self.terms: dict[str, Tensor] = {}  # of the last micro-batch
        self.coded: dict[str, Coded] = {}
        self.grad_norm: Tensor = torch.tensor(math.nan)
        self._words, self._finite = words, "none"  # the last values that were finite, in words

    def note(self, terms: Mapping[str, Tensor], coded: Mapping[str, Coded]) -> None:
        """Keep what a micro-batch gave, without its gradient."""
        self.terms = {name: term.detach() for name, term in terms.items()}
        self.coded = {hook: own.measured() for hook, own in coded.items()}

    def note_fired(self) -> None:
        """Remember which latents fired in the last micro-batch."""
        for hook, coded in self.coded.items():
            self.fired[hook] |= coded.fired > 0

    def share(self, processes: Processes) -> None:
        """Make every process see the means over all of them, and every latent that fired."""
        self.terms = {name: processes.mean(value) for name, value in self.terms.items()}
        self.coded = {
            hook: coded._replace(l0=processes.mean(coded.l0.mean()))
            for hook, coded in self.coded.items()
        }
        for hook, fired in self.fired.items():
            self.fired[hook] = processes.mean(fired.float()) > 0

    def check_finite(self, step: int, **others: float) -> None:
        """Raise DivergedError unless loss, gradient norm and `others` are finite numbers."""
        values = {"loss": float(self.terms["loss"]), "gradient norm": float(self.grad_norm)}
        values |= {name.replace("_", " "): value for name, value in others.items()}
        shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        if all(map(math.isfinite, values.values())):
            self._finite = f"{shown} at step {step}"
            return
        raise DivergedError(
            f"training diverged at step {step} with {shown} (last finite: {self._finite}), in a "
            f"run of {self._words} or a smaller grad_clip."
        )

    def log(self, step: int, tokens: int, ce_increase: float, lr: float) -> dict[str, float | int]:
        """Append one line to the training curve. Raises DivergedError."""
        self.check_finite(step, CE_increase=ce_increase)
        entry = {"step": step, "tokens": tokens} | {k: float(v) for k, v in self.terms.items()}
        l0 = [float(coded.l0.mean()) for coded in self.coded.values()]
        entry |= {"l0": sum(l0) / len(l0), "ce_increase": ce_increase}
        entry |= {"grad_norm": float(self.grad_norm), "lr": lr}
        self.curve.append(entry)
        return entry

    def alive(self) -> dict[str, int]:
        """By hook, how many latents fired where `note_fired` was called."""
        return {hook: int(fired.sum()) for hook, fired in self.fired.items()}

    def mean_grad_norm(self, steps: int) -> float:
        """Mean of the curve's gradient norms, without the first steps'."""
        norms = [entry["grad_norm"] for entry in self.curve if entry["step"] > EARLY * steps]
        return sum(norms) / max(1, len(norms))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What goes into a checkpoint: tensors, and what is none."""
        tensors = {f"fired/{hook}": fired for hook, fired in self.fired.items()}
        return tensors, {"curve": self.curve, "seconds": self.clock.read()}

    def restore(self, saved: Checkpoint) -> None:
        """Take up the state that `state` gave."""
        for hook, fired in self.fired.items():
            fired.copy_(saved.tensors[f"fired/{hook}"])
        self.curve = saved.facts["curve"]
        self.clock = Clock(self.clock.device, saved.facts["seconds"])


class Clock:
    """Seconds charged to one run. On CUDA the device notes the times, and nothing waits for it.

    Args:
        device: where the work is done.
        seconds: charged before.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self._seconds = seconds
        self._open: deque[tuple[Any, Any, float]] = deque()  # events not yet read, and the share

    def read(self) -> float:
        """Seconds so far; waits for the device."""
        if self._open:
            torch.cuda.synchronize(self.device)
            self._drain()
        return self._seconds

    def charge(self, start: Any, end: Any, share: float) -> None:
        """Add a share of what lies between two marks of `mark`."""
        if self.device.type != "cuda":
            self._seconds += (end - start) * share
            return
        self._open.append((start, end, share))
        self._drain()

    def _drain(self) -> None:
        """Read the events that have come to pass, so that they do not pile up."""
        while self._open and self._open[0][1].query():
            start, end, share = self._open.popleft()
            self._seconds += 1e-3 * start.elapsed_time(end) * share


def mark(device: torch.device) -> Any:
    """This moment in the device's work."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def charged(*clocks: Clock) -> Iterator[None]:
    """Charge what happens inside to all of these clocks of one device, an equal part to each."""
    start = mark(clocks[0].device)
    yield
    end = mark(clocks[0].device)
    for clock in clocks:
        clock.charge(start, end, 1 / len(clocks))
