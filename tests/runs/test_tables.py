"""The tables made of all runs."""

import shutil

import pandas as pd
import pytest

from e2e_lib.core.sae import SAE
from e2e_lib.errors import ResultsError
from e2e_lib.runs import read, tables
from tests.helpers.run_folders import HOOK, make, save_all
from tests.helpers.tiny_models import assert_sentence

DESIGN_COLUMNS = {
    "run", "model", "objective", "layer", "hook", "sparsity_coeff", "kl_coeff", "downstream_coeff",
    "seed", "dict_ratio", "d_sae", "train_tokens", "lr", "l0", "alive", "ce_clean", "ce_increase",
    "kl", "mse", "explained_variance", "train_seconds", "device",
}  # fmt: skip


def test_metrics_table(tmp_path, made):
    _plan, configs, _trained, held_out = made
    save_all(tmp_path, made)
    table = tables.metrics_table(tmp_path)
    assert list(table.columns[: len(tables.METRICS_FIRST)]) == tables.METRICS_FIRST
    assert set(table.columns) >= DESIGN_COLUMNS
    assert {"alive_paper", "ce_increase_paper", "l0_paper", "explained_variance_paper"} <= set(
        table.columns
    )
    table = table.set_index("objective")
    assert set(table.index) == {"local", "e2e", "e2e_ds"}
    for config, found in zip(configs, held_out, strict=True):
        row = table.loc[config.objective.name]
        assert (row.hook, row.layer, row.model, row.d_sae) == (HOOK, 1, "tiny", 24)
        assert row.sparsity_coeff == config.objective.sparsity_coeff
        assert row.ce_increase == pytest.approx(found.model["ce_increase"])
        assert row.l0 == pytest.approx(found.saes[HOOK]["l0"])
    assert pd.isna(table.kl_coeff["local"])
    assert table.kl_coeff["e2e"] == 1
    assert table.downstream_coeff["e2e_ds"] == 2.5
    path = tables.write_metrics_table(tmp_path)
    columns = ["run", "model", "objective", *table.columns[2:], "flags"]
    assert list(pd.read_csv(path).columns) == columns


def test_other_tables(tmp_path, made):
    save_all(tmp_path, made)
    blocks, rows, curves = (
        t(tmp_path) for t in (tables.block_table, tables.row_table, tables.curve_table)
    )
    for table in (blocks, rows, curves):
        assert {"run", "objective", "layer", "seed", "sparsity_coeff"} <= set(table.columns)
        assert table.run.nunique() == 3
    assert sorted(blocks.block.unique()) == [1, 2, 3, 4]
    assert len(rows) == 3 * 4
    assert set(curves[curves.objective == "local"].step) == {0, 1}


@pytest.mark.parametrize("copy", ["again", "old.bak"])
def test_a_run_that_was_copied_does_not_count_twice(tmp_path, made, copy):
    folder = save_all(tmp_path, made)[0]
    shutil.copytree(folder, folder.with_name(copy))
    for table in (tables.metrics_table, tables.block_table):
        with pytest.raises(ResultsError) as caught:
            table(tmp_path)
        assert_sentence(caught, repr(folder.name), repr(copy), "twice")


@pytest.mark.parametrize(
    ("name", "table"), [("rows.csv", tables.row_table), ("curve.csv", tables.curve_table)]
)
def test_a_table_whose_last_line_is_cut(tmp_path, made, name, table):
    path = save_all(tmp_path, made)[0] / name
    path.write_text(path.read_text()[:-2])
    with pytest.raises(ResultsError) as caught:
        table(tmp_path)
    assert_sentence(caught, name, "last line is cut")


def test_several_hooks_give_a_row_and_a_folder_each(tmp_path):
    hooks = (HOOK, "blocks.2.hook_mlp_out")
    folder = save_all(tmp_path, make(hook="+".join(hooks)))[0]
    table = tables.metrics_table(tmp_path)
    assert len(table) == 6
    assert set(table.layer) == {1, 2}
    for hook in hooks:
        assert SAE.load(read.sae_folder(tmp_path, folder.name, hook)).d_in == 12
