"""bfloat16 products: the same training, roughly; and the settings that only a GPU feels."""

import os
import signal
from dataclasses import replace
from itertools import product

import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.losses import named_objective
from e2e_lib.core.train import CHECKPOINT_SECONDS, Trainer, train
from e2e_lib.engine import device
from e2e_lib.engine.checkpoint import StoppedError
from e2e_lib.engine.device import (
    ALONE,
    AUTO,
    NATIVE,
    PRECISIONS,
    Processes,
    Products,
    check_precision,
    chosen_precision,
    low_products,
    products_of,
    tensor_cores,
)
from e2e_lib.engine.records import Clock, charged
from e2e_lib.errors import ConfigError, rules
from e2e_lib.runs.experiment import Training
from tests.helpers.tiny_models import D_VOCAB, assert_sentence, random_tokens, tiny_model

CPU = torch.device("cpu")
HOOKS = ["blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"]
SMALL = {"dict_ratio": 3.0, "batch_size": 4, "micro_batch_size": 2, "lr": 0.01}


def config(objective: str = "e2e", hook: str = HOOKS[0], **others) -> TrainConfig:
    return TrainConfig(named_objective(objective, 0.1), (hook,), **SMALL | others)


@pytest.fixture
def pays(monkeypatch):
    """A CPU that multiplies bfloat16 faster."""
    monkeypatch.setattr(device, "bf16_pays", lambda name: True)


@pytest.fixture
def products(monkeypatch):
    """The types in which the frozen blocks' maps were computed, and the unembedding's."""
    seen, real = set(), torch.nn.functional.linear

    def linear(x, *others):
        found = real(x, *others)
        seen.add(("head" if found.shape[-1] == D_VOCAB else "block", found.dtype))
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    return seen


# ------------------------------------------------------------------ bf16
EVERY = list(product(["gpt2", "llama"], ["local", "e2e", "e2e_ds"], HOOKS))
# Each architecture, objective and hook; E2E_FUZZ=full: each with each.
SOME = [EVERY[i] for i in (1, 4, 8, 11)]


@pytest.mark.parametrize(
    ("architecture", "objective", "hook"), EVERY if os.environ.get("E2E_FUZZ") == "full" else SOME
)
def test_bf16_trains_the_same_roughly_and_keeps_float32_weights(
    pays, architecture, objective, hook
):
    model, rows = tiny_model(architecture), random_tokens(80)
    runs = [
        train(model, [config(objective, hook, precision=p)], rows, progress=False)[0]
        for p in ("fp32", "bf16")
    ]
    exact, low = (run.saes[hook] for run in runs)
    assert all(p.dtype == torch.float32 for p in low.parameters())
    assert not torch.equal(exact.W_enc, low.W_enc), "it was in force"
    for entry, other in zip(runs[0].curve, runs[1].curve, strict=True):
        assert other["loss"] == pytest.approx(entry["loss"], rel=0.05)
        assert other["l0"] == pytest.approx(entry["l0"], rel=0.05)


def test_bf16_is_for_blocks_and_unembedding_but_not_for_what_is_logged(pays, products):
    model = tiny_model("llama")  # GPT-2's blocks multiply by addmm
    trainer = Trainer(model, [config(precision="bf16")], random_tokens(12), logs=1)
    trainer.step()  # the first, which is logged
    both = {(part, kind) for part in ("block", "head") for kind in (torch.bfloat16, torch.float32)}
    assert products == both
    products.clear()
    trainer.step()
    assert products == {("block", torch.bfloat16), ("head", torch.bfloat16)}
    products.clear()
    train(model, [config("local", precision="bf16")], random_tokens(24), progress=False, logs=1)
    assert ("block", torch.bfloat16) in products
    products.clear()
    train(model, [config()], random_tokens(8), progress=False)
    assert products == {("block", torch.float32), ("head", torch.float32)}


def test_a_gpu_makes_the_unembedding_in_tf32():
    with Products("bf16", CPU).of_output():
        assert torch.is_autocast_enabled("cpu")
    with Products("bf16", torch.device("cuda")).of_output():
        assert not torch.is_autocast_enabled("cuda")


