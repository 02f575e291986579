"""`make verify`: what counts as equal, what is named, and one real notebook through all of it."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from e2e_lib.errors import ResultsError
from pipeline import verify
from pipeline.compare.differences import FILES, Difference, Lacking, Outcome, compare_folders
from pipeline.compare.tolerances import PASSES, RECORDED, WEIGHTS, tolerance
from pipeline.plan.stages import ANALYSES, CHECKLIST, CLAIMS, FINETUNE, Stage
from pipeline.verify import LATER, carry_over, lacking_weights, main, prepare, summary

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
TABLE = pd.DataFrame({
    "run": ["a", "b", "c"], "seed": [0, 1, 2], "value": [1.0, 2.0, math.nan],
    "n": [10, 20, 30], "note": ["", "window 5 to 50", ""],
})  # fmt: skip
CLAIM = {"id": "C1", "value": 1.5, "low": None, "holds": True, "how": "30 SAEs, seeds 0, 1."}


def write(folder: Path, table: pd.DataFrame = TABLE, **changes: object) -> Path:
    """A results folder of one table, one claim and one picture, with a claim's values changed."""
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True)
    table.to_csv(folder / "tables" / "similar.csv", index=False)
    (folder / "figures" / "a.png").write_bytes(b"picture")
    claims = [{"id": "C0", "value": 0.1}, CLAIM | changes]
    (folder / "claims.json").write_text(json.dumps(claims))
    return folder


def compare(tmp_path: Path, table: pd.DataFrame = TABLE, **changes: object) -> Outcome:
    return compare_folders(write(tmp_path / "old"), write(tmp_path / "new", table, **changes))


def only(outcome: Outcome) -> Difference:
    assert len(outcome.differences) == 1, outcome.differences
    return outcome.differences[0]


def changed(column: str, row: int, value: object) -> pd.DataFrame:
    table = TABLE.astype({column: object}) if isinstance(value, str) else TABLE.copy()
    table.loc[row, column] = value
    return table


# ------------------------------------------------------------------ the comparer
def test_equal_folders_have_no_difference_and_their_numbers_are_counted(tmp_path: Path) -> None:
    outcome = compare(tmp_path)
    assert outcome.differences == [] and outcome.new == []
    # seed, value (NaN is one) and n of three rows, and the two numbers of a note
    assert outcome.compared["tables/similar.csv"] == 3 * 3 + 2
    # two values, and 30, 0 and 1 in `how`; both `id`s hold a digit that belongs to a word
    assert outcome.compared["claims.json"] == 2 + 3
    assert outcome.pictures == 1 and sum(outcome.carried.values()) == 0


def test_a_number_within_its_tolerance_is_equal(tmp_path: Path) -> None:
    assert compare(tmp_path, changed("value", 0, 1.000019)).differences == []


def test_a_number_outside_its_tolerance_is_named_with_all_that_is_known(tmp_path: Path) -> None:
    found = only(compare(tmp_path, changed("value", 1, 2.00005)))
    assert (found.file, found.row, found.column) == ("tables/similar.csv", "run b, seed 1", "value")
    assert (found.reference, found.found) == ("2.0", "2.00005")
    assert "1e-09 + 2e-05" in found.why
    for part in ("similar.csv", "run b", "value", "2.0 ", "2.00005", "allowed"):
        assert part in str(found)


@pytest.mark.parametrize(
    ("row", "value"), [(0, math.nan), (2, 3.0), (0, math.inf), (0, -1.0), (0, "one")]
)
def test_nan_infinity_sign_and_text_are_no_numbers_like_others(
    tmp_path: Path, row: int, value: object
) -> None:
    assert only(compare(tmp_path, changed("value", row, value))).column == "value"


def test_a_missing_file_column_and_row_and_new_ones(tmp_path: Path) -> None:
    old = write(tmp_path / "old")
    new = write(tmp_path / "new", TABLE.iloc[:2].drop(columns="n").assign(extra=1))
    new_row = pd.DataFrame({"run": ["z"], "seed": [9], "value": [1.0], "note": [""], "extra": [1]})
    table = pd.concat([pd.read_csv(new / "tables" / "similar.csv"), new_row])
    table.to_csv(new / "tables" / "similar.csv", index=False)
    (new / "figures" / "a.png").unlink()
    (new / "figures" / "b.png").write_bytes(b"another")
    outcome = compare_folders(old, new)
    said = [(d.file, d.row, d.column, d.found) for d in outcome.differences]
    assert said == [
        ("figures/a.png", "", "", "missing"),
        ("tables/similar.csv", "", "n", "missing"),
        ("tables/similar.csv", "", "extra", "there"),
        ("tables/similar.csv", "run c, seed 2", "", "missing"),
        ("tables/similar.csv", "run z, seed 9", "", "there"),
    ]
    assert outcome.new == ["figures/b.png"]


