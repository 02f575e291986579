"""Hyperparameters: curves by setting, how far apart they lie, seeds, alive elements."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e2e_lib.plots import style

NAMES = {
    "lr": "learning rate",
    "dict_ratio": "dictionary elements a dimension",
    "train_tokens": "training tokens",
    "downstream_coeff": "β of the downstream term",
}
LOUDNESS = {  # by match and quantity: name on the axis, and whether it is logarithmic
    ("l0", "ce_increase"): ("CE increase (nats)", True),
    ("ce_increase", "l0"): ("L0", True),
    ("l0", "wasted_l0"): ("share of L0 on the channel", False),
    ("l0", "carried_function"): ("carried function S", False),
    # In place of those two where the curves share no L0:
    ("ce_increase", "wasted_l0"): ("share of L0 on the channel", False),
    ("ce_increase", "carried_function"): ("carried function S", False),
}
SHAPES = ("v", "D", "s", "P", "^", "X", "*", "o")  # of the settings, from the smallest
LINES = ("-", "--", ":", "-.")  # of the seeds
DASHES = dict(zip(style.SPARSIFIERS, ("-", "--", ":", (0, (5, 1, 1, 1, 1, 1)), "-."), strict=True))


def number(value: float) -> str:
    """A setting for people: 99,840 as 100k, 0.003 as it is."""
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:g}"


def plot_sweep_curves(runs: pd.DataFrame, column: str) -> Figure:
    """Figs 13-17: CE increase against L0 and alive elements, a line a setting of `column`.

    runs: `matched.sweep_runs`. A row a layer and objective; lines join means over seeds in order
    of λ, from light to dark as the setting grows, the main runs' in black. Where panels have main
    runs of several settings, the legend has a line for them by themselves.
    """
    panels = style.places(runs)
    settings = [float(value) for value in sorted(runs[column].unique())]
    shades = style.shades(len(settings))
    main = set(runs.loc[runs["main"], column])
    figure, grid = style.grid_of(len(panels), 2, 0.6 + 2.5 * len(panels), sharey="row")
    for row, (layer, name) in zip(grid, panels, strict=True):
        own = runs[(runs["layer"] == layer) & (runs["objective"] == name)]
        usual = set(own.loc[own["main"], column])
        for axes, x in zip(row, ("l0", "alive"), strict=True):
            for k, setting in enumerate(settings):
                means = own[own[column] == setting].groupby("sparsity_coeff").mean(True)
                axes.plot(means[x], means["ce_increase"], **_look(k, shades[k], setting in usual))
            axes.set_title(f"layer {layer}, {style.LABELS[name]}")
            axes.set_xlim(0, 1.06 * float(own[x].max()))
            style.harm_axis(axes, own["ce_increase"])
        row[0].set_ylabel("CE loss increase (nats)")
        row[1].tick_params(labelleft=True)
    for axes, x in zip(grid[-1], ("l0", "alive"), strict=True):
        axes.set_xlabel(style.AXIS[x])
    for k, setting in enumerate(settings):  # colours of panels where they are not the main runs'
        alone = main == {setting}
        label = number(setting) + " (main runs)" * alone
        grid[0, 0].plot([], [], **_look(k, shades[k], alone), label=label)
    if len(main) > 1:
        grid[0, 0].plot([], [], color="black", linewidth=2.2, label="main runs")
    style.legend_above(figure, [grid[0, 0]], title=NAMES[column])
    return figure


def _look(k: int, shade: Any, main: bool) -> dict[str, Any]:
    return {
        "color": "black" if main else shade, "marker": SHAPES[k % len(SHAPES)],
        "linewidth": 2.2 if main else 1.8, "mec": "white", "mew": 0.7,
    }  # fmt: skip


def plot_sweep_ratios(ratios: pd.DataFrame) -> Figure:
    """Each setting over the main runs, a row a swept column and layer, a panel a quantity.

    ratios: `sweeps.sweep_ratios`, of one or several columns. Bars: 95 % intervals, cut off where
    the values end. The main runs are at 1 by definition (white dots).
    """
    shown = ratios.dropna(subset=["value"])
    rows = list(dict.fromkeys(zip(shown["column"], shown["layer"], strict=True)))
    quantities = sorted(set(shown["quantity"]))
    figure, grid = style.grid_of(len(rows), len(quantities), 0.5 + 2.5 * len(rows))
    for row, (column, layer) in zip(grid, rows, strict=True):
        here = shown[(shown["column"] == column) & (shown["layer"] == layer)]
        for axes, quantity in zip(row, quantities, strict=True):
            own = here[here["quantity"] == quantity]
            for name, part in style.by_objective(own):
                main = part[["main"]].drop_duplicates().set_axis(["setting"], axis=1)
                line = pd.concat([part, main.assign(value=1.0)]).sort_values("setting")
                error = np.nan_to_num(style.error_of(line))
                axes.errorbar(line["setting"], line["value"], yerr=error, **style.of(name))
                axes.plot(
                    main["setting"], [1.0] * len(main), "o", color="white", mec=style.INK, zorder=5
                )
            axes.axhline(1, color=style.INK, linewidth=1)
            ratio_axis(axes, own["value"])
            axes.set_title(
                quantity if len(style.layers_in(shown)) == 1 else f"layer {layer}: {quantity}"
            )
            _settings_axis(axes, pd.concat([own["setting"], own["main"]]), NAMES[column])
        row[0].set_ylabel("ratio to the main runs")
    style.legend(figure, grid[0, 0], style.objectives_in(shown))
    return figure


def plot_convergence(table: pd.DataFrame, moves: float) -> Figure:
    """Summary ratios by training tokens, a panel a quantity; hollow while they still move.

    table: `sweeps.summaries_by_tokens` of one layer. A point is filled if the value moved by at
    most `moves` per doubling of the tokens up to there.
    """
    quantities = list(dict.fromkeys(table["quantity"]))
    figure, grid = style.grid_of(1, len(quantities), 3.6)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        own = table[table["quantity"] == quantity]
        by = ["compared", "objective", "reference"]
        for (name, *sides), part in own.groupby(by, sort=False):
            look = style.of(name) | {"linestyle": "-" if "local" in sides else "--"}
            axes.plot(part["train_tokens"], part["value"], **look)
            moving = part[~(part["moved"].abs() <= moves)]
            hollow = look | {"markerfacecolor": "white", "markeredgecolor": look["color"]}
            hollow |= {"linestyle": "", "markeredgewidth": 1.6, "zorder": 5}
            axes.plot(moving["train_tokens"], moving["value"], **hollow)
        axes.axhline(1, color=style.INK, linewidth=1)
        ratio_axis(axes)
        axes.set_title(quantity)
        _settings_axis(axes, own["train_tokens"], NAMES["train_tokens"])
    grid[0, 0].set_ylabel("ratio of two objectives")
    style.legend(figure, grid[0, 0], [*table["compared"].unique()])
    return figure


def ratio_axis(axes: Axes, values: pd.Series | None = None) -> None:
    """A logarithmic y axis that shows 0.5 to 2 at least: a ratio of 1.01 must look like 1.

    With `values`, of which those above 0 count, it is as long as they need, whatever their
    intervals do.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    above = pd.Series(dtype=float) if values is None else values[values > 0]
    if len(above):
        low, high = float(above.min()) / 1.6, float(above.max()) * 1.6
    axes.set_ylim(min(low, 0.48), max(high, 2.1))
    style.plain_numbers(axes)


