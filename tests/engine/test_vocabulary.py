"""A vocabulary of 256,000: the KL and its gradient without the logits of a batch in memory."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from e2e_lib.core.losses import token_kl
from e2e_lib.engine.logits import kl_to, means_over_tokens

VOCABULARY, WIDTH, TOKENS = 256_000, 4, 2048
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())[1]) << 10


@pytest.mark.skipif(not CLEAR.exists(), reason="Linux alone tells and resets a process's peak")
def test_memory_is_that_of_a_chunk():
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
    clean, spliced = (torch.randn(1, TOKENS, WIDTH, generator=generator) for _ in range(2))
    spliced.requires_grad_()
    CLEAR.write_text("5")  # the peak is what is held now
    before = peak_bytes()
    [value] = means_over_tokens(kl_to, head, clean, [spliced])
    value.backward()
    # A whole pass would keep logits and distributions of both, and a gradient: five such sets.
    assert peak_bytes() - before < TOKENS * VOCABULARY * 4, "less than one set of logits"
    few = slice(0, 2)  # whose whole logits are small
    own = spliced[:, few].detach().requires_grad_()
    token_kl(head(clean[:, few]), head(own)).sum().div(TOKENS).backward()
    torch.testing.assert_close(spliced.grad[:, few], own.grad, rtol=1e-3, atol=1e-8)
