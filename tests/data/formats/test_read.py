"""Every released layout is read as what its own format says it computes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2e_lib.data.formats.sae_files import FORMATS, WRITTEN, format_of, read_sae, write_sae
from e2e_lib.data.formats.stored import StoredSAE
from e2e_lib.errors import ModelError
from tests.helpers.sae_stand_ins import (
    D_IN,
    D_OUT,
    D_SAE,
    STAND_INS,
    dictionary_tensors,
    draw,
    inputs,
    run,
    trainer,
    without,
    write_dictionary,
    write_gemma,
)

each = pytest.mark.parametrize("name", STAND_INS)


@each
def test_codes_and_outputs_are_those_of_the_format(tmp_path, name):
    stand_in = STAND_INS[name]
    stored = read_sae(stand_in.write(tmp_path))
    x = inputs()
    codes, output = run(stored, x)
    theirs, reference = stand_in.forward(x)
    torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    assert torch.equal(codes > 0, theirs > 0), "other latents fire, or in another order"
    fired = theirs > 0
    assert 0.05 < float(fired.double().mean()) < 0.9 and bool(fired.any(0).sum() > 5)
    # Each latent's codes are the file's, times the length of its row.
    r = codes.sum(0) / theirs.sum(0).clamp_min(1e-9)
    torch.testing.assert_close(codes, theirs * r, rtol=1e-5, atol=1e-5)
    if stand_in.unit:
        torch.testing.assert_close(codes, theirs, rtol=1e-5, atol=1e-5)


@each
def test_what_is_read_says_what_it_is(tmp_path, name):
    stand_in = STAND_INS[name]
    stored = read_sae(stand_in.write(tmp_path))
    assert (stored.sparsifier, stored.hook) == (stand_in.sparsifier, stand_in.hook)
    assert (stored.d_in, stored.d_sae, stored.dtype) == (D_IN, D_SAE, "float32")
    assert stored.transcoder == ("transcoder" in name)
    assert stored.d_out == (D_OUT if stored.transcoder else D_IN)
    assert stored.format == name.split(",")[0].split(" ")[0]
    assert (stored.k == 3) == (stored.sparsifier == "topk")
    assert set(stored.weights) >= {"W_enc", "b_enc", "W_dec", "b_dec"}
    torch.testing.assert_close(stored.weights["W_dec"].norm(dim=1), torch.ones(D_SAE))


@each
def test_reading_writing_and_reading_again_computes_the_same(tmp_path, name):
    """In the format that it came in, and in every other that can say what it is."""
    stored = read_sae(STAND_INS[name].write(tmp_path / "in"))
    codes, output = run(stored, inputs())
    for format in WRITTEN:
        path = tmp_path / format / ("layers.7" if format == "sparsify" else "sae")
        path = path.with_suffix(".pt") if format == "authors" else path
        can = {"authors": stored.sparsifier == "relu", "sparsify": stored.sparsifier != "jumprelu"}
        if not can.get(format, True) or (stored.transcoder and format != "saelens"):
            continue
        at = stored if stored.transcoder else replace(stored, hook="blocks.7.hook_resid_post")
        write_sae(path, at, format)
        assert format_of(path) == format
        again = read_sae(path)
        assert (again.sparsifier, again.k, again.hook) == (stored.sparsifier, stored.k, at.hook)
        ours, same = run(again, inputs())
        torch.testing.assert_close(same, output, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours, codes, rtol=1e-5, atol=1e-5)
        if format == stored.format:
            assert again.architecture in (stored.architecture, "JumpReluAutoEncoder")


@each
def test_the_format_it_came_in_keeps_its_configuration(tmp_path, name):
    path = STAND_INS[name].write(tmp_path / "in")
    stored = read_sae(path)
    if stored.format not in WRITTEN:
        return
    write_sae(tmp_path / "out" / path.name, stored)
    again = read_sae(tmp_path / "out" / path.name)
    assert (
        again.hook == stored.hook
        and dict(again.metadata).items()
        >= {k: v for k, v in stored.metadata.items() if k != "trained_with"}.items()
    )
    if stored.format == "dictionary_learning":
        old, new = dict(stored.config["trainer"]), dict(again.config["trainer"])
        for key in ("dict_class", "trainer_class"):  # a batchtopk of rows of other lengths
            old.pop(key), new.pop(key)
        assert new.items() >= old.items()
        assert again.config["buffer"] == stored.config["buffer"]
    if stored.format == "sparsify":
        assert again.config == stored.config


def test_no_bit_changes_where_nothing_is_to_be_folded(tmp_path):
    stored = StoredSAE(draw(8, unit=True), "jumprelu")
    write_sae(tmp_path / "a", stored)
    again = read_sae(tmp_path / "a")
    for name, tensor in stored.weights.items():
        assert torch.equal(again.weights[name], tensor), name


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("format", ["saelens", "dictionary_learning", "sparsify"])
def test_half_precision_files_stay_half(tmp_path, format, dtype):
    """bfloat16 rows are of unit length up to their own rounding, and a topk of them is read."""
    weights = without(draw(9, unit=True), "threshold")
    stored = StoredSAE(weights, "topk", 3, hook="blocks.4.hook_resid_post", dtype=dtype)
    path = tmp_path / "layers.4"
    write_sae(path, stored, format)
    again = read_sae(path)
    assert (again.dtype, again.k) == (dtype, 3)
    rounding = {"float64": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    for name, tensor in stored.weights.items():
        torch.testing.assert_close(again.weights[name], tensor, rtol=rounding, atol=rounding)


@pytest.mark.parametrize(
    "name", ["saelens standard", "sparsify", "dictionary_learning AutoEncoder"]
)
def test_of_several_types_the_widest_is_written(tmp_path, name):
    """A decoder in half precision does not round the encoder beside it."""
    folder = STAND_INS[name].write(tmp_path)
    path = next(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".pt"))
    pickled = path.suffix == ".pt"
    tensors = torch.load(path, weights_only=True) if pickled else load_file(path)
    own = next(key for key in tensors if key in ("W_dec", "decoder.weight"))
    tensors[own] = tensors[own].half()
    (torch.save if pickled else save_file)(tensors, path)
    assert read_sae(folder).dtype == "float32"


def test_a_batchtopk_keeps_its_class_while_its_latents_share_a_threshold(tmp_path):
    weights = draw(10, unit=True) | {"threshold": torch.full((D_SAE,), 0.3)}
    four = without(weights, "threshold")
    extra = {"k": torch.tensor(3), "threshold": torch.tensor(0.3)}
    extra |= {"group_sizes": torch.tensor([4, 6])}
    path = write_dictionary(tmp_path / "in", four | extra, trainer("MatryoshkaBatchTopKSAE", k=3))
    stored = read_sae(path)
    write_sae(tmp_path / "same", stored)
    found = torch.load(tmp_path / "same" / "ae.pt", weights_only=True)
    assert found["group_sizes"].tolist() == [4, 6] and found["k"] == 3
    assert float(found["threshold"]) == pytest.approx(0.3)
    tuned = stored.weights["threshold"].clone()
    tuned[0] = 0.5
    other = replace(stored, weights={**stored.weights, "threshold": tuned})
    write_sae(tmp_path / "other", other)
    assert read_sae(tmp_path / "other").architecture == "JumpReluAutoEncoder"


@pytest.mark.parametrize("above", ["embedding", "layer_3/my-mlp", "gemma-scope-2b-pt-transcoders"])
def test_folders_above_a_release_say_nothing_of_it(tmp_path, above):
    stand_in = STAND_INS["gemma_scope"]
    stored = read_sae(stand_in.write(tmp_path / above))
    assert stored.hook == stand_in.hook
    torch.testing.assert_close(
        run(stored, inputs())[1], stand_in.forward(inputs())[1], rtol=1e-5, atol=1e-5
    )
    end = tmp_path / "gemma-scope-2b-pt-transcoders"
    with pytest.raises(ModelError, match="no transcoder"):
        read_sae(write_gemma(end / "layer_4", draw(7)))


@pytest.mark.parametrize("changes", [{"layer": 3}, {"submodule_name": "resid_post_layer_14"}])
def test_a_trainer_that_names_two_layers_has_no_hook(tmp_path, changes):
    tensors = dictionary_tensors(draw(1), "bias")
    path = write_dictionary(tmp_path, tensors, trainer("AutoEncoder", **changes))
    assert read_sae(path).hook is None


def test_metadata_without_a_version_is_read(tmp_path):
    path = STAND_INS["saelens standard"].write(tmp_path)
    config = json.loads((path / "cfg.json").read_text())
    del config["metadata"]["sae_lens_version"]
    (path / "cfg.json").write_text(json.dumps(config))
    assert read_sae(path).hook == STAND_INS["saelens standard"].hook


def test_every_format_has_a_stand_in():
    assert {name.split(",")[0].split(" ")[0] for name in STAND_INS} == set(FORMATS)
