"""Files of exactly the keys and shapes in which the authors' SAEs were published, for the tests."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from e2e_lib import paper

KINDS = {"local": "local", "e2e": "e2e", "e2e_ds": "downstream"}
BETA = {2: 2.5, 6: 2.5, 10: 0.05}


def raw_weights(d_in: int, d_sae: int, seed: int = 0, unit: bool = True) -> dict[str, Tensor]:
    """encoder.weight (d_sae, d_in), decoder.weight (d_in, d_sae) with unit columns, biases."""
    draw = torch.Generator().manual_seed(seed)
    decoder = torch.randn(d_in, d_sae, generator=draw)
    return {
        "encoder.weight": torch.randn(d_sae, d_in, generator=draw) / d_in,
        "encoder.bias": torch.randn(d_sae, generator=draw) / d_in,
        "decoder.weight": decoder / decoder.norm(dim=0) if unit else decoder,
        "decoder.bias": torch.randn(d_in, generator=draw) / d_in,
    }


def authors_config(objective: str, layer: int, coeff: float, **changes: Any) -> dict[str, Any]:
    """The authors' training configuration, by its own names."""
    kl = {"local": None, "e2e": {"coeff": 1.0}, "e2e_ds": {"coeff": 0.5}}[objective]
    later = [f"blocks.{k}.hook_resid_pre" for k in range(layer + 1, 12)]
    text = {"dataset_name": "x/y", "is_tokenized": True, "streaming": True, "n_ctx": 1024}
    return {
        "wandb_project": "gpt2-e2e", "seed": 0, "tlens_model_name": "gpt2-small",
        "tlens_model_path": None, "n_samples": 400_000, "batch_size": 8,
        "effective_batch_size": 16, "lr": 5e-4, "lr_schedule": "cosine", "min_lr_factor": 0.1,
        "warmup_samples": 20_000, "max_grad_norm": 10.0,
        "loss": {
            "sparsity": {"p_norm": 1.0, "coeff": coeff},
            "in_to_orig": {"hook_positions": later, "total_coeff": BETA.get(layer, 2.5)}
            if objective == "e2e_ds" else None,
            "out_to_orig": None,
            "out_to_in": {"coeff": float(objective == "local")},
            "logits_kl": kl,
        },
        "train_data": text,
        "saes": {
            "sae_positions": [f"blocks.{layer}.hook_resid_pre"], "dict_size_to_input_ratio": 60.0,
        },
    } | changes  # fmt: skip


def write_release(folder: Path, d_in: int, d_sae: int, described: bool = True) -> Path:
    """The 18 files of `apollo-research/e2e-saes-gpt2`: 15 different SAEs."""
    folder.mkdir(parents=True, exist_ok=True)
    for match, table in (("ce", 2), ("l0", 3)):
        for layer, objective, coeff, *_ in paper.rows(table):
            name = f"{KINDS[objective]}_similar_{match}_layer_{layer}"
            seed = int(1000 * layer + 10 * coeff) + list(KINDS).index(objective)
            torch.save(raw_weights(d_in, d_sae, seed), folder / f"{name}.pt")
            if described:
                facts = authors_config(objective, layer, coeff)
                (folder / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    return folder


def write_checkpoint(folder: Path, d_in: int, d_sae: int, hooks: list[str]) -> Path:
    """The authors' native `samples_400000.pt`, one SAE a hook, and `final_config.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for k, hook in enumerate(hooks):
        for name, tensor in raw_weights(d_in, d_sae, k, unit=False).items():
            key = name.replace("encoder.", "encoder.0.")
            tensors[f"{hook.replace('.', '-')}.{key}"] = tensor
    torch.save(tensors, folder / "samples_400000.pt")
    facts = authors_config("e2e_ds", 6, 50.0, seed=3, lr="5e-4")  # yaml reads 5e-4 as text
    (folder / "final_config.yaml").write_text(yaml.safe_dump(facts))
    return folder / "samples_400000.pt"


def write_registry(folder: Path, layer: int, config: dict[str, Any], d_in: int, d_sae: int) -> Path:
    """A SAELens folder as of May 2024: `cfg.json` without architecture or metadata."""
    folder.mkdir(parents=True)
    raw = raw_weights(d_in, d_sae)
    tensors = {
        "W_enc": raw["encoder.weight"].T.contiguous(), "b_enc": raw["encoder.bias"],
        "W_dec": raw["decoder.weight"].T.contiguous(), "b_dec": raw["decoder.bias"],
    }  # fmt: skip
    save_file(tensors, folder / "sae_weights.safetensors")
    old = {
        "model_name": "gpt2-small", "hook_point": f"blocks.{layer}.hook_resid_pre",
        "hook_point_layer": layer, "d_in": d_in, "d_sae": d_sae, "dtype": "torch.float32",
        "device": "cpu", "activation_fn_str": "relu", "normalize_activations": "none",
        "apply_b_dec_to_input": False,
    }  # fmt: skip
    if "metadata" in config:  # since version 6 these stand there, or not at all
        flat = ("model_name", "hook_point", "hook_point_layer", "activation_fn_str")
        old = {key: value for key, value in old.items() if key not in flat}
    if "hook_name" in config:  # the later name of it
        del old["hook_point"]
    (folder / "cfg.json").write_text(json.dumps(old | config))
    return folder
