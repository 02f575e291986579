"""A results folder made up by formula, so that an analysis has known answers.

At every layer CE increase = STRENGTH[objective] / L0, so at equal L0 the ratio e2e / local is
exactly 0.3 (e2e+ds: 0.36), and at equal CE increase local needs 3.33 (2.78) times the L0.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from e2e_lib.core.sae import SAE

STRENGTH = {"local": 5.0, "e2e": 1.5, "e2e_ds": 1.8}
N_BLOCKS, N_ROWS = 6, 40
L0 = {"local": 1.6, "e2e": 0.55, "e2e_ds": 0.65}
ALIVE = {"local": 0.8, "e2e": 0.55, "e2e_ds": 0.45}
SPREAD = {"local": 0.25, "e2e": 4.0, "e2e_ds": 0.45}  # how far seeds and neighbours lie apart
MSE = {"local": (0.02, 0.3), "e2e": (2.0, 6.0), "e2e_ds": (0.4, 0.45)}
SHRINK = {"local": 0.9, "e2e": 0.3, "e2e_ds": 0.55}
SECONDS = {"local": 30.0, "e2e": 75.0, "e2e_ds": 80.0}


def metrics_of(objective: str, layer: int, coeff: float, seed: int, d_sae: int) -> dict[str, float]:
    """Metrics by formula; the seed moves L0 by 2 %."""
    l0 = 20 * L0[objective] * coeff**-0.6 * (1 + 0.02 * seed)
    ce = STRENGTH[objective] / l0
    alive = int(d_sae * ALIVE[objective] * (0.4 + 0.6 * min(1, l0 / 60)) * (1 + 0.03 * seed))
    return {
        "d_sae": d_sae, "d_in": d_sae // 10, "l0": l0, "alive": alive, "ce_clean": 1.5,
        "ce_spliced": 1.5 + ce, "ce_increase": ce, "kl": ce, "mse": MSE[objective][0],
        "explained_variance": 1 - MSE[objective][0], "top1_agreement": 0.9, "alive_paper": alive,
        "l2_ratio": SHRINK[objective], "l2_ratio_first": 1.0,
        "l2_ratio_after_first": SHRINK[objective] + 0.01 * seed, "grad_norm": 0.1 * layer,
        "train_seconds": SECONDS[objective] + layer + seed, "train_tokens": 400_000,
    }  # fmt: skip


def blocks_of(objective: str, layer: int, seed: int) -> list[dict[str, object]]:
    """MSE rising from the SAE to the last block, in proportion to the formula's two ends."""
    first, last = MSE[objective]
    blocks = []
    for block in range(layer, N_BLOCKS + 1):
        share = (block - layer) / (N_BLOCKS - layer)
        mse = first * (last / first) ** share * (1 + 0.1 * seed)
        ev = 1 - mse / 6.5
        paper = -14.0 if objective == "e2e" and block == layer else ev
        hook = f"blocks.{block}.hook_resid_pre" if block < N_BLOCKS else "last"
        blocks.append({
            "hook": hook, "block": block, "mse": mse, "mse_after_first": 0.9 * mse,
            "explained_variance": ev, "explained_variance_paper": paper,
            "explained_variance_layernorm": ev,
        })  # fmt: skip
    return blocks


def sae_of(objective: str, layer: int, seed: int, d_in: int, d_sae: int, alive: int) -> SAE:
    """A dictionary near one that all seeds share, with neighbours; e2e's are far from it."""
    common = np.random.default_rng(layer)
    centres = common.standard_normal((d_sae // 2, d_in)).repeat(2, axis=0)
    own = np.random.default_rng([seed, layer, list(STRENGTH).index(objective)])
    sae = SAE(d_in, d_sae)
    noise = SPREAD[objective] * own.standard_normal((d_sae, d_in))
    sae.W_dec.data = torch.tensor(centres + noise, dtype=torch.float32)
    return sae


def write_results(
    results: Path,
    layers: tuple[int, ...] = (1, 2, 4),
    seeds: tuple[int, ...] = (0, 1),
    coeffs: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0),
    d_in: int = 32,
    weights: bool = True,
) -> Path:
    """Finished runs of the three objectives, for every layer, λ and seed."""
    rng = np.random.default_rng(0)
    d_sae = 10 * d_in
    text = rng.normal(1, 0.1, N_ROWS)  # some rows are harder, for every run alike
    text /= text.mean()
    for layer in layers:
        for objective in STRENGTH:
            for coeff in coeffs:
                for seed in seeds:
                    hook = f"blocks.{layer}.hook_resid_pre"
                    folder = results / "saes" / f"{objective}-{hook}-l{coeff}-s{seed}"
                    folder.mkdir(parents=True)
                    config = {
                        "model": "storyworld", "objective_name": objective, "seed": seed,
                        "hook_names": [hook], "dict_ratio": 10.0, "lr": 1e-3, "device": "cpu",
                        "objective": {
                            "sparsity_coeff": coeff,
                            "kl_coeff": {"e2e": 1.0, "e2e_ds": 0.5}.get(objective),
                            "downstream_coeff": 2.5 * (objective == "e2e_ds"),
                        },
                    }  # fmt: skip
                    packages = {"torch": "2.0.0"}
                    provenance = {"commit": "0123456789abcdef", "packages": packages}
                    record = {"status": "ok", "config": config, "provenance": provenance}
                    values = metrics_of(objective, layer, coeff, seed, d_sae)
                    metrics = {"saes": {hook: values}, "blocks": blocks_of(objective, layer, seed)}
                    rows = pd.DataFrame({"row": range(N_ROWS), "ce_clean": 1.5})
                    rows["ce_increase"] = values["ce_increase"] * text
                    rows["kl"] = rows["ce_increase"]
                    rows["l0"] = values["l0"] * text[::-1]
                    rows.to_csv(folder / "rows.csv", index=False)
                    (folder / "metrics.json").write_text(json.dumps(metrics))
                    (folder / "run.json").write_text(json.dumps(record))
                    if weights:
                        sae = sae_of(objective, layer, seed, d_in, d_sae, int(values["alive"]))
                        fired = (torch.arange(d_sae) < values["alive"]).float() * 0.01
                        sae.save(folder, {"hook_name": hook}, fired)
    return results
