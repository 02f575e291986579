"""The benchmark measures what it says: arithmetic by hand, and both paths on a small shape."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import checkpoint, quality, step
from benchmarks.__main__ import comparisons, ratio, sides
from benchmarks.floor import block_parameters, step_flops
from benchmarks.shapes import Shape, shapes
from benchmarks.step import Case
from benchmarks.table import main, markdown
from e2e_lib.core.config import TrainConfig
from e2e_lib.engine import device
from e2e_lib.errors import E2EError
from tests.helpers.tiny_models import CONFIGS, random_tokens, tiny_model

ROOT = Path(__file__).resolve().parent.parent
TINY = Shape(CONFIGS["gpt2"], 2, 10, 4.0, 1)  # 4 blocks of width 12, 20 tokens, 48 latents


def test_multiplications_by_hand():
    assert block_parameters(TINY) == 4 * 144 + 2 * 12 * 48
    block, product, head = 2 * 20 * 1728, 2 * 20 * 12 * 48, 2 * 20 * 12 * 30
    local = step_flops(TINY, Case("tiny", "local", "default", 1, 0.25))
    assert local == block + product * 2  # one block before the SAE; 1 + 4 · 0.25 products
    e2e = step_flops(TINY, Case("tiny", "e2e", "default", 1, 0.25))
    assert e2e == local + 3 * block + head + 2 * 3 * block + 2 * head
    for dead, selected in ((0.25, 6 / 48), (0.0625, 0.0625)):  # d/2 of 12 latents; all of 3
        learns = Case("tiny", "local", "default", 1, 0.25, "topk", dead)
        assert step_flops(TINY, learns) == local + product * (dead + 4 * selected)
    five = step_flops(TINY, Case("tiny", "e2e", "default", 5, 0.25))
    assert five == 4 * block + head + 5 * (product * 2 + 6 * block + 2 * head)
    assert step_flops(TINY, Case("tiny", "kl", saes=5)) == head + 5 * 2 * head


def test_a_gated_block_has_three_maps_and_shares_keys():
    shared = 2 * 12 * 6 * (2 + 1)  # two heads of width 6, one pair of key and value
    assert block_parameters(Shape(CONFIGS["llama"], 1, 2, 1, 0)) == shared + 3 * 12 * 20


@pytest.mark.parametrize("objective", ["local", "e2e", "e2e_ds"])
def test_both_paths_start_alike_and_fire_as_often_as_said(objective, monkeypatch):
    monkeypatch.setattr(step, "MOST_ROUNDS", 3)
    rows = torch.randint(1, 30, (2, 10), generator=torch.Generator().manual_seed(0))
    case = Case("tiny", objective, "default", 2, 0.2)
    ours = step.default_step(tiny_model(), TINY, case, rows)
    trainer = ours.__self__
    ours()
    for run in trainer.runs:
        coded = run.records.coded[TINY.hook]
        share = float((coded.fired > 0).float().mean())
        assert 0.2 <= share <= 1
        sae = run.saes[TINY.hook]
        x = step.oracle.clean(tiny_model(), rows)[1][TINY.hook]
        assert float((sae.encode(x) > 0).float().mean()) == pytest.approx(0.2, abs=0.05)
    assert trainer.step() == [], "no measured step is a logged one"
    step.plain_step(tiny_model(), TINY, replace(case, saes=1), rows)()


def test_the_part_that_compares_outputs_is_e2es_own(monkeypatch):
    """Its gradient to random hidden states is autograd's through full logits."""
    rows = torch.ones(2, 10, dtype=torch.long)
    found = step.kl_step(tiny_model(), TINY, Case("tiny", "kl", saes=2), rows)()
    clean, *spliced = torch.randn(3, 2, 10, 12, generator=torch.Generator().manual_seed(2))
    for hidden, gradient in zip(spliced, found, strict=True):
        own = hidden.requires_grad_()
        of = [step.runner(tiny_model(), [TINY.hook]).head(h).log_softmax(-1) for h in (clean, own)]
        kl = torch.nn.functional.kl_div(of[1], of[0], log_target=True, reduction="sum") / 20
        (expected,) = torch.autograd.grad(kl, own)
        assert torch.allclose(gradient, expected, atol=1e-6) and gradient.abs().max() > 1e-4


def test_rounds_take_a_step_of_each_in_turn_forth_and_back(monkeypatch):
    monkeypatch.setattr(step, "LEAST_SECONDS", 0.0)
    taken = []
    times = step.in_rounds([lambda: taken.append("a"), lambda: taken.append("b")], "cpu")
    assert len(times) == step.LEAST_ROUNDS and {len(turn) for turn in times} == {2}
    turns = ["ab"] * step.WARM + ["ba", "ab"] * 3 + ["ba"]
    assert "".join(taken) == "".join(turns)


