"""Every figure draws, is labelled, and is saved with its data and texts."""

import json
import math
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from e2e_lib.analysis import matched as matching
from e2e_lib.analysis import pareto
from e2e_lib.core import losses
from e2e_lib.files import project_path
from e2e_lib.names import EVERY_OBJECTIVE, OBJECTIVES
from e2e_lib.plots.cost import TUNED, WAYS
from e2e_lib.plots.dictionaries import plot_similarity_histograms, plot_similarity_trends
from e2e_lib.plots.directions import (
    KIND_LINES,
    KINDS,
    VERDICTS,
    plot_use,
    plot_use_by_layer,
)
from e2e_lib.plots.evidence import VERDICTS as CLAIM_VERDICTS
from e2e_lib.plots.evidence import plot_claims_forest, plot_measures
from e2e_lib.plots.page import Page, picture
from e2e_lib.plots.performance import (
    plot_explained_variance_by_block,
    plot_mse_by_block,
    plot_pareto,
    plot_summary_ratio,
)
from e2e_lib.plots.style import COLOURS, LABELS, LINES, MARKERS, axis_in_words, harm_axis, shades
from e2e_lib.plots.sweeps import ratio_axis
from e2e_lib.runs import tables as runs
from tests.helpers.synthetic_results import write_results

