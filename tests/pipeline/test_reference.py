"""The committed reference: what is copied to it, and that the README says what it says."""

import json
import re
from pathlib import Path

import pytest
import torch

from e2e_lib import SAE
from e2e_lib.analysis.claims.studies import claims_markdown, other_studies
from e2e_lib.errors import ResultsError
from e2e_lib.runs.read import finished_runs
from e2e_lib.runs.tables import metrics_table, write_metrics_table
from pipeline import reference, verify
from pipeline.compare.differences import Lacking
from pipeline.plan.stages import Stage
from pipeline.reference import (
    FILES,
    again,
    copy_reference,
    main,
    runs_with_weights,
    write_pages,
)
from tests.helpers.synthetic_results import write_results

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"


def test_reference_keeps_every_record_and_the_matched_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_results(tmp_path / "source")
    shown: list[Path] = []  # written anew, for a study that stands beside the reference is shown
    monkeypatch.setattr(reference, "write_pages", shown.append)
    monkeypatch.setattr(reference, "readme_block", lambda *paths: shown.extend(paths))
    with pytest.raises(ResultsError, match="it must be finished"):
        copy_reference(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    for name in FILES:
        (source / name).write_text(name)
    (source / "profile.json").write_text('{"validation_data": "storyworld"}')
    (source / "notebooks").mkdir()
    (source / "notebooks" / "a.html").write_text("page")
    (source / "notebooks" / "a.ipynb").write_text("{}")
    copy_reference(source, tmp_path / "target")
    copied = tmp_path / "target"
    assert metrics_table(copied).equals(metrics_table(source))
    kept = {f.parent.name for f in copied.glob("saes/*/sae_weights.safetensors")}
    assert kept == runs_with_weights(metrics_table(source))
    # Three objectives at three layers, similar CE and similar L0, in both seeds.
    assert 18 <= len(kept) <= 36
    assert [p.name for p in (copied / "notebooks").iterdir()] == ["a.html"]
    beside = str(tmp_path / "reference_x")
    assert main([str(source), beside]) == 0  # pages and tables, no run
    assert set(shown[:2]) == {tmp_path / "reference_x", REFERENCE}
    assert shown[2:] == [REFERENCE, ROOT / "README.md"]
    assert not (tmp_path / "reference_x" / "saes").exists()
    assert (tmp_path / "reference_x" / "metrics.csv").read_text() == "metrics.csv"
    assert main([str(source), str(tmp_path / "elsewhere")]) == 2
    assert "the copy is 'elsewhere'" in capsys.readouterr().err


def test_a_study_on_others_text_is_copied_without_what_shows_it_and_with_a_small_pair(
    tmp_path: Path,
) -> None:
    source, copied = write_results(tmp_path / "source"), tmp_path / "reference_x"
    shown = ("site/features_local-1.js", "features.html", "notebooks/28_interpretability.html")
    for name in (*FILES, *shown, "notebooks/20_pareto.html", "tables/t.csv", "site/features.json"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    (source / "profile.json").write_text('{"validation_data": "web.jsonl"}')
    write_metrics_table(source)
    (source / "claims.json").write_text("[]")
    copy_reference(source, copied, runs=False)
    assert (copied / "notebooks/20_pareto.html").is_file() and (copied / "tables/t.csv").is_file()
    assert not any((copied / name).exists() for name in shown)
    write_pages(copied)
    assert not any((copied / name).exists() for name in shown)
    assert "others&#39; text, which is not copied" in (copied / "index.html").read_text()
    small = sorted((copied / "weights").iterdir())
    names = [f"{o}-blocks.{k}.hook_resid_pre-l3.0-s0" for o in ("e2e", "local") for k in (1, 2, 4)]
    assert [folder.name for folder in small] == names, "the sparsest"
    for folder in small:
        whole, sae = SAE.load(source / "saes" / folder.name), SAE.load(folder)
        fired = int(metrics_table(source).set_index("run").loc[folder.name, "alive"])
        assert sae.d_sae == fired < whole.d_sae, "those that fired come first in these"
        x = torch.randn(64, whole.d_in, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            whole.b_enc[fired:] = -1e6
            expected, found = whole(x)[0], sae(x)[0]
        size = (folder / "sae_weights.safetensors").stat().st_size
        assert (
            size < 0.6 * (source / "saes" / folder.name / "sae_weights.safetensors").stat().st_size
        )
        assert float((found - expected).norm() / expected.norm()) < 0.02


def folder(path: Path, **texts: str) -> Path:
    """A results folder with these texts, by kind and name: figures_20_x_csv."""
    for name, text in texts.items():
        kind, stem, end = name.split("__")
        (path / kind).mkdir(parents=True, exist_ok=True)
        (path / kind / f"{stem}.{end}").write_text(text)
    return path


def test_its_analyses_again_replace_what_they_can_make_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder(
        tmp_path / "old",
        figures__20_gone__csv="old", figures__20_pareto__png="old", figures__42_loudness__png="old",
        tables__42_dial__csv="old", tables__12_beside_full__csv="old",
        skipped__43_matrix__json="old", tables__42_runs__csv="run,l0\na,1\nb,2\n",
        notebooks__20_pareto__html="old", notebooks__42_loudness__html="old",
    )  # fmt: skip
    made = folder(
        tmp_path / "made",
        figures__20_pareto__png="new", figures__42_loudness__png="partial", tables__43_x__csv="new",
        tables__42_dial__csv="partial", tables__42_decoys__csv="new",
        tables__12_beside_full__csv="old",
        skipped__43_y__json="new", notebooks__20_pareto__ipynb="new",
        tables__42_runs__csv="run,waste,l0\nb,0.5,9\n",
        notebooks__42_loudness__ipynb="new",
    )  # fmt: skip
    for name in ("metrics.csv", "claims.json"):
        (made / name).write_text("new")
    ran: list[str] = []

    def run(todo: list[Stage], results: Path) -> list[str]:
        ran.extend(stage.name for stage in todo)
        return ["20_pareto"] if fails else []

    def report(results: Path) -> None:
        assert sorted(p.name for p in results.glob("notebooks/*.ipynb")) == ["20_pareto.ipynb"]
        (results / "notebooks" / "20_pareto.html").write_text("new")
        (results / "index.html").write_text("x (<a href='notebooks/a.ipynb'>.ipynb</a>)")

    dial = ("figures/42_loudness.[cj]s*", "tables/42_dial.*", "tables/42_runs.csv")
    stages = [Stage(n, n, {}, (), 0.0) for n in ("20_pareto", verify.CLAIMS)]
    for name, value in {
        "prepare": lambda *_: None, "lacking_weights": lambda _: Lacking(whole=dial),
        "analyses": lambda _: stages, "run_stages": run, "write_metrics_table": lambda _: None,
        "carry_over": lambda *_: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(verify, name, value)
    monkeypatch.setattr(reference, "write_report", report)
    before = {p: p.read_text() for p in old.rglob("*.*")}
    fails = True
    with pytest.raises(ResultsError, match="20_pareto failed: 'old' stays as it is"):
        again(old, made)
    assert {p: p.read_text() for p in old.rglob("*.*")} == before
    fails = False
    again(old, made)
    assert ran[-2:] == ["20_pareto", verify.CLAIMS], "claims last"
    assert {p.relative_to(old).as_posix(): p.read_text() for p in old.rglob("*.*")} == {
        "figures/20_pareto.png": "new", "figures/42_loudness.png": "old",
        "tables/42_dial.csv": "old", "tables/42_decoys.csv": "new",
        "tables/42_runs.csv": "run,waste,l0\na,,1\nb,0.5,2\n",
        "tables/43_x.csv": "new", "tables/12_beside_full.csv": "old",
        "skipped/43_y.json": "new", "notebooks/20_pareto.html": "new",
        "notebooks/42_loudness.html": "old", "metrics.csv": "new", "claims.json": "new",
        "index.html": "x",
    }  # fmt: skip


def test_reference_is_complete_and_small() -> None:
    table = metrics_table(REFERENCE)
    assert len(table) == len(list(finished_runs(REFERENCE)))
    assert set(table["objective"]) == {"local", "e2e", "e2e_ds"}
    assert sorted(set(table["layer"])) == [1, 2, 3]
    for run in runs_with_weights(table):
        assert (REFERENCE / "saes" / run / "sae_weights.safetensors").is_file()
    size = sum(f.stat().st_size for f in REFERENCE.rglob("*") if f.is_file())
    assert size < 45e6


def test_every_link_of_the_reference_leads_somewhere() -> None:
    for page in (REFERENCE / "index.html", *(REFERENCE / "notebooks").glob("*.html")):
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"<(?:a|link|img)[^>]* (?:href|src)=['\"]([^'\"]+)['\"]", text)
        assert links, page.name
        for link in links:
            if not link.startswith(("http", "#", "data:")):
                assert (page.parent / link.split("#")[0]).exists(), (page.name, link)


def test_reference_metrics_csv_is_the_runs_table() -> None:
    import pandas as pd

    table, written = metrics_table(REFERENCE), pd.read_csv(REFERENCE / "metrics.csv")
    assert list(table["run"]) == list(written["run"])
    for column in ("l0", "ce_increase", "alive", "kl"):
        assert written[column].to_numpy() == pytest.approx(table[column].to_numpy(), rel=1e-6)


def test_readme_table_is_the_reference_ledger() -> None:
    readme = (ROOT / "README.md").read_text()
    claims = json.loads((REFERENCE / "claims.json").read_text())
    block = readme.split("<!-- claims:begin -->")[1].split("<!-- claims:end -->")[0].strip()
    assert block == claims_markdown(claims, other_studies(claims)).strip()
