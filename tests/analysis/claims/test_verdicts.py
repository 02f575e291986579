"""The claims ledger on made-up results: claims that hold, that fail, that cannot be tested."""

import json
from dataclasses import replace
from itertools import combinations, product

import pandas as pd
import pytest

from e2e_lib.analysis import matched
from e2e_lib.analysis.claims import ledger, measures
from e2e_lib.analysis.claims import verdicts as claims
from e2e_lib.errors import ResultsError
from e2e_lib.runs import tables as runs
from tests.helpers.synthetic_results import write_results

KEYS = ["id", "claim", "paper_value", "value", "low", "high", "n", "holds", "how"]


def cosines(**means: float) -> pd.DataFrame:
    """Similarity table at layer 2, two seeds, six elements round each mean."""
    rows = [
        (2, objective, seed, mean + d)
        for objective, mean in means.items() for seed in (0, 1)
        for d in (-0.03, -0.02, -0.01, 0.01, 0.02, 0.03)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["layer", "objective", "seed", "max_cosine"])


def differences(value: float, low: float, high: float) -> pd.DataFrame:
    """Table 28_differences at layers 2 and 4, the same for both matches."""
    rows = [
        {"match": match, "layer": layer, "value": value, "low": low, "high": high,
         "n_first": 40, "n_second": 38, "n_seeds": 2, "explainer": "storyworld"}
        for match in ("ce_increase", "l0") for layer in (2, 4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def faithfulness(first: str = "", by: float = 0.1) -> pd.DataFrame:
    """Table 29_differences at layer 2: `first` beats local on every task by `by`, all else ties."""
    rows = []
    for match, task in product(("ce_increase", "l0"), ("simple", "nounpp", "rc", "within_rc")):
        for pair in combinations(matched.OBJECTIVES, 2):
            value = -by if pair == ("local", first) else 0.0
            rows.append((match, 2, task, *pair, value, value - 0.05, value + 0.05, 2))
    columns = ["match", "layer", "task", "first", "second", "value", "low", "high", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def first_direction(correlation: float, ablation: float, cosine: float = 0.99) -> pd.DataFrame:
    """Table 26_first_direction at layer 4."""
    columns = ["quantity", "value", "low", "high", "layer", "n", "first_cosine"]
    rows = [
        (name, value, value - 0.05, value + 0.05, 4, 6, cosine)
        for name, value in (("correlation", correlation), ("ablation", ablation))
    ]
    return pd.DataFrame(rows, columns=columns)


def gaps(*values: float) -> pd.DataFrame:
    """Table 27_gap_to_e2e at layer 2: the main setting, then larger ones, of both sweeps."""
    rows = [
        {"layer": 2, "column": column, "setting": 10.0 * 2**k, "main": k == 0, "value": value,
         "low": value - 0.5, "high": value + 0.5, "n_seeds": 1, "n_rows": 40, "n_runs": 6,
         "note": ""}
        for column in ("train_tokens", "dict_ratio") for k, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("claims"), weights=False)


@pytest.fixture(scope="module")
def tables(results):
    similarity = cosines(local=0.8, e2e_ds=0.6, e2e=0.3)
    return measures.Tables(
        runs=matched.main_runs(runs.metrics_table(results)),
        blocks=runs.block_table(results),
        rows=runs.row_table(results),
        written={
            "23_within_similarity": similarity,
            "23_cross_seed_similarity": similarity,
            "26_first_direction": first_direction(-0.39, 0.1),
            "27_gap_to_e2e": gaps(4.0, 3.5, 3.0),
            "28_differences": differences(0.08, 0.02, 0.13),
            "29_differences": faithfulness(),
        },
    )


@pytest.fixture(scope="module")
def found(tables):
    return {entry["id"]: entry for entry in claims.ledger(tables)}


def entry_of(tables: measures.Tables, name: str) -> dict:
    return claims.ledger(tables, [c for c in claims.CLAIMS if c.id == name])[0]


def test_every_claim_has_the_fixed_keys_and_its_own_id(found):
    assert len(found) == len(claims.CLAIMS)
    for entry in found.values():
        assert list(entry) == KEYS
        assert entry["how"].endswith(".")
        assert entry["holds"] is None or entry["value"] is not None
    covered = {name.rstrip("abc") for name in found}
    assert covered == {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12"}


def test_made_up_results_bear_the_claims_out(found):
    assert [e["id"] for e in found.values() if e["holds"] is not True] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("C1a", 5 / 1.5), ("C1b", 5 / 1.8), ("C2a", 0.3), ("C2b", 0.36), ("C3a", 1.2),
     ("C5a", 0.2), ("C5b", 0.3), ("C6a", 0.5), ("C6b", 0.3), ("C10", 0.25)],
)  # fmt: skip
def test_values_are_the_formulas(found, name, value):
    # The curves are hyperbolas; straight lines between their points are a little off.
    assert found[name]["value"] == pytest.approx(value, rel=0.02)
    assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]


def test_pathway_and_cost(found):
    assert found["C3b"]["value"] == pytest.approx(0.135, abs=0.001)  # log(1.5) / log(20)
    assert 2 < found["C8a"]["value"] < 3.5
    assert found["C8a"]["n"] == 48  # 3 layers, 4 λ, 2 seeds, 2 objectives


def test_untestable_says_why(tables):
    without = replace(tables, written={})
    assert entry_of(without, "C7a")["holds"] is None
    assert "notebook 28" in entry_of(without, "C7a")["how"]
    assert entry_of(without, "C5a")["holds"] is None
    assert "notebook 23" in entry_of(without, "C6a")["how"]
    bare = replace(tables, runs=tables.runs.drop(columns="l2_ratio_after_first"))
    assert "l2_ratio_after_first" in entry_of(bare, "C10")["how"]


def test_failing_claims_are_reported_as_failing(tables):
    runs_ = tables.runs
    swapped = runs_["objective"].map({"local": "e2e", "e2e": "local", "e2e_ds": "e2e_ds"})
    turned = replace(
        tables,
        runs=runs_.assign(objective=swapped),
        written={"23_within_similarity": cosines(local=0.3, e2e_ds=0.6, e2e=0.8)},
    )
    entries = {e["id"]: e for e in claims.ledger(turned)}
    for name in ("C1a", "C2a", "C4a", "C5a", "C5b", "C8a", "C10"):
        assert entries[name]["holds"] is False, name
        assert entries[name]["value"] is not None


def test_an_interval_across_the_bound_does_not_hold():
    claim = ledger.CLAIMS[0]
    assert (claim.above, claim.below) == (2.0, None)

    def judge(value, low, high):
        return claims.verdict(claim, measures.Measurement(value, low, high, 1, ""))

    assert judge(2.5, 2.1, 2.9) == (True, "")
    assert judge(1.5, 1.1, 1.9) == (False, "")
    holds, because = judge(2.5, 1.9, 2.9)
    assert not holds
    assert "includes 2" in because
    assert judge(2.5, None, None) == (True, "")  # no interval: the value alone decides


def test_two_sided_bounds():
    cost = next(c for c in ledger.CLAIMS if c.id == "C8a")
    verdicts = [
        claims.verdict(cost, measures.Measurement(v, v - 0.1, v + 0.1, 1, ""))[0]
        for v in (1.5, 2.05, 2.5, 3.45, 4.0)
    ]
    assert verdicts == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("value", "low", "holds"),
    [(0.08, 0.02, True), (-0.01, -0.04, True), (0.02, -0.08, False), (-0.07, -0.09, False)],
)
def test_no_less_interpretable_has_a_margin(tables, value, low, holds):
    written = {"28_differences": differences(value, low, value + 0.05)}
    for name in ("C7a", "C7b"):
        entry = entry_of(replace(tables, written=written), name)
        assert entry["holds"] is holds
        assert (entry["value"], entry["n"]) == (value, 4)
        assert "margin of ours" in entry["how"] and "storyworld, 40 and 38" in entry["how"]
    other_layers = {"28_differences": differences(value, low, 1.0).query("layer == 4")}
    assert entry_of(replace(tables, written=other_layers), "C7a")["holds"] is None


