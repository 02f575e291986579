"""Notebook 12_finetune on tiny runs: what it trains, writes and measures."""

from pathlib import Path

import pandas as pd
import pytest

from e2e_lib.finetune import tune
from tests.helpers.notebook_cells import run_cells
from tests.helpers.tiny_models import copied_folder, random_tokens, write_jsonl

TRAINING = {
    "hook": "blocks.1.hook_resid_pre", "objectives": "local,e2e",
    "sparsity_coeffs": "local:0.2;e2e:0.001,1", "dict_ratio": 4.0, "train_tokens": 4000,
    "batch_size": 4, "micro_batch_size": 4, "context_size": 10, "eval_tokens": 800,
}  # fmt: skip


@pytest.mark.slow
def test_of_tiny_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copied_folder(tmp_path / "model")
    rows = [{"input_ids": row} for row in random_tokens(2000, positions=24, seed=5).tolist()]
    text = str(write_jsonl(tmp_path / "text.jsonl", rows))
    subject = {"results_folder": str(tmp_path / "r"), "model": str(model)}
    subject |= {"train_data": text, "validation_data": text}
    run_cells("10_train", subject | TRAINING)
    own = {"objectives": "finetune,finetune_ds", "share": 0.2}
    run_cells("12_finetune", subject | own)
    sides = pd.read_csv(tmp_path / "r" / "tables" / "12_before_after.csv")
    assert list(sides["objective"]) == ["finetune"] * 2 + ["finetune_ds"] * 2
    l0 = sides.pivot_table(index="objective", columns="side", values="l0")
    assert ((l0["after"] / l0["before"] - 1).abs() < 0.05).all()
    beside = pd.read_csv(tmp_path / "r" / "tables" / "12_beside_full.csv")
    assert beside["tokens_share"].tolist() == [0.2, 0.2]
    assert (beside["ratio"].notna() | beside["note"].notna()).all()
    assert (beside["seconds_ratio"] > 1).all()
    assert (tmp_path / "r" / "figures" / "12_fine_tuning.png").is_file()
    page = (tmp_path / "r" / "12_cards.html").read_text()
    assert page.count("<section>") == 2 and str(tmp_path) not in page
    assert page.count("<h1>") == 1 and page.count("<h2>") == 2 and 'href="index.html"' in page
    monkeypatch.setattr(tune, "train", None)  # it is not asked again
    run_cells("12_finetune", subject | own)
