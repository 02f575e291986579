"""The protocol: scores on answers known beforehand, and files that survive a crash."""

import json

import numpy as np
import pytest
import torch

from e2e_lib.analysis.interpret import protocol as interpret
from e2e_lib.analysis.interpret.features import Example
from e2e_lib.analysis.interpret.protocol import (
    AnswerError,
    ExplainerError,
    Feature,
    UnreachableError,
)
from tests.helpers.tiny_models import assert_sentence, small_sae


def example(*activations: float, row: int = 0) -> Example:
    peak = max(range(len(activations)), key=activations.__getitem__)
    tokens = tuple(f"w{i}" for i in range(len(activations)))
    return Example(row, 0, peak, tokens, tuple(map(float, activations)))


def feature(key: str = "run/1") -> Feature:
    return Feature(key, [example(0, 1)], [example(0, 1, 0), example(3, 0, 1)])


class Scripted:
    """Simulates twice the truth, but raises what it is told to for some features."""

    name = "scripted"

    def __init__(self, trouble: dict[str, Exception] | None = None) -> None:
        self.trouble, self.asked = trouble or {}, []

    def explain(self, feature: Feature) -> str:
        self.asked.append(feature.key)
        if feature.key in self.trouble:
            raise self.trouble[feature.key]
        return f"about {feature.key}"

    def simulate(self, feature: Feature, explanation: str, example: Example) -> list[float]:
        return [2 * value for value in example.activations]


# ------------------------------------------------------------------ the score
def test_correlation_is_over_all_tokens_of_all_examples():
    examples = [example(0, 1, 0), example(3, 0, 1)]
    simulated = [[0.0, 4.0, 1.0], [2.0, 0.0, 9.0]]
    expected = np.corrcoef([0, 1, 0, 3, 0, 1], [0, 4, 1, 2, 0, 9])[0, 1]
    assert interpret.correlation(simulated, examples) == pytest.approx(expected)
    assert interpret.correlation([[5.0, 7.0, 5.0], [11.0, 5.0, 7.0]], examples) == pytest.approx(1)
    opposite = [[0.0, -1.0, 0.0], [-3.0, 0.0, -1.0]]
    assert interpret.correlation(opposite, examples) == pytest.approx(-1)


def test_a_constant_simulation_scores_nothing():
    examples = [example(0, 1, 0), example(3, 0, 1)]
    assert interpret.correlation([[0.1] * 3, [0.1] * 3], examples) == 0
    assert interpret.correlation([[1.0, 2.0, 3.0]], [example(0.7, 0.7, 0.7)]) == 0


def test_table_has_a_row_a_feature_in_order():
    table = interpret.interpret([feature("b/2"), feature("a/1")], Scripted())
    assert table["key"].tolist() == ["b/2", "a/1"]
    assert table["score"].tolist() == pytest.approx([1, 1])
    assert table["explanation"].tolist() == ["about b/2", "about a/1"]
    assert set(table["error"]) == {""} and set(table["explainer"]) == {"scripted"}
    assert not len(interpret.interpret([], Scripted()))


# ----------------------------------------------------------- examples of latents
def test_explained_and_scored_examples_come_from_different_halves():
    sae, x = small_sae(), torch.randn(60, 6, 12)
    tokens = torch.arange(360).reshape(60, 6)
    sample = interpret.sample_features("run", sae, x, tokens, str, n=4, window=2)
    assert [f.key for f in sample.features] == [f"run/{latent}" for latent in sample.latents]
    for i, own in enumerate(sample.features):
        assert (len(own.shown), len(own.scored)) == (5, 20)
        assert all(e.row < 30 for e in own.shown) and all(e.row >= 30 for e in own.scored)
        for e in (*own.shown, *own.scored):
            position = e.start + e.peak
            assert e.tokens[e.peak] == str(e.row * 6 + position)
            assert e.activations[e.peak] == float(sample.codes[e.row, position, i])
    paper = interpret.sample_features("run", sae, x, tokens, str, n=4, shown_are_scored=True)
    assert all(own.shown == own.scored[:5] for own in paper.features)


