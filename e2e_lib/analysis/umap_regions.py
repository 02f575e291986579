"""A map of two dictionaries together, and the regions where one of them is over-represented.

Source: the paper's Figs 19 and 20. Its regions are boxes drawn by hand on one UMAP embedding, and
mean nothing on another. Here a region is a group of neighbouring elements, most of whose nearest
neighbours belong to one dictionary. Neighbours are counted between the directions themselves, not
on the map: the same graph of nearest neighbours that UMAP starts from, but independent of its
seed, version and distortion. So a region is a fact about two dictionaries; the map only shows it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest, false_discovery_control
from torch import Tensor

from e2e_lib.analysis.geometry import CHUNK, to_others
from e2e_lib.analysis.matched import stacked
from e2e_lib.analysis.statistics import mean_interval
from e2e_lib.errors import require

NEIGHBOURS = 15  # UMAP's default, and the paper's
LINKS = 5  # a region joins elements that are among each other's nearest few, not nearest 15
SMALLEST = 5  # elements of the smallest group that counts as a region
LEVEL = 0.05  # false discovery rate of elements with an unusual neighbourhood
KEYS = ["layer", "pair"]


def umap_coordinates(
    directions: Float[Tensor, "n d_in"], seed: int = 1, neighbours: int = NEIGHBOURS
) -> Float[np.ndarray, "n 2"]:
    """UMAP coordinates of unit directions, with the paper's settings (its seed is 1).

    Raises:
        ConfigError: there are no more directions than neighbours.
    """
    n = len(directions)
    require(2 <= neighbours < n, "neighbours", neighbours, f"2 to {n - 1} with {n} directions")
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        # Its import remarks on an optional part that is not installed and not used here.
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=Warning)
        # Dictionaries fall into separate groups; UMAP lays each out by itself.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        import umap  # here, because it takes seconds

        # With more than one thread the result would depend on their order.
        method = umap.UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=seed, n_jobs=1)
        coordinates = method.fit_transform(directions.cpu().numpy())
    torch.set_num_threads(threads)  # it leaves torch with as many threads as there are cores
    return np.asarray(coordinates, dtype=np.float64)


def nearest(
    directions: Float[Tensor, "n d_in"], k: int = NEIGHBOURS, chunk: int = CHUNK
) -> Int[np.ndarray, "n k"]:
    """Indices of each unit direction's k nearest others by cosine, nearest first."""
    found = [cosines.topk(k, dim=1).indices.cpu() for cosines in to_others(directions, chunk)]
    return torch.cat(found).numpy()


def unusual(
    is_first: Int[np.ndarray, " n"], neighbours: Int[np.ndarray, "n k"], level: float = LEVEL
) -> Int[np.ndarray, " n"]:
    """1 where elements of the first dictionary crowd round an element, −1 where they lack, else 0.

    Two-sided binomial test of the number of neighbours from the first dictionary against its share
    of all elements; Benjamini and Hochberg's procedure over the elements.

    is_first: 1 for the first dictionary's elements, 0 for the second's.
    """
    k, share = neighbours.shape[1], float(is_first.mean())
    by_count = np.array([_p_value(count, k, share) for count in range(k + 1)])
    counts = is_first[neighbours].sum(axis=1)
    adjusted = false_discovery_control(by_count[counts])
    return np.where(adjusted <= level, np.where(counts > k * share, 1, -1), 0)


@cache  # shuffled labels ask for the same ones a thousand times
def _p_value(count: int, k: int, share: float) -> float:
    return float(binomtest(count, k, share).pvalue)


