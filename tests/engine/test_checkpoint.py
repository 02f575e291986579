"""Stopped at any moment and started again, a training ends in the same bits."""

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.losses import named_objective
from e2e_lib.core.train import Trainer, train
from e2e_lib.engine import checkpoint
from e2e_lib.engine.checkpoint import (
    StoppedError,
    checkpoint_steps,
    clear_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from e2e_lib.engine.device import OutOfMemoryError
from e2e_lib.errors import ConfigError, ResultsError
from e2e_lib.source_code import LIBRARY, TRAINING, imported
from tests.helpers.processes import PROCESSES, prepare_child
from tests.helpers.tiny_models import assert_sentence, random_tokens, tiny_model

HOOK = "blocks.1.hook_resid_pre"
SMALL = {"dict_ratio": 2.0, "batch_size": 4, "micro_batch_size": 2, "lr": 0.01}
CONFIGS = [
    TrainConfig(named_objective("local", 0.3), (HOOK,), **SMALL),
    TrainConfig(named_objective("e2e", 0.1), (HOOK,), **SMALL),
    TrainConfig(named_objective("e2e_ds", 0.1), (HOOK, "blocks.2.hook_mlp_out"), seed=4, **SMALL),
]


@pytest.fixture
def folders(tmp_path):
    return [tmp_path / str(i) for i in range(len(CONFIGS))]


@pytest.fixture
def steps(monkeypatch):
    """The steps that any training takes, as they come."""
    taken, real = [], Trainer.step

    def advance(self):
        taken.append(self.done)
        return real(self)

    monkeypatch.setattr(Trainer, "step", advance)
    return taken


def trained(rows, **options):
    return train(tiny_model(), CONFIGS, rows, progress=False, **options)


def stopper(at: int, number: int = signal.SIGTERM):
    """An `on_log` that sends this process a signal once."""
    sent = []

    def on_log(index, entry):
        if entry["step"] == at and not sent:
            sent.append(os.kill(os.getpid(), number))

    return on_log


@pytest.fixture(scope="module")
def uninterrupted():
    """What the training gives on 48 rows without a stop."""
    with torch.random.fork_rng():
        return trained(random_tokens(48))


def assert_same(runs, others):
    for run, other in zip(runs, others, strict=True):
        assert run.curve == other.curve
        assert run.alive_paper == other.alive_paper
        assert run.grad_norm == other.grad_norm
        for hook, sae in run.saes.items():
            for name, tensor in sae.state_dict().items():
                assert torch.equal(tensor, other.saes[hook].state_dict()[name]), (hook, name)


# ------------------------------------------------------------------ files
def test_what_is_saved_comes_back(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor([True, False])}
    save_checkpoint(tmp_path / "new", 7, tensors, {"curve": [{"loss": 0.1}], "text": "λ"})
    found = load_checkpoint(tmp_path / "new", 7)
    assert found.step == 7
    assert found.facts == {"curve": [{"loss": 0.1}], "text": "λ", "step": 7}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_the_last_two_are_kept(tmp_path):
    for step in (2, 10, 100):
        save_checkpoint(tmp_path, step, {"a": torch.ones(1)}, {})
    assert checkpoint_steps(tmp_path) == [100, 10]
    assert len(list(tmp_path.iterdir())) == 2
    clear_checkpoints(tmp_path)
    assert not tmp_path.exists()
    clear_checkpoints(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "gone"])
def test_a_damaged_one_is_known(tmp_path, damage):
    save_checkpoint(tmp_path, 1, {"a": torch.ones(50)}, {})
    path = save_checkpoint(tmp_path, 2, {"a": torch.ones(50)}, {})
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    damaged = {"truncated": content[:-20], "one bit": content, "empty": b"", "gone": None}[damage]
    path.unlink() if damaged is None else path.write_bytes(damaged)
    assert checkpoint_steps(tmp_path) == [1]
    with pytest.raises(ResultsError) as caught:
        load_checkpoint(tmp_path, 2)
    assert_sentence(caught, "step", "2", "no whole checkpoint")


def test_a_full_disk_leaves_the_last_ones(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"a": torch.ones(50)}, {})

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResultsError) as caught:
        save_checkpoint(tmp_path, 2, {"a": torch.ones(50)}, {})
    assert_sentence(caught, "step-2", tmp_path.name, "No space left on device")
    assert checkpoint_steps(tmp_path) == [1]
    assert len(list(tmp_path.iterdir())) == 1, "the half-written one is gone"


# ------------------------------------------------------------------ resuming
@pytest.mark.parametrize("at", [0, 3, 9, 11], ids=lambda s: f"step-{s}")
def test_stopped_and_resumed_training_ends_in_the_same_bits(folders, at, steps, uninterrupted):
    rows = random_tokens(48)
    with pytest.raises(StoppedError) as caught:
        trained(rows, checkpoints=folders, on_log=stopper(at)) if at < 11 else (
            trained(rows, checkpoints=folders, on_log=stopper(10))
        )
    assert_sentence(caught, "SIGTERM", f"step {min(at, 10) + 1} of 12", "start it again")
    steps.clear()
    seen = [[] for _ in CONFIGS]
    again = trained(rows, checkpoints=folders, on_log=lambda i, entry: seen[i].append(entry))
    assert steps == list(range(min(at, 10) + 1, 12)), "it went on where it was"
    assert seen == [run.curve for run in again], "who looks sees the whole curve"
    assert_same(again, uninterrupted)