def test_local_is_behind_at_its_largest_setting(tables):
    def judge(name, table):
        return entry_of(replace(tables, written={"27_gap_to_e2e": table}), name)

    for name in ("C9a", "C9b"):
        behind = judge(name, gaps(4.0, 3.5, 3.0))
        assert [behind[k] for k in ("value", "low", "n", "holds")] == [3.0, 2.5, 6, True]
        assert "40; with the main runs' it is 4." in behind["how"]
        assert judge(name, gaps(4.0, 3.5, 1.3))["holds"] is False  # its interval includes 1
        assert judge(name, gaps(4.0, 0.8))["holds"] is False
        alone = judge(name, gaps(4.0))
        assert alone["holds"] is None
        assert "no sweep trained local with a larger" in alone["how"]


def test_a_clear_winner_needs_every_task(tables):
    def judge(table):
        return entry_of(replace(tables, written={"29_differences": table}), "C12a")

    assert [judge(faithfulness())[k] for k in ("value", "holds", "n")] == [0.0, True, 6]
    won = judge(faithfulness("e2e_ds"))
    assert (won["value"], won["low"], won["holds"]) == (1.0, None, False)
    assert "e2e_ds over local" in won["how"]
    assert judge(faithfulness("e2e_ds", by=0.04))["holds"] is True  # intervals include 0
    but_one = faithfulness("e2e_ds")
    but_one.loc[(but_one["task"] == "rc") & (but_one["second"] == "e2e_ds"), "high"] = 0.01
    assert judge(but_one)["holds"] is True
    assert judge(faithfulness().query("task != 'rc'"))["holds"] is None