def test_latents_with_too_few_examples_are_not_taken():
    sae, x = small_sae(), torch.randn(60, 6, 12)
    with torch.no_grad():
        sae.b_enc[:10] = -100.0
    x[49:, :, :] = 0  # 19 rows of the second half are left
    with torch.no_grad():
        sae.b_enc[10:] = 0.0
    sample = interpret.sample_features("run", sae, x, torch.zeros(60, 6).long(), str, n=20)
    assert sample.latents == [] and sample.features == []


# ------------------------------------------------------------- files and failure
def test_a_failed_feature_is_recorded_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "deep" / "f.jsonl"
    three = [feature("r/1"), feature("r/2"), feature("r/3")]
    table = interpret.interpret(three, Scripted({"r/2": AnswerError("It said no.")}), path)
    assert table["error"].tolist() == ["", "It said no.", ""]
    assert table["score"].isna().tolist() == [False, True, False]
    assert [line["key"] for line in interpret.read_lines(path)] == ["r/1", "r/2", "r/3"]
    again = Scripted()
    table = interpret.interpret(three, again, path)
    assert again.asked == ["r/2"]  # finished ones are not asked again, failed ones are
    assert table["score"].tolist() == pytest.approx([1, 1, 1])


def test_another_explainer_or_other_examples_are_not_finished(tmp_path):
    path = tmp_path / "f.jsonl"
    interpret.interpret([feature()], Scripted(), path)
    other = Scripted()
    other.name = "other"
    interpret.interpret([feature()], other, path)
    assert other.asked == ["run/1"]
    changed = Scripted()
    interpret.interpret([feature()._replace(scored=[example(0, 2, 0)])], changed, path)
    assert changed.asked == ["run/1"]


def test_a_line_cut_short_by_a_crash_costs_that_line_only(tmp_path):
    path = tmp_path / "f.jsonl"
    interpret.interpret([feature("r/1"), feature("r/2")], Scripted(), path)
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 5, len(whole), 37):
        path.write_bytes(whole[:cut])
        again = Scripted()
        interpret.interpret([feature("r/1"), feature("r/2"), feature("r/3")], again, path)
        assert again.asked == ["r/2", "r/3"]
        keys = [line["key"] for line in interpret.read_lines(path)]
        assert keys == ["r/1", "r/2", "r/3"]


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes(b'17\n"text"\n\xff\xfe\n{"id": 1}\n{"id": "x", "error": ""}\n')
    assert interpret.read_lines(path) == [{"id": "x", "error": ""}]
    assert interpret.read_lines(tmp_path / "none") == []


def test_tokens_with_line_separators_stay_on_one_line(tmp_path):
    path = tmp_path / "f.jsonl"
    interpret.append_line(path, {"id": "a\u2028b\nc\x85", "error": ""})
    assert path.read_bytes().count(b"\n") == 1
    assert interpret.read_lines(path)[0]["id"] == "a\u2028b\nc\x85"


def test_an_explainer_out_of_reach_stops_the_run_with_all_saved(tmp_path):
    path = tmp_path / "f.jsonl"
    away = UnreachableError("The endpoint at host gave no answer.")
    many = [feature(f"r/{i}") for i in range(9)]
    scripted = Scripted({f"r/{i}": away for i in (1, 2, 4, 5, 6)})
    with pytest.raises(ExplainerError) as caught:
        interpret.interpret(many, scripted, path)
    assert_sentence(caught, "scripted", "3 features in a row", "no answer", "run again")
    assert scripted.asked == [f"r/{i}" for i in range(7)]  # 3 breaks the first series
    again = Scripted()
    interpret.interpret(many, again, path)
    assert again.asked == [f"r/{i}" for i in (1, 2, 4, 5, 6, 7, 8)]


def test_a_refusal_stops_the_run_at_once(tmp_path):
    path = tmp_path / "f.jsonl"
    refusal = Scripted({"r/1": ExplainerError("Refused.")})
    with pytest.raises(ExplainerError, match="Refused"):
        interpret.interpret([feature("r/0"), feature("r/1"), feature("r/2")], refusal, path)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["r/0"]
