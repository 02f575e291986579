"""Texts that a model writes with SAEs spliced in: equal to a loop by hand, seeded, checked."""

import pytest
import torch

from e2e_lib.analysis.interpret.continuations import generate
from e2e_lib.errors import ConfigError
from tests.helpers.tiny_models import (
    D_VOCAB,
    N_CTX,
    assert_sentence,
    identity_sae,
    random_tokens,
    small_sae,
    tiny_model,
)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_greedy_generation_is_an_argmax_loop(architecture):
    model, prompt = tiny_model(architecture), random_tokens(2, 4)
    text = prompt
    for _ in range(6):
        text = torch.cat([text, model(text)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(model, prompt, max_new_tokens=6, temperature=0.0), text)


def test_generation_with_saes():
    model, prompt, hook = tiny_model(), random_tokens(1, 4), "blocks.2.hook_resid_pre"
    plain = generate(model, prompt, max_new_tokens=12, temperature=0.0)
    same = generate(model, prompt, {hook: identity_sae()}, max_new_tokens=12, temperature=0.0)
    assert torch.equal(plain, same)
    zero = small_sae()
    with torch.no_grad():
        for parameter in (zero.W_enc, zero.b_enc, zero.b_dec):
            parameter.zero_()
    other = generate(model, prompt, {hook: zero}, max_new_tokens=12, temperature=0.0)
    assert not torch.equal(plain, other)
    assert torch.equal(plain, generate(model, prompt, max_new_tokens=12, temperature=0.0))


def test_sampling_is_seeded_and_leaves_the_global_generator_alone():
    model, prompt = tiny_model(), random_tokens(1, 4)
    state = torch.get_rng_state()
    first, again, other = (generate(model, prompt, seed=s, max_new_tokens=15) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_top_k_restricts_sampling():
    model, prompt = tiny_model(), random_tokens(1, 4)
    greedy = generate(model, prompt, max_new_tokens=8, temperature=0.0)
    assert torch.equal(greedy, generate(model, prompt, max_new_tokens=8, top_k=1))
    everything = generate(model, prompt, max_new_tokens=8, seed=1)
    assert torch.equal(everything, generate(model, prompt, max_new_tokens=8, seed=1, top_k=D_VOCAB))


def test_generation_beyond_the_context():
    text = generate(tiny_model(), random_tokens(1, N_CTX - 1), max_new_tokens=4, temperature=0.0)
    assert text.shape == (1, N_CTX + 3)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"temperature": -1.0}, "temperature"), ({"top_k": 0}, "top_k")]
)
def test_generation_parameters_are_checked(wrong, named):
    with pytest.raises(ConfigError) as caught:
        generate(tiny_model(), random_tokens(1, 4), max_new_tokens=1, **wrong)
    assert_sentence(caught, named, repr(next(iter(wrong.values()))))
