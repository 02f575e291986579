"""What the notebooks call."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from e2e_lib.core.hooks import clean_pass, hooks_to_keep, spliced_pass
from e2e_lib.core.sae import SAE
from e2e_lib.data.models import load_model
from e2e_lib.names import resid_pre
from e2e_lib.storyworld.corpus import STORYWORLD_FOLDER
from e2e_lib.teach.features import Hunt, hunt
from e2e_lib.teach.lesson import check, exercise, predict
from e2e_lib.teach.splice import spliced


def test_what_to_go_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    reference = exercise("exchange").reference
    assert check("exchange", reference) is reference
    assert capsys.readouterr().out == "✓ exchange\n"
    assert check("exchange", lambda x, at: None) is reference
    assert "not yet written" in capsys.readouterr().out
    assert check("exchange", 3) is reference
    assert capsys.readouterr().out.startswith("✗ exchange: exchange is of type int, but the check")
    assert check("exchang", reference) is reference  # no such exercise: the answer goes on
    assert "exchang is no exercise; allowed are exchange" in capsys.readouterr().out
    assert check("exchang", 3)() == 3


def test_a_rule_is_judged_on_one_s_own_feature(capsys: pytest.CaptureFixture[str]) -> None:
    [(own,)] = exercise("rule").inputs()
    verbs = Hunt(own.text, torch.tensor(own.text.labels["role"] == "verb").float())
    check("rule", lambda t: t.role == "verb", verbs)
    said = capsys.readouterr().out
    assert (
        said.startswith("✓ rule\n") and "recall 1.00, F1 1.00. The best label: role = verb" in said
    )
    check("rule", lambda t: t.role == "name", verbs)
    assert "it is about other tokens" in capsys.readouterr().out
    check("rule", lambda t: t.rol == "name", verbs)
    said = capsys.readouterr().out
    assert "it raised AttributeError: 'Token' object has no attribute 'rol'" in said
    check("rule", lambda t: sys.exit(), verbs)  # and the kernel lives on
    assert "it raised SystemExit" in capsys.readouterr().out
    check("rule", lambda t: exec("raise GeneratorExit"), verbs)
    assert "it raised GeneratorExit" in capsys.readouterr().out
    assert len(own.examples(5)) == 5 and ">" in own.examples(weakest=True)[0]


def test_where_no_label_fits_no_rule_is_right_that_is_not_better(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A latent that fires at random, on a tenth of the words; one that never fires."""
    [(own,)] = exercise("rule").inputs()
    chance = torch.rand(own.codes.shape, generator=torch.Generator().manual_seed(0))
    noise = Hunt(own.text, (chance < 0.1).float())
    assert 0 < noise.best[1] < 0.5
    check("rule", noise.best_rule, noise)
    said = capsys.readouterr().out
    assert said.startswith("✗ rule: the rule is “as poor as the best label: perhaps no name")
    quiet = Hunt(own.text, torch.zeros(own.codes.shape))
    for answer in (quiet.best_rule, lambda t: True, lambda t: t.role == "name"):
        check("rule", answer, quiet)
        assert capsys.readouterr().out.startswith("✗ rule: ")


def test_a_hunt_is_on_the_labelled_rows() -> None:
    own = hunt(torch.zeros(4, 32), 4, 32)
    assert own.best == ("no label", 0.0) or own.best[1] == 0
    first = own.tokens[0][1]
    assert (
        first.previous and own.tokens[0][0].previous == "" and own.tokens[0][0].next == first.word
    )


def test_guesses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gca().get_title()))
    predict("CE", 5.0, "nats").beside(np.float64(0.25))
    assert capsys.readouterr().out == "guess noted: 5\nCE: you said 5, it is 0.25 nats.\n"
    assert drawn == ["CE"] and not plt.get_fignums()
    for nothing in (None, ..., [1], True, float("nan"), object(), ""):
        predict("CE", nothing).beside(2.0)
        assert (
            "no guess yet" in (out := capsys.readouterr().out) and "CE: no guess, it is 2." in out
        )
    predict("who", "local").beside("e2e")
    assert "who: you said local, it is e2e." in capsys.readouterr().out
    predict("CE", 1.0).beside(float("nan"))
    assert "CE: you said 1, it is nan." in capsys.readouterr().out
    assert len(drawn) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_exercise_s_splice_is_the_library_s() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(STORYWORLD_FOLDER).eval().requires_grad_(False)
    bridge, layer, tokens = load_model("storyworld"), 2, torch.randint(451, (2, 12))
    sae, hook = SAE(64, 128), resid_pre(layer)
    block = model.transformer.h[layer]
    own = spliced(lambda: model(tokens).logits, block, lambda x: sae(x).output)
    clean = clean_pass(bridge, tokens, hooks_to_keep(bridge, {hook: sae}))
    torch.testing.assert_close(own, spliced_pass(bridge, clean, {hook: sae}).logits)
    exercise("kl_loss").reference(model(tokens).logits, own).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sae.parameters())
    assert all(p.grad is None for p in model.parameters())  # they are frozen
