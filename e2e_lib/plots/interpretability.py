"""Interpretability: scores per layer and objective, and which true latents features stand for."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots.style import (
    COLOURS,
    INK,
    WIDTH,
    grid_of,
    layers_in,
    legend,
    objectives_in,
    style_of,
    use_house_style,
)

MATCHES = {"ce_increase": "similar CE", "l0": "similar L0"}
SHIFT = {"local": -0.27, "e2e": 0.0, "e2e_ds": 0.27}
ALWAYS = ("one synonym", "decoy", "none")  # kinds that are shown however rare they are
KIND_NAMES = {
    "position_in_sentence": "position in\nsentence",
    "one synonym": "one\nsynonym",
    "decoy": "either\nsynonym",
    "next": "next word",
    "previous": "previous\nword",
    "seen": "seen\nbefore",
}


def interpretability_scores(scores: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Fig 9: distribution of the scores per layer and objective, a row a match.

    scores: one row a feature, columns match, layer, objective, score. means: mean and 95 %
    interval, columns match, layer, objective, value, low, high.
    """
    matches = [match for match in MATCHES if match in set(scores["match"])]
    figure, grid = grid_of(len(matches), 1, 0.6 + 2.5 * len(matches), sharex=True)
    for axes, match in zip(grid[:, 0], matches, strict=True):
        own, marks = (table[table["match"] == match] for table in (scores, means))
        _violins(axes, own, marks, "score", layers_in(scores))
        axes.set(title=f"SAEs of {MATCHES[match]}", ylabel="correlation of\nsimulated and true")
    legend(figure, grid[0, 0], objectives_in(scores))
    return figure


def _violins(
    axes: Axes, table: pd.DataFrame, means: pd.DataFrame, column: str, layers: list[int]
) -> None:
    """At every layer a violin an objective, with the mean and its interval."""
    for name in objectives_in(table):
        for place, layer in enumerate(layers):
            chosen = (table["objective"] == name) & (table["layer"] == layer)
            values = table.loc[chosen, column].dropna()
            if values.nunique() > 2:  # a density needs a spread
                where = [place + SHIFT[name]]
                parts: Any = axes.violinplot(values, where, widths=0.25, showextrema=False)
                for body in parts["bodies"]:
                    body.set(facecolor=COLOURS[name], alpha=0.35, edgecolor=COLOURS[name])
        part = means[means["objective"] == name]
        x = np.array([layers.index(layer) for layer in part["layer"]]) + SHIFT[name]
        error = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axes.errorbar(x, part["value"], yerr=error, linestyle="", capsize=3, **style_of(name))
    axes.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    axes.set_xlim(-0.5, len(layers) - 0.5)


def true_latents(
    matches: pd.DataFrame, means: dict[str, pd.DataFrame], shares: pd.DataFrame
) -> Figure:
    """How well features stand for true latents (top), and for which kinds (bottom).

    matches: one row a feature, columns layer, objective, f1, auroc. means: for "f1" and "auroc",
    mean and interval per layer and objective. shares: columns objective, kind, value, low, high.
    """
    use_house_style()
    figure, panels = plt.subplot_mosaic(
        [["f1", "auroc"], ["kinds", "kinds"]], figsize=(WIDTH, 6.4), height_ratios=[1, 1.05]
    )
    for column, title in (("f1", "F1"), ("auroc", "AUROC")):
        axes = panels[column]
        _violins(axes, matches, means[column], column, layers_in(matches))
        axes.set(title=f"{title} of the best-matching latent", ylabel=title)
    panels["auroc"].axhline(0.5, color=INK, linewidth=1, linestyle=":")
    _bars(panels["kinds"], shares)
    legend(figure, panels["f1"], objectives_in(matches))
    return figure


def _bars(axes: Axes, shares: pd.DataFrame) -> None:
    largest = shares.groupby("kind", sort=False)["value"].max()
    kinds = [kind for kind in largest.index if largest[kind] >= 0.01 or kind in ALWAYS]
    for name in objectives_in(shares):
        part = shares[(shares["objective"] == name) & shares["kind"].isin(kinds)]
        x = np.array([kinds.index(kind) for kind in part["kind"]]) + SHIFT[name]
        error = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axes.bar(x, part["value"], 0.25, color=COLOURS[name], alpha=0.55, linewidth=0)
        axes.errorbar(x, part["value"], yerr=error, linestyle="", **style_of(name))
    axes.set_xticks(range(len(kinds)), [KIND_NAMES.get(kind, kind) for kind in kinds])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set(title="What is found with F1 of at least 0.5", ylabel="share of features")
    axes.set_ylim(bottom=-0.02)  # marks at 0 are whole