TEXTS = {"title": "A title", "alt": "What is seen", "caption": "A caption", "paper": "The paper"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    results = write_results(tmp_path_factory.mktemp("plots"), weights=False)
    table = matching.main_runs(runs.metrics_table(results))
    matched = matching.across_seeds(table, matching.similar(table, "ce_increase"))
    blocks = runs.block_table(results)
    cosines = pd.concat(
        [
            pd.DataFrame({"max_cosine": np.linspace(0.1, 0.9, 30)}).assign(layer=k, objective=o)
            for k in (1, 2) for o in OBJECTIVES
        ]
    )  # fmt: skip
    claims = pd.DataFrame({
        "id": ["C1", "C2", "C7"], "short": ["a / b", "c", "d"], "value": [3.0, 0.6, np.nan],
        "low": [2.5, np.nan, np.nan], "high": [3.5, np.nan, np.nan], "above": [2.0, np.nan, 0.0],
        "below": [np.nan, 0.45, np.nan], "verdict": ["holds", "undecided", "not testable here"],
        "grid_low": [2.2, np.nan, np.nan], "grid_high": [3.1, np.nan, np.nan],
    })  # fmt: skip
    return {
        "runs": table,
        "blocks": blocks[blocks["run"].isin(matched["run"])],
        "ratios": pareto.summary_ratios(table, runs.row_table(results), resamples=20),
        "cosines": cosines,
        "means": table.assign(mean_max_cosine=0.5),
        "claims": claims,
    }


def draw(tables: dict) -> dict:
    blocks = tables["blocks"]
    return {
        "pareto": lambda: plot_pareto(tables["runs"]),
        "ratio": lambda: plot_summary_ratio(tables["ratios"]),
        "mse": lambda: plot_mse_by_block(blocks),
        "mse_after_first": lambda: plot_mse_by_block(blocks, "mse_after_first", log=False),
        "ev": lambda: plot_explained_variance_by_block(blocks[blocks["layer"] == 2]),
        "histograms": lambda: plot_similarity_histograms(tables["cosines"], "max cosine"),
        "trends": lambda: plot_similarity_trends(tables["means"]),
        "claims": lambda: plot_claims_forest(tables["claims"]),
    }


NAMES = ["pareto", "ratio", "mse", "mse_after_first", "ev", "histograms", "trends", "claims"]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_labelled_and_saved(name, tables, tmp_path):
    figure = draw(tables)[name]()
    shown = Page("20_pareto", tmp_path).figure(name, tables["runs"], lambda _: figure, **TEXTS)
    assert shown is figure
    with Image.open(tmp_path / "figures" / f"{name}.png") as picture:
        assert picture.width == pytest.approx(1350, abs=1)
        assert len(picture.getcolors(10_000)) > 5  # not blank
    assert (tmp_path / "figures" / f"{name}.png").stat().st_size < 150_000
    texts = json.loads((tmp_path / "figures" / f"{name}.json").read_text())
    assert texts == {"name": name} | TEXTS | {"order": [20, 1]}
    assert len(pd.read_csv(tmp_path / "figures" / f"{name}.csv")) == len(tables["runs"])
    if name == "claims":
        return
    labels = [axes.get_xlabel() for axes in figure.axes] + [figure.axes[0].get_ylabel()]
    assert sum(map(bool, labels)) >= len({axes.get_title() for axes in figure.axes})
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [x for x in ("local", "e2e", "e2e+ds") if x in shown]
    assert {"e2e", "e2e+ds"} <= set(shown)


def test_on_pareto_plots_up_is_better(tables):
    figure = plot_pareto(tables["runs"])
    assert len(figure.axes) == 6
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert bottom > top
    cut = plot_pareto(tables["runs"], y_limit=0.05)
    assert cut.axes[0].get_ylim()[0] == 0.05


def test_pareto_lines_go_through_seed_means(tables):
    own = tables["runs"][tables["runs"]["layer"] == 2]
    line = plot_pareto(own).axes[0].get_lines()[0]
    local = own[own["objective"] == "local"].groupby("sparsity_coeff")[["l0", "ce_increase"]]
    assert line.get_xdata() == pytest.approx(local.mean()["l0"].to_numpy())  # in order of λ
    assert line.get_ydata() == pytest.approx(local.mean()["ce_increase"].to_numpy())


@pytest.mark.parametrize("low, high", [(3.1, 3.9), (1.2, 8.0), (0.5, 60.0), (1e-3, 1e4)])
def test_a_logarithmic_axis_has_at_least_three_numbers(low, high, tables):
    """However small the range; in plain notation, and with a grid line to each."""
    blocks = tables["blocks"].query("layer == 2")
    middle = blocks["mse"].rank(pct=True)
    figure = plot_mse_by_block(blocks.assign(mse=low * (high / low) ** middle))
    figure.canvas.draw()
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    shown = [
        label.get_text()
        for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if bottom <= place <= top
    ]
    assert 3 <= len(shown) <= 10
    assert all(f"{float(text):g}" == text for text in shown)
    assert len(set(shown)) == len(shown)


def test_labels_of_axes_are_no_longer_than_the_axes(tables):
    figure = plot_mse_by_block(tables["blocks"], "mse_after_first")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.yaxis.label.get_window_extent().height < axes.bbox.height


def test_kinds_of_decision_stand_by_use_and_show_their_verdict():
    table = pd.DataFrame({
        "kind": ["coin", "name", "place"] * 2, "layer": [0] * 3 + [1] * 3,
        "use": [-1e-7, 30.0, 2.0, 1e-4, 9.0, 0.0], "presence": [0.01, 0.8, 0.3] * 2,
        "threshold": 0.1, "verdict": ["unused", "used", "used", "unused", "used", "unused"],
    })  # fmt: skip
    for column in ("use", "presence"):
        table[f"{column}_low"], table[f"{column}_high"] = table[column] / 2, table[column] * 2
    figure = plot_use(table[table["layer"] == 0])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["name", "place", "coin"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["used", "unused"]
    used, unused = (c.lines[0] for c in left.containers if c.get_label() in ("used", "unused"))
    assert list(used.get_xdata()) == [30, 2] and list(unused.get_xdata()) == [1e-5]
    assert left.get_xlim()[0] < 1e-5, "what is drawn at the edge is whole"
    assert all(axes.get_xlabel() for axes in (left, right))
    assert len({look["marker"] for look in VERDICTS.values()}) == 3
    maps = plot_use_by_layer(table).axes[:2]
    for axes in maps:
        [dots] = axes.collections
        assert sorted(map(tuple, dots.get_offsets().tolist())) == [(0, 0), (0, 1), (1, 0)]
        assert axes.images[0].get_array().shape == (3, 2)


def test_measures_show_their_floor_and_oracle_where_they_have_one():
    rows = [
        (match, layer, objective, measure, 0.5, 0.4, 0.6, 0.1, oracle)
        for match in ("ce_increase", "l0")
        for layer in (1, 2)
        for objective in OBJECTIVES
        for measure, oracle in (("carried_function", 1.0), ("selectivity", np.inf))
    ]
    columns = ["match", "layer", "objective", "measure", "value", "low", "high", "floor", "oracle"]
    figure = plot_measures(pd.DataFrame(rows, columns=columns))
    assert len(figure.axes) == 4, "a measure that nobody took has no row"
    for axes, has_oracle in zip(figure.axes, (True, True, False, False), strict=True):
        marks = axes.containers
        lines = [path.get_segments() for path in axes.collections]
        heights = {
            float(s[0][1]) for segments in lines for s in segments if len(s) and s[0][1] == s[1][1]
        }
        assert len(marks) == 3
        assert {0.1} | ({1.0} if has_oracle else set()) <= heights
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["best floor", "oracle", "local", "e2e", "e2e+ds"]


def test_styles_are_distinct():
    for style in (COLOURS, MARKERS, LABELS):
        assert list(style) == list(EVERY_OBJECTIVE)
        assert len(set(style.values())) == len(style)


def test_one_seed_and_one_layer_draw_too(tables):
    own = tables["runs"].query("layer == 2 and seed == 0")
    assert len(plot_pareto(own).axes) == 2
    blocks = tables["blocks"].query("layer == 4 and seed == 0")
    assert len(plot_mse_by_block(blocks).axes) == 1


@pytest.mark.parametrize("n", [1, 2, 8, 9, 11, 48])
def test_of_a_deep_model_not_every_block_is_named_and_the_end_always(n, tables):
    own = tables["blocks"].query("layer == 4 and seed == 0")
    deep = pd.concat([own[own.block == own.block.max()].assign(block=20 + k) for k in range(n)])
    [axes] = plot_mse_by_block(deep).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[-1] == "end" and axes.get_xticks()[-1] == 20 + n - 1
    assert len(names) <= 9 and names[:1] == (["20"] if n > 1 else ["end"])
    gaps = set(np.diff(axes.get_xticks()[:-1]))
    assert len(gaps) <= 1 and all(axes.get_xticks()[-1] - axes.get_xticks()[-2] >= g for g in gaps)


def test_what_cannot_be_drawn_says_why_and_leaves_no_old_picture(tables, tmp_path, capsys):
    page, nothing = Page("20_pareto", tmp_path), tables["runs"][:0]
    page.figure("fig", tables["runs"], plot_pareto, **TEXTS)
    assert (tmp_path / "figures" / "fig.png").is_file()
    found = page.figure("fig", nothing, plot_pareto, otherwise="there is one layer only", **TEXTS)
    assert found is None
    assert list((tmp_path / "figures").iterdir()) == []
    record = json.loads((tmp_path / "skipped" / "fig.json").read_text())
    assert record == {"name": "fig", "reason": "there is one layer only"}
    assert capsys.readouterr().out == "fig skipped: there is one layer only\n"
    page.figure("fig", tables["runs"], plot_pareto, when=False, **TEXTS)
    assert list((tmp_path / "figures").iterdir()) == []
    page.figure("fig", tables["runs"], plot_pareto, **TEXTS)
    assert not (tmp_path / "skipped" / "fig.json").exists()


def test_tables_are_saved_with_their_texts(tmp_path):
    table = pd.DataFrame({"l0": [1.23456789]})
    assert Page("21", tmp_path).table("t", table, title="T", caption="C", paper="P") is table
    assert (tmp_path / "tables" / "t.csv").read_text() == "l0\n1.23457\n"
    texts = json.loads((tmp_path / "tables" / "t.json").read_text())
    assert texts == {"name": "t", "title": "T", "caption": "C", "paper": "P", "order": [21, 1]}


def test_the_order_is_that_of_the_notebook_also_when_a_cell_runs_again(tmp_path):
    page, table = Page("21_similar_ce", tmp_path), pd.DataFrame({"l0": [1.0]})
    for name, rows in (("b", 1), ("c", 0), ("a", 1), ("b", 1)):
        page.table(name, table[:rows], title="T", caption="C", paper="P")
    orders = {
        name: json.loads((tmp_path / "tables" / f"{name}.json").read_text())["order"]
        for name in ("a", "b")
    }
    assert orders == {"a": [21, 3], "b": [21, 1]}  # c has its place, though nothing to show


def test_a_committed_picture_is_the_figure_to_the_pixel():
    path = project_path("docs/objectives.png")
    figure = picture(path)
    figure.canvas.draw()
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(figure.canvas.buffer_rgba()), image.convert("RGBA"))
    vectors = ElementTree.parse(path.with_suffix(".svg")).getroot()
    shape = [float(vectors.get(side).removesuffix("pt")) for side in ("width", "height")]
    assert shape[0] / shape[1] == pytest.approx(image.width / image.height)


def test_the_diagrams_terms_are_those_that_are_trained_on():
    terms = pd.read_csv(project_path("docs/objectives.csv"))
    assert terms["objective"].unique().tolist() == list(OBJECTIVES)
    for name, own in terms.groupby("objective"):
        objective = losses.named_objective(str(name), 3.0)
        weights = {
            "sparsity": objective.sparsity_coeff, "reconstruction": objective.local_coeff,
            "kl": objective.kl_coeff, "downstream": objective.downstream_coeff,
        }  # fmt: skip
        assert set(own["term"]) == {term for term, weight in weights.items() if weight}
        printed = own.set_index("term")["weight"].replace({"½": "0.5"})
        for term, weight in printed.items():
            assert weight in "λβ" or float(weight) == weights[term]


@pytest.mark.parametrize("finding", ["three rows.", lambda table: f"{len(table)} rows."])
def test_what_was_found_is_printed_and_kept_beside_the_caption(finding, tmp_path, capsys):
    page, data = Page("20_pareto", tmp_path), pd.DataFrame({"x": range(3)})
    draw_line = {"data": data, "draw": lambda table: table.plot().figure}
    page.figure("f", **draw_line, **TEXTS, finding=finding)
    texts = json.loads((tmp_path / "figures" / "f.json").read_text())
    assert texts["finding"] in ("Here: three rows.", "Here: 3 rows.")
    assert capsys.readouterr().out.strip() == texts["finding"]
    page.figure("f", **draw_line, **TEXTS)
    assert "finding" not in json.loads((tmp_path / "figures" / "f.json").read_text())
    page.figure("f", data.head(0), lambda _: None, **TEXTS, finding=lambda _: 1 / 0)  # not asked


def contrast(colour) -> float:
    """To white: WCAG 2's ratio of relative luminances."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.05 + float(np.dot(channels, (0.2126, 0.7152, 0.0722))))


def test_every_series_stands_out_from_white_and_has_a_second_channel():
    looks = [(x["color"], x["marker"]) for x in VERDICTS.values()]
    series = [
        COLOURS.values(),
        KINDS.values(),
        dict(WAYS.values()),
        shades(8),
        dict(TUNED.values()),
    ]
    for colours in (*series, [c for c, _ in looks], [c for c, _ in CLAIM_VERDICTS.values()]):
        assert min(map(contrast, colours)) >= 3
    assert contrast("#ffffff") == pytest.approx(1) and contrast("#000000") == pytest.approx(21)
    second = (MARKERS, LINES, KIND_LINES, dict(WAYS.values()), dict(TUNED.values()), dict(looks))
    for channel in second:
        assert len(set(channel.values())) == len(channel)


def test_the_axis_of_harm_is_logarithmic_and_linear_only_around_0(tables):
    assert plot_pareto(tables["runs"]).axes[0].get_yscale() == "log"
    assert plot_pareto(tables["runs"], log=False).axes[0].get_yscale() == "linear"
    runs = tables["runs"].copy()
    assert "linear" not in axis_in_words(runs["ce_increase"])
    runs.loc[runs.index[0], "ce_increase"] = -0.01
    assert "shaded band" in axis_in_words(runs["ce_increase"])
    figure = plot_pareto(runs)
    figure.canvas.draw()
    axes, highest = figure.axes[0], runs.loc[runs["layer"] == runs["layer"].min(), "ce_increase"]
    bottom, top = axes.get_ylim()
    assert axes.get_yscale() == "symlog" and top < -0.01 and bottom > highest.max()
    shown = [tick for tick in axes.get_yticks() if top <= tick <= bottom]
    assert 0.0 in shown and 4 <= len(shown) <= 12


def test_runs_of_another_folder_lie_over_a_figure_hollow_and_named(tables):
    over = tables["runs"].iloc[[0]].assign(objective="e2e", l0=500.0, mean_max_cosine=0.4)
    blocks = tables["blocks"].query("objective == 'e2e' and seed == 0")
    figures = [
        plot_pareto(tables["runs"], over=over, label="mine"),
        plot_mse_by_block(tables["blocks"], over=blocks, label="mine"),
        plot_similarity_trends(tables["means"], over=over, label="mine"),
    ]
    for figure in figures:
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[-1] == "e2e, mine" or "e2e, mine" in names
        [line] = [x for x in figure.axes[0].get_lines() if x.get_label() == "e2e, mine"]
        assert line.get_markerfacecolor() == "none" and len(line.get_xdata())
    assert figures[0].axes[0].get_xlim()[1] > 500
    bare = plot_pareto(tables["runs"], over=over.head(0), label="mine")
    assert "e2e, mine" not in [text.get_text() for text in bare.legends[0].get_texts()]


@pytest.mark.parametrize("values", [[], [math.nan], [-1.0, 0.0]])
def test_an_axis_of_ratios_has_ends_where_no_ratio_is_above_0(values):
    axes = plt.figure().subplots()
    ratio_axis(axes, pd.Series(values, dtype=float))
    low, high = axes.get_ylim()
    assert 0 < low <= 0.5 and high >= 2


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 1.0], [0.0, 0.0], [-1.0, -1.0]])
def test_an_axis_of_ce_increase_has_ends_whatever_the_values(values):
    axes = plt.figure().subplots()
    harm_axis(axes, pd.Series(values, dtype=float))
    bottom, top = axes.get_ylim()
    assert math.isfinite(bottom) and math.isfinite(top) and bottom != top
