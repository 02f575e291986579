"""Does the fast path move the metrics? The same SAEs trained in three ways, over three seeds.

`python -m benchmarks.quality OUT` trains SAEs on StoryWorld with the library's loop, with the same
in bfloat16 products, and with the plain one (the tests' oracle: two hooked passes, full logits,
PyTorch's own losses), from the same initial weights on the same text, and writes the held-out
metrics of each as JSON lines. Rounding differs from the first step on and grows with training; what
matters is that it stays within what another seed changes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks.step import oracle, plain_terms
from e2e_lib.core.config import TrainConfig, learning_rate_factor
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import build_saes, resolved_objective
from e2e_lib.core.train import train
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import load_rows

HOOK, SEEDS, ROWS, CONTEXT, THREADS = "blocks.2.hook_resid_pre", (0, 1, 2), 1600, 128, 2
METRICS = ("ce_increase", "kl", "l0", "mse")


def config(name: str, seed: int) -> TrainConfig:
    """As the workshop profile trains, on 204,800 tokens."""
    objective = named_objective(name, {"local": 0.02, "e2e": 1.5, "e2e_ds": 1.5}[name])
    return TrainConfig(objective, (HOOK,), seed=seed, lr=0.01, dict_ratio=10.0)


def plain(model, chosen: TrainConfig, rows: torch.Tensor) -> SAE:
    """The SAE that the plain loop ends with."""
    objective, sae = resolved_objective(model, chosen), build_saes(model, chosen)[HOOK]
    terms = plain_terms(objective)
    optimiser = torch.optim.Adam(sae.parameters(), lr=chosen.lr)
    batches = rows.split(chosen.batch_size)
    for step, tokens in enumerate(batches):
        weights = dict(sae.named_parameters())
        oracle.losses(model, tokens.long(), {HOOK: weights}, terms)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), chosen.grad_clip or float("inf"))
        factor = learning_rate_factor(step, len(batches), chosen)
        optimiser.param_groups[0]["lr"] = chosen.lr * factor
        optimiser.step()
        optimiser.zero_grad()
    return sae.requires_grad_(False)


def ours(model, chosen: TrainConfig, rows: torch.Tensor) -> SAE:
    """The SAE that the library's loop ends with."""
    [run] = train(model, [chosen], rows)
    return run.saes[HOOK]


def main(out: str) -> None:
    """Train, evaluate, write and print."""
    torch.set_num_threads(THREADS)
    model, lines = load_model("storyworld"), []
    for seed in SEEDS:
        rows = load_rows(
            model,
            "storyworld",
            "storyworld",
            n_train=ROWS,
            n_validation=200,
            context_size=CONTEXT,
            seed=seed,
        )
        for name in ("local", "e2e", "e2e_ds"):
            chosen = config(name, seed)
            for path, sae in (
                ("plain", plain(model, chosen, rows.train)),
                ("default", ours(model, chosen, rows.train)),
                ("bf16", ours(model, replace(chosen, precision="bf16"), rows.train)),
            ):
                [found] = evaluate(model, [{HOOK: sae}], rows.validation)
                values = found.model | found.saes[HOOK]
                facts = {"objective": name, "path": path, "seed": seed}
                lines.append(facts | {key: float(f"{values[key]:.6g}") for key in METRICS})
                print(json.dumps(lines[-1]), flush=True)
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = pd.DataFrame(lines).groupby(["objective", "path"])[list(METRICS)].agg(["mean", "std"])
    print(table.to_string(float_format="%.4g"))


if __name__ == "__main__":
    main(sys.argv[1])
