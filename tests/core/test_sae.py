"""The autoencoder: its arithmetic, its initialisation, its folder on disk."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2e_lib.core.sae import SAE
from e2e_lib.data.formats.saelens import CONFIG, NEVER_FIRED, WEIGHTS, firing_frequency
from e2e_lib.errors import ConfigError, ModelError
from tests.helpers.tiny_models import assert_sentence, identity_sae, small_sae


# ------------------------------------------------------------------ arithmetic
def test_a_case_by_hand():
    sae = SAE(2, 3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, -1.0, 1.0]))
        sae.W_dec.copy_(torch.tensor([[3.0, 4.0], [0.0, 5.0], [-2.0, 0.0]]))  # lengths 5, 5, 2
        sae.b_dec.copy_(torch.tensor([10.0, 20.0]))
    output, codes = sae(torch.tensor([[2.0, 3.0], [-1.0, 1.5]]))
    torch.testing.assert_close(codes, torch.tensor([[2.0, 2.0, 5.0], [0.0, 0.5, 0.0]]))
    # first token: 2·(0.6, 0.8) + 2·(0, 1) + 5·(-1, 0) + (10, 20)
    torch.testing.assert_close(output, torch.tensor([[6.2, 23.6], [10.0, 20.5]]))


def test_the_decoder_bias_is_not_subtracted_from_the_input():
    sae, x = small_sae(), torch.randn(4, 12)
    before = sae.encode(x)
    with torch.no_grad():
        sae.b_dec += 5
    assert torch.equal(sae.encode(x), before)


def test_dictionary_rows_have_unit_length_whatever_is_stored():
    sae = small_sae()
    with torch.no_grad():
        sae.W_dec.mul_(torch.rand(20, 1) * 9 + 0.1)
    stored = sae.W_dec.detach().clone()
    torch.testing.assert_close(sae.dictionary.norm(dim=-1), torch.ones(20))
    sae(torch.randn(3, 12))
    assert torch.equal(sae.W_dec, stored), "normalising must not overwrite the parameter"


def test_the_gradient_flows_through_the_normalisation():
    sae, x = small_sae(), torch.randn(5, 12)
    target = torch.randn(5, 12)
    ((sae(x).output - target) ** 2).mean().backward()
    w = sae.W_dec.detach().clone().requires_grad_()
    codes = sae.encode(x).detach()
    rows = torch.stack([row / torch.sqrt((row * row).sum()) for row in w])
    (((codes @ rows + sae.b_dec.detach()) - target) ** 2).mean().backward()
    torch.testing.assert_close(sae.W_dec.grad, w.grad, rtol=1e-5, atol=1e-7)
    along = (sae.W_dec.grad * sae.W_dec).sum(-1)
    torch.testing.assert_close(along, torch.zeros(20), atol=1e-6, rtol=0)
    assert sae.W_dec.grad.abs().max() > 1e-3


def test_any_leading_shape():
    sae, x = small_sae(), torch.randn(2, 3, 12)
    torch.testing.assert_close(sae(x).output[1, 2], sae(x[1, 2]).output)


def test_the_identity_sae_is_the_identity():
    x = torch.randn(7, 12)
    torch.testing.assert_close(identity_sae()(x).output, x)


# ------------------------------------------------------------------ initialisation
def test_initialisation():
    d_in, d_sae = 16, 400
    sae = SAE(d_in, d_sae)
    for weights, bound in [
        (sae.W_enc, 1 / math.sqrt(d_in)),  # nn.Linear's default
        (sae.b_enc, 1 / math.sqrt(d_in)),
        (sae.b_dec, 1 / math.sqrt(d_sae)),
    ]:
        assert weights.abs().max() <= bound
        assert weights.abs().max() > 0.7 * bound, "uniform up to the bound"
        assert weights.min() < 0 < weights.max()
    torch.testing.assert_close(sae.W_enc.std(), torch.tensor(1 / math.sqrt(3 * d_in)), rtol=0.03,
                               atol=0)  # fmt: skip
    torch.testing.assert_close(sae.W_dec.T @ sae.W_dec, torch.eye(d_in), rtol=0, atol=1e-5)


def test_initialisation_with_fewer_latents_than_dimensions():
    sae = SAE(16, 5)
    torch.testing.assert_close(sae.W_dec @ sae.W_dec.T, torch.eye(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "named", "value"),
    [((4, 0), "d_sae", "0"), ((4, -3), "d_sae", "-3"), ((0, 4), "d_in", "0")],
)
def test_sizes_below_one(shape, named, value):
    with pytest.raises(ConfigError) as caught:
        SAE(*shape)
    assert_sentence(caught, named, value, "at least 1")


# ------------------------------------------------------------------ the folder on disk
def test_round_trip(tmp_path):
    sae, x = small_sae(), torch.randn(6, 12)
    sae.save(tmp_path / "new" / "folder")
    loaded = SAE.load(str(tmp_path / "new" / "folder"))
    for found, expected in zip(loaded(x), sae(x), strict=True):
        torch.testing.assert_close(found, expected)
    loaded.save(tmp_path / "again")
    first, second = (load_file(tmp_path / f / WEIGHTS) for f in ("new/folder", "again"))
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_the_written_decoder_has_unit_rows_and_sae_lens_names(tmp_path):
    sae = small_sae()
    sae.save(tmp_path, {"hook_name": "blocks.1.hook_resid_pre", "model_name": "m"})
    tensors = load_file(tmp_path / WEIGHTS)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    assert shapes == {"W_enc": (12, 20), "b_enc": (20,), "W_dec": (20, 12), "b_dec": (12,)}
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors.values())
    torch.testing.assert_close(tensors["W_dec"].norm(dim=-1), torch.ones(20))
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config | {"metadata": None} == {
        "architecture": "standard",
        "d_in": 12,
        "d_sae": 20,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": None,
    }
    metadata = config["metadata"]
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["hook_name"] == "blocks.1.hook_resid_pre"
    assert metadata["model_name"] == "m"


def test_firing_frequency_round_trip(tmp_path):
    frequency = torch.tensor([0.0, 1.0, 0.25, 1e-6] * 5)
    small_sae().save(tmp_path, frequency=frequency)
    found = firing_frequency(tmp_path)
    torch.testing.assert_close(found, frequency)
    assert ((found > 0) == (frequency > 0)).all(), "alive must survive the round trip exactly"
    stored = load_file(tmp_path / "sparsity.safetensors")["sparsity"]
    assert float(stored[0]) == NEVER_FIRED


def test_a_missing_frequency_file(tmp_path):
    small_sae().save(tmp_path)
    with pytest.raises(ModelError) as caught:
        firing_frequency(tmp_path)
    assert_sentence(caught, str(tmp_path), "sparsity.safetensors")


def _missing(folder):
    (folder / WEIGHTS).unlink()


def _truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def _cut_in_the_header(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:20])


def _empty(folder):
    (folder / WEIGHTS).write_bytes(b"")


def _garbage(folder):
    (folder / WEIGHTS).write_bytes(b"\xff" * 4000)


def _pickle(folder):
    torch.save({"W_enc": torch.zeros(2)}, folder / WEIGHTS)


def _without_a_tensor(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["b_dec"]
    save_file(tensors, folder / WEIGHTS)


def _transposed(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    save_file(tensors, folder / WEIGHTS)


def _other_size_in_the_configuration(folder):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"d_sae": 10**9}))


@pytest.mark.parametrize(
    "damage",
    [_missing, _truncated, _cut_in_the_header, _empty, _garbage, _pickle, _without_a_tensor,
     _transposed, _other_size_in_the_configuration],
)  # fmt: skip
def test_damaged_weights(tmp_path, damage):
    small_sae().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        SAE.load(tmp_path)
    assert_sentence(caught, "SAE weights", str(tmp_path))


def _set(**values):
    def change(folder):
        config = json.loads((folder / CONFIG).read_text()) | values
        (folder / CONFIG).write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / CONFIG).unlink(), CONFIG),
        (lambda f: (f / CONFIG).write_text("{"), CONFIG),
        (lambda f: (f / CONFIG).write_text("[1]"), CONFIG),
        (lambda f: (f / CONFIG).write_text("{}"), "d_in"),
        (_set(architecture="topk"), "k"),
        (_set(architecture="temporal"), "'temporal'"),
        (_set(apply_b_dec_to_input="yes"), "apply_b_dec_to_input"),
    ],
)
def test_unusable_configuration(tmp_path, damage, named):
    small_sae().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError) as caught:
        SAE.load(tmp_path)
    assert_sentence(caught, tmp_path.name, named)
