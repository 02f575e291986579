"""docs/scale.md: its tables are the computation's, and the computation is right by hand."""

from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.shapes import Shape
from tests.helpers.tiny_models import CONFIGS

ROOT = Path(__file__).resolve().parent.parent
TINY = Shape(CONFIGS["gpt2"], 2, 10, 4.0, 1)  # 4 blocks of width 12, 20 tokens, 48 latents


def test_the_page_has_the_computed_tables(tmp_path):
    page, copy = ROOT / "docs" / "scale.md", tmp_path / "scale.md"
    copy.write_text(page.read_text())
    scale.main([str(copy)])
    assert copy.read_text() == page.read_text(), "python -m benchmarks.scale docs/scale.md"


def test_models_are_as_large_as_they_are_said_to_be():
    for model, billions in (("GPT-2 small", 0.124), ("Gemma-2-2B", 2.61), ("Llama-3-8B", 8.03)):
        config = scale.MODELS[model]
        shape = Shape(config, 1, 1, 1e-9, config.num_hidden_layers)  # next to no SAE, no block kept
        weights = scale.gigabytes(shape) / 4 - 4 * config.vocab_size / 1e9
        assert weights == pytest.approx(billions, rel=0.02)


def test_time_and_memory_by_hand():
    gpu = scale.GPU(1.0, 7.0, 3.0, 5.0)
    block, product, head = 2 * 20 * 1728, 2 * 20 * 12 * 48, 2 * 20 * 12 * 30
    firing, share = 1 + 4 * scale.ACTIVE, scale.reached()
    weights = 7 * 2 * 12 * 48 / 160  # a batch has 16 rows
    moved = 4 * 20 * (2 * 15 * 12 * 1 + 6 * 48 + weights)
    seconds = (block + product * firing) / 3 / share["local"] + moved / 7
    assert scale.hours(TINY, "local", 40, gpu) == pytest.approx(2 * seconds / 3600)
    moved = 4 * 20 * (2 * 15 * 12 * 13 + 6 * 48 + 12 * 30 + weights)
    blocks = (4 + 2 * 3) * block + product * firing
    seconds = (blocks / 3 + 3 * head / 5) / share["e2e"] + moved / 7
    assert scale.hours(TINY, "e2e", 40, gpu) == pytest.approx(2 * seconds / 3600)
    kept = 4 * 1728 + 12 * 30 + 4 * 2 * 12 * 48 + 20 * (48 + 15 * 12 * 3) + 4 * 20 * 30
    assert scale.gigabytes(TINY) == pytest.approx(4e-9 * kept)


def test_jobs_on_machines():
    assert scale.makespan([3, 3, 2, 2, 2], 2) == 7 and scale.makespan([3, 1], 64) == 3
    roomy, tight = (scale.GPU(gb * 1e-9, 1, 1, 1) for gb in (1e9, 1))
    assert scale.fitting(TINY, roomy, 8).rows == 8 and scale.fitting(TINY, tight, 8) is None