def _settings_axis(axes: Axes, values: pd.Series, name: str) -> None:
    """A logarithmic x axis with a tick at every setting."""
    settings = [float(value) for value in sorted(values.unique())]
    axes.set_xscale("log")
    axes.set_xticks(settings, [number(value) for value in settings])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.margins(x=0.12)
    axes.set_xlabel(name)


def plot_gap_to_e2e(gaps: pd.DataFrame) -> Figure:
    """e2e's CE increase over local's at equal L0, a panel a swept column, a line a layer: of e2e's
    main runs and, hollow and dotted, of e2e at the same setting."""
    shown = gaps.dropna(subset=["value"])
    columns = list(dict.fromkeys(shown["column"]))
    figure, grid = style.grid_of(1, len(columns), 3.4, sharey=True)
    for axes, column in zip(grid[0], columns, strict=True):
        own = shown[shown["column"] == column]
        for layer, dash in zip(style.layers_in(own), LINES, strict=False):
            of_layer = own[own["layer"] == layer].sort_values("setting")
            part = of_layer[of_layer["against"] == "main"]
            look = {"linestyle": dash, "label": f"layer {layer}", **style.of("local")}
            axes.errorbar(part["setting"], part["value"], yerr=style.error_of(part), **look)
            both = of_layer[of_layer["against"] == "equal"]
            hollow = {"markerfacecolor": "none", "markeredgecolor": style.COLOURS["local"]}
            look |= {"linestyle": ":", "label": "e2e at the same setting", **hollow}
            axes.errorbar(both["setting"], both["value"], yerr=style.error_of(both), **look)
            main = part[part["main"]]
            axes.plot(main["setting"], main["value"], "o", color="white", mec=style.INK, zorder=5)
        axes.axhline(1, color=style.COLOURS["e2e"], linewidth=1.6)
        _settings_axis(axes, own["setting"], f"{NAMES[column]} of local")
        ratio_axis(axes, shown["value"])
    grid[0, 0].set_ylabel("CE increase at equal L0,\ne2e / local")
    style.legend_above(figure, list(grid[0]))
    return figure


