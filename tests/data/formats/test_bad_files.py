"""What is not what it says, or cannot be said: one sentence, and nothing half-written."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from e2e_lib.data.formats.sae_files import read_sae, write_sae
from e2e_lib.data.formats.stored import StoredSAE, fold
from e2e_lib.errors import ModelError, ResultsError
from tests.helpers.hostile import batch, changed_bytes, changed_value, json_text, survives
from tests.helpers.pt_files import rezipped
from tests.helpers.sae_stand_ins import D_IN, D_SAE, STAND_INS, draw, trainer, without
from tests.helpers.tiny_models import assert_sentence

pytestmark = pytest.mark.usefixtures("without_type_checks")
Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    """Change values of a folder's configuration; of dictionary_learning's `trainer`."""

    def change(folder: Path) -> None:
        names = ("cfg.json", "config.json", "hyperparams.json")
        path = next(folder / name for name in names if (folder / name).is_file())
        values = json.loads(path.read_text())
        values.get("trainer", values).update(changes)
        path.write_text(json.dumps(values))

    return change


def part(name: str, **changes: Any) -> Change:
    """Change values of a mapping inside a folder's configuration, such as `buffer`."""

    def change(folder: Path) -> None:
        path = next(folder / n for n in ("cfg.json", "config.json") if (folder / n).is_file())
        values = json.loads(path.read_text())
        values[name] = values.get(name, {}) | changes
        path.write_text(json.dumps(values))

    return change


def tensors(**changes: Any) -> Change:
    """Change tensors by name, `__` for a dot: another one, or a function of it; None removes it."""

    def change(folder: Path) -> None:
        path = next(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".pt", ".npz"))
        if path.suffix == ".pt":
            values = torch.load(path, weights_only=True)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                values = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            values = load_file(path)
        for key, new in changes.items():
            name = key.replace("__", ".")
            old = values.pop(name, None)
            if new is not None:
                values[name] = new(old) if callable(new) else new
        values = {name: t.contiguous() for name, t in values.items()}
        if path.suffix == ".pt":
            torch.save(values, path)
        elif path.suffix == ".npz":
            np.savez(path, **{name: t.numpy() for name, t in values.items()})
        else:
            save_file(values, path)

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T


def nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = float("nan")
    return tensor


