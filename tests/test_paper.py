"""The paper's printed numbers, beside ours of the same depth."""

import pandas as pd
import pytest

from e2e_lib import paper


def test_scores_of_the_same_match_and_depth():
    ours = pd.DataFrame({"match": ["ce_increase", "l0", "l0"], "layer": [2, 2, 3], "value": 0.0})
    ours = pd.concat([ours.assign(difference=f"{name} - local") for name in ("e2e_ds", "e2e")])
    found = paper.beside(ours, {1: "early", 2: "middle", 3: "late"}, 4)
    assert found["paper_value"].iloc[3:].isna().all()  # the paper prints none of e2e
    found = found.iloc[:3]
    assert found["paper_value"].tolist() == [0.10, -0.01, 0.03]
    assert found["paper_p"].tolist() == [0.00044, 0.71, 0.33]


@pytest.mark.parametrize("number", sorted(paper.PRINTED["tables"]))
def test_every_row_of_a_table_stands_beside_itself(number: int):
    printed = paper.table(number)
    keys = [key for key in paper.KEYS if key in printed]
    ours = printed[[*keys, "layer"]].drop(columns="depth")
    found = paper.beside(ours, paper.DEPTH, number)
    values = [name for name in printed if name not in (*keys, "layer")]
    for name in values:
        beside = name if name == "paper" else f"paper_{name}"
        assert found[beside].tolist() == printed[name].tolist()
    apart = paper.beside(ours.assign(layer=3), {3: "nowhere"}, number)
    assert len(apart) == len(ours) and apart[beside].isna().all()


def test_regions_name_the_share_of_the_first_dictionary():
    region = paper.map_regions().set_index("region").loc["H"]
    assert region["share_first"] == 2 / 595
    assert region["overall_share"] == pytest.approx(25 / 58)
