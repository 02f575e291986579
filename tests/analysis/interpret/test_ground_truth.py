"""StoryWorld's labels beside its rows, and the true latents that codes are matched with."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection

from e2e_lib.analysis.interpret import ground_truth, protocol
from e2e_lib.analysis.interpret.features import Example
from e2e_lib.analysis.interpret.labels import labelled_rows, labels_of
from e2e_lib.analysis.interpret.protocol import AnswerError, Feature, Sample
from e2e_lib.analysis.statistics import grouped_means
from e2e_lib.data.rows import load_rows, pack_rows
from e2e_lib.data.text import read_documents, source_pair
from e2e_lib.errors import ConfigError
from e2e_lib.plots.evidence import plot_interpretability_scores, plot_true_latents
from e2e_lib.storyworld.corpus import TOKEN_IDS, build_tokenizer
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.lexicon import DECOYS, END_OF_TEXT
from e2e_lib.storyworld.teller import LABELS
from tests.helpers.tiny_models import reader

WORDS = {number: word for word, number in TOKEN_IDS.items()}


def held_out(n_rows: int, context_size: int) -> torch.Tensor:
    """What `load_rows` gives, without the many stories that it reads ahead."""
    source = source_pair("storyworld", "storyworld", context_size)[1]
    documents = islice(read_documents(source, 0), 1 + n_rows * context_size // 40)
    return pack_rows(documents, build_tokenizer(), len(TOKEN_IDS), source, n_rows)


# ------------------------------------------------------------------------ labels
LENGTH_OF_A_STORY = len(next(generate(0, "validation")).tokens)


@pytest.mark.parametrize("context_size", [128, 31, LENGTH_OF_A_STORY])
def test_labelled_rows_are_the_held_out_rows(context_size):
    """Also where a story is exactly a row long, which packing takes as it is."""
    tokens, labels = labelled_rows(12, context_size)
    assert torch.equal(tokens, held_out(12, context_size))
    assert set(labels) == set(LABELS)
    assert {values.shape for values in labels.values()} == {(12, context_size)}


def test_labelled_rows_are_those_that_load_rows_gives():
    words = reader(build_tokenizer(), len(TOKEN_IDS))
    rows = load_rows(words, "storyworld", "storyworld", n_train=1, n_validation=3).validation
    assert torch.equal(labelled_rows(3, 128).tokens, rows)


def test_labels_are_those_of_their_tokens():
    tokens, labels = labelled_rows(20, 64)
    words = np.vectorize(WORDS.get)(tokens.numpy())
    ends = words == END_OF_TEXT
    assert ends.any()
    assert (labels["role"][ends] == "").all() and (labels["role"][~ends] != "").all()
    assert (labels["position_in_sentence"][ends] == -1).all()
    assert np.isnan(labels["nats"][ends]).all() and not labels["seen"][ends].any()
    assert ((labels["role"] == "punctuation") == np.isin(words, list(".,?!"))).all()
    assert ((labels["role"] == "quote") == (words == '"')).all()
    surfaces = {form: name for name, word in DECOYS.items() for pair in word.forms for form in pair}
    expected = np.vectorize(lambda word: surfaces.get(word, ""))(words)
    assert (labels["decoy"] == expected).all()
    first = next(generate(0, "validation"))
    assert labels["nats"][0, :20].tolist() == pytest.approx(first.labels["nats"][:20])


def test_labels_of_other_rows_there_are_none():
    rows = held_out(5, 32)
    found = labels_of(rows)
    assert found is not None
    assert (found["role"] == labelled_rows(5, 32).labels["role"]).all()
    changed = rows.clone()
    changed[4, 3] += 1
    assert labels_of(changed) is None
    assert labels_of(rows.flip(0)) is None
    with pytest.raises(ConfigError):
        labelled_rows(0, 32)


# ----------------------------------------------------------------------- matching
def made_up(roles: list[list[str]], **others: list[list[str]]) -> dict[str, np.ndarray]:
    """Labels of which only some say anything."""
    shape = np.array(roles).shape
    labels = {name: np.full(shape, "", dtype="<U12") for name in LABELS}
    return labels | {k: np.array(v) for k, v in {"role": roles, **others}.items()}


def test_labellings_by_hand():
    tokens = torch.tensor([[3, 1, 2, 0], [1, 0, 3, 1]])
    labels = made_up(
        [["verb", "noun", "verb", ""], ["noun", "", "verb", "noun"]],
        scene=[["coda", "coda", "", ""], ["sight", "", "coda", "coda"]],
        seen=np.array([[False, True, False, False], [False, False, True, False]]),
        position_in_sentence=np.array([[0, 1, 2, -1], [0, -1, 0, 1]]),
    )
    found = {way.labels: way for way in ground_truth.labellings(tokens, labels, "abcd".__getitem__)}

    def where(names: tuple[str, ...], value: tuple[str, ...]) -> list[list[int]]:
        way = found[names]
        return (way.codes == way.kinds.index(value)).int().tolist()

    assert where(("role",), ("verb",)) == [[1, 0, 1, 0], [0, 0, 1, 0]]
    assert where(("word",), ("d",)) == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert where(("previous",), ("d",)) == [[0, 1, 0, 0], [0, 0, 0, 1]]  # not across rows
    assert where(("next",), ("b",)) == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert where(("role", "scene"), ("verb", "coda")) == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert where(("seen",), ("False",)) == [[1, 0, 1, 0], [1, 0, 0, 1]]  # not between stories
    assert where(("position_in_sentence",), ("0",)) == [[1, 0, 0, 0], [1, 0, 1, 0]]
    assert (found["mood",].codes == -1).all() and found["mood",].kinds == []
    assert len(found) == len(ground_truth.SINGLE) + len(ground_truth.PAIRS)


@pytest.fixture(scope="module")
def story():
    """Rows, their labellings, and by name a mask of tokens."""
    rows = held_out(60, 64)
    labels = labels_of(rows)
    ways = ground_truth.labellings(rows, labels, WORDS.__getitem__)
    masks = {
        "verb": labels["role"] == "verb",
        "gloomy verb": (labels["role"] == "verb") & (labels["mood"] == "gloomy"),
        "the": np.vectorize(WORDS.get)(rows.numpy()) == "the",
        "merry": labels["mood"] == "merry",
    }
    return rows, ways, {name: torch.tensor(mask) for name, mask in masks.items()}


def test_planted_latents_are_found_on_one_half_and_judged_on_the_other(story):
    _, ways, masks = story
    noise = torch.rand(60, 64, generator=torch.Generator().manual_seed(0))
    codes = torch.stack([mask * (1 + noise) for mask in masks.values()], dim=-1)
    codes[30:, :, 0] = (noise[30:] > 0.5).float()  # the second half is about something else
    matches = ground_truth.best_matches(codes[:30], ways)
    assert [match.text for match in matches] == [
        "role = verb", "role = verb and mood = gloomy", "word = the", "mood = merry",
    ]  # fmt: skip
    assert [match.f1 for match in matches] == [1, 1, 1, 1]
    where = masks["verb"][:30]
    assert matches[0].level == pytest.approx(float((1 + noise[:30])[where].mean()), abs=1e-5)
    table = ground_truth.judge(codes[30:], matches, 30)
    assert table["f1"].tolist()[1:] == [1, 1, 1] and table["auroc"].tolist()[1:] == [1, 1, 1]
    assert table["f1"][0] < 0.4 and table["auroc"][0] == pytest.approx(0.5, abs=0.1)
    assert table["label"].tolist() == ["role", "role and mood", "word", "mood"]
    assert table["value"][1] == "verb and gloomy"


def test_f1_precision_and_recall_by_hand(story):
    _, ways, masks = story
    role = next(way for way in ways if way.labels == ("role",))
    match = ground_truth.Match(role, role.kinds.index(("verb",)), 0.9, 1.0)
    truth = masks["verb"][30:].flatten()
    x = torch.zeros(len(truth))
    positive, negative = torch.nonzero(truth).flatten(), torch.nonzero(~truth).flatten()
    x[positive[:6]] = 1.0
    x[negative[:2]] = 2.0
    row = ground_truth.judge(x.reshape(30, 64, 1), [match], 30).iloc[0]
    precision, recall = 6 / 8, 6 / len(positive)
    assert (row["precision"], row["recall"]) == pytest.approx((precision, recall))
    assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert row["f1_picked"] == 0.9


def test_rare_values_are_no_candidates():
    tokens = torch.zeros(2, 30, dtype=torch.long)
    roles = [["a"] * 19 + ["b"] * 11] * 2
    codes = torch.tensor([[1.0] * 19 + [0.0] * 11] * 2)[..., None]
    ways = ground_truth.labellings(tokens, made_up(roles), str)[2:3]
    assert ways[0].labels == ("role",)
    assert ground_truth.best_matches(codes, ways)[0].text == "role = a"  # 38 tokens
    assert ground_truth.best_matches(codes[:1], ways) == [None]  # 19 and 11


def test_two_labels_have_to_beat_one_clearly():
    def way(*names: str, codes: torch.Tensor) -> ground_truth.Labelling:
        return ground_truth.Labelling(names, [tuple(names)], codes)

    fires = torch.zeros(1, 1000, 1)
    fires[0, :100] = 1
    one, two, three = (torch.full((1, 1000), -1) for _ in range(3))
    one[0, :103], two[0, :101], three[0, :50] = 0, 0, 0
    single, pair = way("role", codes=one), way("role", "scene", codes=two)
    assert ground_truth.best_matches(fires, [single, pair])[0].text == "role = role"
    worse = way("role", codes=three)
    assert "and" in ground_truth.best_matches(fires, [worse, pair])[0].text


def test_the_explainer_simulates_the_indicator(story):
    rows, ways, masks = story
    codes = (masks["verb"] * 3.0)[..., None]
    sample = sampled(codes, rows)
    matches, judged = ground_truth.match_samples([sample], ways)
    assert judged["key"].tolist() == ["run/5"] and judged["f1"].tolist() == [1]
    explainer = ground_truth.TruthExplainer(matches)
    table = protocol.interpret([*sample.features, Feature("run/6", [], [])], explainer)
    assert table["explanation"][0] == "fires where role = verb"
    assert table["score"][0] == pytest.approx(1)
    assert "20 tokens" in table["error"][1]
    example = sample.features[0].scored[0]
    assert explainer.simulate(sample.features[0], "", example) == list(example.activations)
    with pytest.raises(AnswerError):
        explainer.explain(Feature("other", [], []))


def sampled(codes: torch.Tensor, rows: torch.Tensor) -> Sample:
    """A sample of one latent, with whole rows of the second half as examples."""
    scored = [
        Example(row, 0, 0, tuple(map(str, rows[row].tolist())), tuple(codes[row, :, 0].tolist()))
        for row in range(30, 50)
    ]
    return Sample([5], codes, [Feature("run/5", scored[:5], scored)])


def test_without_labels_there_are_no_matches(story):
    rows, _, masks = story
    matches, judged = ground_truth.match_samples(
        [sampled(masks["verb"].float()[..., None], rows)], []
    )
    assert matches == {} and not len(judged)
    assert list(judged.columns) == ["key", *ground_truth.JUDGED]


# -------------------------------------------------------------------------- kinds
@pytest.mark.parametrize(
    ("label", "value", "f1", "kind"),
    [("word", "fox", 0.9, "word"), ("word", "large", 0.9, "one synonym"),
     ("decoy", "big|large", 0.9, "decoy"), ("role and scene", "verb and coda", 0.5, "scene"),
     ("role", "verb", 0.49, "none"), ("role", "verb", float("nan"), "none")],
)  # fmt: skip
def test_kinds_of_latents(label, value, f1, kind):
    assert ground_truth.found_kind(label, value, f1) == kind
    assert kind in ground_truth.KINDS


def test_shares_of_kinds_are_means_over_seeds():
    rows = [("local", 0, "role", "verb", 0.9), ("local", 0, "role", "verb", 0.1),
            ("local", 1, "role", "verb", 0.9), ("e2e", 0, "word", "big", 0.9)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["objective", "seed", "label", "value", "f1"])
    shares = ground_truth.kind_shares(table).set_index(["objective", "kind"])["value"]
    assert shares["local", "role"] == pytest.approx(0.75)
    assert shares["local", "none"] == pytest.approx(0.25)
    assert shares["e2e", "one synonym"] == 1
    assert shares["e2e"].sum() == pytest.approx(1) and shares["local"].sum() == pytest.approx(1)


# ------------------------------------------------------------------------ figures
@pytest.mark.parametrize("layers", [(2,), (1, 2, 4)])
def test_figures_draw_every_mark(layers):
    rng = np.random.default_rng(0)
    rows = [
        (match, layer, objective, seed, "word", "fox", *rng.uniform(0, 1, 3))
        for match in ("ce_increase", "l0") for layer in layers
        for objective in ("local", "e2e", "e2e_ds") for seed in (0, 1) for _ in range(4)
    ]  # fmt: skip
    columns = ["match", "layer", "objective", "seed", "label", "value", "score", "f1", "auroc"]
    table = pd.DataFrame(rows, columns=columns)
    means = grouped_means(table, "score", ["match", "layer", "objective"])
    figure = plot_interpretability_scores(table, means)
    assert [axes.get_title() for axes in figure.axes] == [
        "SAEs of similar CE",
        "SAEs of similar L0",
    ]
    marks = [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata())]
    shown = sorted(y for line in marks if line.get_marker() in "^oX" for y in line.get_ydata())
    assert shown == pytest.approx(sorted(means["value"]))
    by = ["layer", "objective"]
    averages = {column: grouped_means(table, column, by) for column in ("f1", "auroc")}
    shares = ground_truth.kind_shares(table)
    figure = plot_true_latents(table, averages, shares)
    ticks = [tick.get_text() for tick in figure.axes[2].get_xticklabels()]
    assert ticks == ["word", "one\nsynonym", "either\nsynonym", "none"]
    plt.close("all")


def test_a_figure_of_single_scores_has_no_violins():
    table = pd.DataFrame(
        {
            "match": "l0",
            "layer": 2,
            "objective": ["local", "e2e", "e2e_ds"],
            "seed": 0,
            "score": 1.0,
        }
    )
    means = grouped_means(table, "score", ["match", "layer", "objective"])
    axes = plot_interpretability_scores(table, means).axes
    assert len(axes) == 1
    assert not [c for c in axes[0].collections if isinstance(c, PolyCollection)]
    plt.close("all")
