"""The comparison of outputs in chunks: equal to the full logits' formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from e2e_lib.core.losses import token_kl
from e2e_lib.engine import logits as output
from e2e_lib.engine.logits import by_autograd, kl_to, mean_kls, means_over_tokens, token_metrics
from tests.helpers.tiny_models import D_MODEL, random_tokens

VOCABULARY = 11


def softcapped(linear: nn.Linear):
    """A head as Gemma 2 has it: not linear in the hidden state."""
    return lambda hidden: 5 * torch.tanh(linear(hidden) / 5)


@pytest.fixture(params=["linear", "softcapped"])
def head(request):
    torch.manual_seed(0)
    linear = nn.Linear(D_MODEL, VOCABULARY).requires_grad_(False)
    return linear if request.param == "linear" else softcapped(linear)


@pytest.fixture
def hidden():
    torch.manual_seed(1)
    clean = torch.randn(3, 5, D_MODEL) * 3
    return clean, [clean + torch.randn_like(clean), clean + 0.01 * torch.randn_like(clean)]


@pytest.mark.parametrize("chunk", [1, 4 * VOCABULARY, 1 << 22])
def test_values_and_gradients_equal_those_of_full_logits(monkeypatch, head, hidden, chunk):
    monkeypatch.setitem(output.CHUNK_VALUES, "cpu", chunk)  # one token, four, all
    monkeypatch.setattr(output, "BLOCK_VALUES", 2 * VOCABULARY)
    clean, spliced = hidden
    ours = [h.clone().requires_grad_() for h in spliced]
    for weight, value in zip((0.5, 2.0), means_over_tokens(kl_to, head, clean, ours), strict=True):
        (weight * value).backward()  # one after the other: they share no graph
    for weight, mine, start in zip((0.5, 2.0), ours, spliced, strict=True):
        plain = start.clone().requires_grad_()
        log_p, log_q = (head(h).log_softmax(-1).flatten(0, 1) for h in (clean, plain))
        expected = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        (weight * expected).backward()
        torch.testing.assert_close(means_over_tokens(kl_to, head, clean, [mine])[0], expected)
        torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk", [4 * VOCABULARY, 1 << 22])
def test_the_closed_form_is_the_definition_by_autograd(monkeypatch, head, hidden, chunk):
    monkeypatch.setitem(output.CHUNK_VALUES, "cpu", chunk)
    clean, spliced = hidden
    both = []
    for against in (kl_to, by_autograd(token_kl)):
        own = [h.clone().requires_grad_() for h in spliced]
        values = means_over_tokens(against, head, clean, own)
        torch.stack(values).sum().backward()
        both.append((torch.stack(values).detach(), torch.stack([h.grad for h in own])))
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", [1, 2 * VOCABULARY, 1 << 19])
def test_logits_that_bfloat16_products_gave(monkeypatch, hidden, block):
    """What they are is compared in float32; the gradient to them alone is rounded."""
    monkeypatch.setattr(output, "BLOCK_VALUES", block)  # a token, two, all
    clean, spliced = ((h[..., :VOCABULARY] * 2).bfloat16() for h in (hidden[0], hidden[1][0]))
    values, gradient = kl_to(clean)(spliced)
    exact = [x.double().requires_grad_() for x in (clean, spliced)]
    expected = token_kl(*exact)
    expected.sum().backward()
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact[1].grad, rtol=4e-3, atol=1e-7)


def test_one_pass_is_the_same_to_the_bit_as_among_others(monkeypatch, head, hidden):
    """For one, the clean softmax is not kept."""
    monkeypatch.setattr(output, "BLOCK_VALUES", 2 * VOCABULARY)
    clean, spliced = hidden
    found = []
    for passes in (spliced[:1], spliced):
        own = [h.clone().requires_grad_() for h in passes]
        value = mean_kls(head, clean, own)[0]
        value.backward()
        found.append((value, own[0].grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_values_of_many_tokens_are_summed_token_by_token():
    """4 million products: one dot product over them all was 2e-5 off."""
    torch.manual_seed(0)
    clean = torch.randn(1, 80, 50_000)
    spliced = clean + 0.3 * torch.randn_like(clean)
    [value] = means_over_tokens(kl_to, lambda h: h, clean, [spliced])
    exact = token_kl(clean.double(), spliced.double()).mean()
    assert float(value) == pytest.approx(float(exact), rel=3e-6)


def test_kl_by_hand():
    """Hidden states that are logits: KL((½, ½) ‖ (¼, ¾)) = ½ ln 2 + ½ ln ⅔; same, same: 0."""
    clean = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]).log()
    spliced = torch.tensor([[[0.25, 0.75], [0.2, 0.8]]]).log()
    [value] = means_over_tokens(kl_to, lambda h: h, clean, [spliced])
    assert float(value) == pytest.approx((0.5 * 2 * 0.143841) / 2, abs=1e-6)


def test_no_tensor_of_the_whole_batch_times_the_vocabulary(monkeypatch, head, hidden):
    monkeypatch.setitem(output.CHUNK_VALUES, "cpu", 4 * VOCABULARY)
    sizes = []

    def watched(chunk):
        sizes.append(chunk.shape[1])
        return head(chunk)

    clean, spliced = hidden
    means_over_tokens(kl_to, watched, clean, [h.requires_grad_() for h in spliced])
    token_metrics(watched, random_tokens(3, 5) % VOCABULARY, clean, spliced)
    assert max(sizes) == 4 < 15


@pytest.mark.parametrize("chunk", [1, 4 * VOCABULARY, 1 << 22])
def test_metrics_of_tokens(monkeypatch, head, hidden, chunk):
    monkeypatch.setitem(output.CHUNK_VALUES, "cpu", chunk)
    clean, spliced = hidden
    tokens = random_tokens(3, 5) % VOCABULARY
    clean_ce, found = token_metrics(head, tokens, clean, spliced)

    def cross_entropy(logits):
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")

    torch.testing.assert_close(clean_ce, cross_entropy(head(clean)))
    for metrics, start in zip(found, spliced, strict=True):
        p, q = head(clean).log_softmax(-1), head(start).log_softmax(-1)
        torch.testing.assert_close(metrics.kl, (p.exp() * (p - q)).sum(-1))
        torch.testing.assert_close(metrics.cross_entropy, cross_entropy(q))
        assert torch.equal(metrics.top1_agreement, (p.argmax(-1) == q.argmax(-1)).float())


def test_cross_entropy_by_hand():
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]])
    ce, _ = token_metrics(lambda h: h, torch.tensor([[2, 0, 1]]), probabilities.log(), [])
    # the token after the first is 0, after the second 1; the last position predicts nothing
    torch.testing.assert_close(ce, -torch.log(torch.tensor([[0.5, 0.8]])))
