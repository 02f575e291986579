"""Does the fast path move the metrics? The same SAEs trained in several ways, over several seeds.

`python -m benchmarks.quality OUT` trains SAEs on StoryWorld with the library's loop, with the same
in bfloat16 products, and with the plain one (the tests' oracle: two hooked passes, full logits,
PyTorch's own losses), from the same initial weights on the same text, and writes the held-out
metrics of each as JSON lines. `python -m benchmarks.quality OUT MODEL TRAIN VALIDATION` does so on
SmolLM2, in profile smollm2's setting with a quarter of its tokens, without the plain loop. Rounding
differs from the first step on and grows with training; what matters is that it stays within what
another seed changes. `python -m benchmarks.quality PAGE.md OUT…` puts their table into a page.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks.step import as_said, oracle, plain_terms
from benchmarks.table import read
from e2e_lib.analysis.statistics import seed_interval
from e2e_lib.core.config import TrainConfig, learning_rate_factor
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import build_saes, resolved_objective
from e2e_lib.core.train import train
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import load_rows
from e2e_lib.files import replace_block

CONTEXT, THREADS = 128, 2
METRICS = ("ce_increase", "kl", "l0", "mse")
WORDS = ("CE increase", "KL", "L0", "MSE")  # of these, for the table's head


@dataclass(frozen=True)
class Study:
    """What is trained on what."""

    model: str
    train: str
    validation: str
    hook: str
    coeffs: dict[str, float]  # λ by objective
    lr: dict[str, float]
    seeds: int
    rows: int
    held_out: int
    dict_ratio: float
    batch: int
    paths: tuple[str, ...]

    def config(self, objective: str, seed: int) -> TrainConfig:
        """One SAE's."""
        return TrainConfig(
            named_objective(objective, self.coeffs[objective]),
            (self.hook,),
            seed=seed,
            lr=self.lr[objective],
            dict_ratio=self.dict_ratio,
            batch_size=self.batch,
            micro_batch_size=self.batch,
        )


def storyworld() -> Study:
    """As the workshop profile trains at its middle λ, on 204,800 tokens; five seeds."""
    coeffs = {"local": 2.5, "e2e": 0.25, "e2e_ds": 4.0}
    rates, paths = dict.fromkeys(coeffs, 0.03), ("plain", "default", "bf16")
    name, hook = "storyworld", "blocks.2.hook_resid_pre"
    return Study(name, name, name, hook, coeffs, rates, 5, 1600, 200, 10.0, 8, paths)


def smollm2(model: str, train: str, validation: str) -> Study:
    """As profile smollm2 trains e2e, whose loss reads logits alone, on 51,200 tokens; three."""
    hook, paths = "blocks.20.hook_resid_pre", ("default", "bf16")
    sizes = 3, 400, 128, 8.0, 2
    return Study(model, train, validation, hook, {"e2e": 0.2}, {"e2e": 0.01}, *sizes, paths)


def plain(model, chosen: TrainConfig, rows: torch.Tensor) -> SAE:
    """The SAE that the plain loop ends with."""
    [hook] = chosen.hook_names
    objective, sae = resolved_objective(model, chosen), build_saes(model, chosen)[hook]
    terms = plain_terms(objective)
    optimiser = torch.optim.Adam(sae.parameters(), lr=chosen.lr)
    batches = rows.split(chosen.batch_size)
    for step, tokens in enumerate(batches):
        weights = dict(sae.named_parameters())
        oracle.losses(model, tokens.long(), {hook: weights}, terms)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), chosen.grad_clip or float("inf"))
        factor = learning_rate_factor(step, len(batches), chosen)
        optimiser.param_groups[0]["lr"] = chosen.lr * factor
        optimiser.step()
        optimiser.zero_grad()
    return sae.requires_grad_(False)


def ours(model, chosen: TrainConfig, rows: torch.Tensor) -> SAE:
    """The SAE that the library's loop ends with; bf16 is bfloat16 on every machine."""
    with as_said() if chosen.precision == "bf16" else nullcontext():
        [run] = train(model, [chosen], rows, logs=1)
    assert run.products == chosen.precision
    return run.saes[chosen.hook_names[0]]


def measured(study: Study) -> list[dict[str, str | int | float]]:
    """A line for each objective, path and seed."""
    model, lines = load_model(study.model), []
    for seed in range(study.seeds):
        rows = load_rows(
            model,
            study.train,
            study.validation,
            n_train=study.rows,
            n_validation=study.held_out,
            context_size=CONTEXT,
            seed=seed,
        )
        for name in study.coeffs:
            for path in study.paths:
                chosen = study.config(name, seed)
                chosen = replace(chosen, precision="bf16") if path == "bf16" else chosen
                sae = (plain if path == "plain" else ours)(model, chosen, rows.train)
                [found] = evaluate(model, [{study.hook: sae}], rows.validation)
                values = found.model | found.saes[study.hook]
                facts = {"objective": name, "path": path, "seed": seed}
                lines.append(facts | {key: float(f"{values[key]:.6g}") for key in METRICS})
                print(json.dumps(lines[-1]), flush=True)
    return lines


def markdown(studies: dict[str, list[dict[str, str | int | float]]]) -> str:
    """By study, objective and path: of the default each metric's mean and standard deviation over
    seeds; of the others the mean difference from it, seed by seed, and half its t interval."""
    head = ["", "objective", "path", *WORDS]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    without_0, all_of_them = 0, 0
    for name, lines in studies.items():
        for objective, own in pd.DataFrame(lines).groupby("objective", sort=False):
            by_path = {path: t.set_index("seed") for path, t in own.groupby("path", sort=False)}
            default = by_path.pop("default")
            cells = [f"{default[m].mean():.4g} (σ {default[m].std():.2g})" for m in METRICS]
            rows.append("| " + " | ".join([name, str(objective), "default", *cells]) + " |")
            for path, other in by_path.items():
                found = [seed_interval(other[m] - default[m]) for m in METRICS]
                without_0 += sum(low > 0 or high < 0 for _, low, high in found)
                all_of_them += len(found)
                cells = [f"{value:+.2g} ± {value - low:.2g}" for value, low, _ in found]
                rows.append("| " + " | ".join([name, str(objective), str(path), *cells]) + " |")
    return "\n".join([*rows, "", f"Intervals without 0: {without_0} of {all_of_them}."])


def main(arguments: list[str]) -> None:
    """Train, evaluate, write and print; or put the table of what was written into a page."""
    if arguments[0].endswith(".md"):
        page, *files = map(Path, arguments)
        names = {"quality": "StoryWorld", "quality-smollm2": "SmolLM2"}
        replace_block(page, "quality", markdown({names[f.stem]: read([f]) for f in files}))
        return
    torch.set_num_threads(THREADS)
    out, *source = arguments
    lines = measured(smollm2(*source) if source else storyworld())
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
