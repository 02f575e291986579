"""The true L0 by the generator's decisions."""

import pytest

from e2e_lib.analysis.counterfactual.use import _changed, true_l0
from e2e_lib.errors import ConfigError
from e2e_lib.storyworld.pairs import KINDS


def test_lives_by_hand():
    assert _changed(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0  # shown, and never again
    assert _changed(["a", "b", "c", "b", "d"], ["a", "x", "c", "x", "d"]) == 2
    assert _changed(["a", "b", "c"], ["a", "b", "x", "y", "c"]) == 0  # one longer at its end
    assert _changed(["a", "b", "c"], ["a", "b", "c"]) == 0


def test_what_is_recalled_lives_and_a_coin_does_not():
    found = true_l0(["coin", "name", "object", "adverb"], 30).set_index("kind")
    assert found.loc["coin", "l0"] == found.loc["adverb", "l0"] == 0
    assert found.loc["name", "tokens"] > 20
    assert 0.1 < found.loc["object", "l0"] < 1.5
    assert found.loc["all", "l0"] == pytest.approx(found.loc[["name", "object"], "l0"].sum())
    assert true_l0(KINDS, 3).l0.notna().any()
    with pytest.raises(ConfigError, match="n_stories is 0"):
        true_l0(["coin"], 0)
