"""What an SAE does to the activations it reads: their norm, their direction, and where in a row.

Source: the paper's Figs 10 and 11 and Table 5, and the authors' unpublished plots by position. An
SAE's input is the clean activation at its hook, so that nothing after the hook has to be run.

Everything starts from one table with a row a token (`observe`). Intervals are 95 % bootstrap over
seeds and over rows of text, with the same rows drawn for every SAE, because all read the same text.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from e2e_lib.analysis.statistics import RESAMPLES, Array, mean_and_resamples, over_seeds
from e2e_lib.core.sae import SAE
from e2e_lib.names import OBJECTIVES

CHUNK = 2048  # tokens through an SAE at a time; their codes at width 46,080 are 0.4 GB
POSITIONS = ("first", "after first", "all")
KEYS = ["layer", "objective"]


@torch.no_grad()
def reconstruct(
    sae: SAE, inputs: Float[Tensor, "rows pos d"], chunk: int = CHUNK
) -> Float[Tensor, "rows pos d"]:
    """The SAE's output for every token, without holding all codes at once."""
    parts = [sae(tokens).output for tokens in inputs.flatten(0, 1).split(chunk)]
    return torch.cat(parts).reshape(inputs.shape)


def token_table(
    inputs: Float[Tensor, "rows pos d"],
    outputs: Float[Tensor, "rows pos d"],
    directions: Mapping[int, Tensor] | None = None,
) -> pd.DataFrame:
    """One row a token, in order of row and position.

    Columns: row, position, input_norm and output_norm (‖a‖, ‖â‖), l2_ratio (‖â‖ / ‖a‖), cosine
    (of â with a), mse (mean over dimensions of (â − a)²) and, for every k of `directions` (unit
    vectors of width d), input_direction_k and output_direction_k, the dot products with it.
    """
    rows, positions = inputs.shape[:2]
    norms = inputs.norm(dim=-1), outputs.norm(dim=-1)
    columns = {
        "input_norm": norms[0],
        "output_norm": norms[1],
        "l2_ratio": norms[1] / norms[0].clamp_min(1e-12),
        "cosine": F.cosine_similarity(outputs, inputs, dim=-1),
        "mse": (outputs - inputs).square().mean(-1),
    }
    for k, direction in (directions or {}).items():
        columns[f"input_direction_{k}"] = inputs @ direction
        columns[f"output_direction_{k}"] = outputs @ direction
    places = {
        "row": np.repeat(np.arange(rows), positions),
        "position": np.tile(np.arange(positions), rows),
    }
    values = {name: column.flatten().cpu().double().numpy() for name, column in columns.items()}
    return pd.DataFrame(places | values)


