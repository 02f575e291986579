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


def test_tensors_that_want_gradients_are_numbers_all_the_same(tmp_path):
    """As `torch.save` keeps a module's parameters."""
    folder = STAND_INS["dictionary_learning AutoEncoder"].write(tmp_path)
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({k: torch.nn.Parameter(t) for k, t in tensors.items()}, folder / "ae.pt")
    assert not any(t.requires_grad for t in read_sae(folder).weights.values())


def test_every_format_has_a_stand_in():
    assert {name.split(",")[0].split(" ")[0] for name in STAND_INS} == set(FORMATS)


# Configurations as they were published, or as the makers' own code writes them.
PUBLISHED = {
    "saelens before 6, topk": {  # gpt2-small-res-jb and trainings by versions 2 to 5
        "hook_point_layer": 0, "dataset_path": "a/b", "dataset_trust_remote_code": True,
        "is_dataset_tokenized": False, "context_size": 128, "use_cached_activations": False,
        "cached_activations_path": "activations/a", "n_batches_in_buffer": 128,
        "total_training_tokens": 300_000_000, "store_batch_size": 32, "device": "mps", "seed": 42,
        "b_dec_init_method": "geometric_median", "expansion_factor": 32,
        "from_pretrained_path": None, "lr_scheduler_name": None, "lr_warm_up_steps": 5000,
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
        "train_batch_size": 4096, "use_ghost_grads": False, "feature_sampling_window": 1000,
        "finetuning_scaling_factor": False, "feature_sampling_method": None,
        "resample_batches": 1028, "feature_reinit_scale": 0.2, "dead_feature_window": 5000,
        "dead_feature_estimation_method": "no_fire", "dead_feature_threshold": 1e-8,
        "log_to_wandb": True, "wandb_project": "p", "wandb_entity": None,
        "wandb_log_frequency": 100, "n_checkpoints": 10, "checkpoint_path": "checkpoints/a",
        "tokens_per_buffer": 67108864, "run_name": "r", "neuronpedia_id": "gpt2-small/0-res-jb",
        "prepend_bos": True, "sae_lens_training_version": None, "normalize_sae_decoder": False,
        "noise_scale": 0.0, "mse_loss_normalization": None, "lp_norm": 1.0,
        "scale_sparsity_penalty_by_decoder_norm": True, "decoder_heuristic_init": True,
        "init_encoder_as_decoder_transpose": True, "decoder_orthogonal_init": False,
        "finetuning_method": None, "seqpos_slice": [None], "model_kwargs": {},
        "is_transcoder": False, "d_out": D_IN, "sae_lens_version": "5.11.0",
    },
    "saelens jumprelu": {
        "l0_coefficient": 1.0, "l0_warm_up_steps": 0, "decoder_init_norm": 0.1,
        "jumprelu_init_threshold": 0.01, "jumprelu_bandwidth": 0.05,
        "jumprelu_sparsity_loss_mode": "step", "jumprelu_tanh_scale": 4.0,
        "pre_act_loss_coefficient": None,
        "metadata": {
            "sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12",
            "hook_name": "blocks.2.hook_resid_pre", "hook_head_index": None, "model_name": "tiny",
            "model_class_name": "HookedTransformer", "context_size": 128, "seqpos_slice": [None],
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
            "prepend_bos": True, "exclude_special_tokens": False, "dataset_path": "a/b",
            "sequence_separator_token": "bos", "disable_concat_sequences": False, "l0": 40.1,
            "num_dead_features": 3, "training_architecture": "matryoshka_batchtopk",
            "training_architecture_details": {
                "decoder_init_norm": 0.1, "k": 3, "use_sparse_activations": False,
                "aux_loss_coefficient": 1.0, "rescale_acts_by_decoder_norm": True,
                "topk_threshold_lr": 0.01, "matryoshka_widths": [4, 10],
                "use_matryoshka_aux_loss": False,
            },
        },
    },
    "llama_scope": {
        "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "expansion_factor": 32,
        "bias_init_method": "all_zero", "decoder_exactly_fixed_norm": False,
        "sparsity_include_decoder_norm": True, "use_glu_encoder": False, "init_decoder_norm": 0.5,
        "init_encoder_norm": None, "init_encoder_with_decoder_transpose": True, "lp": 1,
        "l1_coefficient": 8e-05, "l1_coefficient_warmup_steps": 78125, "k_warmup_steps": 78125,
        "use_batch_norm_mse": True, "use_ghost_grads": False, "tp_size": 1, "ddp_size": 1,
    },
    "sparsify": {"signed": False},
    "dictionary_learning MatryoshkaBatchTopKSAE": {
        "trainer": trainer(
            "MatryoshkaBatchTopKSAE", k=3, steps=9, auxk_alpha=0.03, warmup_steps=1, seed=0,
            decay_start=None, threshold_beta=0.999, threshold_start_step=1000, top_k_aux=3,
            group_fractions=[0.2, 0.3, 0.5], group_weights=[1, 1, 1], group_sizes=[2, 3, 5],
            device="cuda:0", norm_factor=1.5,
        ),
        "buffer": {
            "d_submodule": D_IN, "io": "out", "n_ctxs": 244, "ctx_len": 1024, "device": "cuda:0",
            "refresh_batch_size": 32, "out_batch_size": 2048,
        },
    },
    "dictionary_learning AutoEncoder": {
        "trainer": trainer(
            "AutoEncoder", sparsity_function="Lp^p", sparsity_penalty=0.1, p_start=1, p_end=0.2,
            anneal_start=100, sparsity_queue_length=10, n_sparsity_updates=10, warmup_steps=1,
            sparsity_warmup_steps=1, decay_start=None, resample_steps=None, steps=9, seed=0,
            l1_penalty=0.1, device="cpu",
        ),
    },
    "dictionary_learning JumpReluAutoEncoder": {
        "trainer": trainer(
            "JumpReluAutoEncoder", steps=9, seed=0, device="cpu", bandwidth=0.001, target_l0=20,
            sparsity_penalty=1, sparsity_warmup_steps=2000,
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_makers_write_of_a_training_changes_nothing(tmp_path, name):
    path = STAND_INS[name].write(tmp_path)
    names = ("cfg.json", "config.json", "hyperparams.json")
    file = next(path / n for n in names if (path / n).is_file())
    file.write_text(json.dumps(json.loads(file.read_text()) | PUBLISHED[name]))
    stored = read_sae(path)
    for found, wanted in zip(run(stored, inputs()), STAND_INS[name].forward(inputs()), strict=True):
        if found.shape[1] == D_IN:  # codes are the file's times the length of its rows
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    if stored.format in WRITTEN:
        write_sae(tmp_path / "again" / path.name, stored)
        read_sae(tmp_path / "again" / path.name)