def unsaid(key: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "hyperparams.json"
        values = json.loads(path.read_text())
        del values[key]
        path.write_text(json.dumps(values))

    return change


NEGATIVE = torch.full((D_SAE,), -0.1)
DL = "dictionary_learning "
# The sound stand-in, what is done to it, and words of the sentence.
BAD: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "transposed encoder": ("saelens standard", tensors(W_enc=turned), ("W_enc", "[10, 6]")),
    "transposed decoder": ("saelens topk", tensors(W_dec=turned), ("W_dec", "[6, 10]")),
    "transposed linear": (DL + "AutoEncoder", tensors(encoder__weight=turned), ("encoder.weight",)),
    "transposed in sparsify": ("sparsify", tensors(W_dec=turned), ("W_dec", "[6, 10]")),
    "transposed Gemma": ("gemma_scope", tensors(W_enc=turned), ("W_enc", "[10, 6]")),
    "transposed Gemma 2": ("gemma_scope_2", tensors(w_dec=turned), ("W_dec", "[6, 10]")),
    "transposed Llama": ("llama_scope", tensors(decoder__weight=turned), ("decoder.weight",)),
    "whole numbers": ("saelens standard", tensors(b_enc=lambda t: t.long()), ("I64",)),
    "whole numbers in a pt": (DL + "AutoEncoder", tensors(bias=lambda t: t.int()), ("int32",)),
    "whole numbers in a npz": ("gemma_scope", tensors(b_dec=lambda t: t.int()), ("int32",)),
    "eight bits": (
        DL + "AutoEncoder", tensors(decoder__weight=lambda t: t.to(torch.float8_e5m2)), ("float8",),
    ),
    "not a number": ("saelens jumprelu", tensors(threshold=nan), ("not finite", "threshold")),
    "not a number in a pt": (DL + "AutoEncoder", tensors(bias=nan), ("not finite", "b_dec")),
    "infinite": ("llama_scope", tensors(encoder__bias=lambda t: t / 0), ("not finite",)),
    "missing tensor": ("saelens jumprelu", tensors(threshold=None), ("threshold",)),
    "another tensor": ("saelens standard", tensors(W_skip=torch.ones(6, 6)), ("W_skip",)),
    "no direction": ("saelens standard", tensors(W_dec=lambda t: t * 0), ("without direction",)),
    "k of 0": ("saelens topk", config(k=0), ("k 0", "[1, 10]")),
    "k above d_sae": ("saelens topk", config(k=11), ("k 11", "[1, 10]")),
    "fractional k": ("saelens topk", config(k=2.5), ("k 2.5",)),
    "no k": ("saelens topk", config(k=None), ("k None",)),
    "k of 0 in sparsify": ("sparsify", config(k=0), ("k 0", "[1, 10]")),
    "k of 0 in a pt": (
        DL + "AutoEncoderTopK", tensors(k=torch.tensor(0)), ("k 0", "[1, 10]"),
    ),
    "two values of k": (DL + "AutoEncoderTopK", config(k=4), ("k 3 in ae.pt", "4 in config.json")),
    "negative threshold": ("saelens jumprelu", tensors(threshold=NEGATIVE), ("-0.1", "at least 0")),
    "negative in Gemma": ("gemma_scope", tensors(threshold=NEGATIVE), ("-0.1", "at least 0")),
    "negative in Llama": ("llama_scope", config(jump_relu_threshold=-1), ("at least 0",)),
    "threshold never set": (
        DL + "BatchTopKSAE", tensors(threshold=torch.tensor(-1.0)), ("-1", "never set"),
    ),
    "groups that do not sum": (
        DL + "MatryoshkaBatchTopKSAE", tensors(group_sizes=torch.tensor([4, 4])), ("group_sizes",),
    ),
    "topk of rows of any length": (
        "saelens topk", tensors(W_dec=lambda t: 2 * t), ("unit length", "k largest"),
    ),
    "the same in a pt": (
        DL + "AutoEncoderTopK", tensors(decoder__weight=lambda t: 1.1 * t), ("unit length",),
    ),
    "the same in sparsify": ("sparsify", tensors(W_dec=lambda t: 1.1 * t), ("unit length",)),
    "unknown architecture": (
        "saelens standard", config(architecture="temporal"), ("temporal", "standard, topk"),
    ),
    "a transcoder": ("saelens standard", config(architecture="transcoder"), ("transcoder",)),
    "one of no width": ("saelens skip_transcoder", config(d_out=0), ("d_out", "at least 1")),
    "one of another": ("saelens skip_transcoder", config(d_out=5), ("W_dec", "[10, 5]")),
    "one whose bias": (
        "saelens transcoder", config(apply_b_dec_to_input=True), ("apply_b_dec_to_input", "false")
    ),
    "unknown class": (DL + "AutoEncoder", config(dict_class="CrossCoder"), ("CrossCoder",)),
    "no class": (DL + "AutoEncoder", config(dict_class=None), ("dict_class",)),
    "a list of classes": (DL + "AutoEncoder", config(dict_class=["AutoEncoder"]), ("dict_class",)),
    "a list of architectures": (
        "saelens standard", config(architecture=["standard"]), ("architecture",),
    ),
    "groupmax": ("sparsify", config(activation="groupmax"), ("groupmax",)),
    "sparsify's transcoder": ("sparsify", config(transcode=True), ("transcode",)),
    "a skip connection": ("sparsify", config(skip_connection=True), ("skip_connection",)),
    "its tensor": ("sparsify", tensors(W_skip=torch.ones(6, 6)), ("W_skip",)),
    "a relu Gemma": ("gemma_scope_2", config(architecture="relu"), ("'relu'", "jump_relu")),
    "a Gemma transcoder": ("gemma_scope_2", config(type="transcoder"), ("transcoder",)),
    "its output elsewhere": (
        "gemma_scope_2", config(hf_hook_point_out="model.layers.17.mlp"), ("hf_hook_point_out",),
    ),
    "an affine Gemma": ("gemma_scope_2", config(affine_connection=True), ("affine_connection",)),
    "another width": ("gemma_scope_2", config(width=16), ("width", "16")),
    "a cross-layer Gemma": (
        "gemma_scope_2", tensors(w_dec=torch.ones(D_SAE, 2, D_IN)), ("W_dec", "[10, 2, 6]"),
    ),
    "a Llama whose norm is next to 0": (
        "llama_scope", config(dataset_average_activation_norm={"in": 1e-300}), ("not finite",),
    ),
    "a threshold that no float32 holds": (
        "llama_scope", config(jump_relu_threshold=1e39), ("not finite", "threshold"),
    ),
    "a topk Llama": ("llama_scope", config(act_fn="topk"), ("act_fn", "topk")),
    "a Llama by token": (
        "llama_scope", config(norm_activation="token-wise"), ("norm_activation",),
    ),
    "an input bias in Llama": (
        "llama_scope", config(apply_decoder_bias_to_pre_encoder=True), ("pre_encoder",),
    ),
    "a Llama transcoder": (
        "llama_scope", config(hook_point_out="blocks.8.hook_mlp_out"), ("hook_point_out",),
    ),
    "two norms": (
        "llama_scope", config(dataset_average_activation_norm={"in": 6.0, "out": 3.0}), ("norm",),
    ),
    "no norm": ("llama_scope", config(dataset_average_activation_norm={"in": 0}), ("above 0",)),
    "scaled inputs": (
        "saelens standard", config(normalize_activations="expected_average_only_in"),
        ("normalize_activations", "expected_average_only_in"),
    ),
    "inputs of unit variance": (
        "saelens standard", config(normalize_activations="layer_norm"), ("layer_norm",),
    ),
    "heads": ("saelens standard", config(reshape_activations="hook_z"), ("hook_z",)),
    "one head": (
        "saelens standard",
        config(metadata={"sae_lens_version": "6.1.0", "hook_head_index": 3}), ("hook_head_index",),
    ),
    "heads before 6": (
        "saelens before 6, topk", config(hook_point="blocks.1.attn.hook_z"), ("hook_z",),
    ),
    "a scaled decoder": (
        "saelens before 6, topk", tensors(scaling_factor=torch.zeros(D_SAE)), ("scaling_factor",),
    ),
    "tanh": ("saelens before 6, topk", config(activation_fn_str="tanh-relu"), ("tanh-relu",)),
    "a signed topk": (
        "saelens before 6, topk",
        config(activation_fn_kwargs={"k": 3, "signed": True}), ("signed",),
    ),
    "no flag": ("saelens standard", config(apply_b_dec_to_input="yes"), ("apply_b_dec_to_input",)),
    "unknown key": ("saelens standard", config(input_gain=2.0), ("input_gain", "not known")),
    "unknown key in sparsify": ("sparsify", config(input_gain=2.0), ("input_gain", "not known")),
    "other sizes": ("saelens standard", config(d_sae=20), ("20",)),
    "other sizes in a pt": (DL + "AutoEncoder", config(dict_size=20), ("20",)),
    "no size": (DL + "AutoEncoder", config(activation_dim=None), ("activation_dim",)),
    "no mapping": ("saelens standard", text("cfg.json", "[1]"), ("cfg.json",)),
    "no JSON": ("llama_scope", text("hyperparams.json", "{"), ("hyperparams.json",)),
    "no metadata": ("saelens standard", config(metadata=[1]), ("metadata",)),
    "a truncated file": ("gemma_scope_2", text("params.safetensors", "xx"), ("damaged",)),
    "a jumprelu of topk before 6": (
        "saelens jumprelu",
        config(metadata={}, activation_fn_str="topk", activation_fn_kwargs={"k": 2}),
        ("activation_fn", "jumprelu"),
    ),
    "a gated topk before 6": (
        "saelens gated", config(metadata={}, activation_fn="topk", activation_fn_kwargs={"k": 2}),
        ("activation_fn", "gated"),
    ),
    "a scale before 6": ("saelens before 6, topk", config(act_scale=2.0), ("act_scale",)),
    "a version without a point": (
        "saelens standard", config(metadata={"sae_lens_version": 6}, wobble=1), ("wobble",),
    ),
    "no version": ("saelens standard", config(metadata={"hook_name": "x"}, wobble=1), ("wobble",)),
    "a shift in Gemma 2": ("gemma_scope_2", config(input_shift=1), ("input_shift",)),
    "a gain in Llama": ("llama_scope", config(output_gain=1.5), ("output_gain",)),
    "centred inputs": (DL + "AutoEncoder", config(center_inputs=True), ("center_inputs",)),
    "half said, single held": ("saelens standard", config(dtype="float16"), ("dtype", "float32")),
    "eight bits said": ("saelens topk", config(dtype="torch.int8"), ("dtype", "int8")),
    "an output elsewhere": (
        "saelens standard",
        config(metadata={"sae_lens_version": "6.1", "hook_name": "a", "hook_name_out": "b"}),
        ("hook_name_out", "transcoder"),
    ),
    # ------------------------------------------------------ keys that nobody knows, or that count
    **{
        f"an input bias in {name}": (
            DL + name, config(apply_b_dec_to_input=not subtracted),
            ("trainer.apply_b_dec_to_input", str(not subtracted), f"only {subtracted}"),
        )
        for name, subtracted in (
            ("JumpReluAutoEncoder", False), ("AutoEncoderNew", False), ("AutoEncoder", True),
        )
    },
    "an input bias in Gemma 2": (
        "gemma_scope_2", config(apply_b_dec_to_input=True), ("apply_b_dec_to_input", "'True'"),
    ),
    **{
        f"a multiplier in {name}": (name, config(input_multiplier=3.0), ("input_multiplier", "3.0"))
        for name in (
            DL + "AutoEncoder", DL + "JumpReluAutoEncoder", "saelens before 6, topk",
            "saelens topk", "sparsify", "gemma_scope_2", "llama_scope",
        )
    },
    "a transcoder's buffer": (
        DL + "AutoEncoder", part("buffer", io="in_and_out"), ("buffer.io", "in_and_out", "'out'"),
    ),
    "inputs of a module": (DL + "AutoEncoder", part("buffer", io="in"), ("buffer.io", "'in'")),
    "a scale in a buffer": (
        DL + "AutoEncoder", part("buffer", activation_scale=2), ("buffer.activation_scale", "2"),
    ),
    "heads of a buffer": (DL + "AutoEncoder", part("buffer", layer=4), ("buffer.layer", "4")),
    "a list for a buffer": (
        DL + "AutoEncoder", lambda folder: (folder / "config.json").write_text(
            json.dumps({"trainer": trainer("AutoEncoder"), "buffer": [1]})
        ) and None, ("buffer", "a mapping"),
    ),
    "a key beside the trainer": (
        DL + "AutoEncoder", part("preprocessing", scale=2), ("preprocessing", "scale"),
    ),
    "activations normalised by token": (
        DL + "AutoEncoder", config(normalize_activations="layer_norm"), ("layer_norm", "False"),
    ),
    "a topk with a threshold": (
        DL + "AutoEncoderTopK", config(use_threshold=True), ("use_threshold", "'True'", "False"),
    ),
    "a batchtopk without": (
        DL + "BatchTopKSAE", config(use_threshold=False), ("use_threshold", "'False'", "True"),
    ),
    "a transcoder before 6": (
        "saelens before 6, topk",
        config(is_transcoder=True, d_out=3, hook_point_out="blocks.2.hook_mlp_out"),
        ("is_transcoder", "'True'", "False or None"),
    ),
    "one of another width before 6": (
        "saelens before 6, topk", config(d_out=3), ("d_out", "'3'", "d_in, 6"),
    ),
    "one of another output before 6": (
        "saelens before 6, topk", config(hook_point_out="blocks.2.hook_mlp_out"),
        ("hook_name_out", "hook_mlp_out", "no transcoder"),
    ),
    "the same by another name": (
        "saelens before 6, topk", config(out_hook_point="blocks.2.hook_mlp_out"),
        ("hook_name_out", "hook_mlp_out"),
    ),
    "a relu of k": (
        "saelens before 6, topk", config(activation_fn_str="relu"), ("activation_fn_kwargs.k", "3"),
    ),
    "a k of a relu before 6": (
        "saelens standard", config(metadata={}, k=3), ("has k '3'", "not known"),
    ),
    "metadata before 6": (
        "saelens before 6, topk", config(metadata={"sae_lens_version": "5.1", "input_scale": 2}),
        ("metadata.input_scale",),
    ),
    "two hooks before 6": (
        "saelens before 6, topk", config(hook_name="blocks.3.hook_resid_pre"),
        ("hook_name", "blocks.3", "'blocks.2.hook_resid_pre' also said"),
    ),
    "a list of options": (
        "saelens before 6, topk", config(activation_fn_kwargs=[3]), ("activation_fn_kwargs",),
    ),
    "a topk Gemma 2": ("gemma_scope_2", config(activation="topk", k=3), ("activation", "topk")),
    "a k in Gemma 2": ("gemma_scope_2", config(k=3), ("has k '3'", "not known")),
    "a k of a standard": ("saelens standard", config(k=3), ("has k '3'", "not known")),
    "a scale in the metadata": (
        "saelens standard", part("metadata", input_scale=2.0), ("metadata.input_scale", "2.0"),
    ),
    "a norm in the metadata": (
        "saelens standard", part("metadata", normalize_activations="layer_norm"),
        ("metadata.normalize_activations", "layer_norm", "'none'"),
    ),
    "heads in the metadata": (
        "saelens standard", part("metadata", reshape_activations="hook_z"), ("hook_z",),
    ),
    "a scale in a training's details": (
        "saelens jumprelu", part("metadata", training_architecture_details={"input_scale": 2}),
        ("metadata.training_architecture_details.input_scale", "2"),
    ),
    "a Llama without its function": (
        "llama_scope", unsaid("act_fn"), ("act_fn 'None'", "'jumprelu'"),
    ),
    "a Llama without its norm": (
        "llama_scope", unsaid("norm_activation"), ("norm_activation 'None'", "'dataset-wise'"),
    ),
    "a Llama that may subtract its bias": (
        "llama_scope", unsaid("apply_decoder_bias_to_pre_encoder"), ("pre_encoder 'None'", "False"),
    ),
    "a value in a key's name": (
        "sparsify", config(**{"a\nb": 1}), ("a\\nb", "not known"),
    ),
    "files of two formats": ("saelens standard", text("params.npz", ""), ("saelens and of gemma",)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_what_it_says_is_refused_in_one_sentence(tmp_path, name):
    stand_in, change, words = BAD[name]
    path = STAND_INS[stand_in].write(tmp_path)
    read_sae(path)
    change(path)
    with pytest.raises(ModelError) as caught:
        read_sae(path)
    assert_sentence(caught, *words)


def test_a_square_decoder_that_lies_on_its_side():
    """No shape tells, but the length of its rows."""
    unit = torch.nn.functional.normalize(torch.randn(8, 8), dim=1)
    weights = {"W_enc": torch.randn(8, 8), "b_enc": torch.zeros(8), "b_dec": torch.zeros(8)}
    assert fold(weights | {"W_dec": unit}, "it")["weights"]["W_dec"].equal(unit)
    fold(weights | {"W_dec": 2 * unit}, "it")
    with pytest.raises(ModelError) as caught:
        fold(weights | {"W_dec": unit.T}, "it")
    assert_sentence(caught, "it is square", "transposed")


def test_an_autoencodernew_by_another_name_is_not_taken_for_the_authors_file(tmp_path):
    """The same keys and shapes: their class brings columns to unit length, the other does not."""
    stand_in = STAND_INS[DL + "AutoEncoderNew"]
    folder = stand_in.write(tmp_path)
    path = folder / "mine.pt"
    (folder / "ae.pt").rename(path)
    with pytest.raises(ModelError) as caught:
        read_sae(path)
    assert_sentence(caught, "mine.pt", "decoder.weight", "AutoEncoderNew", "similar", "ae.pt")
    same = torch.load(path, weights_only=True)
    same["decoder.weight"] = torch.nn.functional.normalize(same["decoder.weight"], dim=0)
    for dtype in (torch.float32, torch.bfloat16):  # both classes compute the same, but for rounding
        torch.save({name: t.to(dtype) for name, t in same.items()}, path)
        assert read_sae(path).format == "authors"
    ours = {n.replace("encoder.", "encoder.0."): 2 * t for n, t in same.items()}  # their own class
    torch.save(ours, path)
    read_sae(path)
    with pytest.raises(ModelError):
        torch.save({n: 2 * t for n, t in same.items()}, path)
        read_sae(path)


def test_what_is_no_sae(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "a.bin"):
        with pytest.raises(ModelError) as caught:
            read_sae(path)
        assert_sentence(caught, path.name, "no SAE", "sae_weights.safetensors")
    path = STAND_INS[DL + "AutoEncoderNew"].write(tmp_path / "new") / "ae.pt"
    with pytest.raises(ModelError) as caught:  # whose keys are those of the authors' files
        read_sae(path)
    assert_sentence(caught, "ae.pt", "no SAE")
    two = {
        f"blocks-{n}-hook_resid_pre.{key}": t
        for n in (1, 2)
        for key, t in torch.load(
            STAND_INS["authors, released"].write(tmp_path), weights_only=True
        ).items()
    }
    torch.save(two, tmp_path / "samples_1.pt")
    with pytest.raises(ModelError) as caught:
        read_sae(tmp_path / "samples_1.pt")
    assert_sentence(caught, "2 SAEs", "blocks-1-hook_resid_pre")


# ------------------------------------------------------------------ the one form
def sound(**changes: Any) -> dict[str, Any]:
    return {"weights": without(draw(1, unit=True), "threshold"), "sparsifier": "relu"} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {}}, ("W_enc",)),
        ({"weights": draw(1, unit=True)}, ("threshold",)),
        ({"weights": without(draw(1), "threshold")}, ("unit length",)),
        ({"weights": {k: t.double() for k, t in sound()["weights"].items()}}, ("float64",)),
        ({"sparsifier": "gelu"}, ("gelu", "relu")),
        ({"sparsifier": "topk", "k": 0}, ("k 0", "[1, 10]")),
        ({"sparsifier": "topk", "k": 11}, ("k 11",)),
        ({"sparsifier": "topk", "k": 2.5}, ("k 2.5",)),
        ({"sparsifier": "topk", "k": True}, ("k True",)),
        ({"sparsifier": "jumprelu"}, ("threshold",)),
        (
            {"sparsifier": "jumprelu", "weights": draw(1, unit=True) | {"threshold": NEGATIVE}},
            ("-0.1", "at least 0"),
        ),
        ({"dtype": "int8"}, ("int8",)),
    ],
)  # fmt: skip
def test_what_no_stored_sae_is(changes, words):
    StoredSAE(**sound())
    with pytest.raises(ModelError) as caught:
        StoredSAE(**sound(**changes))
    assert_sentence(caught, *words)


