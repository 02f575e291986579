"""The claims ledger at a glance."""

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from e2e_lib.plots.style import WIDTH, use_house_style


def claims_forest(table: pd.DataFrame) -> Figure:
    """A strip a claim, each with its own scale: value, interval, and shaded where the claim holds.

    table: columns id, short, value, low, high, holds, and the claim's bounds above and below
    (NaN for none).
    """
    shown = table.dropna(subset=["value"])
    use_house_style()
    figure, grid = plt.subplots(
        len(shown), 1, figsize=(WIDTH, 0.3 + 0.44 * len(shown)), squeeze=False
    )
    for axes, row in zip(grid[:, 0], shown.itertuples(), strict=True):
        points = [row.value, row.low, row.high, row.above, row.below]
        known = [float(x) for x in points if pd.notna(x)]
        margin = 0.12 * (max(known) - min(known)) or 0.5
        left, right = min(known) - margin, max(known) + margin
        above = left if pd.isna(row.above) else row.above
        axes.axvspan(above, right if pd.isna(row.below) else row.below, color="#cfe6d4", zorder=0)
        axes.axvspan(left, left, color="none")
        colour, marker = ("#2b7a3d", "o") if row.holds else ("#b5352a", "X")
        if pd.notna(row.low):
            axes.plot([row.low, row.high], [0, 0], color=colour, linewidth=2.4)
        axes.plot(row.value, 0, color=colour, marker=marker, markersize=9, mec="white")
        axes.set(xlim=(left, right), ylim=(-1, 1), yticks=[0])
        axes.set_yticklabels([f"{row.id}  {row.short}"], fontsize=9.5)
        axes.tick_params(axis="x", labelsize=8.5, pad=0)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    return figure
