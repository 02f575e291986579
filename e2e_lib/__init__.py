"""End-to-end sparse dictionary learning (Braun et al. 2024): train, evaluate, analyse SAEs.

>>> from e2e_lib import SAE, TrainConfig, named_objective
>>> config = TrainConfig(named_objective("e2e", 1.5), ("blocks.6.hook_resid_pre",))
>>> config.objective.name, SAE(d_in=4, d_sae=12).dictionary.shape
('e2e', torch.Size([12, 4]))
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

# The public names. These lines are read, not run: by type checkers, by `__getattr__`, which imports
# a module when one of its names is first asked for, and by the digest of code, for which a notebook
# executes only the modules of the names it imports. So importing the package alone brings no torch.
if TYPE_CHECKING:
    from e2e_lib.analysis.interpret.continuations import generate as generate
    from e2e_lib.core.config import TrainConfig as TrainConfig
    from e2e_lib.core.evaluate import evaluate as evaluate
    from e2e_lib.core.hooks import clean_pass as clean_pass
    from e2e_lib.core.hooks import spliced_pass as spliced_pass
    from e2e_lib.core.losses import Objective as Objective
    from e2e_lib.core.losses import named_objective as named_objective
    from e2e_lib.core.sae import SAE as SAE
    from e2e_lib.core.train import train as train
    from e2e_lib.data.models import load_model as load_model
    from e2e_lib.data.rows import load_rows as load_rows
    from e2e_lib.finetune.calibrate import calibrate as calibrate
    from e2e_lib.runs.read import open_results as open_results
    from e2e_lib.runs.tables import metrics_table as metrics_table

# Importing any library of the field imports tqdm.auto, which then asks for widgets that nothing
# here needs, in a warning that would print a machine's folders into every executed notebook.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    from e2e_lib.source_code import public_names

    if name.startswith("__") or name not in public_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(public_names()[name]), name))


def __dir__() -> list[str]:
    from e2e_lib.source_code import public_names

    return sorted({*globals(), *public_names()})