def test_a_comparison_is_timed_in_rounds_and_a_case_alone_tells_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(step, "shapes", lambda device: {"tiny": TINY})
    monkeypatch.setattr(step, "load_model", lambda folder, device: tiny_model())
    monkeypatch.setattr(step, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(step, "PRODUCT", 8)
    paths = [Case("tiny", "e2e", path) for path in ("plain", "default", "bf16")]
    top = [Case("tiny", "local", sparsifier=s) for s in ("topk", "batchtopk")]
    found = step.measure([*paths, *top, Case("tiny", "e2e", saes=2)], tmp_path, "cpu")
    assert [len(turn) for turn in found["ms"]] == [6 + 1] * step.LEAST_ROUNDS
    assert {*step.measure(paths[:1], tmp_path, "cpu")} == {"peak_mb"}


def test_ratios_are_of_one_round():
    drift = [1, 2, 4, 3, 2, 1, 1]  # the machine's, which both sides see
    other, own = [10.0 * x for x in drift], [20.0 * x for x in drift]
    assert ratio(own, other) == [2, 2, 2]
    own[2] *= 3
    assert ratio(own, other) == [2, 2, 6]  # of seven, the whole range
    e2e = Case("storyworld", "e2e")
    products = [7.0] * 7
    first, five = sides("one SAE", [e2e, Case("storyworld", "e2e", saes=5)],
                        [*zip(other, own, products, strict=True)], "cpu")  # fmt: skip
    assert "ratio" not in first and five["ratio"] == [0.4, 0.4, 1.2], "of the time of one SAE"
    assert first["ms"] == 20 and first["tokens_per_s"] == 2048 * 50
    assert first["rounds"] == tuple(other)
    least = 7 * step_flops(shapes("cpu")["storyworld"], e2e) / (2 * step.PRODUCT**3)
    assert first["floor"] == pytest.approx(least / 20, abs=5e-4)


def test_a_table_holds_each_against_the_first():
    shared = {"shape": "s", "objective": "e2e", "saes": 1, "active": 0.5, "sparsifier": "relu"}
    shared |= {"tokens_per_s": 2000, "path": "default", "peak_mb": 90.0, "floor": 0.3}
    plain = shared | {"path": "plain", "against": "plain", "ms": 300.0, "peak_mb": 900.0}
    ours = shared | {"against": "plain", "ms": 100.0, "ratio": [0.333, 0.3, 0.4]}
    relu = shared | {"against": "relu", "ms": 100.0}
    topk = relu | {"sparsifier": "topk", "ms": 80.0, "ratio": [0.8, 0.7, 0.9]}
    auxk = topk | {"dead": 0.1, "ms": 110.0, "ratio": [1.1, 1.0, 1.2]}
    whole = shared | {"against": "whole", "ms": 99.0}
    half = whole | {"context": 64, "ms": 60.0, "ratio": [0.6]}  # of before there were pairs
    machine = {"cpu": "C", "threads": 2, "day": "2026-01-02"}
    lines = [{"hardware": machine}, plain, ours, relu, topk, auxk, whole, half]
    rows = markdown(lines).splitlines()
    step = "1 | 50 % | {} | 2,000 | 90 | 0.30"
    assert rows[2:] == [
        f"| s | e2e | {step.format(100)} | plain | 300 | 900 | 0.33 (0.30–0.40) | 2026-01-02 |",
        f"| s | e2e, topk | {step.format(80)} | relu | 100 | 90 | 0.80 (0.70–0.90) | 2026-01-02 |",
        f"| s | e2e, topk, AuxK, 10 % dead | {step.format(110)} | relu | 100 | 90 "
        "| 1.10 (1.00–1.20) | 2026-01-02 |",
        f"| s | e2e, context 64 | {step.format(60)} | whole | 99 | 90 | 0.60 | 2026-01-02 |",
        "",
        "2026-01-02: C, threads: 2.",
    ]
    assert markdown(lines, short=True).splitlines() == [*rows[:5], *rows[6:]]


def test_the_docs_have_the_table_of_the_committed_files(tmp_path):
    files = sorted((ROOT / "benchmarks" / "results").glob("cpu-*.jsonl"))
    assert files
    page, copy = ROOT / "docs" / "benchmarks.md", tmp_path / "benchmarks.md"
    copy.write_text(page.read_text())
    main([*map(str, files), str(copy)])
    assert copy.read_text() == page.read_text()


def test_every_shape_has_its_comparisons():
    for name in shapes("cpu"):
        found = [*comparisons(name)]
        later = ["local", "e2e", "one SAE", "default", "eager", "relu", "relu", "whole"]
        assert [word for word, _ in found] == ["plain"] * 4 + later
        for word, (first, *others) in found:
            assert others and {case.shape for case in (first, *others)} == {name}
            assert (first.path == "plain") == (word == "plain") and not first.changes
    [of_cuda] = (cases for word, cases in comparisons("gpt2", "cuda") if word == "default")
    assert [case.path for case in of_cuda] == ["default", "fp32", "tf32"]
    assert shapes("cuda")["gpt2"].rows * shapes("cuda")["gpt2"].context == 8192


@pytest.mark.parametrize("objective", ["local", "e2e"])
def test_top_k_is_compared_with_relu_without_auxk_and_with_it(objective):
    [cases] = (
        cases
        for word, cases in comparisons("storyworld")
        if word == "relu" and cases[0].objective == objective
    )
    assert [(case.sparsifier, case.dead) for case in cases] == [
        ("relu", 0), ("topk", 0), ("batchtopk", 0), ("topk", 0.1),
    ]  # fmt: skip
    assert {(case.objective, case.active) for case in cases} == {(objective, 0.01)}


@pytest.mark.parametrize("objective", ["local", "e2e"])
def test_dead_latents_stay_dead_and_learn_as_in_a_training(objective):
    case = Case("tiny", objective, active=0.25, sparsifier="topk", dead=0.25)
    rows = torch.randint(1, 30, (2, 10), generator=torch.Generator().manual_seed(0))
    taken = step.default_step(tiny_model(), TINY, case, rows)
    [run] = taken.__self__.runs
    assert run.config.auxk_coeff == TrainConfig.auxk_coeff > 0
    seen = []
    backward = run.backward
    run.backward = lambda terms, *others: seen.append(terms) or backward(terms, *others)
    for _ in range(3):
        taken()
        assert run.saes[TINY.hook].sparsifier.dead.tolist() == [*range(12)]  # of 48
    assert len(seen) == 3 and all(terms["auxiliary"] > 0 for terms in seen)


def test_top_k_fires_as_often_as_relu_does():
    case = Case("tiny", "local", active=0.25, sparsifier="topk")
    [config] = step.configs(TINY, case, "cpu")
    assert (config.k, config.auxk_coeff) == (12, 0)  # of 48 latents


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


def test_bf16_is_measured_on_a_cpu_that_is_slower_at_it_too(monkeypatch):
    monkeypatch.setattr("e2e_lib.engine.device.multiplies_bf16", lambda device: False)
    case, rows = Case("tiny", "e2e", "bf16"), random_tokens(TINY.rows)
    made = step.default_step(tiny_model(), TINY, case, rows).__self__
    assert made.products.precision == "bf16"
    assert device.products_of("bf16", made.device, device.ALONE).precision == "fp32"


def test_the_compiled_path_alone_runs_every_block_after_compilation(monkeypatch):
    model, runs = tiny_model(), []

    def compiled(forward, **options):
        return lambda *args, **kwargs: runs.append(options) or forward(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    rows = torch.randint(1, 30, (2, 10), generator=torch.Generator().manual_seed(0))
    eager = step.default_step(model, TINY, Case("tiny", "e2e", active=0.2), rows)
    one_step = step.compiled(model, eager)
    assert torch._dynamo.config.recompile_limit == 4 * 4  # with a gradient and without, one token
    one_step()
    assert runs == [{"dynamic": False}] * (1 + 3 + 3)  # before the SAE; after it clean and spliced
    eager()
    assert len(runs) == 7


@pytest.mark.parametrize("failing", ["compiled", "bf16"])
def test_only_a_path_that_cannot_compile_is_left_out(failing, monkeypatch, capsys):
    def measured(cases, *others):
        if cases[-1].path == failing:
            raise E2EError(f"{failing} cannot be measured: no compiler")
        several = {"ms": [[1.0] * (len(cases) + 1)] * 7}
        return several if len(cases) > 1 else {"peak_mb": 1.0}

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "write_model", lambda *_: None)
    if failing != "compiled":
        with pytest.raises(E2EError, match="no compiler"):
            bench.run("storyworld", "cpu", 1, None)
        return
    lines = bench.run("storyworld", "cpu", 1, None)
    expected = [word for word, cases in comparisons("storyworld") for _ in cases if word != "eager"]
    assert [line["against"] for line in lines[1:]] == expected
    assert "left out: compiled cannot be measured: no compiler" in capsys.readouterr().err
    few = bench.run("storyworld", "cpu", 1, None, ["local", "relu"])
    assert {line["against"] for line in few[1:]} == {"local", "relu"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "storyworld", "--device", "gpu"], "device is 'gpu', but this machine has cpu"),
        (["--shape", "gpt5"], "SHAPE is 'gpt5', but it must be one of storyworld, llama-260k"),
        (["--shape", "gpt2", "--only", "kl"], "only is 'kl', but it must be some of plain,local"),
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


def test_what_moves_the_metrics_is_told_with_an_interval_over_seeds():
    """Differences 1, 2, 3: mean 2, and 4.303 · 1 / √3 to either side."""
    lines = [
        {"objective": "e2e", "path": path, "seed": seed} | dict.fromkeys(quality.METRICS, value)
        for path, values in {"default": (3.0, 2.0, 1.0), "bf16": (4.0, 4.0, 4.0)}.items()
        for seed, value in enumerate(values)
    ]
    for line in lines:
        line["mse"] = 0.1 * line["seed"] - (line["path"] == "bf16")
    head, _, default, bf16, _, last = quality.markdown({"StoryWorld": lines}).splitlines()
    assert head == "|  | objective | path | CE increase | KL | L0 | MSE |"
    assert default == "| StoryWorld | e2e | default |" + " 2 (σ 1) |" * 3 + " 0.1 (σ 0.1) |"
    assert bf16 == "| StoryWorld | e2e | bf16 |" + " +2 ± 2.5 |" * 3 + " -1 ± 0 |"
    assert last == "Intervals without 0: 1 of 4."
