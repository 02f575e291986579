"""What one sees of a latent, on SAEs whose codes can be read off."""

import pytest
import torch

from e2e_lib.analysis.interpret import features
from e2e_lib.core.sae import SAE
from tests.helpers.tiny_models import ARCHITECTURES, D_MODEL, small_sae, tiny_model


def reading_sae() -> SAE:
    """Latent i is coordinate i where that is above 1, less 1."""
    sae = SAE(2, 2)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.b_enc.fill_(-1.0)
        sae.W_dec.copy_(torch.eye(2))
    return sae


# Latent 0 fires in rows 0 and 2, latent 1 twice in row 1.
ACTIVATIONS = torch.tensor([
    [[0.0, 0], [3, 0], [0, 0], [2, 0]],
    [[0, 2], [0, 0], [0, 4], [0, 0]],
    [[0, 0], [0, 0], [0, 0], [6, 0]],
])  # fmt: skip
TOKENS = torch.arange(12).reshape(3, 4)


def test_firing_rows_counts_rows_not_tokens():
    assert features.firing_rows(reading_sae(), ACTIVATIONS).tolist() == [2, 1]


def test_latent_activations_are_the_chosen_codes():
    sae = small_sae(20)
    x = torch.randn(70, 3, D_MODEL)  # more rows than are encoded at once
    found = features.latent_activations(sae, x, [7, 3])
    assert torch.allclose(found, sae.encode(x)[..., [7, 3]])
    assert features.latent_activations(sae, x, []).shape == (70, 3, 0)


def test_large_dictionaries_take_fewer_rows_at_once(monkeypatch):
    """At most CODES_AT_ONCE codes are computed together, at least a row."""
    sae, x = small_sae(20), torch.randn(10, 3, D_MODEL)
    whole, encode, sizes = features.firing_rows(sae, x), sae.encode, []
    monkeypatch.setattr(sae, "encode", lambda part: sizes.append(len(part)) or encode(part))
    for codes, rows in ((4 * 3 * 20, [4, 4, 2]), (10, [1] * 10)):
        monkeypatch.setattr(features, "CODES_AT_ONCE", codes)
        sizes.clear()
        assert features.firing_rows(sae, x).equal(whole)
        assert sizes == rows


def test_latents_are_drawn_from_the_usable_ones_by_seed():
    usable = torch.arange(100) % 2 == 0
    first, again, other = (features.choose_latents(usable, 10, seed) for seed in (0, 0, 1))
    assert first == again == sorted(set(first))
    assert len(first) == 10 and all(i % 2 == 0 for i in first)
    assert first != other
    assert features.choose_latents(usable, 90) == list(range(0, 100, 2))
    assert features.choose_latents(usable & False, 5) == []


def test_top_examples_by_hand():
    codes = features.latent_activations(reading_sae(), ACTIVATIONS, [0])[..., 0]
    strong, weak = features.top_examples(codes, TOKENS, "t{}".format, 5, window=2, first_row=10)
    assert strong == features.Example(12, 1, 2, ("t9", "t10", "t11"), (0.0, 0.0, 5.0))
    assert weak == features.Example(10, 0, 1, ("t0", "t1", "t2", "t3"), (0.0, 2.0, 0.0, 1.0))
    assert features.top_examples(codes, TOKENS, str, 1, window=0)[0].tokens == ("11",)


def test_summary_and_histogram_by_hand():
    codes = features.latent_activations(reading_sae(), ACTIVATIONS, [0, 1])
    codes = torch.cat([codes, torch.zeros(3, 4, 1)], dim=-1)
    table = features.firing_summary(codes)
    assert table["frequency"].tolist() == pytest.approx([3 / 12, 2 / 12, 0])
    assert table["largest"].tolist() == [5, 3, 0]
    assert table["mean_fired"].tolist()[:2] == pytest.approx([8 / 3, 2])
    assert table["mean_fired"].isna().tolist() == [False, False, True]
    bars = features.activation_histogram(codes[..., 0], bins=5)
    assert bars["tokens"].tolist() == [0, 1, 1, 0, 1]  # 1 and 2 open their bins, 5 closes the last
    assert (bars["left"].iloc[0], bars["right"].iloc[-1]) == (0, 5)
    assert not len(features.activation_histogram(codes[..., 2]))


def test_spelling_decodes_each_token_once():
    asked = []
    spell = features.Spelling(lambda ids: asked.append(ids) or f"<{ids[0]}>")
    assert [spell(3), spell(4), spell(3)] == ["<3>", "<4>", "<3>"]
    assert asked == [[3], [4]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logit_effects_are_the_direct_path(architecture):
    model, sae = tiny_model(architecture), small_sae()
    table = features.logit_effects(sae, model, [4, 9], str, k=3)
    head = model.original_model.get_output_embeddings().weight  # (vocabulary, d_model)
    for latent in (4, 9):
        logits = head @ (sae.W_dec[latent] / sae.W_dec[latent].norm())
        logits = (logits - logits.mean()).detach()
        own = table[table["latent"] == latent]
        raised, lowered = (own[own["effect"] == e] for e in ("raised", "lowered"))
        order = logits.argsort(descending=True).tolist()
        assert raised["token"].tolist() == [str(i) for i in order[:3]]
        assert lowered["token"].tolist() == [str(i) for i in order[::-1][:3]]
        assert raised["logit"].tolist() == pytest.approx(logits[order[:3]].tolist(), abs=1e-5)
        assert lowered["logit"].max() < 0 < raised["logit"].min()
    assert table["rank"].tolist() == [0, 1, 2] * 4


def test_no_direct_path_from_another_width():
    assert not len(features.logit_effects(small_sae(d_in=48), tiny_model(), [0], str))
