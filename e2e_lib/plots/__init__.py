"""One function per figure: tidy table in, matplotlib figure out. No torch, no training.

`style` holds the house style and `save_figure`; each other module the figures of one analysis.
"""

from e2e_lib.plots.activations import (
    activation_norms,
    cosine_histograms,
    direction_by_position,
    norm_by_position,
)
from e2e_lib.plots.cost import cost_quality, moved_features, seed_agreement, training_cost
from e2e_lib.plots.diagram import loss_terms, objectives_diagram
from e2e_lib.plots.directions import (
    ablation_by_direction,
    correlation_by_direction,
    cosine_map,
    projection_histogram,
)
from e2e_lib.plots.embedding import dictionary_maps, region_maps
from e2e_lib.plots.faithfulness import faithfulness_by_task, features_kept
from e2e_lib.plots.interpretability import interpretability_scores, true_latents
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
from e2e_lib.plots.sweeps import (
    alive_trends,
    gap_to_e2e,
    seed_curves,
    sweep_curves,
    sweep_ratios,
)

__all__ = [
    "COLOURS",
    "LABELS",
    "MARKERS",
    "ablation_by_direction",
    "activation_norms",
    "alive_trends",
    "claims_forest",
    "correlation_by_direction",
    "cosine_histograms",
    "cosine_map",
    "cost_quality",
    "dictionary_maps",
    "direction_by_position",
    "explained_variance_by_block",
    "faithfulness_by_task",
    "features_kept",
    "gap_to_e2e",
    "interpretability_scores",
    "loss_terms",
    "moved_features",
    "mse_by_block",
    "norm_by_position",
    "objectives_diagram",
    "pareto",
    "projection_histogram",
    "region_maps",
    "save_figure",
    "save_table",
    "seed_agreement",
    "seed_curves",
    "similarity_histograms",
    "similarity_trends",
    "summary_ratio",
    "sweep_curves",
    "sweep_ratios",
    "training_cost",
    "true_latents",
    "use_house_style",
]
