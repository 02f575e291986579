"""What every test shares: one thread, no network, fixed seeds."""

import os
import random
import sys
from collections.abc import Iterator

# Before torch and the hub's client are imported: they read these once.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

import jaxtyping
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Every test starts from the same random state and one thread, and leaves no figure open."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries still draw from it
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")  # many left open are warned about, which is an error


@pytest.fixture(scope="module")
def without_type_checks() -> Iterator[None]:
    """As users run it: the signatures that other tests check would stop a wrong type early."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