# ------------------------------------------------------------------ writing
def jumping(**changes: Any) -> StoredSAE:
    return StoredSAE(draw(2, unit=True), "jumprelu", hook="blocks.4.hook_resid_post", **changes)


@pytest.mark.parametrize(
    ("format", "at", "hook", "words"),
    [
        ("sparsify", "layers.4", "blocks.4.hook_resid_post", ("no thresholds", "jumprelu")),
        ("authors", "a.pt", "blocks.4.hook_resid_post", ("ReLU", "jumprelu")),
        ("dictionary_learning", "a", "blocks.4.hook_mlp_out", ("residual stream", "hook_mlp_out")),
        ("dictionary_learning", "a", "blocks.0.hook_resid_pre", ("residual stream",)),
        ("dictionary_learning", "a", None, ("residual stream",)),
        ("gemma_scope", "a", None, ("gemma_scope", "saelens, dictionary_learning")),
        ("pickle", "a", None, ("pickle", "saelens, dictionary_learning")),
    ],
)
def test_what_a_format_cannot_say_is_not_written(tmp_path, format, at, hook, words):
    with pytest.raises(ModelError) as caught:
        write_sae(tmp_path / at, replace(jumping(), hook=hook), format)
    assert_sentence(caught, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_name_says_another_hook_is_not_written(tmp_path):
    stored = StoredSAE(**sound(hook="blocks.5.hook_resid_pre"))
    write_sae(tmp_path / "layers.4", stored, "sparsify")  # the same activation
    for name in ("layers.5", "h.4.mlp", "embed_tokens"):
        with pytest.raises(ModelError) as caught:
            write_sae(tmp_path / name, stored, "sparsify")
        assert_sentence(caught, name, "blocks.5.hook_resid_pre")


def test_a_folder_of_another_format_is_left_alone(tmp_path):
    write_sae(tmp_path, jumping())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ModelError) as caught:
        write_sae(tmp_path, jumping(), "dictionary_learning")
    assert_sentence(caught, "saelens", "dictionary_learning")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError):
        write_sae(tmp_path / "file", jumping())


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, format):
    write_sae(tmp_path / "a", jumping(), format)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # the configuration, which comes last
    changed = replace(jumping(), weights=draw(3, unit=True))
    for folder in (tmp_path / "a", tmp_path / "new"):
        with pytest.raises(ResultsError) as caught:
            write_sae(folder, changed, format)
        assert_sentence(caught, "cannot be written", "No space left on device")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name == "new"
    ]