def plot_seed_curves(runs: pd.DataFrame) -> Figure:
    """Fig 18: CE increase against L0, a row a layer, a column an objective, a line a seed."""
    layers, names = style.layers_in(runs), style.objectives_in(runs)
    height = 0.6 + 2.3 * len(layers)
    figure, grid = style.grid_of(len(layers), len(names), height, sharex="row", sharey="row")
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, name in zip(row, names, strict=True):
            curves = own[own["objective"] == name].sort_values("sparsity_coeff").groupby("seed")
            for k, (_, curve) in enumerate(curves):
                look = style.of(name) | {"markersize": 6, "linewidth": 1.2, "alpha": 0.8}
                look["linestyle"] = LINES[k % len(LINES)]
                axes.plot(curve["l0"], curve["ce_increase"], **look)
            axes.set(title=f"layer {layer}, {style.LABELS[name]}")
            style.harm_axis(axes, own["ce_increase"])
        row[0].set_xlim(0, 1.06 * float(own["l0"].max()))
        row[0].set_ylabel("CE loss increase (nats)")
    for axes in grid[-1]:
        axes.set_xlabel("L0")
    style.legend(figure, grid[0, 0], names)
    return figure


def plot_alive_trends(runs: pd.DataFrame) -> Figure:
    """Appendix C: alive elements against mean gradient norm and CE increase, a row a layer.

    A gradient norm that was not recorded, or is 0, has no place on its logarithmic axis.
    """
    layers = style.layers_in(runs)
    figure, grid = style.grid_of(len(layers), 2, 0.5 + 2.5 * len(layers), sharey="row")
    names = {"grad_norm": "mean gradient norm", "ce_increase": style.AXIS["ce_increase"]}
    for row, layer in zip(grid, layers, strict=True):
        own = runs[runs["layer"] == layer]
        for axes, x in zip(row, names, strict=True):
            there = own[own[x] > 0] if x == "grad_norm" else own
            for name, part in style.by_objective(there):
                axes.plot(part[x], part["alive"], linestyle="", **style.of(name))
            if len(there):
                style.wide_axis(axes, there[x], "x")
            axes.set_ylim(0, 1.06 * float(own["alive"].max()))
        row[0].set_ylabel(f"layer {layer}\nalive elements")
    for axes, label in zip(grid[-1], names.values(), strict=True):
        axes.set_xlabel(label)
    style.legend(figure, grid[0, 0], style.objectives_in(runs))
    return figure


def plot_loudness(table: pd.DataFrame) -> Figure:
    """A panel a quantity over the share of the variance that the network does not use.

    table: columns match, at, layer (of which the first is drawn), sparsifier (lines are dashed as
    its name says), objective, unused, quantity, value, low, high.
    """
    own = table[(table["layer"] == table["layer"].min()) & table["value"].notna()]
    panels = dict(iter(own.groupby(["match", "quantity"])))
    shown = [key for key in LOUDNESS if key in panels]
    at_l0 = {quantity for match, quantity in shown if match == "l0"}
    shown = [key for key in shown if key[0] == "l0" or key[1] not in at_l0]
    rows = -(-len(shown) // 2)
    figure, grid = style.grid_of(rows, 2, 0.6 + 2.7 * rows)
    for axes, key in zip(grid.ravel(), shown, strict=False):
        label, log = LOUDNESS[key]
        for name, of_objective in style.by_objective(panels[key]):
            for kind, part in of_objective.groupby("sparsifier"):
                part = part.sort_values("unused")
                band = [part["low"], part["high"]]
                look = {"color": style.COLOURS[name], "alpha": 0.2, "linewidth": 0}
                axes.fill_between(part["unused"], *band, **look)
                dash = {"linestyle": DASHES[str(kind)]}
                axes.plot(part["unused"], part["value"], **style.of(name) | dash)
        axes.set(ylabel=label, yscale="log" if log else "linear")
        at = panels[key]["at"].iloc[0]
        axes.set_title(f"at L0 = {at:.1f}" if key[0] == "l0" else f"at CE increase = {at:.3f}")
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        style.plain_numbers(axes)
        if "wasted" in key[1]:
            _decoys(axes, panels.get((key[0], "wasted_unused")))
            axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    for axes in grid.ravel()[len(shown) :]:
        axes.set_visible(False)
    for axes in grid.ravel()[: len(shown)][-2:]:  # the lowest of either column
        axes.set_xlabel("variance that the network does not use")
    kinds = [kind for kind in style.SPARSIFIERS if kind in set(own["sparsifier"])]
    for kind in kinds if len(kinds) > 1 else ():
        label = style.SPARSIFIERS[kind]
        grid[0, 0].plot([], [], color=style.INK, linestyle=DASHES[kind], label=label)
    style.legend(figure, grid[0, 0], style.objectives_in(own))
    return figure


def _decoys(axes: Axes, decoys: pd.DataFrame | None) -> None:
    """What is wasted on the world's own unused kinds, hollow, where there is no channel."""
    if decoys is None:
        return
    decoys = decoys[decoys["sparsifier"] == decoys["sparsifier"].iloc[0]]
    for name, own in style.by_objective(decoys):
        edge = {"markeredgecolor": style.COLOURS[name], "markeredgewidth": 1.6, "zorder": 6}
        look = style.of(name) | edge | {"linestyle": "none", "markerfacecolor": "none"}
        axes.plot(own["unused"], own["value"], **look)
    look = {"linestyle": "none", "marker": "o", "mfc": "none", "color": style.INK}
    axes.plot([], [], **look, label="on unused kinds of decision")
    axes.legend(fontsize=8, loc="best")