def interrupted(model, rows, folder, at=5):
    """A bf16 training stopped behind this step, its checkpoint in the folder."""
    stops = [at]

    def interrupt(index, entry):
        if entry["step"] in stops:
            stops.clear()
            signal.raise_signal(signal.SIGTERM)

    chosen = config(precision="bf16")
    with pytest.raises(StoppedError):
        train(model, [chosen], rows, progress=False, checkpoints=folder, on_log=interrupt)


@pytest.mark.parametrize("later", [True, False])
def test_bf16_resumes_in_the_same_bits(tmp_path, monkeypatch, capsys, pays, later):
    """On a machine too, or at a trial, that would have chosen otherwise."""
    rows, model, folder = random_tokens(40), tiny_model(), [tmp_path / "checkpoints"]
    chosen = config(precision="bf16")
    [whole] = train(model, [chosen], rows, progress=False)
    interrupted(model, rows, folder)
    monkeypatch.setattr(device, "bf16_pays", lambda name: later)
    [again] = train(model, [chosen], rows, progress=False, checkpoints=folder)
    assert again.products == whole.products == "bf16"
    assert "float32" not in capsys.readouterr().out, "nothing is said that is not so"
    assert torch.equal(again.saes[HOOKS[0]].W_dec, whole.saes[HOOKS[0]].W_dec)
    assert again.curve == whole.curve


# ------------------------------------------------------------------ where it is slower
def test_where_a_cpu_is_slower_in_bf16_it_multiplies_float32_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(device, "bf16_pays", lambda name: name != "cpu")
    model, rows = tiny_model(), random_tokens(16)
    low, exact = (
        train(model, [config(precision=p)], rows, progress=False)[0] for p in ("bf16", "fp32")
    )
    assert torch.equal(low.saes[HOOKS[0]].W_enc, exact.saes[HOOKS[0]].W_enc)
    assert low.products == exact.products == "fp32" and low.config.precision == "bf16"
    said = "precision is 'bf16', but a CPU here multiplies float32 faster: fp32."
    assert capsys.readouterr().out.count(said) == 1
    assert products_of("bf16", torch.device("cuda", 1), ALONE).precision == "bf16"
    for precision in ("fp32", "tf32"):
        assert products_of(precision, CPU, ALONE) == Products(precision, CPU)


def test_processes_that_differ_all_multiply_float32(pays, capsys):
    class Second(Processes):
        """Of two, the one whose CPU would be faster in bf16."""

        first = False

        def any(self, flag):
            return True

    both = Second()
    trainer = Trainer(tiny_model(), [config(precision="bf16")], random_tokens(8), processes=both)
    trainer.products.tell("bf16", both)
    assert trainer.products.precision == "fp32"
    assert not capsys.readouterr().out, "the first one says it"


# ------------------------------------------------------------------ choice
def test_auto_depends_on_the_name_of_the_device_alone():
    assert [chosen_precision("auto", d) for d in ("cpu", "cuda", "cuda:3", "mps")] == [
        "fp32", "bf16", "bf16", "fp32",
    ]  # fmt: skip
    assert chosen_precision("tf32", "cpu") == "tf32"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx2 f16c", "fp32"),
        ("avx512f avx512_vnni", "fp32"),
        ("avx512f avx512_bf16", "bf16"),
        ("amx_tile amx_bf16", "bf16"),
        ("asimd bf16 i8mm", "bf16"),
    ],
)
def test_native_is_what_the_processor_multiplies(monkeypatch, flags, expected):
    monkeypatch.setattr(device, "_processor_flags", flags.split)
    monkeypatch.setattr(device, "bf16_is_faster", lambda: True)
    assert chosen_precision("native", "cpu") == expected
    assert chosen_precision("native", "mps") == "fp32"
    [one, *_] = (training := Training(precision="native")).configs()
    assert one.precision == expected and chosen_precision("auto", "cpu") == "fp32"
    assert training.name(one) == Training(precision=expected).name(one), "called by what it was"
    assert training.describe(one)["precision"] == expected


