"""SAELens' training classes on random numbers: their losses and gradients, in an own environment.

    PYTHON tests/compatibility/training_peer.py tests/compatibility/files/saelens_training

PYTHON is that of an environment with sae-lens==6.54.12. Imports nothing of this project. Writes
FILE.safetensors: the weights and activations of every case, each loss and the gradient of their
sum for each parameter; and FILE.json: the version, and what each case is. `test_training.py` beside
this compares today's code with them and needs no library.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D_IN, D_SAE, TOKENS = 8, 20, 24
TOPK = {"k": 3, "aux_loss_coefficient": 1.0, "rescale_acts_by_decoder_norm": True}
JUMP = {"l0_coefficient": 0.2, "jumprelu_bandwidth": 0.6, "pre_act_loss_coefficient": 0.1}
# By name: the class's module, its own settings, λ, and how many latents are dead: fewer than half
# of D_IN, which AuxK's share depends on, or more.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, float], int]] = {
    "relu": ("standard", {}, {"l1": 0.3}, 0),
    "topk": ("topk", TOPK, {}, 3),
    "topk, no input bias": ("topk", TOPK | {"apply_b_dec_to_input": False}, {}, 6),
    "batchtopk": ("batchtopk", TOPK | {"k": 2.5}, {}, 6),
    "matryoshka": ("matryoshka_batchtopk", TOPK | {"matryoshka_widths": [5, 10, 20]}, {}, 3),
    "step": ("jumprelu", JUMP | {"jumprelu_sparsity_loss_mode": "step"}, {"l0": 0.2}, 5),
    "tanh": ("jumprelu", JUMP | {"jumprelu_sparsity_loss_mode": "tanh"}, {"l0": 0.2}, 5),
    "tanh to z": (
        "jumprelu",
        JUMP | {"jumprelu_sparsity_loss_mode": "tanh", "jumprelu_ste_to_input": True},
        {"l0": 0.2},
        5,
    ),
    "quadratic": (
        "jumprelu",
        JUMP | {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 4.0},
        {"l0": 0.2},
        5,
    ),
}
CLASSES = {
    "standard": "Standard", "topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU",
    "matryoshka_batchtopk": "MatryoshkaBatchTopK",
}  # fmt: skip


def made(kind: str, settings: dict[str, Any]) -> Any:
    """A training SAE of random weights, decoder rows of random lengths."""
    module = importlib.import_module(f"sae_lens.saes.{kind}_sae")
    config = getattr(module, f"{CLASSES[kind]}TrainingSAEConfig")
    sae = getattr(module, f"{CLASSES[kind]}TrainingSAE")(
        config(d_in=D_IN, d_sae=D_SAE, dtype="float32", device="cpu", **settings)
    )
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
            if name == "threshold":
                parameter.abs_()
    return sae.train()


def main(place: Path) -> None:
    from sae_lens.saes.sae import TrainStepInput

    torch.manual_seed(7)
    tensors, cases = {}, {}
    for name, (kind, settings, coefficients, n_dead) in CASES.items():
        sae, x = made(kind, settings), torch.randn(TOKENS, D_IN)
        dead = torch.zeros(D_SAE, dtype=torch.bool)
        dead[torch.randperm(D_SAE)[:n_dead]] = True
        own = {key: value.detach().clone() for key, value in sae.named_parameters()}
        step = TrainStepInput(x, coefficients, dead if n_dead else None, 0, False)
        done = sae.training_forward_pass(step)
        done.loss.backward()
        tensors |= {f"{name}/weights/{key}": value for key, value in own.items()}
        tensors |= {f"{name}/x": x, f"{name}/dead": dead}
        tensors |= {f"{name}/losses/{k}": v.detach().clone() for k, v in done.losses.items()}
        for key, parameter in sae.named_parameters():
            tensors[f"{name}/gradients/{key}"] = parameter.grad.clone()
        cases[name] = settings | coefficients
    save_file(tensors, place.with_suffix(".safetensors"))
    told = {"sae-lens": importlib.metadata.version("sae-lens"), "cases": cases}
    place.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
