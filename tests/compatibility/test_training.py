"""Losses and gradients of every sparsifier, held against SAELens' own on random numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from e2e_lib.names import SPARSIFIERS
from tests.helpers.saelens_terms import saelens_terms

FILE = Path(__file__).parent / "files" / "saelens_training.safetensors"
CASES = json.loads(FILE.with_suffix(".json").read_text())["cases"]
LOSS = ("inner_mse", "mse", "l1", "l0", "auxiliary", "pre_act")  # of their names, in our order


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    return load_file(FILE)


def place(loss: str) -> tuple[int, int]:
    """Where a loss of theirs stands among ours: narrower widths first."""
    width = loss.rpartition("_")[2]
    kind = next(i for i, start in enumerate(LOSS) if loss.startswith(start))
    return kind, int(width) if width.isdigit() else 0


def part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_saelens(case: str, theirs: dict[str, Tensor]) -> None:
    told, given = CASES[case], part(theirs, f"{case}/")
    own = {k: v.clone().requires_grad_() for k, v in part(given, "weights/").items()}
    parts = saelens_terms(
        case, own, given["x"], given["dead"], coeff=told.get("l1", told.get("l0", 0.0)),
        k=told.get("k"), widths=tuple(told.get("matryoshka_widths", ())),
        bandwidth=told.get("jumprelu_bandwidth"), revival=told.get("pre_act_loss_coefficient"),
        target=told.get("target_l0", 0.0),
    )  # fmt: skip
    losses = part(given, "losses/")
    expected = torch.stack([losses[name] for name in sorted(losses, key=place)])
    torch.testing.assert_close(torch.stack(parts), expected, rtol=1e-5, atol=1e-6)
    sum(parts).backward()
    for name, gradient in part(given, "gradients/").items():
        found = own[name].grad
        assert found is not None and float(gradient.norm()) > 0
        if name == "W_dec" and case.partition(",")[0] not in SPARSIFIERS:
            # The length of a jumprelu's row is where θ is measured: only its direction is alike.
            rows = torch.nn.functional.normalize(own[name].detach(), dim=1)
            found, gradient = (
                g - (g * rows).sum(1, keepdim=True) * rows for g in (found, gradient)
            )
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
