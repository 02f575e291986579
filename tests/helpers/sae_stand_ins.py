"""Stand-ins of every released layout of SAEs, and what each format says its files compute.

The forward passes are written from the formats' own definitions, in float64, and know nothing of
the library: they are what its readers are tested against.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE, D_OUT = 6, 10, 4  # the last is a transcoder's
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]  # x to codes and output, float64


class StandIn(NamedTuple):
    """Files of one layout: how to write them, and what they compute."""

    write: Callable[[Path], Path]
    forward: Forward
    sparsifier: str
    hook: str | None
    unit: bool = False  # whether codes are those of unit rows, whatever the rows' lengths


def draw(seed: int = 0, *, unit: bool = False, d_out: int = D_IN) -> dict[str, Tensor]:
    """W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_out), b_dec, threshold, of any size."""
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape)).float()

    found = {"W_enc": numbers(D_IN, D_SAE), "b_enc": 0.3 * numbers(D_SAE)}
    found |= {"W_dec": numbers(D_SAE, d_out), "b_dec": 0.5 * numbers(d_out)}
    if unit:
        found["W_dec"] = found["W_dec"] / found["W_dec"].norm(dim=1, keepdim=True)
    return found | {"threshold": numbers(D_SAE).abs()}


def inputs() -> Tensor:
    """Forty tokens of activations."""
    return torch.from_numpy(np.random.default_rng(99).standard_normal((40, D_IN))).float()


def relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, torch.zeros_like(z))


def largest(z: Tensor, k: int) -> Tensor:
    """z where it is one of its row's k largest, else 0; slowly, by sorting."""
    kept = torch.zeros_like(z)
    for row, values in enumerate(z.tolist()):
        for i in sorted(range(len(values)), key=lambda j: -values[j])[:k]:
            kept[row, i] = values[i]
    return kept


