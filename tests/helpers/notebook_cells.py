"""A notebook's cells, run in this process: a kernel would take ten seconds."""

from typing import Any

import matplotlib.pyplot as plt

from e2e_lib.source_code import code_cells
from pipeline.plan.notebook_parameters import NOTEBOOKS, check_parameters


def run_cells(notebook: str, parameters: dict[str, Any]) -> None:
    """The notebook's code cells with these parameters."""
    path = NOTEBOOKS / f"{notebook}.ipynb"
    check_parameters(path, parameters)
    defaults, *cells = code_cells(path)
    names: dict[str, Any] = {"display": print}  # a kernel's own
    exec(defaults, names)
    names |= parameters
    try:
        for cell in cells:
            exec(cell, names)
    finally:
        plt.close("all")  # a kernel would have shown them and ended
