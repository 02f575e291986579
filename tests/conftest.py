"""What every test shares: one thread, no network, fixed seeds."""

import os
import random
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import cache_from_source
from typing import Any
from unittest.mock import patch

import pytest
from jaxtyping._import_hook import JaxtypingTransformer as Transformer
from jaxtyping._import_hook import _JaxtypingLoader as Loader

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


# ------------------------------------------------------------------ jaxtyping's hook, made quick
def instrumented_code(loader: Any, name: str) -> Any:
    """The code of one of our modules, compiled for the hook and cached beside the plain one.

    The hook itself renames the cache while a module is executed: whatever other packages that
    module imports would be compiled again, torch and transformers among them, for ten seconds.
    """
    other = partial(cache_from_source, optimization="typechecked")
    with patch("importlib._bootstrap_external.cache_from_source", other):
        return SourceFileLoader.get_code(loader, name)


def outer_function(transformer: Any, node: Any, visit: Any = Transformer.visit_FunctionDef) -> Any:
    """Instrument a function but none inside it: those would be so at each call, 7 ms each time."""
    body, node.body = node.body, []
    visit(transformer, node)
    node.body = body
    return node


Loader.get_code, Loader.exec_module = instrumented_code, SourceFileLoader.exec_module
Transformer.visit_FunctionDef = outer_function


# ------------------------------------------------------------------ order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# ------------------------------------------------------------------ fixtures
@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Every test starts from the same random state and one thread, and leaves no figure open."""
    import numpy as np  # here and not above: the process that only hands out tests needs neither
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries still draw from it
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")  # many left open are warned about, which is an error


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test starts as `python -m` is a fork of a process that has imported packages."""
    from tests.helpers.forking import handing_over, shared_server

    for name, value in handing_over(os.environ, shared_server()).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """As users run it: the signatures that other tests check would stop a wrong type early."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
