"""Faithfulness on three tokens worked out by hand, and against a plain loop on tiny models."""

import pandas as pd
import pytest
import torch
from torch import Tensor

from e2e_lib import paper as paper_values
from e2e_lib.analysis import matched
from e2e_lib.analysis.agreement import faithfulness, tables
from e2e_lib.analysis.agreement.prompts import Prompts
from e2e_lib.core.hooks import CleanPass, clean_pass
from e2e_lib.errors import ConfigError
from e2e_lib.plots.evidence import TASKS, plot_faithfulness_by_task, plot_features_kept
from e2e_lib.plots.page import Page
from e2e_lib.runs.load import SavedSAE
from tests.helpers.tiny_models import D_VOCAB, identity_sae, random_tokens, small_sae, tiny_model

HOOK = "blocks.2.hook_resid_pre"

# A "model" whose logits are the activation at the hook. Two prompts of one slot, after a first
# token. Token 1: activation (0, 3, 1), form 1 agrees: preference 3 - 1 = 2. Token 2: (0, 1, 5),
# form 2 agrees: 4. So m = 3; the slot's mean is (0, 2, 3).
TABLE = torch.tensor([[9.0, 9.0, 9.0], [0.0, 3.0, 1.0], [0.0, 1.0, 5.0]])
TOY = Prompts(
    "simple",
    torch.tensor([[0, 1], [0, 2]]),
    torch.tensor([1, 1]),
    torch.tensor([[1], [2]]),
    torch.tensor([[2], [1]]),
    torch.tensor([[-1, 0], [-1, 0]]),
    ("subj",),
)


@pytest.fixture
def toy(monkeypatch) -> faithfulness.Site:
    def clean(model, tokens, hook_names=(), *, logits=True):
        kept = dict.fromkeys(hook_names, TABLE[tokens])
        return CleanPass(tokens, kept, TABLE[tokens], head=lambda hidden: hidden)

    monkeypatch.setattr(faithfulness, "clean_pass", clean)
    monkeypatch.setattr(
        faithfulness, "replaced_pass", lambda model, tokens, hook, activation, start: activation
    )
    return faithfulness.Site(tiny_model(), TOY, HOOK)


def test_clean_and_empty_by_hand(toy):
    assert toy.clean.tolist() == [2, 4]
    assert toy.empty.tolist() == [-1, 1]  # (0, 2, 3) for both
    shift = faithfulness.to_slot_means(toy.activation, TOY)
    assert shift[:, 0].abs().sum() == 0  # outside the template
    assert shift[:, 1].tolist() == [[0, -1, 2], [0, 1, -2]]


def test_ablating_one_feature_by_hand(toy):
    spliced = faithfulness.splice(toy, identity_sae(3))
    assert spliced.features.tolist() == [1, 2]  # feature 0 fires on the first token only
    # Feature 1 to its mean 2: preferences 2 - 1 = 1 and 5 - 2 = 3; m falls from 3 to 2.
    assert toy.preferences(spliced.ablated(torch.tensor([0]))).tolist() == [1, 3]
    # Feature 2 to its mean 3: 3 - 3 = 0 and 3 - 1 = 2; m falls to 1.
    assert faithfulness.single_effects(spliced).tolist() == pytest.approx([-1, -2])
    assert faithfulness.attributed_effects(spliced).tolist() == pytest.approx([-1, -2])  # linear


def test_kept_features_by_hand(toy):
    spliced = faithfulness.splice(toy, identity_sae(3))
    for ranking in faithfulness.RANKINGS:
        order = faithfulness.ranked(spliced, ranking)
        assert order.tolist() == [1, 0]
        kept = faithfulness.kept_preferences(spliced, order, [0, 1, 2])
        assert kept.tolist() == [[-1, 1], [1, 3], [2, 4]]
    with pytest.raises(ConfigError, match="exact or attribution"):
        faithfulness.ranked(spliced, "guess")


def test_several_verbs_are_averaged():
    logits = torch.zeros(1, 2, 5)
    logits[0, 1] = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0])
    prompts = TOY.part(0, 1)._replace(correct=torch.tensor([[4, 3]]), wrong=torch.tensor([[1, 2]]))
    assert faithfulness.preference(logits, prompts).tolist() == [(8 - 1 + 4 - 2) / 2]