def test_an_interrupt_saves_and_handlers_are_put_back(folders):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="SIGINT"):
        trained(random_tokens(24), checkpoints=folders, on_log=stopper(2, signal.SIGINT))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert [checkpoint_steps(folder) for folder in folders] == [[3]] * 3


def test_a_torn_checkpoint_of_one_run_takes_all_back_to_the_last_common_step(
    folders, steps, uninterrupted
):
    rows = random_tokens(48)
    with pytest.raises(StoppedError):
        trained(rows, checkpoints=folders, checkpoint_seconds=0.0, on_log=stopper(5))
    assert [checkpoint_steps(folder) for folder in folders] == [[6, 5]] * 3
    newest = next(folders[1].glob("step-6-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    steps.clear()
    again = trained(rows, checkpoints=folders)
    assert min(steps) == 5
    assert_same(again, uninterrupted)


def test_a_finished_training_is_not_repeated(folders, steps):
    rows = random_tokens(24)
    first = trained(rows, checkpoints=folders)
    steps.clear()
    again = trained(rows, checkpoints=folders)
    assert steps == []
    assert_same(first, again)
    assert [run.train_seconds for run in again] == [run.train_seconds for run in first]


def test_checkpoints_of_other_code_are_left_alone(folders, monkeypatch, steps, capsys):
    rows = random_tokens(24)
    trained(rows, checkpoints=folders)
    monkeypatch.setattr("e2e_lib.core.train.training_digest", lambda: "other")
    steps.clear()
    trained(rows, checkpoints=folders)
    assert min(steps) == 0
    assert (
        "Checkpoints of other code are there: this training starts anew." in capsys.readouterr().out
    )


def test_every_module_that_training_imports_counts_as_its_code():
    found = {path.relative_to(LIBRARY).as_posix() for path in imported(TRAINING)}
    assert {"core/losses.py", "core/sae.py", "engine/sae_kernel.py", "engine/logits.py"} <= found
    assert not [name for name in found if name.startswith(("plots", "analysis"))]


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_the_interval_is_checked(folders, seconds):
    with pytest.raises(ConfigError) as caught:
        trained(random_tokens(24), checkpoints=folders, checkpoint_seconds=seconds)
    assert_sentence(caught, "checkpoint_seconds", str(seconds), "at least 0")


def test_a_folder_for_each_run_is_needed(folders):
    with pytest.raises(ConfigError) as caught:
        trained(random_tokens(24), checkpoints=folders[:2])
    assert_sentence(caught, "checkpoints", "2", "3 folders")


# ------------------------------------------------------------------ killed
def train_to_the_end(folder, ready):
    """What is killed: trains all runs, goes on from its checkpoints, saves weights at its end."""
    prepare_child(folder)
    ready.set()
    folders = [folder / str(i) for i in range(len(CONFIGS))]
    runs = trained(random_tokens(240), checkpoints=folders, checkpoint_seconds=0.02, logs=60)
    for i, run in enumerate(runs):
        for hook, sae in run.saes.items():
            torch.save(sae.state_dict(), folder / f"{i}-{hook}.pt")


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_the_same_bits(tmp_path):
    """kill -9, again and again, and nothing done but starting it again."""
    wanted = int(os.environ.get("E2E_KILLS", "4"))
    chance, kills = random.Random(7), 0
    for _ in range(wanted + 3):
        ready = PROCESSES.Event()
        process = PROCESSES.Process(target=train_to_the_end, args=(tmp_path, ready))
        process.start()
        assert ready.wait(120)
        time.sleep(chance.uniform(0.05, 0.6))
        if kills < wanted and process.is_alive():
            process.kill()
            kills += 1
        process.join(120)
        if process.exitcode == 0:
            break
    assert kills >= 3
    assert process.exitcode == 0
    torch.set_num_threads(1)
    for i, run in enumerate(trained(random_tokens(240))):
        for hook, sae in run.saes.items():
            saved = torch.load(tmp_path / f"{i}-{hook}.pt", weights_only=True)
            assert saved.keys() == sae.state_dict().keys()
            for name, tensor in sae.state_dict().items():
                assert torch.equal(saved[name], tensor)


# ------------------------------------------------------------------ out of memory
def train_large(**options):
    """SAEs of 24,000 latents on a tiny model."""
    config = TrainConfig(
        named_objective("local", 0.3), (HOOK,), dict_ratio=2e3, batch_size=64, micro_batch_size=64
    )
    return train(tiny_model(), [config], random_tokens(256, 24), progress=False, **options)


def train_with_little_memory(folder, sentence):
    """Goes on from the checkpoints with 64 MiB to spare, and says what became of it."""
    prepare_child(folder)
    tiny_model()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, resource.RLIM_INFINITY))
    try:
        train_large(checkpoints=[folder / "checkpoints"])
    except OutOfMemoryError as error:
        sentence.send(str(error))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_out_of_memory_is_one_sentence_and_the_state_on_disk_stays_good(tmp_path):
    place = tmp_path / "checkpoints"
    with pytest.raises(StoppedError):
        train_large(checkpoints=[place], on_log=stopper(1))
    assert checkpoint_steps(place) == [2]
    said, sentence = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train_with_little_memory, args=(tmp_path, sentence))
    process.start()
    process.join(120)
    assert said.poll() and said.recv() == (
        "memory is not enough for a step of 64 × 24 tokens and SAEs of 12 × 24000: choose a "
        "smaller micro_batch_size or a smaller dict_ratio."
    )
    assert checkpoint_steps(place) == [2]
    assert_same(train_large(checkpoints=[place]), train_large())
