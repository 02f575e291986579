"""One function per figure: tidy table in, matplotlib figure out. No torch, no training.

`style` holds the house style and `save_figure`; each other module the figures of one analysis.
"""

from e2e_lib.plots.ledger import claims_forest
from e2e_lib.plots.performance import pareto, summary_ratio
from e2e_lib.plots.reconstruction import explained_variance_by_block, mse_by_block
from e2e_lib.plots.similarity import similarity_histograms, similarity_trends
from e2e_lib.plots.style import (
    COLOURS,
    LABELS,
    MARKERS,
    save_figure,
    save_table,
    use_house_style,
)

__all__ = [
    "COLOURS",
    "LABELS",
    "MARKERS",
    "claims_forest",
    "explained_variance_by_block",
    "mse_by_block",
    "pareto",
    "save_figure",
    "save_table",
    "similarity_histograms",
    "similarity_trends",
    "summary_ratio",
    "use_house_style",
]