def test_kept_counts_are_the_authors():
    assert faithfulness.kept_counts(700, 100) == [*range(100), *range(100, 500, 5), 700]
    assert faithfulness.kept_counts(12, 20) == [*range(12), 12]
    assert faithfulness.kept_counts(30, 20) == [*range(20), 20, 25, 30]


# ----------------------------------------------------------------- real, if tiny, models
def tiny_prompts() -> Prompts:
    tokens = random_tokens(6, 7)
    last = torch.tensor([6, 5, 6, 4, 6, 6])
    slots = torch.full((6, 7), -1)
    for row, end in enumerate(last.tolist()):
        tokens[row, end + 1 :] = 0
        slots[row, end - 2 : end + 1] = torch.arange(3)
    correct, wrong = random_tokens(6, 2, seed=1), random_tokens(6, 2, seed=2)
    return Prompts("rc", tokens, last, correct, wrong, slots, ("a", "b", "c"))


def by_loop(model, hook, prompts, sae, ablated: list[int]) -> list[float]:
    """One prompt at a time, without padding, codes changed inside an ordinary hook."""
    codes = [
        sae.encode(clean_pass(model, prompts.tokens, [hook]).activations[hook])[i] for i in range(6)
    ]
    means = [
        torch.stack([c[s == k].mean(0) for c, s in zip(codes, prompts.slots, strict=True)]).mean(0)
        for k in range(3)
    ]
    found = []
    for row, end in enumerate(prompts.last.tolist()):

        def change(value: Tensor, hook: object, row: int = row) -> Tensor:
            new = sae.encode(value)
            for position in range(value.shape[1]):
                slot = int(prompts.slots[row, position])
                if slot >= 0:
                    new[0, position, ablated] = means[slot][ablated]
            return sae.decode(new)

        tokens = prompts.tokens[row : row + 1, : end + 1]
        with torch.no_grad(), model.hooks(fwd_hooks=[(hook, change)]):
            logits = model(tokens, return_type="logits")[0, -1]
        own = logits[prompts.correct[row]] - logits[prompts.wrong[row]]
        found.append(float(own.mean()))
    return found


@pytest.mark.parametrize(
    ("architecture", "hook"),
    [("gpt2", HOOK), ("gpt_neo", "blocks.1.hook_mlp_out"), ("llama", "blocks.2.hook_resid_post"),
     ("gpt2", "blocks.0.hook_resid_pre")],
)  # fmt: skip
def test_against_a_plain_loop(architecture, hook, monkeypatch):
    monkeypatch.setattr(faithfulness, "ROWS", 4)  # so that prompts fall into two passes
    model, prompts, sae = tiny_model(architecture), tiny_prompts(), small_sae()
    site = faithfulness.Site(model, prompts, hook)
    spliced = faithfulness.splice(site, sae)
    with torch.no_grad():
        whole = site.preferences(spliced.output)
    assert whole.tolist() == pytest.approx(by_loop(model, hook, prompts, sae, []), abs=1e-4)
    features = spliced.features[[0, 2, 3]].tolist()
    some = site.preferences(spliced.ablated(torch.tensor([0, 2, 3])))
    assert some.tolist() == pytest.approx(by_loop(model, hook, prompts, sae, features), abs=1e-4)
    one = by_loop(model, hook, prompts, sae, features[:1])
    effect = faithfulness.single_effects(spliced)[0]
    assert float(effect) == pytest.approx(sum(one) / 6 - float(whole.mean()), abs=1e-4)
    kept = faithfulness.kept_preferences(spliced, torch.arange(len(spliced.features)), [3])
    rest = by_loop(model, hook, prompts, sae, spliced.features[3:].tolist())
    assert kept[0].tolist() == pytest.approx(rest, abs=1e-4)


def test_a_perfect_sae_is_perfectly_faithful_and_padding_does_not_matter():
    model, prompts = tiny_model(), tiny_prompts()
    site = faithfulness.Site(model, prompts, HOOK)
    with torch.no_grad():
        spliced = site.preferences(identity_sae()(site.activation).output)
    assert spliced.tolist() == pytest.approx(site.clean.tolist(), abs=1e-4)
    alone = faithfulness.clean_preferences(model, prompts.part(3, 4))
    short = prompts.part(3, 4)._replace(
        tokens=prompts.tokens[3:4, :5], slots=prompts.slots[3:4, :5]
    )
    assert alone.tolist() == pytest.approx(
        faithfulness.clean_preferences(model, short).tolist(), abs=1e-5
    )
    assert prompts.tokens.max() < D_VOCAB


