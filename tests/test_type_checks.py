"""The shapes in the library's signatures are checked while the tests run."""

import pytest
import torch
from jaxtyping import TypeCheckError

from e2e_lib.core.sae import SAE


def test_a_wrong_shape_or_type_is_an_error() -> None:
    sae = SAE(4, 8)
    assert sae.encode(torch.zeros(2, 4)).shape == (2, 8)
    for wrong in (torch.zeros(2, 4, dtype=torch.int64), [0.0] * 4):
        with pytest.raises(TypeCheckError):
            sae.encode(wrong)


def test_it_can_be_switched_off(without_type_checks: None) -> None:
    with pytest.raises((RuntimeError, TypeError)):  # PyTorch's own
        SAE(4, 8).encode([0.0] * 4)
