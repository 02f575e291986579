"""A model is what its folder says, or is refused at load, in one sentence, and never drawn."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from e2e_lib.data import model_checks
from e2e_lib.data.models import load_model
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.errors import ModelError
from tests.helpers.architectures import architecture_folder, configuration, save_random
from tests.helpers.tiny_models import (
    assert_sentence,
    build_tokenizer,
    copied_folder,
    random_tokens,
)


def refused(folder: Path, *parts: str, processed: bool = False) -> None:
    """Loading the folder is an error of one sentence that holds `parts`."""
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), processed=processed)
    assert_sentence(caught, "model", *parts)


def rewrite(folder: Path, change) -> Path:
    """Change the dictionary of a folder's tensors in place."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({k: t.contiguous() for k, t in tensors.items()}, path, {"format": "pt"})
    return folder


def configure(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def without(*names):
    def change(tensors):
        assert set(names) <= set(tensors)
        return {k: t for k, t in tensors.items() if k not in names}

    return change


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("gpt2", "transformer.h.2.ln_2.bias"),
        ("gpt_neox", "embed_out.weight"),
    ],
)
def test_a_missing_tensor(tmp_path, architecture, name):
    folder = rewrite(copied_folder(tmp_path / "model", architecture), without(name))
    refused(folder, str(folder), "one tensor", name.split(".", 1)[1], "missing", "at random")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_another_prefix(tmp_path, prefix):
    folder = copied_folder(tmp_path / "model", "llama")
    rewrite(folder, lambda tensors: {prefix + k: t for k, t in tensors.items()})
    refused(folder, "without a place in the model", prefix)


def test_other_numbers_of_blocks(tmp_path):
    more = configure(copied_folder(tmp_path / "more", "llama"), num_hidden_layers=6)
    refused(more, "are missing", "layers.4.")
    fewer = configure(copied_folder(tmp_path / "fewer", "gpt2"), n_layer=3)
    refused(fewer, "without a place", "h.3.")


def test_biases_that_the_configuration_does_not_know(tmp_path):
    folder = configure(copied_folder(tmp_path / "model", "gpt_neox"), attention_bias=False)
    refused(folder, "without a place", "bias")


def test_a_shard_that_lacks_a_tensor(tmp_path):
    folder = copied_folder(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    tensors = load_file(shards[-1])
    name, _ = tensors.popitem()
    save_file(tensors, shards[-1], {"format": "pt"})
    refused(folder, "missing", name.split(".")[-2])
    shards[0].unlink()
    refused(folder, "could not be loaded")


def index_of(folder: Path, place: str) -> None:
    """An index that says that all tensors of a folder's one file are in `place`."""
    names = load_file(folder / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("place", ["../shard.safetensors", "sub/shard.safetensors"])
def test_weights_that_lie_elsewhere(tmp_path, place):
    """They could change, and nothing that looks at the folder would know."""
    folder = copied_folder(tmp_path / "model")
    index_of(folder, place)
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / place)
    refused(folder, place, "in the folder itself")


def test_weights_that_are_there_twice(tmp_path):
    folder = copied_folder(tmp_path / "model")
    index_of(folder, "model.safetensors")
    load_model(str(folder))
    (folder / "model-00001-of-00001.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()
    )
    index_of(folder, "model-00001-of-00001.safetensors")
    refused(folder, "weights twice", "one of the two must go")
    (folder / "model.safetensors.index.json").write_text("[]")
    refused(folder, "names no weights")


def test_a_tensor_that_two_files_hold(tmp_path):
    """As an older shard may; of the two a library takes one, and says nothing."""
    folder = copied_folder(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    own = {"lm_head.weight": tensors["lm_head.weight"] * 3}
    save_file(own, folder / names[1], {"format": "pt"})
    (folder / "model.safetensors").rename(folder / names[0])
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, names[0])}
    index["weight_map"]["model.norm.weight"] = names[1]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "lm_head.weight twice", "the other must go")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_tensor_with_the_models_prefix_and_without(tmp_path, architecture):
    """Either is how a model may be saved; both are two models."""
    folder = copied_folder(tmp_path / "model", architecture)
    names = [k for k in load_file(folder / "model.safetensors") if ".1.mlp." in k]
    bare = {name.split(".", 1)[1]: name for name in names}
    rewrite(folder, lambda t: t | {k: t[name] * 3 for k, name in bare.items()})
    refused(folder, "twice", sorted(bare)[0])


