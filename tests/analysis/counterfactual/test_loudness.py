"""What objectives do beside a null channel: shares by hand, curves by hand, a real model."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib import SAE, load_model
from e2e_lib.analysis.counterfactual.dictionaries import Linear
from e2e_lib.analysis.counterfactual.examine import open_exam
from e2e_lib.analysis.counterfactual.loudness import (
    at_equal,
    channel_share,
    decoy_waste,
    dial,
    dial_runs,
    shared,
    unused_share,
    wasted,
)
from e2e_lib.engine.model.null_channel import NULL_WIDTH, unrotated
from e2e_lib.plots.sweeps import plot_loudness
from e2e_lib.runs.load import SavedSAE, Subject
from e2e_lib.storyworld.corpus import encode
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.pairs import pair_rows, pairs

BASE = "blocks.2.hook_resid_pre"
HOOK = f"{BASE}.null_8"
WIDE = 64 + NULL_WIDTH


def rotated(parts: torch.Tensor) -> torch.Tensor:
    """The wide vectors of which these are the two parts."""
    return parts @ torch.linalg.inv(unrotated(torch.eye(WIDE)))


def saved(parts: torch.Tensor, frequency: list[float], hook: str = HOOK) -> SavedSAE:
    """An SAE with these directions, by their parts in x and in the channel."""
    sae = SAE(WIDE, len(parts)).requires_grad_(False)
    sae.W_dec.copy_(rotated(parts))
    return SavedSAE(sae, hook, torch.tensor(frequency))


def test_the_channels_share_of_a_direction() -> None:
    parts = torch.zeros(4, WIDE)
    parts[0, 3], parts[1, 70], parts[2, [0, 79]] = 2.0, 5.0, 1.0
    found = channel_share(rotated(parts))
    torch.testing.assert_close(found[:3], torch.tensor([0.0, 1.0, 0.5]), atol=1e-5, rtol=0)
    assert found[3].isnan()


def test_waste_by_hand() -> None:
    parts = torch.zeros(4, WIDE)
    parts[0, 3], parts[1, 70], parts[2, [1, 78]], parts[3, 75] = 1.0, 1.0, torch.tensor([1.0, 2]), 1
    one = saved(parts, [0.5, 0.2, 0.1, 0.0])  # the last is dead
    assert wasted(one) == pytest.approx({"wasted_l0": 0.3 / 0.8, "wasted_alive": 2 / 3})
    assert wasted(one._replace(hook=BASE)) == {"wasted_l0": 0, "wasted_alive": 0}
    dead = wasted(one._replace(frequency=torch.zeros(4)))
    assert np.isnan(dead["wasted_l0"]) and np.isnan(dead["wasted_alive"])


def table_of(curves: dict[tuple[str, float, int], list[tuple[float, float]]]) -> pd.DataFrame:
    rows = [
        {"layer": 2, "sparsifier": "relu", "objective": name, "null_scale": scale, "seed": seed}
        | {"unused": scale / 10}
        | {"l0": l0, "ce_increase": ce, "wasted_l0": 0.1, "wasted_alive": 0.2, "alive": 10 * l0}
        | {"carried_function": 0.5}
        for (name, scale, seed), curve in curves.items()
        for l0, ce in curve
    ]
    return pd.DataFrame(rows)


def test_curves_are_compared_at_one_l0() -> None:
    table = table_of({
        ("local", 0.0, 0): [(4, 0.8), (16, 0.2)], ("local", 0.0, 1): [(4, 1.0), (16, 0.4)],
        ("local", 8.0, 0): [(2, 3.0), (8, 1.0), (32, 0.5)], ("e2e", 8.0, 0): [(1, 2.0), (8, 1.0)],
    })  # fmt: skip
    assert shared(table, "l0") == pytest.approx((4 * 8) ** 0.5)
    ends = (0.8 * 0.2) ** 0.5, (1.0 * 0.4) ** 0.5  # half-way in the logarithms
    mean, gap = sum(ends) / 2, ends[1] - ends[0]
    found = at_equal(table, "l0", 8.0)[lambda t: t.quantity == "ce_increase"].set_index(
        ["objective", "null_scale"]
    )
    assert found.loc[("local", 0.0), "value"] == pytest.approx(mean)
    # t of one degree of freedom times the standard error, which is half the difference.
    assert found.loc[("local", 0.0), "high"] - mean == pytest.approx(12.706 * gap / 2, rel=1e-3)
    assert found.loc[("local", 8.0), ["value", "n_seeds"]].tolist() == [1.0, 1]
    assert np.isnan(found.loc[("e2e", 8.0), "low"])
    beyond = at_equal(table, "l0", 20.0)[lambda t: t.quantity == "ce_increase"].set_index(
        ["objective", "null_scale"]
    )
    assert (
        np.isnan(beyond.loc[("local", 0.0), "value"]) and beyond.loc[("e2e", 8.0), "n_seeds"] == 0
    )
    assert np.isnan(shared(table_of({("e2e", 1.0, 0): [(1, 1)], ("e2e", 2.0, 0): [(2, 1)]}), "l0"))


def test_l0_at_equal_ce_increase() -> None:
    table = table_of(
        {("local", 0.0, 0): [(4, 0.8), (16, 0.2)], ("local", 8.0, 0): [(4, 0.0), (9, 1.0)]}
    )
    found = at_equal(table, "ce_increase", 0.4).set_index(["null_scale", "quantity"])
    assert found.loc[(0.0, "l0"), "value"] == pytest.approx(8)
    assert found.loc[(0.0, "alive"), "value"] == pytest.approx(100)  # 40 and 160, half-way
    assert np.isnan(found.loc[(8.0, "l0"), "value"])  # a CE increase of 0 has no logarithm
    assert at_equal(table, "l0", float("nan"))["value"].isna().all()
    # A dense SAE that improves the loss takes its own end of the curve with it, not the seed.
    curve = table_of({("e2e", 0.0, 0): [(4, 0.8), (16, 0.2), (64, -0.001)]})
    for at, value in ((8, 0.4), (32, np.nan), (64, -0.001)):  # a run's own value stands
        found = at_equal(curve, "l0", float(at)).set_index("quantity")
        assert found.loc["ce_increase", "value"] == pytest.approx(value, nan_ok=True)


def metrics(hook: str, seed: int, coeff: float, **changes: object) -> dict[str, object]:
    row = {
        "run": f"{hook}-{seed}-{coeff}", "model": "storyworld", "objective": "local", "layer": 2,
        "hook": hook, "sparsity_coeff": coeff, "kl_coeff": None, "downstream_coeff": None,
        "seed": seed, "dict_ratio": 5.0, "train_tokens": 1000, "lr": 0.01, "init_from": "",
        "l0": 10 / (coeff or 1), "alive": 300, "ce_increase": coeff,
    }  # fmt: skip
    return row | changes


def test_runs_of_the_dial_and_their_partners() -> None:
    rows = [metrics(BASE, seed, coeff) for seed in (0, 1) for coeff in (1.0, 2.0, 3.0)]
    rows += [metrics(HOOK, 0, coeff) for coeff in (1.0, 3.0)]
    rows += [
        metrics(HOOK, 0, 1.0, lr=0.03, run="other rate"),
        metrics(BASE, 0, 1.0, lr=1.0, run="x"),
    ]
    found = dial_runs(pd.DataFrame(rows))
    assert sorted(zip(found.null_scale, found.seed, found.sparsity_coeff, strict=True)) == [
        (0.0, 0, 1.0), (0.0, 0, 2.0), (0.0, 0, 3.0), (8.0, 0, 1.0), (8.0, 0, 3.0),
    ]  # fmt: skip
    assert dial_runs(pd.DataFrame(rows[:6])).empty


def test_other_sparsifiers_and_fine_tunings_stand_beside_their_like() -> None:
    """With the same k, or of any λ, and the seeds of those beside a channel."""
    base = [metrics(BASE, 0, coeff) for coeff in (1.0, 2.0)] + [metrics(HOOK, 0, 1.0)]
    rows = [one | {"sparsifier": "relu", "k": np.nan, "variant": ""} for one in base]
    held = {"sparsifier": "topk", "l0": 8.0, "variant": "", "lr": 0.003, "ce_increase": 0.5}
    tuned = {"objective": "finetune", "init_from": "x", "k": np.nan, "variant": ""}
    kept = [
        metrics(BASE, 0, 0.0, **held, k=8.0, run="quiet"),
        metrics(HOOK, 0, 0.0, **held, k=8.0, run="loud"),
        metrics(BASE, 0, 2.0, **tuned, sparsifier="relu", run="tuned"),
        metrics(HOOK, 0, 1.0, **tuned, sparsifier="relu", run="tuned, loud"),
    ]
    left_out = [
        metrics(BASE, 1, 0.0, **held, k=8.0, run="seed"),
        metrics(BASE, 0, 0.0, **held, k=4.0, run="k"),
        metrics(HOOK, 0, 0.0, **held | {"variant": "still=all"}, k=8.0, run="sanity"),
    ]
    found = dial_runs(pd.DataFrame([*rows, *kept, *left_out]))
    assert set(found["run"]) == {one["run"] for one in [*rows, *kept]}
    # One run is a point: curves are compared where it is, if they reach as far.
    assert shared(found, "l0") == pytest.approx(8)
    at = at_equal(
        found.assign(unused=0.0, wasted_l0=0, wasted_alive=0, carried_function=0), "l0", 8.0
    )
    at = at[at["quantity"] == "ce_increase"].set_index(["sparsifier", "objective", "null_scale"])
    assert at.loc[("topk", "local", 8.0), "value"] == pytest.approx(0.5)
    assert np.isfinite(at.loc[("relu", "local", 0.0), "value"])


def test_an_sae_that_keeps_x_and_drops_the_channel_carries_everything() -> None:
    """Directions ± each axis of x, none of the channel: S is 1, nothing is wasted."""
    model = load_model("storyworld")
    rows = torch.tensor([encode(story.tokens)[:40] for story in islice(generate(5), 4)])
    subject = Subject(model, rows)
    share = unused_share(subject, HOOK)
    assert unused_share(subject, BASE) == 0 < share < 1
    axes = torch.cat([torch.eye(WIDE)[:64], -torch.eye(WIDE)[:64]])
    sae = SAE(WIDE, 128).requires_grad_(False)
    sae.W_dec.copy_(rotated(axes))
    sae.W_enc.copy_(rotated(axes).T)
    for bias in (sae.b_enc, sae.b_dec):
        bias.zero_()
    good = SavedSAE(sae, HOOK, torch.full((128,), 0.5))
    noise = SavedSAE(SAE(WIDE, 128).requires_grad_(False), HOOK, torch.full((128,), 0.5))
    runs = pd.DataFrame([metrics(HOOK, 0, 1.0, run="good"), metrics(HOOK, 0, 2.0, run="noise")])
    kinds = pairs(["object", "place", "coin", "adverb"], 4, 0)
    every = pair_rows([pair for own in kinds.values() for pair in own])
    table = dial(
        runs.assign(null_scale=8.0), {"good": good, "noise": noise}, subject, every
    ).set_index("run")
    assert table.loc["good", "carried_function"] == pytest.approx(1, abs=1e-3)
    assert table.loc["good", "wasted_l0"] == 0
    assert table.loc["noise", "carried_function"] < 0.5
    assert table.unused.unique() == pytest.approx([share])
    assert table[["wasted_unused", "wasted_coin"]].isna().all(axis=None), "beside a channel"
    bare = SAE(64, 128).requires_grad_(False)
    runs_bare = pd.DataFrame([metrics(BASE, 0, 1.0, run="bare")]).assign(null_scale=0.0)
    held = {"bare": SavedSAE(bare, BASE, torch.full((128,), 0.5))}
    [row] = dial(runs_bare, held, subject, every).itertuples()
    exam = open_exam(model, BASE, every, every)
    at = {k: exam.others[k].activation for k in exam.unused}
    assert {*at} == {"coin", "adverb"} and row.wasted_unused == pytest.approx(
        decoy_waste(at, bare)["wasted_unused"]
    )
    assert dial(runs_bare, held, subject, None)["wasted_coin"].isna().all()
    without = dial(runs.assign(null_scale=8.0), {"good": good}, subject, None)
    assert without["carried_function"].isna().all() and len(without) == 1


def test_waste_on_the_worlds_own_decoys_by_hand() -> None:
    """Two pairs of the coin: of 3 and 1 latents on at t, the partner turns 1 and 0 off."""
    x = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]])
    every, none = (Linear(torch.clone, torch.eye(3), x[0]), Linear(torch.zeros_like, x[:3], x[0]))
    found = decoy_waste({"coin": x, "adverb": x[:2]}, every)
    assert found["wasted_coin"] == pytest.approx(1 / 7)  # of 3, 2, 1 and 1
    assert found["wasted_unused"] == pytest.approx((1 / 7 + 1 / 5) / 2)
    assert all(np.isnan(list(decoy_waste({"coin": x}, none).values())))
    other = decoy_waste({"adverb": x}, every)
    assert np.isnan(other["wasted_coin"]) and other["wasted_unused"] == pytest.approx(1 / 7)
    assert all(np.isnan(list(decoy_waste({}, every).values())))


def test_decoys_are_told_without_a_channel_alone() -> None:
    keys = [("local", scale, seed) for scale in (0.0, 8.0) for seed in (0, 1)]
    table = table_of({key: [(4, 0.8), (16, 0.2)] for key in keys})
    table["wasted_unused"] = np.where(table["null_scale"] == 0, 0.3 + 0.1 * table["seed"], np.nan)
    found = at_equal(table, "l0", 8.0)
    [row] = found[found["quantity"] == "wasted_unused"].itertuples()
    assert (row.null_scale, row.value, row.n_seeds) == pytest.approx((0.0, 0.35, 2))
    assert "wasted_coin" not in set(found["quantity"]), "the column is not there"
    figure = plot_loudness(found)
    texts = [text.get_text() for axes in figure.axes if axes.get_legend() is not None
             for text in axes.get_legend().get_texts()]  # fmt: skip
    assert texts == ["on unused kinds of decision"]
    bare = plot_loudness(found[found["quantity"] != "wasted_unused"])
    assert all(axes.get_legend() is None for axes in bare.axes)