def test_rows_are_found_by_their_keys_not_by_their_place(tmp_path: Path) -> None:
    assert compare(tmp_path, TABLE.iloc[::-1]).differences == []


def test_rows_with_equal_keys_are_told_apart_by_their_order(tmp_path: Path) -> None:
    twins = pd.DataFrame({"seed": [0, 0, 0], "value": [1.0, 2.0, 3.0]})
    old, new = (
        write(tmp_path / "old", twins),
        write(tmp_path / "new", twins.assign(value=[1, 2, 4])),
    )
    assert only(compare_folders(old, new)).row == "seed 0, #2"


@pytest.mark.parametrize(
    ("how", "equal"),
    [
        ("30 SAEs, seeds 0, 1.", True),
        ("30.0002 SAEs, seeds 0, 1.", True),
        ("31 SAEs, seeds 0, 1.", False),
        ("30 runs, seeds 0, 1.", False),
        ("30 SAEs, seeds 0, 1, 2.", False),
        (None, False),
    ],
)
def test_a_text_is_compared_word_for_word_and_number_by_number(
    tmp_path: Path, how: str | None, equal: bool
) -> None:
    outcome = compare(tmp_path, how=how)
    assert [d.row for d in outcome.differences] == ([] if equal else ["[C1].how"])


@pytest.mark.parametrize(
    "change", [{"holds": False}, {"value": 1.51}, {"low": 0.0}, {"value": None}, {"more": 1}]
)
def test_a_claim_that_changed_is_named_by_its_id(tmp_path: Path, change: dict[str, object]) -> None:
    found = only(compare(tmp_path, **change))
    assert found.row == f"[C1].{next(iter(change))}" and found.file == "claims.json"


