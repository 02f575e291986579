"""The cost of training: seconds by objective, three cheaper ways, and warm-started features."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from e2e_lib.plots import style
from e2e_lib.plots.sweeps import LINES, SHAPES, number, ratio_axis

WAYS = {  # colour and marker
    "fewer tokens": ("#0072b2", "s"),
    "smaller dictionary": ("#d55e00", "D"),
    "warm start": ("#7a3e9d", "v"),
}

TUNED = {  # colour and marker of an objective that an SAE was fine-tuned by
    "finetune": ("#d55e00", "D"),
    "finetune_ds": ("#7a3e9d", "s"),
    "e2e": ("#0072b2", "v"),
    "e2e_ds": ("#0f8b8d", "P"),
}


def plot_training_cost(cost: pd.DataFrame) -> Figure:
    """Table 6: seconds a token over local's, with intervals; open markers: the paper's GPT-2.

    cost: `paper.beside`, of Table 6.
    """
    layers = style.layers_in(cost)
    figure, grid = style.grid_of(1, 1, 3.4)
    axes = grid[0, 0]
    for name, shift in (("e2e", -0.12), ("e2e_ds", 0.12)):
        part = cost[cost["objective"] == name]
        x = np.array([layers.index(layer) for layer in part["layer"]]) + shift
        error = np.nan_to_num(style.error_of(part, "ratio"))
        axes.errorbar(x, part["ratio"], yerr=error, linestyle="", **style.of(name))
        hollow = style.of(name) | {"markerfacecolor": "none", "markeredgewidth": 1.5}
        hollow["markeredgecolor"] = hollow["color"]
        axes.plot(x + 0.07, part["paper_ratio"], linestyle="", **hollow)
    axes.axhline(1, color=style.INK, linewidth=1)
    depths = cost.drop_duplicates("layer").set_index("layer")["depth"]
    axes.set_xticks(range(len(layers)), [f"layer {k} ({depths[k]})" for k in layers])
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(0, 1.1 * float(np.nanmax(cost[["ratio", "high", "paper_ratio"]])))
    axes.set_xlabel("where the SAE sits (depth as compared with the paper)")
    axes.set_ylabel("seconds a token, over local's")
    axes.plot([], [], "o", color="none", mec=style.INK, mew=1.5, label="paper (GPT-2)")
    style.legend(figure, axes, ["e2e", "e2e_ds"])
    return figure


def plot_cost_quality(ways: pd.DataFrame) -> Figure:
    """Quality against cost of three cheaper ways, a panel a layer and objective.

    ways: `sweeps.cost_quality`. Filled: all seconds, a warm start's local SAE included; open
    markers: without it. Better is up, cheaper is left; the star is the full run. The axis is as
    long as the values need: of few seeds an interval may be cut off by it.
    """
    shown = ways.dropna(subset=["value"])
    panels = style.places(shown)
    figure, grid = style.grid_of(1, len(panels), 4.0, sharey=True)
    for axes, (layer, name) in zip(grid[0], panels, strict=True):
        here = shown[(shown["layer"] == layer) & (shown["objective"] == name)]
        for way, (colour, marker) in WAYS.items():
            own = here[here["way"] == way].sort_values("seconds_share")
            x = own["seconds_share_with_start"].fillna(own["seconds_share"])
            look: dict[str, Any] = {"color": colour, "marker": marker}
            label = way if len(own) else None
            axes.errorbar(
                x, own["value"], yerr=style.error_of(own), label=label, mec="white", **look
            )
            if way == "warm start":
                look |= {"mfc": "none", "mec": colour, "linestyle": ":"}
                axes.plot(own["seconds_share"], own["value"], linewidth=1, **look)
            places = zip(x, own["value"], own["setting"], strict=True)
            for k, (at, height, setting) in enumerate(places):  # neighbours above and below
                axes.annotate(
                    number(float(setting)), (at, height), (0, (-10, 10)[k % 2]), ha="center",
                    va="center", textcoords="offset points", fontsize=8.5, color=colour, zorder=5,
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                )  # fmt: skip
        axes.plot(1, 1, "*", color="black", markersize=13, mec="white", label="full run")
        axes.axhline(1, color=style.INK, linewidth=1)
        axes.set(
            title=f"layer {layer}, {style.LABELS[name]}",
            xlabel="training seconds, share of full run",
        )
        axes.set_xlim(0, 1.15 * max(1, float(here["seconds_share_with_start"].max())))
    axes = grid[0, 0]
    ratio_axis(axes, shown["value"])
    axes.invert_yaxis()
    axes.set_ylabel("CE increase at equal L0,\nover the full run's")
    style.legend_above(figure, list(grid[0]), most=4)
    return figure


def harms(table: pd.DataFrame, runs: pd.DataFrame) -> pd.Series:
    """Every CE increase that `plot_fine_tuning` shows, for its axis."""
    means = runs.groupby(["objective", "sparsity_coeff"])["ce_increase"].mean()
    return pd.concat([means, table["ce_increase"], table["ce_before"]], ignore_index=True)


def plot_fine_tuning(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """CE increase against L0: arrows from local SAEs to what a short fine-tuning made of them.

    table: `pareto.beside_full_training`. runs: `matched.main_runs` of the layer; each λ is a mean
    over seeds. Better is up.
    """
    figure, grid = style.grid_of(1, 1, 4.4)
    axes = grid[0, 0]
    for name, own in style.by_objective(runs):
        points = own.groupby("sparsity_coeff")[["l0", "ce_increase"]].mean().sort_values("l0")
        label = f"{style.LABELS[name]}, full training"
        axes.plot(points["l0"], points["ce_increase"], label=label, **style.of(name))
    for name, (colour, marker) in TUNED.items():
        own = table[table["objective"] == name]
        for row in own.itertuples():
            axes.annotate(
                "", (row.l0, row.ce_increase), (row.l0_before, row.ce_before),
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1, "alpha": 0.6},
            )  # fmt: skip
        axes.plot(
            own["l0"], own["ce_increase"], marker, color=colour, mec="white", markersize=8,
            label=f"local, then {name}" if len(own) else None,
        )  # fmt: skip
    style.harm_axis(axes, harms(table, runs))
    axes.set_xlabel(style.AXIS["l0"])
    axes.set_ylabel(style.AXIS["ce_increase"])
    style.legend_above(figure, [axes], most=3)
    return figure


def plot_errors(table: pd.DataFrame) -> Figure:
    """Squared error at an SAE and before every later block, before and after its fine-tuning.

    table: hook, side (before, after), mse, as `finetune.card.error_table` gives it.
    """
    hooks = list(dict.fromkeys(table["hook"]))
    figure, grid = style.grid_of(1, 1, 3.2)
    axes = grid[0, 0]
    for side, look in {"before": ("#777777", "s"), "after": ("#d55e00", "o")}.items():
        own = table[table["side"] == side].set_index("hook")["mse"].reindex(hooks)
        colour, marker = look
        axes.plot(range(len(hooks)), own, color=colour, marker=marker, mec="white", label=side)
    axes.set_yscale("log")
    style.plain_numbers(axes)
    names, steep = [hook.replace("blocks.", "") for hook in hooks], 60 * (len(hooks) > 5)
    axes.set_xticks(range(len(hooks)), names, rotation=steep)
    axes.set_xlabel("where (the first is the SAE)")
    axes.set_ylabel("squared error")
    style.legend_above(figure, [axes])
    return figure


def plot_moved_features(table: pd.DataFrame) -> Figure:
    """Cosine of every alive feature with the row it started from, a panel an objective.

    table: `geometry.moved`; a line a number of training tokens.
    """
    return _histograms(table, "cosine", "cosine with its start", _shades(table))


def plot_seed_agreement(table: pd.DataFrame) -> Figure:
    """Largest cosine with a feature of another seed: warm starts, from scratch, the local starts.

    table: `geometry.agreement_of_starts`. A panel an objective; the local starts in each.
    """
    local = table["objective"] == "local"
    shown = [table[~local]]
    shown += [table[local].assign(objective=name) for name in style.objectives_in(table[~local])]
    table = pd.concat(shown, ignore_index=True)
    kinds = list(dict.fromkeys(table["start"]))
    fixed = ["black", "#d55e00", "#0072b2", "#0f8b8d", "#7a3e9d", "#777777"]
    looks = {kind: (_in_words(kind), fixed[k % len(fixed)]) for k, kind in enumerate(kinds)}
    return _histograms(table, "max_cosine", "max cosine, other seed", ("start", looks))


def _in_words(start: str) -> str:
    """A kind of start with its tokens: "warm 50000" is short, for thousands of rows say it."""
    kind, _, tokens = start.rpartition(" ")
    return f"{kind}, {int(tokens):,} tokens" if tokens.isdigit() else start


def _shades(table: pd.DataFrame) -> tuple[str, dict[Any, tuple[str, Any]]]:
    tokens = sorted(table["train_tokens"].unique())
    names = {n: f"{number(float(n))} tokens" for n in tokens}
    looks = {n: (names[n], c) for n, c in zip(tokens, style.shades(len(tokens)), strict=True)}
    return "train_tokens", looks


def _histograms(
    table: pd.DataFrame, column: str, label: str, by: tuple[str, dict[Any, tuple[str, Any]]]
) -> Figure:
    """Density of `column`, means marked, a row a layer, a panel an objective, a line a kind."""
    kind_column, looks = by
    layers, names = style.layers_in(table), style.objectives_in(table)
    bins = np.linspace(float(table[column].min()), 1, 51)
    figure, grid = style.grid_of(len(layers), len(names), 0.5 + 3.0 * len(layers), sharex=True)
    for row, layer in zip(grid, layers, strict=True):
        for axes, name in zip(row, names, strict=True):
            own = table[(table["layer"] == layer) & (table["objective"] == name)]
            for k, (kind, (text, colour)) in enumerate(looks.items()):
                values = own.loc[own[kind_column] == kind, column]
                line, marker = LINES[k % len(LINES)], SHAPES[k % len(SHAPES)]
                axes.hist(
                    values, bins=bins, density=True, histtype="step", linewidth=1.6,
                    color=colour, linestyle=line,
                )  # fmt: skip
                axes.plot([], [], color=colour, linestyle=line, marker=marker, label=text)
                if len(values):
                    style.mark_mean(axes, float(values.mean()), colour, marker, line)
            axes.set(title=f"layer {layer}, {style.LABELS[name]}", xlabel=label)
        row[0].set_ylabel("density")
    style.legend_above(figure, [grid[0, 0]], most=4)
    return figure