def observe(
    inputs: Float[Tensor, "rows pos d"],
    saes: Mapping[str, SAE],
    runs: pd.DataFrame,
    directions: Mapping[int, Tensor] | None = None,
) -> pd.DataFrame:
    """`token_table` of every one of `runs` (of one layer) whose SAE is there, with its layer,
    objective and seed in front; inputs: the clean activations at that layer."""
    tables = []
    for run in runs[runs["run"].isin(list(saes))].itertuples():
        table = token_table(inputs, reconstruct(saes[run.run], inputs), directions)
        labels = {"layer": run.layer, "objective": run.objective, "seed": run.seed}
        tables.append(table.assign(**labels)[[*labels, *table]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _cube(tokens: pd.DataFrame, column: str) -> Array:
    """One layer's and objective's values, (seeds, rows, positions)."""
    shape = [tokens[key].nunique() for key in ("seed", "row", "position")]
    ordered = tokens.sort_values(["seed", "row", "position"])
    return ordered[column].to_numpy(dtype=float).reshape(shape)


def _intervals(values: Array, seed: int) -> dict[str, Array]:
    """Means over seeds and rows of values (seeds, rows, n): columns value, low and high."""
    weights = mean_and_resamples(values.shape[1], RESAMPLES, np.random.default_rng(seed))
    samples = np.stack([weights @ own for own in values], axis=1)
    return over_seeds(samples)._asdict()


def _by_part(cube: Array, seed: int, **labels: object) -> pd.DataFrame:
    """`labels` and the mean over the first position, over all later ones, and over all."""
    cubes = {"first": cube[..., :1], "after first": cube[..., 1:], "all": cube}
    parts = {name: part.mean(axis=-1) for name, part in cubes.items() if part.shape[-1]}
    found = _intervals(np.stack(list(parts.values()), axis=-1), seed)
    table = pd.DataFrame(labels | {"positions": list(parts)} | found)
    return table.assign(n_seeds=cube.shape[0], n_rows=cube.shape[1])


def means(tokens: pd.DataFrame, column: str, seed: int = 0) -> pd.DataFrame:
    """Mean of a column over tokens and seeds, e.g. of l2_ratio (Table 5: a mean of ratios).

    One row a layer, objective and part of the positions ("first" = position 0, "after first",
    "all"): positions, value, low, high, n_seeds, n_rows. Objectives in the usual order.
    """
    tables = [
        _by_part(_cube(own, column), seed, layer=layer, objective=objective)
        for (layer, objective), own in _groups(tokens).items()
    ]
    return pd.concat(tables, ignore_index=True)


def differences(
    tokens: pd.DataFrame, column: str, pairs: Sequence[tuple[str, str]], seed: int = 0
) -> pd.DataFrame:
    """Per layer and pair of objectives: `means` of the first minus that of the second.

    Token by token and seed by seed, over the seeds that both have. Columns: layer, difference,
    positions, value, low, high, n_seeds, n_rows.
    """
    groups, tables = _groups(tokens), []
    for layer, pair in product(sorted(tokens["layer"].unique()), pairs):
        both = [groups.get((layer, name), tokens[:0]) for name in pair]
        shared = set(both[0]["seed"]) & set(both[1]["seed"])
        if shared:
            first, second = (_cube(own[own["seed"].isin(shared)], column) for own in both)
            labels = {"layer": layer, "difference": " - ".join(pair)}
            tables.append(_by_part(first - second, seed, **labels))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _groups(tokens: pd.DataFrame) -> dict[tuple[int, str], pd.DataFrame]:
    """By layer and objective, in the usual order."""
    found = [((int(layer), str(name)), own) for (layer, name), own in tokens.groupby(KEYS)]
    return dict(sorted(found, key=lambda pair: (pair[0][0], OBJECTIVES.index(pair[0][1]))))


def by_position(tokens: pd.DataFrame, quantity: str, seed: int = 0) -> pd.DataFrame:
    """Mean over rows and seeds at every position, of the SAEs' input and of their outputs.

    quantity: "norm" or "direction_k". Columns: layer, source ("clean", the same for all SAEs of a
    layer, or an objective), position, value, low, high.
    """
    tables, layers = [], set()
    for (layer, objective), own in _groups(tokens).items():
        sources = {objective: f"output_{quantity}"}
        if layer not in layers:
            sources = {"clean": f"input_{quantity}"} | sources
        layers.add(layer)
        for source, column in sources.items():
            cube = _cube(own, column)
            labels = {"layer": layer, "source": source, "position": range(cube.shape[-1])}
            tables.append(pd.DataFrame(labels | _intervals(cube, seed)))
    return pd.concat(tables, ignore_index=True)


def by_direction(tokens: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`by_position` of the projections on every direction of the table, in a column direction."""
    names = [c.removeprefix("input_") for c in tokens if c.startswith("input_direction_")]
    tables = [
        by_position(tokens, name, seed).assign(direction=int(name.removeprefix("direction_")))
        for name in names
    ]
    return pd.concat(tables, ignore_index=True)


def histogram(tokens: pd.DataFrame, column: str = "cosine", bins: int = 50) -> pd.DataFrame:
    """Fig 11: density over tokens and seeds, all on the same `bins` up to 1.

    Columns: layer, objective, low and high (the bin's edges), density, mean (of all tokens).
    """
    lowest = float(np.floor(10 * tokens[column].min()) / 10)
    edges = np.linspace(min(lowest, 0.9), 1, bins + 1)
    tables = []
    for (layer, objective), own in _groups(tokens).items():
        values = own[column].to_numpy(dtype=float).clip(edges[0], edges[-1])  # 1 + rounding
        density, _ = np.histogram(values, edges, density=True)
        columns = {"low": edges[:-1], "high": edges[1:], "density": density, "mean": values.mean()}
        tables.append(pd.DataFrame({"layer": layer, "objective": objective} | columns))
    return pd.concat(tables, ignore_index=True)


def sample_tokens(tokens: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """The tokens at position 0 and `n` of the others, the same ones for every SAE."""
    places = tokens[["row", "position"]].drop_duplicates()
    first = places["position"] == 0
    later = places[~first]
    chosen = later.sample(min(n, len(later)), random_state=seed)
    return tokens.merge(pd.concat([places[first], chosen]), on=["row", "position"])


def share_of_first(tokens: pd.DataFrame) -> pd.DataFrame:
    """Per layer and objective: the share of all squared error that position 0 makes.

    Columns: layer, objective, share and even_share, what it would be if all positions were alike.
    """
    table = []
    for (layer, objective), own in _groups(tokens).items():
        cube = _cube(own, "mse")
        share = float(cube[..., 0].sum() / cube.sum())
        table.append((layer, objective, share, 1 / cube.shape[-1]))
    return pd.DataFrame(table, columns=[*KEYS, "share", "even_share"])


def with_intervals(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """For reading: "value [low, high]" as text, a column for each part of the positions.

    table: as `means` or `differences` return it.
    """
    if table.empty:
        return table
    label = "objective" if "objective" in table else "difference"
    text = [
        f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
        for row in table.itertuples()
    ]
    wide = table.assign(text=text).pivot_table(
        index=["layer", label], columns="positions", values="text", aggfunc="first", sort=False
    )
    order = [part for part in POSITIONS if part in wide]
    return wide[order].rename_axis(columns=None).reset_index()
