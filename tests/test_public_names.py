"""What `from e2e_lib import …` gives, and what importing the package alone costs."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import e2e_lib
from e2e_lib.source_code import imported, public_names

NAMES = {
    *("SAE", "Objective", "named_objective", "TrainConfig", "train", "evaluate", "calibrate"),
    *("load_model", "load_rows", "clean_pass", "spliced_pass", "generate", "open_results"),
    "metrics_table",
}
ALONE = """
import sys, time
start = time.perf_counter()
import e2e_lib
seconds = time.perf_counter() - start
dir(e2e_lib)
print(seconds, *sys.modules)
"""


def test_every_public_name_is_its_module_s() -> None:
    assert set(public_names()) == NAMES
    for name, module in public_names().items():
        assert getattr(e2e_lib, name) is getattr(import_module(module), name)
    assert set(dir(e2e_lib)) >= NAMES


def test_a_name_that_is_none_is_python_s_own_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'e2e_lib' has no attribute 'trian'$"):
        e2e_lib.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Any2'"):
        from e2e_lib import Any2  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'e2e_lib\.sae'"):
        import_module("e2e_lib.sae")  # where it was before the rooms


def test_the_package_alone_brings_nothing_heavy() -> None:
    seconds, *modules = subprocess.check_output(
        [sys.executable, "-c", ALONE], text=True, cwd=Path(e2e_lib.__file__).parent.parent
    ).split()
    assert not {"torch", "numpy", "pandas", "transformer_lens"} & set(modules)
    assert float(seconds) < 0.2


@pytest.mark.parametrize("source", ["from e2e_lib import train", "import e2e_lib"])
def test_a_digest_follows_what_is_imported_by_its_public_name(source: str) -> None:
    assert imported(source) >= imported("from e2e_lib.core.train import train")


def test_a_digest_follows_no_other_name() -> None:
    tables = Path(e2e_lib.__file__).parent / "runs" / "tables.py"
    assert tables in imported("import e2e_lib")
    assert tables not in imported("from e2e_lib import train")
