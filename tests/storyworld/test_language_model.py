"""The shipped language models: near the bound, whole, and trained by what stands here."""

import math
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from e2e_lib.analysis.counterfactual.use import (
    coin_over_concept,
    exchange,
    kinds_by_verdict,
    use_table,
)
from e2e_lib.data.models import load_model
from e2e_lib.storyworld.corpus import (
    RECALL_KINDS,
    STORYWORLD_FOLDER,
    TOKEN_IDS,
    batches,
    build_tokenizer,
    recalled,
)
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.language_model.measure import evaluate_language_model, recall_by_kind
from e2e_lib.storyworld.language_model.model import (
    LanguageModelConfig,
    build_model,
    load_language_model,
    recorded,
    save_language_model,
)
from e2e_lib.storyworld.language_model.train import Muon, next_token_loss, train_language_model
from e2e_lib.storyworld.pairs import pair_rows, pairs

SMALL = {"n_layer": 2, "d_model": 32, "n_head": 2, "batch_size": 4, "warmup": 2}


def test_shipped_model_is_near_the_bound():
    model = load_language_model(STORYWORLD_FOLDER)
    _, shipped = recorded(STORYWORLD_FOLDER)
    measured = evaluate_language_model(model, 400)
    assert 0.99 < measured["ratio"] <= 1.02 and 0.99 < shipped["ratio"] <= 1.02
    # The file tells the truth: other stories agree within the sampling error of a few hundred.
    assert abs(measured["excess"] - shipped["excess"]) < 4 * measured["excess_stderr"]


def test_the_shipped_model_recalls_every_kind():
    table = recall_by_kind(
        load_language_model(STORYWORLD_FOLDER), list(islice(generate(3, "validation"), 400))
    )
    assert table.index.tolist() == list(RECALL_KINDS)
    assert (table["tokens"] >= 5).all()
    assert (table["excess"] < 0.1).all(), table


def test_shipped_tokenizer_is_the_built_one():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(str(STORYWORLD_FOLDER))
    text = next(generate(0)).text
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert shipped.decode(shipped(text)["input_ids"]) == text
    assert shipped.eos_token == shipped.pad_token == "<|endoftext|>"