def run(stored: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a `StoredSAE` says it computes, in float64."""
    w = {name: tensor.double() for name, tensor in stored.weights.items()}
    z = x.double() @ w["W_enc"] + w["b_enc"]
    codes = {
        "relu": lambda: relu(z),
        "topk": lambda: relu(largest(z, stored.k or 0)),
        "jumprelu": lambda: z * (z > w["threshold"]),
    }[stored.sparsifier]()
    skipped = x.double() @ w["W_skip"] if "W_skip" in w else 0.0
    return codes, codes @ w["W_dec"] + w["b_dec"] + skipped


def linear(w: dict[str, Tensor], act: Callable[[Tensor], Tensor], *, bias: bool) -> Forward:
    """act((x - b_dec) W_enc + b_enc), or of x itself, and its decoding."""
    w = {name: tensor.double() for name, tensor in w.items()}

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = act((x.double() - w["b_dec"] * bias) @ w["W_enc"] + w["b_enc"])
        return codes, codes @ w["W_dec"] + w["b_dec"]

    return forward


def jump(threshold: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: relu(z) * (z > threshold.double())


def gated(
    w: dict[str, Tensor], r_mag: Tensor, b_gate: Tensor, b_mag: Tensor, *, bias: bool
) -> Forward:
    """[u + b_gate > 0] ReLU(e^r_mag u + b_mag), u = (x - b_dec) W_enc."""
    w = {name: tensor.double() for name, tensor in w.items()}

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x.double() - w["b_dec"] * bias) @ w["W_enc"]
        codes = (u + b_gate.double() > 0) * relu(torch.exp(r_mag.double()) * u + b_mag.double())
        return codes, codes @ w["W_dec"] + w["b_dec"]

    return forward


# ------------------------------------------------------------------ SAELens
HOOK = "blocks.2.hook_resid_pre"


def saelens_config(architecture: str, **changes: Any) -> dict[str, Any]:
    """What version 6.54 writes."""
    metadata = {"sae_lens_version": "6.54.12", "hook_name": HOOK, "model_name": "tiny"}
    return {
        "architecture": architecture, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none", "metadata": metadata,
    } | changes  # fmt: skip


def write_saelens(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def saelens() -> dict[str, StandIn]:
    """The four architectures, with and without an input bias, rows of any length; older files."""
    w, u = draw(1), draw(2, unit=True)
    four, r = without(w, "threshold"), w["W_dec"].double().norm(dim=1)
    gates = {"r_mag": 0.3 * w["b_enc"], "b_gate": w["b_enc"].flip(0), "b_mag": w["b_enc"]}

    def rescaled(x: Tensor) -> tuple[Tensor, Tensor]:
        z = (x.double() - w["b_dec"].double()) @ w["W_enc"].double() + w["b_enc"].double()
        codes = relu(largest(r * z, 3))
        return codes, codes / r @ w["W_dec"].double() + w["b_dec"].double()

    def one(
        tensors: dict[str, Tensor], config: dict[str, Any], forward: Forward, kind: str,
        unit: bool = False,
    ) -> StandIn:  # fmt: skip
        return StandIn(
            lambda p: write_saelens(p / "sae", tensors, config), forward, kind, HOOK, unit
        )

    topk = lambda z: relu(largest(z, 3))  # noqa: E731
    plain = {"apply_b_dec_to_input": False}
    old = {
        "d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "hook_point": HOOK, "lr": 1e-3,
        "l1_coefficient": 1.0, "normalize_activations": False, "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3}, "hook_point_head_index": None,
    }  # fmt: skip
    return {
        "standard": one(four, saelens_config("standard"), linear(w, relu, bias=True), "relu"),
        "standard, x itself": one(
            four, saelens_config("standard", **plain), linear(w, relu, bias=False), "relu"
        ),
        "topk": one(
            without(u, "threshold"),
            saelens_config("topk", k=3, rescale_acts_by_decoder_norm=False),
            linear(u, topk, bias=True), "topk",
        ),
        "topk, rescaled": one(
            four, saelens_config("topk", k=3, rescale_acts_by_decoder_norm=True), rescaled, "topk",
            unit=True,
        ),
        "jumprelu": one(
            w, saelens_config("jumprelu"), linear(w, jump(w["threshold"]), bias=True), "jumprelu"
        ),
        "jumprelu, log_threshold": one(
            four | {"log_threshold": w["threshold"].log()}, saelens_config("jumprelu", **plain),
            linear(w, jump(w["threshold"]), bias=False), "jumprelu",
        ),
        "gated": one(
            without(four, "b_enc") | gates, saelens_config("gated"),
            gated(w, **gates, bias=True), "jumprelu",
        ),
        "before 6, topk": one(
            without(u, "threshold") | {"scaling_factor": torch.ones(D_SAE)}, old,
            linear(u, topk, bias=True), "topk",
        ),
    }  # fmt: skip


def transcoders() -> dict[str, StandIn]:
    """The four architectures of SAELens' transcoders, rows of any length."""
    w = draw(8, d_out=D_OUT)
    skip = draw(9, d_out=D_OUT)["W_enc"][:, :D_OUT].T  # (d_out, d_in)
    hooks = {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.2.hook_mlp_out"}
    pair = ">".join(hooks.values())

    def one(act: Callable[[Tensor], Tensor], name: str) -> StandIn:
        jumps, skips = name.startswith("jumprelu"), "skip" in name
        tensors = (w if jumps else without(w, "threshold")) | ({"W_skip": skip} if skips else {})
        config = saelens_config(name, d_out=D_OUT, apply_b_dec_to_input=False)
        config["metadata"] |= hooks

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            codes = act(x.double() @ w["W_enc"].double() + w["b_enc"].double())
            output = codes @ w["W_dec"].double() + w["b_dec"].double()
            return codes, output + x.double() @ skip.double().T * skips

        kind = "jumprelu" if jumps else "relu"
        write = lambda p: write_saelens(p / "sae", tensors, config)  # noqa: E731
        return StandIn(write, forward, kind, pair)

    acts = {"": relu, "jumprelu_": jump(w["threshold"])}
    names = [(act, f"{word}{s}transcoder") for word, act in acts.items() for s in ("", "skip_")]
    return {name: one(act, name) for act, name in names}


# ------------------------------------------------------------------ dictionary_learning
def trainer(dict_class: str, **changes: Any) -> dict[str, Any]:
    return {
        "dict_class": dict_class, "trainer_class": "SomeTrainer", "activation_dim": D_IN,
        "dict_size": D_SAE, "layer": 4, "lm_name": "EleutherAI/pythia-70m-deduped",
        "submodule_name": "resid_post_layer_4", "lr": 3e-4, "wandb_name": "x",
    } | changes  # fmt: skip


def write_dictionary(folder: Path, tensors: dict[str, Tensor], trainer: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: t.contiguous() for k, t in tensors.items()}, folder / "ae.pt")
    config = {"trainer": trainer, "buffer": {"d_submodule": D_IN, "ctx_len": 1024, "io": "out"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def dictionary_tensors(w: dict[str, Tensor], bias: str) -> dict[str, Tensor]:
    found = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    return found | {"decoder.weight": w["W_dec"].T, bias: w["b_dec"]}


def dictionary_learning() -> dict[str, StandIn]:
    """Every class of the library."""
    w, u = draw(3), draw(4, unit=True)
    gates = {"r_mag": 0.3 * w["b_enc"], "b_gate": w["b_enc"].flip(0), "b_mag": w["b_enc"]}
    named = {"r_mag": gates["r_mag"], "gate_bias": gates["b_gate"], "mag_bias": gates["b_mag"]}
    k, unset, theta = (torch.tensor(v) for v in (3, -1.0, 0.4))
    topk = {"k": k.int(), "threshold": unset}
    one = {"k": k.int(), "threshold": theta}
    groups = {"group_sizes": torch.tensor([2, 3, 5])}
    plain = without(w, "threshold")
    cases: dict[str, tuple[dict[str, Tensor], Forward, str]] = {
        "AutoEncoder": (dictionary_tensors(w, "bias"), linear(w, relu, bias=True), "relu"),
        "AutoEncoderNew": (
            dictionary_tensors(w, "decoder.bias"), linear(w, relu, bias=False), "relu"
        ),
        "JumpReluAutoEncoder": (w, linear(w, jump(w["threshold"]), bias=False), "jumprelu"),
        "AutoEncoderTopK": (
            dictionary_tensors(u, "b_dec") | topk,
            linear(u, lambda z: largest(relu(z), 3), bias=True), "topk",
        ),
        "BatchTopKSAE": (
            dictionary_tensors(w, "b_dec") | one, linear(w, jump(theta), bias=True), "jumprelu"
        ),
        "MatryoshkaBatchTopKSAE": (
            plain | one | groups, linear(w, jump(theta), bias=True), "jumprelu"
        ),
        "GatedAutoEncoder": (
            without(dictionary_tensors(w, "decoder_bias"), "encoder.bias") | named,
            gated(w, **gates, bias=True), "jumprelu",
        ),
    }  # fmt: skip
    return {
        name: StandIn(
            lambda p, name=name, tensors=tensors: write_dictionary(
                p / "trainer_0", tensors, trainer(name, **({"k": 3} if "k" in tensors else {}))
            ),
            forward, kind, "blocks.4.hook_resid_post",
        )
        for name, (tensors, forward, kind) in cases.items()
    }  # fmt: skip


# ------------------------------------------------------------------ sparsify, authors, suites
def write_sparsify(folder: Path, w: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    tensors |= {"W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    save_file(tensors, folder / "sae.safetensors")
    config = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True,
        "num_latents": D_SAE, "k": 3, "multi_topk": False, "skip_connection": False,
        "transcode": False, "d_in": D_IN,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return folder


def write_gemma(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: t.numpy() for name, t in tensors.items()})
    return folder


def write_gemma_2(folder: Path, w: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name.replace("W_", "w_"): t.contiguous() for name, t in w.items()}
    save_file(tensors, folder / "params.safetensors")
    config = {
        "hf_hook_point_in": "model.layers.17.output", "hf_hook_point_out": "model.layers.17.output",
        "width": D_SAE, "model_name": "google/gemma-3-4b-pt", "architecture": "jump_relu",
        "l0": 60, "affine_connection": False, "type": "sae",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def write_llama(folder: Path, w: dict[str, Tensor], **changes: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    tensors = dictionary_tensors(w, "decoder.bias")
    save_file(
        {name: t.contiguous() for name, t in tensors.items()},
        folder / "checkpoints" / "final.safetensors",
    )
    hook = "blocks.8.hook_resid_post"
    config = {
        "d_model": D_IN, "d_sae": D_SAE, "use_decoder_bias": True, "act_fn": "jumprelu",
        "apply_decoder_bias_to_pre_encoder": False, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 6.3125, "out": 6.3125},
        "jump_relu_threshold": 0.25, "top_k": 50, "hook_point_in": hook, "hook_point_out": hook,
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config | changes))
    return folder


def llama_forward(w: dict[str, Tensor]) -> Forward:
    """Activations of mean norm 6.3125 are brought to √d_in, and the output back."""
    s = D_IN**0.5 / 6.3125
    inner = linear(w, jump(torch.tensor(0.25 * s)), bias=False)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        codes, output = inner(s * x.double())
        return codes, output / s

    return forward


def authors_forward(w: dict[str, Tensor]) -> Forward:
    """The decoder is normalised in the forward pass."""
    unit = w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True)
    return linear(w | {"W_dec": unit}, relu, bias=False)


def write_authors(path: Path, w: dict[str, Tensor], prefix: str = "") -> Path:
    tensors = dictionary_tensors(w, "decoder.bias")
    if prefix:
        tensors = {f"{prefix}.{k.replace('encoder', 'encoder.0')}": t for k, t in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return path


def others() -> dict[str, StandIn]:
    """sparsify, the authors' files, and the published suites."""
    u, w, g = draw(5, unit=True), draw(6), draw(7)
    jumps = linear(g, jump(g["threshold"]), bias=False)
    root = D_IN**0.5
    embedding = g | {"W_enc": g["W_enc"] * root, "W_dec": g["W_dec"] / root}
    lower = {name.replace("W_", "w_"): t for name, t in g.items()}
    pre = "blocks.6.hook_resid_pre"
    return {
        "sparsify": StandIn(
            lambda p: write_sparsify(p / "layers.5", u),
            linear(u, lambda z: largest(relu(z), 3), bias=True), "topk", "blocks.5.hook_resid_post",
        ),
        "sparsify, all of its latents": StandIn(
            lambda p: write_sparsify(p / "layers.5.mlp", w, k=D_SAE),
            linear(w, relu, bias=True), "relu", "blocks.5.hook_mlp_out",
        ),
        "authors, released": StandIn(
            lambda p: write_authors(p / "e2e_similar_ce_layer_6.pt", w), authors_forward(w),
            "relu", pre, unit=True,
        ),
        "authors, checkpoint": StandIn(
            lambda p: write_authors(p / "samples_400000.pt", w, "blocks-6-hook_resid_pre"),
            authors_forward(w), "relu", pre, unit=True,
        ),
        "gemma_scope": StandIn(
            lambda p: write_gemma(
                p / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71", g
            ),
            jumps, "jumprelu", "blocks.20.hook_resid_post",
        ),
        "gemma_scope, lower case": StandIn(
            lambda p: write_gemma(p / "gemma-scope-2b-pt-mlp" / "layer_3" / "average_l0_9", lower),
            jumps, "jumprelu", "blocks.3.hook_mlp_out",
        ),
        "gemma_scope, embedding": StandIn(
            lambda p: write_gemma(
                p / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6", embedding
            ),
            jumps, "jumprelu", "hook_embed",
        ),
        "gemma_scope_2": StandIn(
            lambda p: write_gemma_2(p / "resid_post" / "layer_17_width_16k_l0_medium", g),
            jumps, "jumprelu", "blocks.17.hook_resid_post",
        ),
        "llama_scope": StandIn(
            lambda p: write_llama(p / "Llama3_1-8B-Base-L8R-8x", g), llama_forward(g),
            "jumprelu", "blocks.8.hook_resid_post",
        ),
    }  # fmt: skip


STAND_INS = {
    **{f"saelens {name}": one for name, one in (saelens() | transcoders()).items()},
    **{f"dictionary_learning {name}": one for name, one in dictionary_learning().items()},
    **others(),
}
