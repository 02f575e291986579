"""The benchmark measures what it says: arithmetic by hand, and both paths on a small shape."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import checkpoint, step
from benchmarks.__main__ import cases, growth
from benchmarks.floor import block_parameters, step_flops
from benchmarks.shapes import Shape, shapes
from benchmarks.step import Case
from benchmarks.table import main, markdown
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.errors import E2EError
from tests.helpers.tiny_models import CONFIGS, tiny_model

ROOT = Path(__file__).resolve().parent.parent
TINY = Shape(CONFIGS["gpt2"], 2, 10, 4.0, 1)  # 4 blocks of width 12, 20 tokens, 48 latents


def test_multiplications_by_hand():
    assert block_parameters(TINY) == 4 * 144 + 2 * 12 * 48
    block, product, head = 2 * 20 * 1728, 2 * 20 * 12 * 48, 2 * 20 * 12 * 30
    local = step_flops(TINY, Case("tiny", "local", "default", 1, 0.25))
    assert local == block + product * 2  # one block before the SAE; 1 + 4 · 0.25 products
    e2e = step_flops(TINY, Case("tiny", "e2e", "default", 1, 0.25))
    assert e2e == local + 3 * block + head + 2 * 3 * block + 2 * head
    five = step_flops(TINY, Case("tiny", "e2e", "default", 5, 0.25))
    assert five == 4 * block + head + 5 * (product * 2 + 6 * block + 2 * head)


def test_a_gated_block_has_three_maps_and_shares_keys():
    shared = 2 * 12 * 6 * (2 + 1)  # two heads of width 6, one pair of key and value
    assert block_parameters(Shape(CONFIGS["llama"], 1, 2, 1, 0)) == shared + 3 * 12 * 20


@pytest.mark.parametrize("objective", ["local", "e2e", "e2e_ds"])
def test_both_paths_start_alike_and_fire_as_often_as_said(objective, monkeypatch):
    monkeypatch.setattr(step, "MOST_STEPS", 3)
    rows = torch.randint(1, 30, (2, 10), generator=torch.Generator().manual_seed(0))
    case = Case("tiny", objective, "default", 2, 0.2)
    ours = step.default_step(tiny_model(), TINY, case, rows)
    trainer = next(c.cell_contents for c in ours.__closure__ if hasattr(c.cell_contents, "runs"))
    ours()
    for run in trainer.runs:
        coded = run.records.coded[TINY.hook]
        share = float((coded.fired > 0).float().mean())
        assert 0.2 <= share <= 1
        sae = run.saes[TINY.hook]
        x = step.oracle.clean(tiny_model(), rows)[1][TINY.hook]
        assert float((sae.encode(x) > 0).float().mean()) == pytest.approx(0.2, abs=0.05)
    assert trainer.step() == [], "no measured step is a logged one"
    step.plain_step(tiny_model(), TINY, case, rows)()


def test_a_table_pairs_each_case_with_the_plain_one():
    shared = {"shape": "s", "objective": "e2e", "saes": 1, "active": 0.5, "tokens_per_s": 2000}
    plain = shared | {"path": "plain", "ms": 300.0, "peak_mb": 900.0, "floor": 0.1}
    ours = shared | {"path": "default", "ms": 100.0, "peak_mb": 90.0, "floor": 0.3}
    half = ours | {"context": 64, "ms": 60.0}
    rows = markdown([{"hardware": {}}, plain, ours, half]).splitlines()
    assert rows[2] == "| s | e2e | 1 | 50 % | 300 | 100 | 3.0 | 2,000 | 900 | 90 | 0.30 |"
    assert rows[3] == "| s (context 64) | e2e | 1 | 50 % |  | 60 |  | 2,000 |  | 90 | 0.30 |"
    assert len(rows) == 4
    local = [line | {"objective": "local"} for line in (plain, ours)]
    assert markdown([plain, ours, half, *local], short=True).splitlines() == rows[:3]


def test_the_docs_have_the_table_of_the_committed_files(tmp_path):
    files = sorted((ROOT / "benchmarks" / "results").glob("cpu-*.jsonl"))
    assert files
    page, copy = ROOT / "docs" / "benchmarks.md", tmp_path / "benchmarks.md"
    copy.write_text(page.read_text())
    main([*map(str, files), str(copy)])
    assert copy.read_text() == page.read_text()


def test_every_shape_has_its_cases():
    for name, shape in shapes("cpu").items():
        found = [*cases(name), *growth(name, shape)]
        assert len(found) == 20
        precisions = [case.path for case, _ in cases(name, "cuda")]
        assert [precisions.count(p) for p in ("default", "fp32", "tf32", "bf16")] == [7, 1, 1, 0]
        assert [case.path for case, _ in found].count("compiled") == 1
        assert {case.objective for case, _ in found} == {"local", "e2e", "e2e_ds"}
    assert shapes("cuda")["gpt2"].rows * shapes("cuda")["gpt2"].context == 8192


@pytest.mark.parametrize(
    ("path", "device", "expected"),
    [
        ("default", "cpu", "fp32"), ("bf16", "cpu", "bf16"), ("default", "cuda", "bf16"),
        ("fp32", "cuda:0", "fp32"), ("plain", "cpu", "fp32"),
    ],
)  # fmt: skip
def test_a_path_is_computed_in_the_precision_it_names(path, device, expected):
    case = Case("tiny", "e2e", path, 2, 0.2)
    assert {c.precision for c in step.configs(TINY, case, device)} == {expected}


def test_the_compiled_path_runs_every_block_after_compilation(monkeypatch):
    model, runs = tiny_model(), []

    def compiled(forward, **options):
        return lambda *args, **kwargs: runs.append(options) or forward(*args, **kwargs)

    kind = type(runner(model, []).blocks[0])
    monkeypatch.setattr(kind, "forward", kind.forward)  # put back at the end
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    step.compile_blocks(model)
    assert torch._dynamo.config.recompile_limit == 4 * 4  # with a gradient and without, one token
    rows = torch.randint(1, 30, (2, 10), generator=torch.Generator().manual_seed(0))
    one_step = step.default_step(model, TINY, Case("tiny", "e2e", "compiled", 1, 0.2), rows)
    runs.clear()
    one_step()
    assert runs == [{"dynamic": False}] * (1 + 3 + 3)  # before the SAE; after it clean and spliced


@pytest.mark.parametrize("failing", ["compiled", "bf16"])
def test_only_a_path_that_cannot_compile_is_left_out(failing, monkeypatch, capsys):
    def measured(case, changes, *others):
        if case.path == failing:
            raise E2EError(f"{case.path} cannot be measured: no compiler")
        return asdict(case) | {"ms": 1.0, "tokens_per_s": 1, "peak_mb": 1.0}

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "ceilings", lambda *_: {"flops_per_s": 1e12})
    if failing != "compiled":
        with pytest.raises(E2EError, match="no compiler"):
            bench.run("storyworld", "cpu", 1, None)
        return
    lines = bench.run("storyworld", "cpu", 1, None)
    assert len(lines) == 1 + 20 - 1
    assert "left out: compiled cannot be measured: no compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "storyworld", "--device", "gpu"], "device is 'gpu', but this machine has cpu"),
        (["--shape", "gpt5"], "SHAPE is 'gpt5', but it must be one of storyworld, llama-260k"),
    ],
)
def test_bad_input_ends_in_a_sentence(arguments, said, capsys):
    assert bench.main(arguments) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ") and said in sentence


def test_what_a_checkpoint_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "STEPS", 2)
    monkeypatch.setattr(checkpoint, "SAVES", 2)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0.5)
    checkpoint.main(str(tmp_path / "out.jsonl"), "smoke")
    hardware, *lines = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert "cpu" in hardware["hardware"]
    assert [(line["spliced"], line["saes"]) for line in lines] == [(False, 3), (True, 6)]
    for line in lines:
        # Weights and two moments of each, of 64 · 320 · 2 + 320 + 64 numbers, and little else.
        assert line["mb"] == pytest.approx(line["saes"] * 3 * 4 * 41_344 / 2**20, rel=0.1)
        assert line["saves"] == pytest.approx(line["train_seconds"] / 0.5 + 0.5, abs=0.7)
        share = line["saves"] * line["save_seconds"] / line["train_seconds"]
        assert line["share_of_training"] == pytest.approx(share, rel=0.1, abs=1e-4)


def test_the_committed_checkpoints_are_cheap():
    lines = (ROOT / "benchmarks" / "results" / "checkpoint.jsonl").read_text().splitlines()
    shares = [json.loads(line)["share_of_training"] for line in lines[1:]]
    assert len(shares) == 2
    assert max(shares) < 0.02