def test_weights_that_are_whole_numbers(tmp_path):
    def coded(tensors):
        return {k: (t * 50).to(torch.int8) if t.ndim == 2 else t for k, t in tensors.items()}

    folder = rewrite(copied_folder(tmp_path / "model", "llama"), coded)
    refused(folder, "lm_head.weight is of I8", "quantised")


def test_code_of_a_folder_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks"))
    folder, code = copied_folder(tmp_path / "model"), {"AutoConfig": "code.Config"}
    (folder / "code.py").write_text("raise SystemExit")
    refused(configure(folder, model_type="mine", auto_map=code), "custom code")


def test_a_model_without_blocks(tmp_path):
    refused(
        save_random(configuration("GPT2", num_hidden_layers=0), tmp_path), "no plain row of blocks"
    )


def test_a_head_that_is_said_to_be_the_embedding_and_is_another(tmp_path):
    """The file's two tensors count, not the configuration's word that they are one."""
    folder = copied_folder(tmp_path / "model", "llama")
    tokens = random_tokens(2)
    expected = load_model(str(folder))(tokens)
    configure(folder, tie_word_embeddings=True)
    model = load_model(str(folder))
    torch.testing.assert_close(model(tokens), expected)
    run = runner(model, [])
    torch.testing.assert_close(run.head(run.hidden(tokens)), expected)


def test_tensors_of_another_size(tmp_path):
    wider = configure(copied_folder(tmp_path / "wider", "llama"), vocab_size=40)
    refused(wider, "is (30, 12) and not (40, 12)")
    longer = configure(copied_folder(tmp_path / "longer", "gpt2"), n_positions=20)
    refused(longer, "wpe.weight is (24, 12) and not (20, 12)")


def test_an_adapter_that_nobody_applies(tmp_path):
    folder = copied_folder(tmp_path / "model", "llama")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    refused(folder, "holds an adapter", "merged")


def test_a_classifier(tmp_path):
    config = configuration("GPT2", num_labels=3)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "one tensor (score.weight) is without a place")


def test_masks_in_old_files_are_no_weights(tmp_path):
    folder = copied_folder(tmp_path / "model", "gpt_neo")
    old = {
        f"transformer.h.{i}.attn.attention.{name}": torch.ones(1, 1, 24, 24)
        for i in range(2)
        for name in ("bias", "masked_bias")
    }
    load_model(str(rewrite(folder, lambda tensors: tensors | old)))


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 3)])
def test_a_weight_that_is_no_number(tmp_path, value, count):
    name = "transformer.h.1.ln_2.weight"

    def damage(tensors):
        tensors[name][:count] = value
        return tensors

    folder = rewrite(copied_folder(tmp_path / "model"), damage)
    refused(folder, f"{count} of the 12 numbers", name, "NaN or infinite")


def test_outputs_that_are_no_numbers(tmp_path):
    folder = rewrite(
        copied_folder(tmp_path / "model", "gpt_neox"),
        lambda tensors: tensors | {"embed_out.weight": tensors["embed_out.weight"] * 3e38},
    )
    rewrite(folder, lambda tensors: {k: t.clamp(-3e38, 3e38) for k, t in tensors.items()})
    refused(folder, "outputs are not finite")


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_a_model_that_predicts_every_token_alike(tmp_path, architecture):
    """One whose head was set to zero and never trained sees nothing that it should not."""
    name = {"gpt_neox": "embed_out.weight", "llama": "lm_head.weight"}[architecture]
    folder = copied_folder(tmp_path / "model", architecture)
    rewrite(folder, lambda tensors: tensors | {name: tensors[name] * 0})
    model = load_model(str(folder))
    assert not model(random_tokens(1)).any() and len(runner(model, []).sites) < len(model.hook_dict)