def matched_runs() -> pd.DataFrame:
    rows = [("ce_increase", 2, "local", 0, "a"), ("l0", 2, "local", 0, "a"),
            ("ce_increase", 1, "e2e", 1, "b"), ("ce_increase", 2, "e2e_ds", 0, "lost")]  # fmt: skip
    return pd.DataFrame(rows, columns=["match", "layer", "objective", "seed", "run"])


def test_tables_of_prompts():
    frequency = torch.ones(20)
    saes = {
        "a": SavedSAE(small_sae(seed=0), HOOK, frequency),
        "b": SavedSAE(small_sae(seed=1), "blocks.1.hook_resid_pre", frequency),
    }
    prompts = {"rc": tiny_prompts(), "simple": tiny_prompts()._replace(task="simple")}
    found = faithfulness.spliced_table(tiny_model(), prompts, matched_runs(), saes)
    assert len(found) == 3 * 2 * 6  # rows of matches whose SAE is there, tasks, prompts
    groups = found.groupby(["match", "run", "task"])["spliced"].sum()
    assert groups["ce_increase", "a", "rc"] == groups["l0", "a", "simple"]
    kept = faithfulness.kept_table(
        tiny_model(), prompts, matched_runs().query("match == 'l0'"), saes, singly=3
    )
    assert kept["kept"].max() == kept["active"].max()
    last = kept[(kept["kept"] == kept["active"]) & (kept["task"] == "rc")]
    assert last["spliced"].sum() == pytest.approx(groups["l0", "a", "rc"], abs=1e-4)
    for empty in (
        faithfulness.spliced_table(tiny_model(), prompts, matched_runs(), {}),
        faithfulness.kept_table(tiny_model(), prompts, matched_runs(), {}),
        faithfulness.spliced_table(tiny_model(), {}, matched_runs(), saes),
    ):
        assert empty.empty and "spliced" in empty


# --------------------------------------------------------------------- from prompts to tables
def preferences(spliced: dict[tuple[str, int], list[float]], clean: float = 2.0) -> pd.DataFrame:
    """Prompts of one task at layer 2, clean 2 and empty 0.5 in each; by objective and seed."""
    rows = [
        ("ce_increase", 2, objective, seed, "simple", i, clean, 0.5, value)
        for (objective, seed), values in spliced.items() for i, value in enumerate(values)
    ]  # fmt: skip
    columns = ["match", "layer", "objective", "seed", "task", "prompt", "clean", "empty", "spliced"]
    return pd.DataFrame(rows, columns=columns)


def test_both_definitions_by_hand():
    [row] = tables.faithfulness_table(preferences({("local", 0): [1.25] * 4})).itertuples()
    assert (row.m_clean, row.m_empty, row.m_spliced) == (2.0, 0.5, 1.25)
    assert row.faithfulness == pytest.approx((1.25 - 0.5) / (2 - 0.5))
    assert row.faithfulness_paper == pytest.approx(1.25 / 2)
    assert (row.low, row.high) == pytest.approx((0.5, 0.5))  # all prompts alike
    assert (row.n_seeds, row.n_prompts) == (1, 4)


def test_intervals_over_prompts_and_seeds():
    two = preferences({("local", 0): [1.25] * 4, ("local", 1): [2.0] * 4})
    [row] = tables.faithfulness_table(two).itertuples()
    assert (row.faithfulness, row.low) == pytest.approx((0.75, 0.75 - 12.706 * 0.25), rel=1e-3)
    spread = preferences({("local", 0): [1.0, 3.0] * 10})
    [row] = tables.faithfulness_table(spread).itertuples()
    assert row.low_paper < row.faithfulness_paper == 1.0 < row.high_paper
    # The standard error of a mean of 20 values of 0.5 or 1.5 is 0.11.
    assert row.high_paper - row.low_paper == pytest.approx(2 * 1.96 * 0.11, rel=0.25)
    again = tables.faithfulness_table(spread)
    assert again.equals(tables.faithfulness_table(spread))


