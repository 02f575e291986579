"""The data of the page of features: the numbers are the library's, texts survive as they are."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from e2e_lib.analysis.interpret.browser import Dictionary, described, neighbours, write_browser
from e2e_lib.analysis.interpret.protocol import Sample, sample_features
from tests.helpers.tiny_models import small_sae

WORDS = ["</script>", "a\u2028b", "\n", '"', "é", "plain"]
EFFECTS = ["latent", "effect", "rank", "token", "logit"]


def spell(token: int) -> str:
    return WORDS[token % len(WORDS)]


@pytest.fixture
def sample() -> Sample:
    """Latents that fire anywhere in the second half, however rarely."""
    sae, x = small_sae(), torch.randn(12, 6, 12)
    tokens = torch.randint(len(WORDS), (12, 6))
    return sample_features("run", sae, x, tokens, spell, n=99, window=2, least=(0, 1))


def test_a_feature_is_described_by_what_it_does(sample: Sample) -> None:
    assert len(sample.latents) > 3
    first, second = sample.latents[:2]
    table = pd.DataFrame({"key": [f"run/{first}"], "explanation": ["fires"], "score": [0.12345]})
    rows = [(first, side, 1 - rank, f"{side}{rank}", 0.5) for side in ("raised", "lowered")
            for rank in range(2)]  # fmt: skip
    one, two, *_ = described(sample, table, pd.DataFrame(rows, columns=EFFECTS))
    assert (one["id"], one["label"], one["score"], one["f1"]) == (first, "fires", 0.123, None)
    assert (two["id"], two["label"], two["score"], two["raised"]) == (second, "", None, [])
    assert one["raised"] == [["raised1", 0.5], ["raised0", 0.5]], "in the order of their ranks"
    codes = sample.codes[..., 0]
    assert one["share"] == pytest.approx(float((codes > 0).float().mean()), rel=0.01)
    assert sum(one["bars"]) == int((codes > 0).sum())
    strongest = [codes[row, peak].item() for row, peak, _ in one["contexts"]]
    assert strongest == sorted(strongest, reverse=True) and min(strongest) > 0
    for row, peak, fired in one["contexts"]:
        assert row >= 6, "contexts come from the half that had no part in explaining"
        assert dict(fired)[peak] == max(dict(fired).values())
        for position, value in fired:
            assert abs(position - peak) <= 2
            assert value == pytest.approx(float(codes[row, position]), rel=0.05)


def dictionary(key: str, ids: list[int], layer: int = 1) -> Dictionary:
    features = [{"id": i, "contexts": [[0, 1, [[1, 2.0]]]]} for i in ids]
    elements = F.normalize(torch.randn(len(ids), 4), dim=-1)
    return Dictionary(key, {"layer": layer, "run": key}, features, elements)


def test_neighbours_are_the_nearest_directions() -> None:
    own, other = dictionary("a-1", [5, 9]), dictionary("b-1", [1, 2, 7])
    for feature, [near] in zip(own.elements, neighbours(own, [other]), strict=True):
        cosines = F.cosine_similarity(feature[None], other.elements)
        order = cosines.argsort(descending=True).tolist()[:2]
        assert [i for i, _ in near] == [other.features[j]["id"] for j in order]
        assert near[0][1] == pytest.approx(float(cosines.max()), abs=0.01)


def test_what_is_written_is_a_script_of_plain_letters(tmp_path: Path) -> None:
    some = [dictionary("a-1", [5, 9]), dictionary("b-1", [1]), dictionary("c-1", [])]
    some.append(dictionary("a-2", [3], layer=2))
    rows = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0]])
    write_browser(tmp_path, some, rows, spell, "about </script>")
    text = (tmp_path / "site" / "features_text.js").read_text(encoding="ascii")
    found = json.loads(text.removeprefix("globalThis.TEXT = ").rstrip(";\n"))
    assert found["words"] == WORDS and found["rows"] == {"0": [0, 1, 2, 3, 4, 5]}
    own = (tmp_path / "site" / "features_a-1.js").read_text(encoding="ascii")
    data = json.loads(own.split(" = ", 1)[1].rstrip(";\n"))
    assert data["others"] == ["b-1"], "of the same layer, not empty"
    assert data["columns"]["id"] == [5, 9]
    assert [[pairs[::2] for pairs in near] for near in data["columns"]["near"]] == [[[1]]] * 2
    index = json.loads((tmp_path / "site" / "features.json").read_text())
    assert [one["key"] for one in index["dictionaries"]] == ["a-1", "b-1", "c-1", "a-2"]
    assert [one["shown"] for one in index["dictionaries"]] == [2, 1, 0, 1]
