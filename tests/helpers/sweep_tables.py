"""Tables of runs on straight lines, sweeps among them, and SAEs with two features in the plane."""

import math

import numpy as np
import pandas as pd
import torch

from e2e_lib.analysis.matched import warm_start_runs
from e2e_lib.runs.load import SavedSAE
from tests.helpers.tiny_models import small_sae

HOOK = "blocks.2.hook_resid_pre"
COEFFS = (1.0, 2.0, 4.0)


def curve(objective: str, strength: float, seed: int = 0, seconds: float = 10.0, **other):
    """Three runs on the straight line CE increase = strength · (1 - L0 / 100): λ 1, 2, 4."""
    l0 = np.array([80.0, 50.0, 20.0])
    text = "-".join(f"{key}{value}" for key, value in other.items())
    ce = strength * (1 - l0 / 100)
    values = {
        "model": "m", "objective": objective, "layer": 2, "hook": HOOK, "sparsity_coeff": COEFFS,
        "kl_coeff": float(objective != "local"), "downstream_coeff": math.nan, "seed": seed,
        "dict_ratio": 10.0, "train_tokens": 1000, "lr": 0.01, "init_from": "", "l0": l0,
        "alive": 1000 - 500 * ce / strength, "ce_increase": ce, "grad_norm": 0.1 / l0,
        "train_seconds": seconds, "d_sae": 640,
        "run": [f"{objective}-s{seed}-l{coeff}-{text}" for coeff in COEFFS],
    }  # fmt: skip
    return pd.DataFrame(values | other)


START = "local-s0-l2.0-"
TABLE = pd.concat(
    [
        *(curve("local", 4.0, seed, seconds=4.0) for seed in (0, 1)),
        *(curve("e2e", 1.0, seed) for seed in (0, 1)),
        curve("local", 3.0, train_tokens=4000, seconds=16.0),
        curve("local", 6.0, train_tokens=500, seconds=2.0),
        curve("e2e", 1.5, train_tokens=500, seconds=5.0),
        curve("e2e", 2.0, lr=0.1),
        curve("e2e", 1.2, dict_ratio=5.0, d_sae=320, seconds=8.0),
        curve("e2e", 1.25, train_tokens=200, init_from=START, seconds=2.0),
        curve("e2e", 1.25, lr=0.001, train_tokens=300, init_from=START, seconds=3.0),
        curve("e2e", 9.0, lr=0.1, train_tokens=500),  # two things at once: in no sweep
    ],
    ignore_index=True,
)
ROWS = pd.concat(
    [
        pd.DataFrame({"run": run, "row": range(8), "ce_increase": ce, "l0": l0})
        for run, ce, l0 in zip(TABLE["run"], TABLE["ce_increase"], TABLE["l0"], strict=True)
    ],
    ignore_index=True,
)


def saved(*degrees: float, alive: tuple[bool, ...] = (True, True)) -> SavedSAE:
    """An SAE with two features in the plane."""
    sae = small_sae(2, d_in=2)
    radians = torch.tensor(degrees) * math.pi / 180
    sae.W_dec.data = torch.stack([radians.cos(), radians.sin()], dim=-1)
    return SavedSAE(sae.requires_grad_(False), HOOK, torch.tensor(alive).float())


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


PLANE = pd.concat(
    [
        *(curve("local", 4.0, seed) for seed in (0, 1)),
        *(curve("e2e", 1.0, seed) for seed in (0, 1)),
        *(
            curve("e2e", 1.2, seed, train_tokens=200, init_from=f"local-s{seed}-l2.0-")
            for seed in (0, 1)
        ),
    ],
    ignore_index=True,
)


def plane() -> tuple[dict[str, SavedSAE], pd.DataFrame]:
    compared = warm_start_runs(PLANE)
    name = {(r.role, r.seed): r.run for r in compared.itertuples()}
    saes = {
        name["start", 0]: saved(0, 90, alive=(True, False)),
        name["start", 1]: saved(10, 100),
        name["warm", 0]: saved(5, 60),
        name["warm", 1]: saved(30, 100, alive=(True, False)),
        name["scratch", 0]: saved(0, 90),
        name["scratch", 1]: saved(45, 135),
    }
    return saes, compared