def test_differences_are_distances_from_one():
    """local 0.9, e2e 1.2, e2e+ds 1.1 of the clean m: 0.1, 0.2 and 0.1 away from 1."""
    prompts = preferences(
        {("local", 0): [1.8] * 3, ("e2e", 0): [2.4] * 3, ("e2e_ds", 0): [2.2] * 3,
         ("local", 1): [1.0] * 3}
    )  # fmt: skip
    harder = prompts[prompts["objective"] != "local"].assign(task="rc", spliced=2.0)
    both = pd.concat([prompts, harder, prompts[prompts["objective"] == "local"].assign(task="rc")])
    means = tables.difference_table(both).query("task == 'all'")
    # On the second task e2e and e2e+ds are at 1, and local is 0.1 away.
    assert means["value"].tolist() == pytest.approx([0.0, -0.05, -0.05])
    found = tables.difference_table(prompts).query("task == 'simple'")
    found = found.set_index(["first", "second"])
    assert found["value"].tolist() == pytest.approx([0.1, 0.0, -0.1])
    assert found.index.tolist() == [("local", "e2e"), ("local", "e2e_ds"), ("e2e", "e2e_ds")]
    assert found["n_seeds"].tolist() == [1, 1, 1]  # local's seed 1 has no partner
    assert found["low"].tolist() == pytest.approx(found["high"].tolist())


def kept_prompts() -> pd.DataFrame:
    curves = {"local": [0.5, 1.0, 1.9], "e2e": [0.5, 1.7, 1.5], "e2e_ds": [0.5, 0.6, 0.9]}
    parts = [
        preferences({(name, 0): [value] * 4}).assign(active=5, kept=kept)
        for name, values in curves.items() for kept, value in zip((0, 2, 5), values, strict=True)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_features_needed_by_hand():
    """Of clean 2, 80 % is 1.6 as the authors compute it, and 1.7 as printed."""
    needed = tables.needed_table(kept_prompts()).set_index("objective")
    assert needed.loc["local", ["needed", "low", "high", "needed_paper"]].tolist() == [5, 5, 5, 5]
    assert needed.loc["e2e", "needed_paper"] == 2
    assert needed.loc["e2e_ds", ["needed", "low", "high", "needed_paper"]].isna().all()
    curve = tables.kept_curve(kept_prompts())
    local = curve[curve["objective"] == "local"].sort_values("kept")
    assert local["faithfulness"].tolist() == pytest.approx([0, 1 / 3, 1.4 / 1.5])
    assert local["faithfulness_paper"].tolist() == pytest.approx([0.25, 0.5, 0.95])


def test_agreement_table():
    [row] = tables.agreement_table({"rc": [1.0, 3.0, -1.0, 1.0]}).itertuples()
    assert (row.task, row.n_prompts, row.accuracy, row.m) == ("rc", 4, 0.75, 1.0)
    assert row.m_low < 1.0 < row.m_high


def test_the_paper_beside_ours():
    table = tables.faithfulness_table(preferences({("e2e_ds", 0): [2.0] * 3}))
    beside = paper_values.beside(table, {2: "middle"}, 7)
    assert beside["paper"].tolist() == pytest.approx([0.952])
    assert list(beside.columns) == [*table.columns, "depth", "paper"]
    assert len(paper_values.rows(7)) == 18


def test_figures(tmp_path):
    parts = [
        preferences({(name, 0): [1.8, 2.1] for name in matched.OBJECTIVES})
        .assign(layer=layer, task=task, match=match)
        for layer in (1, 2) for match in ("ce_increase", "l0") for task in TASKS
    ]  # fmt: skip
    table = tables.faithfulness_table(pd.concat(parts, ignore_index=True))
    dots = plot_faithfulness_by_task(paper_values.beside(table, {1: "early", 2: "middle"}, 7))
    assert len(dots.axes) == 4
    assert dots.axes[0].get_title() == "layer 1, similar CE"
    shown = [text.get_text() for text in dots.legends[0].get_texts()]
    assert shown == ["paper (GPT-2 small)", "local", "e2e", "e2e+ds"]
    tasks = [kept_prompts().assign(task=task) for task in ("simple", "rc", "within_rc")]
    curve = tables.kept_curve(pd.concat(tasks, ignore_index=True))
    figure = plot_features_kept(curve)
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == [
        "simple", "across an RC", "within an RC",
    ]  # fmt: skip
    texts = {"title": "t", "alt": "a", "caption": "c", "paper": "p"}
    Page("29", tmp_path).figure("29_features_kept", curve, lambda _: figure, **texts)
    assert (tmp_path / "figures" / "29_features_kept.png").stat().st_size > 10_000