def test_one_seed_is_said(tables):
    single = replace(tables, runs=tables.runs[tables.runs["seed"] == 0])
    entry = entry_of(single, "C3b")
    assert entry["low"] is None
    assert "One seed" in entry["how"]
    assert "with one seed" in entry_of(single, "C2a")["how"]


def test_too_few_lambdas_are_not_testable(tables):
    few = replace(tables, runs=tables.runs[tables.runs["sparsity_coeff"] < 1])
    entry = entry_of(few, "C2a")
    assert entry["holds"] is None
    assert "3 runs" in entry["how"]


def test_no_runs_at_all(tables):
    nothing = replace(tables, runs=tables.runs.iloc[:0])
    assert {e["holds"] for e in claims.ledger(nothing)} == {None}


def test_folder_to_json_to_readme(results, tmp_path, found):
    entries = claims.evaluate_claims(results)
    assert entries[0] == found["C1a"]
    claims.write_claims(entries, tmp_path)
    assert json.loads((tmp_path / "claims.json").read_text()) == entries
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- claims:begin -->\nOUTDATED\n<!-- claims:end -->\nafter\n")
    claims.readme_block(tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "OUTDATED" not in text
    assert text.count("| C2a |") == 1
    claims.readme_block(tmp_path, readme)
    assert readme.read_text() == text  # a second time changes nothing


def test_readme_without_the_comments_is_an_error(tmp_path):
    (tmp_path / "claims.json").write_text("[]")
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(ResultsError, match="claims:begin"):
        claims.readme_block(tmp_path, readme)
    assert readme.read_text() == "nothing here\n"


def test_markdown_and_frame(tables):
    entries = claims.ledger(replace(tables, written={}))
    lines = claims.claims_markdown(entries).splitlines()
    assert len(lines) == 2 + len(entries)
    assert {line.count("|") for line in lines} == {8}
    assert "not testable here" in next(line for line in lines if line.startswith("| C7a |"))
    frame = claims.claims_frame(entries).set_index("id")
    assert frame.loc["C2a", "below"] == 0.45
    assert pd.isna(frame.loc["C2a", "above"])


def test_direction_0_where_it_is_the_papers_and_where_it_is_not(tables, found):
    assert found["C11a"]["value"] == -0.39
    assert "Layer 4; direction 0 has cosine 0.99" in found["C11b"]["how"]
    other = replace(tables, written={"26_first_direction": first_direction(0.2, 30.0, 0.1)})
    for name in ("C11a", "C11b"):
        entry = entry_of(other, name)
        assert entry["holds"] is False
        assert "not the direction of the paper's" in entry["how"]
    alone = replace(tables, written={"26_first_direction": first_direction(0.2, 0.1).iloc[1:]})
    assert entry_of(alone, "C11a")["holds"] is None
    assert entry_of(alone, "C11b")["holds"] is True
