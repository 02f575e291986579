"""Regions of two dictionaries whose neighbourhoods can be seen on paper."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib.analysis import umap_regions
from e2e_lib.errors import ConfigError
from e2e_lib.plots.dictionaries import plot_dictionary_maps, plot_region_maps
from tests.helpers.weekly import weekly


def arc(start: float, stop: float, n: int) -> torch.Tensor:
    """n unit vectors in the plane, evenly spaced over angles in degrees."""
    radians = torch.linspace(start, stop, n) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def ring(n: int, k: int) -> np.ndarray:
    """Neighbours of points on a circle: one step right, one left, two right, two left, ..."""
    steps = [sign * (i // 2 + 1) for i in range(k) for sign in [1 if i % 2 == 0 else -1]]
    return (np.arange(n)[:, None] + np.array(steps)) % n


def test_nearest_by_hand():
    directions = torch.cat([arc(0, 20, 2), arc(50, 100, 2)])  # 0, 20, 50, 100 degrees
    found = umap_regions.nearest(directions, 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_chunks_do_not_matter():
    directions = torch.nn.functional.normalize(torch.randn(30, 6), dim=-1)
    whole = umap_regions.nearest(directions, 5)
    assert (umap_regions.nearest(directions, 5, chunk=7) == whole).all()
    assert not (whole == np.arange(30)[:, None]).any()


def test_unusual_by_hand():
    """Two halves of a circle: inside a half all ten neighbours are alike, p = 2 / 2**10."""
    is_first = np.repeat([1, 0], 50)
    sign = umap_regions.unusual(is_first, ring(100, 10))
    # 5 and 4 neighbours on each side: from the fifth of a half on, all ten are of the same half.
    assert (sign[5:45] == 1).all()
    assert (sign[55:95] == -1).all()
    assert sign[0] == sign[49] == sign[50] == sign[99] == 0


def test_many_elements_need_more_than_one_small_p_value():
    """Two-sided p of ten alike out of ten is 2/1024: enough for one element, not among 100."""
    is_first = np.tile([1, 0], 50)
    neighbours = ring(100, 10)
    neighbours[7] = np.arange(0, 20, 2)  # only the first dictionary's
    assert not umap_regions.unusual(is_first, neighbours).any()
    assert np.flatnonzero(umap_regions.unusual(is_first, neighbours, level=0.5)).tolist() == [7]


def test_regions_are_connected_and_numbered_by_size():
    is_first = np.repeat([1, 0, 1, 0], [40, 60, 30, 70])
    regions = umap_regions.find_regions(is_first, ring(200, 10))
    assert regions.max() == 4
    sizes = np.bincount(regions)[1:]
    assert (np.diff(sizes) <= 0).all()
    for start, stop in ((10, 30), (50, 90), (110, 120), (140, 190)):
        assert len(set(regions[start:stop])) == 1
    assert len({regions[20], regions[70], regions[115], regions[160]}) == 4
    assert regions[160] == 1  # the longest stretch


def test_opposite_neighbours_are_not_one_region():
    is_first = np.repeat([1, 0], 50)
    regions = umap_regions.find_regions(is_first, ring(100, 10))
    assert set(regions[is_first == 1]) & set(regions[is_first == 0]) == {0}


def test_small_groups_are_no_regions():
    is_first = np.repeat([1, 0], [20, 180])
    found = umap_regions.find_regions(is_first, ring(200, 10), smallest=5)
    assert found.max() == 1
    assert umap_regions.find_regions(is_first, ring(200, 10), smallest=50).max() == 0


def test_chance_makes_no_regions():
    rng = np.random.default_rng(0)
    is_first = rng.integers(0, 2, 300)
    assert umap_regions.find_regions(is_first, ring(300, 10)).max() == 0


RUNS = pd.DataFrame(
    [("ds0", "e2e_ds", 0), ("loc0", "local", 0), ("ds1", "e2e_ds", 1), ("loc1", "local", 1)],
    columns=["run", "objective", "seed"],
).assign(layer=2)
# Together over 0 to 80 degrees; local alone at 200 to 240.
DIRECTIONS = {
    "ds0": arc(0, 80, 40),
    "loc0": torch.cat([arc(1, 79, 40), arc(200, 240, 25)]),
    "ds1": arc(0.5, 80.5, 30),
    "loc1": torch.cat([arc(2, 80, 30), arc(201, 239, 12)]),
}
FREQUENCY = {
    run: torch.cat([torch.zeros(3), torch.full((len(x),), 0.01)]) for run, x in DIRECTIONS.items()
}


@pytest.fixture
def points(monkeypatch):
    """Maps with stand-in coordinates: the directions themselves."""

    def flat(directions, seed, neighbours):
        return directions.numpy().astype(np.float64)

    monkeypatch.setattr(umap_regions, "umap_coordinates", flat)
    first_seed = RUNS[RUNS["seed"] == 0].iloc[::-1]  # the order of rows must not matter
    pairs = [("e2e_ds", "local"), ("e2e", "local")]
    return umap_regions.pair_maps(DIRECTIONS, FREQUENCY, first_seed, pairs)


def test_maps_keep_pairs_with_both_dictionaries(points):
    assert points["pair"].unique().tolist() == ["e2e_ds - local"]
    assert points["objective"].tolist() == ["e2e_ds"] * 40 + ["local"] * 65
    assert points["latent"].tolist() == [*range(3, 43), *range(3, 68)]  # the dead keep their number
    assert points["frequency"].to_numpy() == pytest.approx(0.01)
    assert points[["x", "y"]].to_numpy() == pytest.approx(
        torch.cat([DIRECTIONS["ds0"], DIRECTIONS["loc0"]]).numpy(), abs=1e-6
    )


def test_counts_of_a_region_only_local_has(points):
    [row] = umap_regions.region_table(points).to_dict("records")
    assert row | {"overall_share": 0} == {
        "layer": 2, "pair": "e2e_ds - local", "region": 1, "objective": "local",
        "n_first": 0, "n_second": 25, "share_first": 0.0, "overall_share": 0,
    }  # fmt: skip
    assert row["overall_share"] == pytest.approx(40 / 105)


def test_figures_have_a_panel_a_pair_and_layer(points):
    later = pd.concat([points, points.assign(layer=3, region=0)])
    figure = plot_dictionary_maps(later)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["layer 2: e2e+ds and local", "layer 3: e2e+ds and local"]
    assert all(axes.get_xlabel() == "UMAP 1" for axes in figure.axes)
    marked = plot_region_maps(later, umap_regions.region_table(later))
    [axes] = [axes for axes in marked.axes if axes.get_title()]  # of layer 3 nothing is marked
    assert (axes.get_title(), [text.get_text() for text in axes.texts]) == (titles[0], ["1"])


def test_shuffled_labels_make_no_regions(points):
    [row] = umap_regions.chance_regions(DIRECTIONS, points, shuffles=50).to_dict("records")
    assert (row["elements"], row["regions"], row["in_regions"]) == (105, 1, 25)
    assert row["chance_mean"] < 0.2
    again = umap_regions.chance_regions(DIRECTIONS, points, shuffles=50)
    assert again.to_dict("records") == [row]


def test_another_seed_is_counted_in_the_same_places(points):
    table = umap_regions.counted_again(DIRECTIONS, points, RUNS[RUNS["seed"] == 1])
    [row] = table.to_dict("records")
    assert (row["other_seed"], row["n_first"], row["n_second"]) == (1, 0, 12)
    assert (row["share_first"], row["low"], row["high"]) == (0, 0, 0)
    assert row["overall_share"] == pytest.approx(30 / 72)
    assert umap_regions.counted_again(DIRECTIONS, points, RUNS.iloc[:0]).empty


def test_too_few_elements_are_left_out():
    few = {run: x[:4] for run, x in DIRECTIONS.items()}
    table = umap_regions.pair_maps(few, FREQUENCY, RUNS[:2], [("e2e_ds", "local")])
    assert table.empty
    assert umap_regions.region_table(table).empty
    assert umap_regions.chance_regions(few, table).empty


@weekly  # compiles UMAP, as notebook 24 does
def test_umap_keeps_groups_apart_and_is_reproducible():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(12).repeat_interleave(20, dim=0)  # twelve groups without a link
    directions = centres + 0.05 * torch.randn(240, 12, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    found = umap_regions.umap_coordinates(directions)
    assert np.isfinite(found).all()
    assert (found == umap_regions.umap_coordinates(directions)).all()
    distance = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 20 == np.arange(240) // 20).all()
    assert torch.get_num_threads() == 1  # as the tests set it


def test_more_neighbours_than_directions_is_an_error():
    with pytest.raises(ConfigError, match="neighbours is 15"):
        umap_regions.umap_coordinates(arc(0, 90, 10))