@pytest.mark.parametrize("kind", ["Roberta", "Bert"])
def test_an_encoder_sees_what_it_is_to_predict(tmp_path, kind):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 20, "vocab_size": 30, "initializer_range": 0.3}
    config = getattr(transformers, f"{kind}Config")(**shape, max_position_embeddings=40)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "sees the tokens that it is to predict")


def test_a_decoder_without_its_mask(tmp_path):
    config = configuration("Gemma3Text", use_bidirectional_attention=True)
    refused(save_random(config, tmp_path), "sees the tokens that it is to predict")


@pytest.mark.parametrize("kind", ["T5", "Bart"])
def test_an_encoder_with_a_decoder(tmp_path, kind):
    shape = {"d_model": 16, "vocab_size": 30, "decoder_start_token_id": 0}
    small = {"encoder_layers": 1, "decoder_layers": 1, "num_layers": 1, "d_kv": 8, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**shape, **small)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "an encoder with a decoder", kind.lower())


def saved(config, model, folder):
    model(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_a_model_of_more_than_text_is_refused_before_anything_is_installed(tmp_path, monkeypatch):
    """To look at pictures TransformerLens would have pip replace torch."""
    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("installs"))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 20, "head_dim": 8}
    seen = {"image_size": 16, "patch_size": 8}
    text = small | {"vocab_size": 30, "num_key_value_heads": 1}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=small | seen, mm_tokens_per_image=4
    )
    both = saved(config, transformers.Gemma3ForConditionalGeneration, tmp_path / "both")
    refused(both, "not of text alone", "gemma3")
    config = transformers.ViTConfig(**small, **seen)
    refused(saved(config, transformers.ViTModel, tmp_path / "vit"), "not of text alone")


def test_architectures_that_cannot_be_taken_apart(tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 20, "vocab_size": 30}
    config = transformers.RobertaConfig(**shape, is_decoder=True)
    unknown = saved(config, transformers.RobertaForCausalLM, tmp_path / "unknown")
    refused(unknown, "does not know its architecture")
    config = transformers.HrmTextConfig(**shape, num_key_value_heads=1, head_dim=8)
    folder = save_random(config, tmp_path / "loops")
    refused(folder, "no plain row of blocks")


@pytest.mark.parametrize("architecture", ["GptOss", "BitNet"])
def test_processing_that_changes_the_model(architecture):
    folder = architecture_folder(architecture)
    load_model(str(folder))
    refused(folder, "processing it changes", "log-probabilities differ by up to", processed=True)


def test_wrapping_that_changes_the_model(monkeypatch):
    real = model_checks.CheckedClass.from_pretrained

    def other(self, *args, **options):
        model = real(self, *args, **options)
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.mul_(1.1)
        return model

    monkeypatch.setattr(model_checks.CheckedClass, "from_pretrained", other)
    refused(architecture_folder("Llama"), "wrapping it changes")


def test_processing_that_fails():
    folder = architecture_folder("FalconH1")
    load_model(str(folder))
    refused(folder, "processed is true", "FalconH1", "cannot process", processed=True)


def test_a_model_that_is_too_large(tmp_path):
    folder = copied_folder(tmp_path / "model", "llama")
    configure(folder, hidden_size=2**16, intermediate_size=2**18, num_hidden_layers=80)
    refused(folder, "billion parameters", "GB in float32", "GB free")


def test_reading_the_free_memory():
    free = model_checks.free_memory("cpu")
    assert free and all(2**20 < size < 2**50 for size in free.values())


def test_looking_at_a_model_leaves_the_global_generator_alone():
    folder = str(architecture_folder("Qwen2"))
    state = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(state, torch.get_rng_state())
