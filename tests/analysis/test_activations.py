"""Norms and directions of SAE outputs, on tokens whose answers can be seen on paper."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib import paper as paper_values
from e2e_lib.analysis import activations
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.hooks import clean_pass
from e2e_lib.plots.dictionaries import (
    plot_activation_norms,
    plot_cosine_histograms,
    plot_direction_by_position,
    plot_norm_by_position,
)
from e2e_lib.plots.page import Page
from tests.helpers.tiny_models import random_tokens, small_sae, tiny_model

HOOK = "blocks.2.hook_resid_pre"
TEXTS = {"title": "A title", "alt": "What is seen", "caption": "A caption", "paper": "The paper"}


def grid(values, column="l2_ratio", layer=2, objective="local"):
    """A token table of one column; values: (seeds, rows, positions)."""
    array = np.asarray(values, dtype=float)
    seed, row, position = (axis.ravel() for axis in np.indices(array.shape))
    table = pd.DataFrame({"seed": seed, "row": row, "position": position, column: array.ravel()})
    return table.assign(layer=layer, objective=objective)


def test_a_token_table_by_hand():
    inputs = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    outputs = torch.tensor([[[4.0, 3.0], [1.0, 0.0]]])
    table = activations.token_table(inputs, outputs, {2: torch.tensor([0.6, 0.8])})
    expected = {
        "row": [0, 0], "position": [0, 1], "input_norm": [5, 2], "output_norm": [5, 1],
        "l2_ratio": [1, 0.5], "cosine": [24 / 25, 0], "mse": [1, 2.5],
        "input_direction_2": [5, 1.6], "output_direction_2": [4.8, 0.6],
    }  # fmt: skip
    assert list(table) == list(expected)
    for name, values in expected.items():
        assert table[name].tolist() == pytest.approx(values), name


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_an_sae_in_chunks_is_the_sae(chunk):
    sae, inputs = small_sae(), torch.randn(3, 5, 12)
    found = activations.reconstruct(sae, inputs, chunk)
    torch.testing.assert_close(found, sae(inputs).output.detach())
    assert not found.requires_grad


def test_the_means_are_those_of_the_evaluation():
    model, tokens, sae = tiny_model("gpt2"), random_tokens(6, 8), small_sae()
    metrics = evaluate(model, [{HOOK: sae}], tokens)[0].saes[HOOK]
    runs = pd.DataFrame({"run": ["a"], "layer": [2], "objective": ["e2e"], "seed": [0]})
    clean = clean_pass(model, tokens, [HOOK], logits=False).activations[HOOK]
    table = activations.observe(clean, {"a": sae, "b": sae}, runs)
    ratio = activations.means(table, "l2_ratio").set_index("positions")["value"]
    error = activations.means(table, "mse").set_index("positions")["value"]
    for part, suffix in (("first", "_first"), ("after first", "_after_first"), ("all", "")):
        assert ratio[part] == pytest.approx(metrics[f"l2_ratio{suffix}"], rel=1e-5)
        if suffix != "_first":
            assert error[part] == pytest.approx(metrics[f"mse{suffix}"], rel=1e-5)


def test_runs_without_weights_are_left_out():
    runs = pd.DataFrame({"run": ["a"], "layer": [2], "objective": ["e2e"], "seed": [0]})
    assert activations.observe(torch.zeros(1, 2, 12), {}, runs).empty


def test_means_by_hand():
    found = activations.means(grid([[[4, 1, 2], [6, 3, 4]], [[4, 1, 2], [6, 3, 4]]]), "l2_ratio")
    assert found["positions"].tolist() == ["first", "after first", "all"]
    assert found["value"].tolist() == pytest.approx([5, 2.5, 10 / 3])
    # Two seeds that do not differ, and two rows that they share: of their mean, half of (2 / 2)².
    half = 1.96 * np.sqrt(0.5)
    assert found["low"].tolist() == pytest.approx((found["value"] - half).tolist(), abs=0.1)
    assert found["high"].tolist() == pytest.approx((found["value"] + half).tolist(), abs=0.1)
    assert found["n_seeds"].unique().tolist() == found["n_rows"].unique().tolist() == [2]


def test_rows_of_a_single_token_have_no_later_positions():
    found = activations.means(grid([[[1], [2]]]), "l2_ratio")
    assert found["positions"].tolist() == ["first", "all"]


def test_intervals_agree_with_the_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 400, 1))
    row = activations.means(grid(values), "l2_ratio").iloc[0]
    half = 1.96 * values.std() / 20
    assert row["high"] - row["value"] == pytest.approx(half, rel=0.15)
    assert row["value"] - row["low"] == pytest.approx(half, rel=0.15)


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 400, 1))
    apart = activations.means(grid(np.concatenate([one - 1, one + 1])), "l2_ratio").iloc[0]
    assert apart["value"] == pytest.approx(one.mean())
    half = 12.706  # of two seeds, 1 below and 1 above
    assert apart["high"] - apart["value"] == pytest.approx(half, rel=0.02)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 20, 3))
    table = pd.concat([
        grid(np.concatenate([values + 0.5, values[:1]])),  # a third seed that the other lacks
        grid(values, objective="e2e"),
    ])  # fmt: skip
    pairs = [("local", "e2e"), ("e2e", "local"), ("local", "e2e_ds")]
    found = activations.differences(table, "l2_ratio", pairs)
    assert found["difference"].tolist() == ["local - e2e"] * 3 + ["e2e - local"] * 3
    for column in ("value", "low", "high"):  # the same everywhere, so that nothing can vary
        assert found[column].tolist() == pytest.approx([0.5] * 3 + [-0.5] * 3)
    assert found["n_seeds"].unique().tolist() == [2]


def two_objectives():
    clean = np.array([[[9.0, 2.0], [11.0, 4.0]]])
    tables = []
    for objective, share in (("e2e", 0.5), ("local", 1.0)):
        table = grid(clean, "input_norm", objective=objective)
        names = ("output_norm", "input_direction_1", "output_direction_1", "input_direction_3")
        table = table.assign(**dict.fromkeys(names, share * table["input_norm"]))
        tables.append(table.assign(output_direction_3=-1.0))
    return pd.concat(tables)


def test_by_position_by_hand():
    found = activations.by_position(two_objectives(), "norm")
    assert found["source"].tolist() == ["clean"] * 2 + ["local"] * 2 + ["e2e"] * 2
    assert found["position"].tolist() == [0, 1] * 3
    assert found["value"].tolist() == pytest.approx([10, 3, 10, 3, 5, 1.5])
    assert found["low"].tolist() == pytest.approx([9, 2, 9, 2, 4.5, 1])
    assert found["high"].tolist() == pytest.approx([11, 4, 11, 4, 5.5, 2])


def test_by_direction_takes_every_direction_of_the_table():
    found = activations.by_direction(two_objectives())
    assert found["direction"].unique().tolist() == [1, 3]
    third = found.query("direction == 3 and source == 'e2e'")
    assert third["value"].tolist() == [-1, -1]


def test_histogram_counts_every_token():
    cosines = grid([[[1 + 1e-7, 0.5, -0.35, 0.99]]], "cosine")  # rounding can lead above 1
    found = activations.histogram(cosines, bins=14)
    assert found["low"].iloc[0] == pytest.approx(-0.4)
    assert found["high"].iloc[-1] == 1
    width = found["high"] - found["low"]
    assert (found["density"] * width).sum() == pytest.approx(1)
    assert found["density"].iloc[-1] * width.iloc[-1] == pytest.approx(0.5)
    assert found["mean"].iloc[0] == pytest.approx(0.535)


def test_a_sample_holds_all_first_tokens_and_the_same_places_for_every_sae():
    table = pd.concat([grid(np.zeros((1, 5, 4))), grid(np.ones((1, 5, 4)), objective="e2e")])
    found = activations.sample_tokens(table, 6, seed=3)
    assert (found["position"] == 0).sum() == 2 * 5
    assert len(found) == 2 * (5 + 6)
    places = [set(zip(own["row"], own["position"], strict=True))
              for _, own in found.groupby("objective")]  # fmt: skip
    assert places[0] == places[1]
    assert found.equals(activations.sample_tokens(table, 6, seed=3))
    assert len(activations.sample_tokens(table, 1000)) == len(table)


def test_the_share_of_the_first_position():
    found = activations.share_of_first(grid([[[6, 1, 1], [3, 0, 1]]], "mse"))
    assert found["share"].tolist() == pytest.approx([0.75])
    assert found["even_share"].tolist() == pytest.approx([1 / 3])


def test_tables_for_reading_keep_their_order():
    table = pd.concat([grid([[[1, 2], [1, 2]]], objective=name) for name in ("e2e", "local")])
    read = activations.with_intervals(activations.means(table, "l2_ratio"), 1)
    assert list(read) == ["layer", "objective", "first", "after first", "all"]
    assert read["objective"].tolist() == ["local", "e2e"]
    assert read.loc[0, "first"] == "1.0 [1.0, 1.0]"


def test_table_5_stands_beside_the_same_depth():
    ours = activations.means(grid([[[1, 2], [1, 2]]], objective="e2e_ds"), "l2_ratio")
    beside = paper_values.beside(ours, {2: "middle"}, 5)
    assert beside["positions"].tolist() == ["first", "after first", "all"]
    assert beside["paper"].tolist()[:2] == [0.99, 0.56]
    assert math.isnan(beside["paper"].iloc[2])


# Figures


def scatter_table(first_norm):
    rng = np.random.default_rng(0)
    norms = rng.uniform(20, 60, (1, 40, 5))
    norms[..., 0] = first_norm
    table = grid(norms, "input_norm")
    return pd.concat([
        table.assign(objective=name, output_norm=share * table["input_norm"])
        for name, share in (("local", 0.9), ("e2e", 0.3), ("e2e_ds", 0.6))
    ])  # fmt: skip


@pytest.mark.parametrize("first_norm, insets", [(3000, 1), (50, 0)])
def test_an_inset_shows_the_bulk_where_it_is_small(first_norm, insets, tmp_path):
    figure = plot_activation_norms(scatter_table(first_norm))
    Page("25", tmp_path).figure("norms", pd.DataFrame(), lambda _: figure, when=True, **TEXTS)
    assert [axes.get_title() for axes in figure.axes] == ["local", "e2e", "e2e+ds"]
    for axes in figure.axes:
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_xlabel() == "norm of the input"
        assert len(axes.child_axes) == insets
        for inset in axes.child_axes:
            assert 55 < inset.get_xlim()[1] < 70


def position_table():
    tables = [
        activations.by_position(two_objectives().assign(layer=layer), "norm") for layer in (2, 4)
    ]
    return pd.concat(tables, ignore_index=True)


def draw():
    cosines = pd.concat([grid([[[0.5, 0.9, 0.7]]], "cosine", layer=k) for k in (2, 4)])
    table = position_table()
    return {
        "cosine": plot_cosine_histograms(activations.histogram(cosines)),
        "norm": plot_norm_by_position(table),
        "direction": plot_direction_by_position(
            pd.concat([table.assign(direction=k) for k in (1, 2, 3)])
        ),
    }


@pytest.mark.parametrize("name, panels", [("cosine", 2), ("norm", 2), ("direction", 6)])
def test_figures_are_labelled(name, panels, tmp_path):
    figure = draw()[name]
    Page("25", tmp_path).figure(name, pd.DataFrame(), lambda _: figure, when=True, **TEXTS)
    assert len(figure.axes) == panels
    assert figure.axes[0].get_ylabel() and figure.axes[-1].get_xlabel()
    assert all("layer" in axes.get_title() for axes in figure.axes)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == (["local"] if name == "cosine" else ["clean activation", "local", "e2e"])