def test_claims_in_another_order_are_the_same(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old"), write(tmp_path / "new")
    claims = json.loads((new / "claims.json").read_text())
    (new / "claims.json").write_text(json.dumps(claims[::-1]))
    assert compare_folders(old, new).differences == []


def test_a_reference_older_than_the_order_of_figures_is_no_other(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old"), write(tmp_path / "new")
    for folder, facts in ((old, {"title": "t"}), (new, {"title": "t", "order": [20, 1]})):
        (folder / "figures" / "a.json").write_text(json.dumps(facts))
    assert compare_folders(old, new).differences == []
    found = only(compare_folders(new, write(tmp_path / "none")))  # the file is missing
    assert found.file == "figures/a.json"
    (old / "figures" / "a.json").write_text(json.dumps({"title": "t", "order": [20, 2]}))
    assert only(compare_folders(old, new)).row == "order[1]"


@pytest.mark.parametrize(("name", "text"), [("tables/similar.csv", ""), ("claims.json", "[{")])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, name: str, text: str) -> None:
    old, new = write(tmp_path / "old"), write(tmp_path / "new")
    (new / name).write_text(text)
    with pytest.raises(ResultsError, match=r"similar\.csv|claims\.json"):
        compare_folders(old, new)


def test_only_what_takes_lacking_weights_may_be_missing_or_other(tmp_path: Path) -> None:
    patterns = ("*/rows.csv",), ("*/means.csv",), ("*/dial.*",)
    lacking = Lacking(frozenset({("seed", "2")}), *patterns)
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, table in ((old, TABLE), (new, changed("value", 0, 7.0).iloc[:2])):
        (folder / "tables").mkdir(parents=True)
        for name in ("rows", "means", "other", "dial"):
            table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        (folder / "tables" / "dial.json").write_text(f'"{folder.name}"')
    (old / "tables" / "dial.png").write_bytes(b"")  # a picture holds no numbers
    outcome = compare_folders(old, new, lacking)
    said = {(d.file, d.row, d.column) for d in outcome.differences}
    assert said == {
        ("tables/rows.csv", "run a, seed 0", "value"),  # its weights are there
        ("tables/means.csv", "run c, seed 2", ""),
        ("tables/other.csv", "run a, seed 0", "value"),
        ("tables/other.csv", "run c, seed 2", ""),
    }
    # seed, value and n of the row of seed 2; the one mean that came out otherwise
    carried = {"tables/rows.csv": 3, "tables/means.csv": 1, "tables/other.csv": 0}
    assert outcome.carried == carried | {"tables/dial.csv": 3 * 3, "tables/dial.json": 1}
    assert outcome.compared["tables/means.csv"] == 2 * 3 + 2 - 1
    for path in (new / "tables").glob("dial.*"):
        path.unlink()
    missing = compare_folders(old, new, lacking)
    assert (missing.differences, missing.carried) == (outcome.differences, outcome.carried)


@pytest.mark.parametrize(
    ("file", "allowed"),
    [
        ("metrics.csv", RECORDED), ("figures/20_pareto.csv", RECORDED),
        ("tables/30_training_cost.csv", RECORDED), ("figures/23_within_similarity.csv", WEIGHTS),
        ("claims.json", WEIGHTS), ("figures/28_scores.csv", PASSES),
        ("tables/29_table7.csv", PASSES), ("tables/40_use.csv", PASSES),
    ],
)  # fmt: skip
def test_the_kind_of_file_decides_the_tolerance(file: str, allowed: object) -> None:
    assert tolerance(file) is allowed


# ------------------------------------------------------------------ the reference
def test_every_file_of_the_reference_that_holds_numbers_is_compared() -> None:
    """Both halves of a verification together look at all of it, and at nothing twice."""
    first = [pattern.replace("/", "/[!9]") for pattern in FILES if pattern not in LATER]
    seen = [path for pattern in (*first, *LATER) for path in REFERENCE.glob(pattern)]
    assert len(seen) == len(set(seen))
    left = {p for p in REFERENCE.rglob("*.*") if p.is_file()} - set(seen)
    # Run folders are what is read; the report and the executed pages are made of the rest.
    made = ("saes", "longer", "notebooks", "site")
    left = {p for p in left if p.relative_to(REFERENCE).parts[0] not in made}
    pages = {"index.html", "live.html", "features.html"}
    assert {p.name for p in left} == pages | {"profile.json", "longer.json"}


def test_what_the_reference_lacks_is_known() -> None:
    lacking = lacking_weights(REFERENCE)
    assert not {v for k, v in lacking.marks if k == "seed"}, "every matched run is shipped"
    assert len({v for k, v in lacking.marks if k == "train_tokens"}) == 2  # the shorter warm starts
    averages = {path.name for p in lacking.averages for path in REFERENCE.glob(p)}
    assert {name[:2] for name in averages} == {"23", "30"}
    assert {path.name[:2] for p in lacking.whole for path in REFERENCE.glob(p)} == {"42"}
    shipped = {p.parent.name for p in REFERENCE.glob("saes/*/sae_weights.safetensors")}
    assert not shipped & {v for k, v in lacking.marks if k == "run"}


def test_the_stages_are_the_pipelines_own() -> None:
    names = [stage.name for stage in verify.analyses(REFERENCE)]
    assert sorted([*names, FINETUNE]) == sorted([*ANALYSES, CLAIMS, CHECKLIST])
    assert not any("longer" in stage.parameters for stage in verify.analyses(REFERENCE))


def test_weights_that_are_not_shipped_can_be_brought(tmp_path: Path) -> None:
    for name, weights in (("reference", False), ("full", True)):
        run = tmp_path / name / "saes" / "a"
        run.mkdir(parents=True)
        (run / "run.json").write_text(name)
        if weights:
            (run / "sae_weights.safetensors").write_text("weights")
    (tmp_path / "reference" / "profile.json").write_text("{}")
    prepare(tmp_path / "reference", tmp_path / "scratch", tmp_path / "full")
    run = tmp_path / "scratch" / "saes" / "a"
    assert (run / "sae_weights.safetensors").read_text() == "weights"
    assert (run / "run.json").read_text() == "reference", "records are the reference's"
    assert not (tmp_path / "reference" / "saes" / "a" / "sae_weights.safetensors").exists()


def test_claims_get_the_references_tables_only_where_weights_lack(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        for name in ("figures/23_within_similarity.csv", "figures/27_gap_to_e2e.csv"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    carry_over(old, new, Lacking())
    assert (new / "figures" / "23_within_similarity.csv").read_text() == "new"
    carry_over(old, new, Lacking(frozenset({("seed", "2")}), *verify.SEEDS))
    assert (new / "figures" / "23_within_similarity.csv").read_text() == "old"
    assert (new / "figures" / "27_gap_to_e2e.csv").read_text() == "new"


def test_a_summary_says_what_differs_what_was_carried_and_how_much_was_compared() -> None:
    outcome = Outcome()
    outcome.compared["a.csv"], outcome.carried["b.csv"], outcome.new = 1234, 56, ["c.csv"]
    for i in range(verify.SHOWN + 5):
        outcome.add("a.csv", f"row {i}", "x", 1, 2, "why")
    text = summary(outcome, runs=10, shipped=3)
    for part in ("1,234 numbers", "56", "b.csv", "3 of 10", "c.csv", "and 5 more", "105 differ"):
        assert part in text
    assert summary(Outcome(), 1, 1).endswith("None differs.")


def test_what_a_longer_study_left_is_named_and_counted(tmp_path: Path) -> None:
    """By hand: two tokens and three values; a run's four numbers and a table's two times two."""
    assert verify.longer_numbers(tmp_path) == {}
    assert "longer" not in summary(Outcome(), 1, 1, {})
    values = {"own_tokens": 1.5, "tokens": 3, "own": {"C1": 0.1}, "found": {"C1": 0.2, "C2": 1}}
    (tmp_path / "longer.json").write_text(json.dumps(values))
    assert verify.longer_numbers(tmp_path) == {"longer.json": 5}
    run = tmp_path / "longer" / "saes" / "a"
    run.mkdir(parents=True)
    for name in ("metrics", "run"):
        (run / f"{name}.json").write_text(json.dumps({"saes": [{"n": 1}, 2], "ok": True, "x": "3"}))
    (run / "rows.csv").write_text("hook,row,kl\na,0,0.5\na,1,0.25\n")
    found = verify.longer_numbers(tmp_path)
    assert found == {"longer.json": 5, "longer/": 2 * 2 + 2 * 2}
    text = summary(Outcome(), 1, 1, found | {"longer/": 1234})
    assert "longer.json (5 numbers) and longer/ (1,234 numbers). It is read, not made" in text
    assert text.endswith("None differs.")


def test_a_folder_without_a_profile_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--reference", str(tmp_path), "--scratch", str(tmp_path / "scratch")]) == 2
    assert "profile.json" in capsys.readouterr().err
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_one_real_notebook_through_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """21_similar_ce on the reference's records: equal; a number of a table changed: named."""
    copy, scratch = tmp_path / "reference", tmp_path / "scratch"
    shutil.copytree(
        REFERENCE, copy,
        ignore=lambda _, names: [n for n in names if Path(n).suffix in (".html", ".safetensors")],
    )  # fmt: skip
    for folder in ("figures", "notebooks", "skipped"):
        shutil.rmtree(copy / folder, ignore_errors=True)  # a reference need not skip anything
    for path in copy.glob("tables/*"):
        if not path.name.startswith("similar_"):
            path.unlink()
    (copy / "claims.json").unlink()
    notebook = "21_similar_ce"
    stage = Stage(notebook, notebook, {"results_folder": str(scratch)}, (), 1.0, 0)
    monkeypatch.setattr(verify, "analyses", lambda results: [stage])
    monkeypatch.setattr(verify, "environment", dict)
    arguments = ["--reference", str(copy), "--scratch", str(scratch)]
    assert main(arguments) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith("None differs.\n")

    made = Path(shutil.copytree(scratch, tmp_path / "made"))  # what it would make once more

    def restore(todo: list[Stage], results: Path) -> list[str]:
        shutil.copytree(made, results, dirs_exist_ok=True)
        return []

    monkeypatch.setattr(verify, "run_stages", restore)
    table = pd.read_csv(copy / "tables" / "similar_ce.csv")
    table.loc[1, "l0"] *= 1.001
    table.to_csv(copy / "tables" / "similar_ce.csv", index=False)
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "tables/similar_ce.csv · match ce_increase, layer 1" in said and "1 differ." in said