def find_regions(
    is_first: Int[np.ndarray, " n"],
    neighbours: Int[np.ndarray, "n k"],
    links: int = LINKS,
    smallest: int = SMALLEST,
    level: float = LEVEL,
) -> Int[np.ndarray, " n"]:
    """The region of each element: 0 for none, otherwise 1, 2, ... from the largest to the smallest.

    A region is a connected group of at least `smallest` elements that are unusual in the same
    direction, where each is joined to those of its nearest `links` that are.
    """
    sign = unusual(is_first, neighbours, level)
    n = len(sign)
    start = np.repeat(np.arange(n), min(links, neighbours.shape[1]))
    end = neighbours[:, :links].ravel()
    joined = (sign[start] != 0) & (sign[start] == sign[end])
    edges = (np.ones(int(joined.sum())), (start[joined], end[joined]))
    _, group = connected_components(coo_array(edges, shape=(n, n)), directed=False)
    sizes = np.bincount(group[sign != 0], minlength=group.max() + 1)
    order = np.argsort(-sizes, kind="stable")
    kept = order[sizes[order] >= smallest]
    number = np.zeros(len(sizes), dtype=np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    return np.where(sign != 0, number[group], 0)


def element_table(frequency: Mapping[str, Tensor], runs: pd.DataFrame) -> pd.DataFrame:
    """One row an alive element of `runs`, in their order: run, layer, objective, seed, latent,
    frequency (share of the evaluation tokens on which it fires).

    frequency: run → firing frequency of all its latents.
    """
    tables = []
    for row in runs.itertuples():
        fired = frequency[row.run].cpu()
        latents = torch.nonzero(fired > 0).flatten()
        labels = {name: getattr(row, name) for name in ("run", "layer", "objective", "seed")}
        values = {"latent": latents.numpy(), "frequency": fired[latents].numpy()}
        tables.append(pd.DataFrame(labels | values))
    return pd.concat(tables, ignore_index=True)


def pair_maps(
    directions: Mapping[str, Tensor],
    frequency: Mapping[str, Tensor],
    runs: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    neighbours: int = NEIGHBOURS,
    seed: int = 1,
) -> pd.DataFrame:
    """Figs 19 and 20. One row an element and pair of objectives: layer, pair ("first - second"),
    run, objective, seed, latent, frequency, coordinates x and y, and region (0: none).

    Both dictionaries of a pair are embedded together, the first one's elements first. A layer
    without weights of both, or with no more elements than neighbours, is left out.

    directions: run → alive unit directions; frequency: run → firing frequency of all latents.
    runs: rows of the metrics table, one an objective and layer.
    """
    tables = []
    for layer, pair, own in _pairs(runs[runs["run"].isin(list(directions))], pairs):
        both = torch.cat([directions[run] for run in own["run"]])
        if len(both) <= neighbours:
            continue
        x, y = umap_coordinates(both, seed, neighbours).T
        table = element_table(frequency, own).assign(layer=layer, pair=pair, x=x, y=y)
        region = find_regions(_is_first(table), nearest(both, neighbours))
        tables.append(table.assign(region=region))
    columns = [*KEYS, "run", "objective", "seed", "latent", "frequency", "x", "y", "region"]
    return stacked(tables, columns)


def region_table(points: pd.DataFrame) -> pd.DataFrame:
    """One row a region: its number, objective (the one over-represented), n_first and n_second
    elements of the pair's objectives, the first's share, and its share of all elements.

    points: as `pair_maps` returns them.
    """
    rows = []
    for (layer, pair), own in points.groupby(KEYS, sort=False):
        first, second = str(pair).split(" - ")
        overall = float((own["objective"] == first).mean())
        for region, members in own[own["region"] > 0].groupby("region"):
            n_first = int((members["objective"] == first).sum())
            share = n_first / len(members)
            more = first if share > overall else second
            counts = (n_first, len(members) - n_first, share, overall)
            rows.append((layer, pair, region, more, *counts))
    columns = [*KEYS, "region", "objective", "n_first", "n_second", "share_first", "overall_share"]
    return pd.DataFrame(rows, columns=columns)


def chance_regions(
    directions: Mapping[str, Tensor],
    points: pd.DataFrame,
    neighbours: int = NEIGHBOURS,
    shuffles: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """How many regions there are, and how many when it is chance which dictionary an element is of.

    One row a layer and pair: elements, regions, in_regions (elements), and over the shuffles of the
    labels: mean and largest number of regions, and size of the largest region in any.
    """
    rows = []
    for (layer, pair), own in points.groupby(KEYS, sort=False):
        rng = np.random.default_rng(seed)
        near = nearest(torch.cat([directions[r] for r in own["run"].unique()]), neighbours)
        is_first = _is_first(own)
        shuffled = [find_regions(rng.permutation(is_first), near) for _ in range(shuffles)]
        counts = [int(regions.max()) for regions in shuffled]
        largest = max(int((regions == 1).sum()) for regions in shuffled)
        found = (len(own), int(own["region"].max()), int((own["region"] > 0).sum()))
        rows.append((layer, pair, *found, float(np.mean(counts)), max(counts), largest))
    columns = [*KEYS, "elements", "regions", "in_regions"]
    columns += ["chance_mean", "chance_most", "chance_largest"]
    return pd.DataFrame(rows, columns=columns)


def counted_again(
    directions: Mapping[str, Tensor], points: pd.DataFrame, others: pd.DataFrame
) -> pd.DataFrame:
    """The regions' counts on dictionaries of another seed, which had no part in finding them.

    Every element of the other seed's two dictionaries belongs to the region of the mapped element
    that it is nearest to. One row a region and other seed: layer, pair, region, other_seed,
    n_first, n_second, share_first with a bootstrap interval over the elements (low, high), and
    overall_share, all of that seed.

    others: rows of the metrics table, runs of the same λ with other seeds.
    """
    rows = []
    for (layer, pair), own in points.groupby(KEYS, sort=False):
        mapped = torch.cat([directions[r] for r in own["run"].unique()])
        region = own["region"].to_numpy()
        present = others[(others["layer"] == layer) & others["run"].isin(list(directions))]
        names = tuple(str(pair).split(" - "))
        for other_seed, group in present.groupby("seed"):
            for _, _, runs in _pairs(group, [names]):
                places = [region[_nearest_of(directions[r], mapped)] for r in runs["run"]]
                n = [len(p) for p in places]
                for number in range(1, int(region.max()) + 1):
                    inside = [int((p == number).sum()) for p in places]
                    share = mean_interval(np.repeat([1.0, 0.0], inside))
                    counts = (*inside, *share, n[0] / sum(n))
                    rows.append((layer, pair, number, other_seed, *counts))
    columns = [*KEYS, "region", "other_seed", "n_first", "n_second"]
    columns += ["share_first", "low", "high", "overall_share"]
    return pd.DataFrame(rows, columns=columns)


def _pairs(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Layer, name of the pair, and its two runs in order, for every layer that has both."""
    for names in pairs:
        for layer, group in runs.groupby("layer"):
            own = group[group["objective"].isin(names)].drop_duplicates("objective")
            if len(own) == 2:
                order = own["objective"].map(names.index)
                yield int(layer), " - ".join(names), own.assign(_o=order).sort_values("_o")


def _is_first(table: pd.DataFrame) -> NDArray[np.int64]:
    """1 for the elements of the dictionary that the table begins with."""
    return (table["run"] == table["run"].iloc[0]).to_numpy().astype(np.int64)


def _nearest_of(
    directions: Float[Tensor, "n d_in"], mapped: Float[Tensor, "m d_in"]
) -> NDArray[np.int64]:
    return torch.cat([(x @ mapped.T).argmax(dim=1) for x in directions.split(4096)]).cpu().numpy()