def test_firing_frequencies_are_those_of_the_sae_that_is_there(tmp_path):
    from e2e_lib.data.formats.saelens import SPARSITY, firing_frequency

    share = torch.linspace(0, 1, D_SAE)
    write_sae(tmp_path, jumping(), frequency=share)
    torch.testing.assert_close(firing_frequency(tmp_path), share, rtol=1e-5, atol=1e-6)
    write_sae(tmp_path, jumping())
    assert not (tmp_path / SPARSITY).exists()


# ------------------------------------------------------------------ hostile files
FUZZED = [
    "saelens gated",
    DL + "BatchTopKSAE",
    "sparsify",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
]


@pytest.fixture(scope="module", params=FUZZED)
def sound_folder(request, tmp_path_factory) -> Path:
    return STAND_INS[request.param].write(tmp_path_factory.mktemp("sound"))


@batch(300)
@given(st.data())
def test_damaged_files(sound_folder: Path, data: st.DataObject) -> None:
    files = sorted(path for path in sound_folder.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    damaged = changed_bytes(whole)
    if path.suffix == ".json":
        damaged |= changed_value(json.loads(whole)).map(lambda value: json_text(value).encode())
    if path.suffix == ".npz":
        damaged |= st.builds(
            rezipped, st.just(whole), st.sampled_from(["W_enc.npy", "b_dec.npy"]),
            changed_bytes(npy(np.zeros(D_IN, np.float32))),
            st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
        )  # fmt: skip
    try:
        path.write_bytes(data.draw(damaged))
        found = survives(read_sae, sound_folder)
        assert found is None or all(torch.isfinite(t).all() for t in found.weights.values())
    finally:
        path.write_bytes(whole)


def npy(array: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("array", [
    np.array([{"a": 1}], dtype=object), np.zeros(3, dtype="U4"), np.zeros(3, dtype=np.complex64),
], ids=["objects", "text", "complex"])  # fmt: skip
def test_arrays_that_are_no_numbers_are_not_read(tmp_path, array):
    path = STAND_INS["gemma_scope"].write(tmp_path)
    file = path / "params.npz"
    file.write_bytes(rezipped(file.read_bytes(), "b_enc.npy", npy(array)))
    with pytest.raises(ModelError) as caught:
        read_sae(path)
    assert_sentence(caught, "params.npz", str(array.dtype))


def test_an_array_that_claims_more_than_its_file_holds(tmp_path):
    path = STAND_INS["gemma_scope"].write(tmp_path)
    file = path / "params.npz"
    honest = npy(np.zeros(4, np.float32))
    big = honest.replace(b"(4,), }" + b" " * 11, b"(40000000000,), } ")
    assert len(big) == len(honest) and big != honest
    file.write_bytes(rezipped(file.read_bytes(), "b_enc.npy", big))
    with pytest.raises(ModelError) as caught:
        read_sae(path)
    assert_sentence(caught, "params.npz", "claims more")


def test_a_trainer_of_another_site_has_no_hook(tmp_path):
    path = STAND_INS[DL + "AutoEncoder"].write(tmp_path)
    config(submodule_name="mlp_layer_4")(path)
    stored = read_sae(path)
    assert stored.hook is None
    write_sae(tmp_path / "again", stored)  # as it came, for nothing else is known of it
    assert read_sae(tmp_path / "again").config["trainer"]["submodule_name"] == "mlp_layer_4"
    assert trainer("AutoEncoder")["submodule_name"] == "resid_post_layer_4"