@pytest.mark.parametrize(("slower", "expected"), [(0.3, "bf16"), (0.75, "bf16"), (1.5, "fp32")])
def test_units_that_make_nothing_faster_are_not_used(monkeypatch, slower, expected):
    """The two first products, which warm up, and one in between that is held up do not count."""
    calls: list[str] = []

    def seconds(x, weights, precision):
        assert (*x.shape, weights.shape[1]) == device.TRIAL
        calls.append(precision)
        odd = {1: 90.0, 3: 90.0, 9: 90.0}.get(len(calls), 1.0)
        return odd * (slower if precision == "bf16" else 1.0)

    monkeypatch.setattr(device, "_processor_flags", "avx512_bf16".split)
    monkeypatch.setattr(device, "_seconds", seconds)
    device.bf16_is_faster.cache_clear()
    assert chosen_precision("native", "cpu") == chosen_precision("native", "cpu") == expected
    assert calls == ["bf16", "fp32"] * 11, "asked once"
    device.bf16_is_faster.cache_clear()


def test_a_trial_of_products_takes_some_time():
    assert device._seconds(torch.ones(8, 4), torch.ones(4, 8), "bf16") > 0
    device.bf16_is_faster.cache_clear()
    state = torch.random.get_rng_state()
    assert isinstance(device.bf16_is_faster(), bool)
    assert torch.equal(torch.random.get_rng_state(), state), "what is drawn next stays the same"


def test_native_on_cuda_asks_the_gpu(monkeypatch):
    cases = (True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")
    for there, good, expected in cases:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda good=good, **_: good)
        assert chosen_precision("native", "cuda:1") == expected


def test_a_training_allows_the_same():
    rule = rules(Training)["precision"]
    assert rule.allowed == f"one of {', '.join((AUTO, NATIVE, *PRECISIONS))}"
    assert all(map(rule.good, (AUTO, NATIVE, *PRECISIONS)))
    assert Training().checkpoint_seconds == CHECKPOINT_SECONDS


def test_unknown_precisions_are_refused():
    with pytest.raises(ConfigError) as caught:
        chosen_precision("fp16", "cpu")
    assert_sentence(caught, "precision", "'fp16'", "auto, native, fp32, tf32, bf16")
    with pytest.raises(ConfigError) as caught:
        config(precision="auto")
    assert_sentence(caught, "precision", "'auto'", "fp32, tf32, bf16")


def test_a_list_has_one_precision():
    configs = [config(), replace(config(), precision="bf16")]
    with pytest.raises(ConfigError) as caught:
        train(tiny_model(), configs, random_tokens(8), progress=False)
    assert_sentence(caught, "precision", "'bf16', 'fp32'", "the same in every run")


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    check_precision("tf32", torch.device("cuda"))
    check_precision("bf16", torch.device("cpu"))
    with pytest.raises(ConfigError) as caught:
        check_precision("bf16", torch.device("cuda"))
    assert_sentence(caught, "precision", "'bf16'", "fp32 or tf32")


def test_tensor_cores_are_used_inside_alone():
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    for precision, inside in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")):
        with pytest.raises(ZeroDivisionError), tensor_cores(precision):
            assert setting.fp32_precision == inside
            _ = 1 / 0
        assert setting.fp32_precision == before
    with low_products("tf32", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


# ------------------------------------------------------------------ clock
class Event:
    """A CUDA event that passes when told to."""

    passed, now = False, 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        Event.now += 500.0
        self.at = Event.now

    def query(self):
        return Event.passed

    def elapsed_time(self, other):
        return other.at - self.at


def test_seconds_of_a_gpu_are_read_from_its_events_without_waiting(monkeypatch):
    waited = []
    for name, value in {
        "Event": Event, "current_stream": lambda device: None,
        "synchronize": lambda device: waited.append(setattr(Event, "passed", True)),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    cuda = torch.device("cuda")
    first, second = Clock(cuda, 10.0), Clock(cuda)
    with charged(first, second):
        pass
    with charged(first):
        pass
    assert not waited
    assert (first.read(), second.read()) == (10.75, 0.25)
    assert len(waited) == 2, "once for each that had something to read"
    with charged(first):
        pass
    assert first.read() == 11.25
    assert len(waited) == 2, "what has passed is read at once"


def test_seconds_of_a_cpu():
    one, other = Clock(torch.device("cpu"), 1.0), Clock(torch.device("cpu"))
    with charged(one, other):
        torch.randn(100, 100) @ torch.randn(100, 100)
    assert other.read() > 0
    assert one.read() == 1.0 + other.read()