def test_shipped_model_boots_in_transformer_lens(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokens = torch.tensor([[0, *(TOKEN_IDS[t] for t in next(generate(2)).tokens)]])
    model = load_language_model(STORYWORLD_FOLDER)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        expected = model(tokens).logits
        raw, processed = load_model("storyworld"), load_model("storyworld", processed=True)
        logits, cache = raw.run_with_cache(tokens, return_type="logits")
        probabilities = F.log_softmax(processed(tokens), -1)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.allclose(probabilities, F.log_softmax(expected, -1), atol=1e-3)
    assert cache["blocks.2.hook_resid_pre"].shape == (1, tokens.shape[1], model.config.n_embd)


def test_words_lie_equally_far_apart():
    config, _ = recorded(STORYWORLD_FOLDER)
    model = load_language_model(STORYWORLD_FOLDER)
    table = model.transformer.wte.weight
    assert not config.tied and model.lm_head.weight.data_ptr() != table.data_ptr()
    assert torch.allclose(table.norm(dim=1), torch.tensor(config.embedding_norm), rtol=1e-5)
    # It is the table that training began with: frozen.
    assert torch.allclose(table, build_model(config).transformer.wte.weight)
    size = (STORYWORLD_FOLDER / "model.safetensors").stat().st_size
    assert size <= 4_000_000


def test_the_shipped_model_carries_coins_that_it_does_not_use():
    """A coin is present beside a concept at the same token; no later prediction depends on it."""
    config, _ = recorded(STORYWORLD_FOLDER)
    model, middle = load_model("storyworld"), config.n_layer // 2
    kinds = ("coin", "size", "place", "landmark", "crowd", "passing-size", "passing-landmark")
    found = pairs(kinds, 16).values()
    per_pair = exchange(model, pair_rows([pair for own in found for pair in own]), [middle])
    used = kinds_by_verdict(use_table(per_pair), middle)["used"]
    assert {"size", "place"} <= {*used} and "coin" not in used
    table = coin_over_concept(model, middle, used, 300, seed=1)
    assert table.n.min() >= 30
    assert 0.15 < table.low["presence"] < table.high["presence"] < 0.3
    assert 0 < table.high["use"] < 0.01


def test_what_is_recalled_stood_before(stories):
    found = dict.fromkeys(RECALL_KINDS, 0)
    for story in stories:
        canonical = story.canonical.split()
        for i, kind in enumerate(recalled(story)):
            if kind:
                found[kind] += 1
                assert canonical[i] in canonical[:i] and story.labels["seen"][i]
    assert all(found.values())
    # Once again in the payoff of each story, and once more where it is asked or told.
    assert found["size"] >= len(stories) <= found["look"] > found["size"]


def test_recall_by_kind_books_each_loss_on_its_word(stories):
    class Guess:
        """Thinks that every word is followed by itself, else by any other."""

        def __call__(self, tokens):
            return SimpleNamespace(logits=10.0 * F.one_hot(tokens, len(TOKEN_IDS)))

    few = stories[:60]
    table = recall_by_kind(Guess(), few)
    labels = [kind for story in few for kind in recalled(story)]
    nats = [n for story in few for n in story.labels["nats"]]
    for kind, row in table[table["tokens"] > 0].iterrows():
        own = [n for n, label in zip(nats, labels, strict=True) if label == kind]
        assert row["tokens"] == len(own)
        assert row["generator"] == pytest.approx(sum(own) / len(own))
        # Never the same word twice in a row: every word said again is one of the others.
        assert row["model"] == pytest.approx(math.log(len(TOKEN_IDS) - 1 + math.exp(10)))
        assert row["excess"] == pytest.approx(row["model"] - row["generator"])


def test_a_few_steps_reduce_the_loss_and_are_reproducible():
    config = LanguageModelConfig(steps=12, **SMALL)
    _, losses = train_language_model(config, progress=False)
    _, again = train_language_model(config, progress=False)
    assert losses == again
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("tied", [True, False])
def test_a_trained_model_is_saved_with_what_made_it(tmp_path, tied):
    config = LanguageModelConfig(steps=2, tied=tied, **SMALL)
    model, _ = train_language_model(config, progress=False)
    save_language_model(model, tmp_path, config, {"ce": 1.5})
    assert recorded(tmp_path)[0] == config and recorded(tmp_path)[1]["ce"] == 1.5
    tokens = next(batches(1, 2)).tokens
    loaded = load_language_model(tmp_path)
    same = loaded.transformer.wte.weight.data_ptr() == loaded.lm_head.weight.data_ptr()
    assert same == tied
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_the_loss_weighs_words_by_what_they_recall():
    batch = next(batches(4, 8))
    logits = torch.randn(*batch.tokens.shape, len(TOKEN_IDS))
    size = 1 + RECALL_KINDS.index("size")
    assert (batch.recalled == size).any() and (batch.tokens[1:4, 0] == 0).all()
    weights = torch.zeros(1 + len(RECALL_KINDS))
    weights[size] = 7.0
    chosen = batch.recalled[:, 1:] == size
    expected = F.cross_entropy(logits[:, :-1][chosen], batch.tokens[:, 1:][chosen])
    assert next_token_loss(logits, batch, weights) == pytest.approx(expected.item(), rel=1e-5)
    plain = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.tokens[:, 1:].flatten())
    assert next_token_loss(logits, batch, torch.ones(len(weights))) == pytest.approx(plain.item())


def test_muon_is_torchs_on_squares_but_for_bfloat16():
    ours, theirs = (torch.nn.Parameter(torch.eye(16)) for _ in range(2))
    wide = torch.nn.Parameter(torch.zeros(16, 48))
    optimisers = [
        Muon([ours, wide], lr=0.1, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1),
    ]
    torch.manual_seed(0)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(16, 16)
        wide.grad = torch.randn(16, 48)
        for optimiser in optimisers:
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=0.02)
    assert torch.linalg.matrix_norm(wide[:, 16:32], 2) < 0.4  # three steps of 0.1


def test_training_refuses_no_steps():
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        train_language_model(LanguageModelConfig(steps=0))
