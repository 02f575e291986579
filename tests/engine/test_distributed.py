"""Two processes end with the weights of one, and their checkpoints are the same thing."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from e2e_lib.core.train import train
from e2e_lib.engine.checkpoint import checkpoint_steps, load_checkpoint
from e2e_lib.engine.device import ALONE, Processes
from e2e_lib.errors import ConfigError, E2EError
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.launch import load_inputs, read_spec, train_in_processes
from tests.helpers.tiny_models import (
    assert_sentence,
    model_folder,
    random_tokens,
    tiny_model,
    write_jsonl,
)

HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture
def training(tmp_path):
    rows = random_tokens(200, 8).tolist()
    files = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"input_ids": row} for row in part])
        for name, part in (("train", rows[:160]), ("validation", rows[160:]))
    ]
    return Training(
        model=str(model_folder("gpt2")),
        train_data=str(files[0]),
        validation_data=str(files[1]),
        hook=HOOK,
        sparsity_coeffs="local:0.3;e2e:0.1;e2e_ds:0.1",
        seed=3,
        dict_ratio=3.0,
        train_tokens=8 * 8 * 12,
        eval_tokens=64,
        context_size=8,
        batch_size=8,
        micro_batch_size=4,
    )


class FakeAccelerator:
    """One of two processes, the other of which has zeros everywhere."""

    num_processes, process_index, device = 2, 1, torch.device("cpu")

    def reduce(self, value, reduction):
        assert reduction == "mean"
        assert value.is_contiguous()
        return value / 2


def test_alone_nothing_is_exchanged():
    value = torch.randn(3)
    assert ALONE.mean(value) is value
    assert (ALONE.count, ALONE.rank, ALONE.first) == (1, 0, True)
    assert ALONE.any(True) and not ALONE.any(False)


def test_a_mean_keeps_the_memory_order():
    own = Processes(FakeAccelerator())
    value = torch.randn(3, 4).T
    assert torch.equal(own.mean(value), value / 2)
    assert own.mean(value).stride() == value.stride()
    assert own.any(True) and not own.any(False)
    assert not own.first


def test_what_the_processes_are_told(tmp_path, training):
    """Through JSON: the training, and which of its runs are still to do."""
    configs = training.configs()
    names = [training.name(config) for config in configs[1:]]
    spec = {"training": asdict(training), "results": str(tmp_path), "names": names}
    again, found = read_spec(json.loads(json.dumps(spec)))
    assert again == training and list(found.values()) == configs[1:]
    assert list(found) == [training.checkpoints(tmp_path, config) for config in configs[1:]]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_end_with_the_weights_of_one(tmp_path, training):
    configs = training.configs()
    train_in_processes(replace(training, processes=2), configs, tmp_path / "two")
    model, rows = load_inputs(training)
    places = [training.checkpoints(tmp_path / "one", config) for config in configs]
    train(model, configs, rows.train, checkpoints=places, progress=False)
    for config in configs:
        two, one = (training.checkpoints(tmp_path / n, config) for n in ("two", "one"))
        assert checkpoint_steps(two) == checkpoint_steps(one) == [12]
        found, expected = load_checkpoint(two, 12), load_checkpoint(one, 12)
        assert found.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(found.facts["curve"], expected.facts["curve"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    # What two processes have saved, one takes up: here at its last step.
    rows, seen = torch.zeros(96, 8, dtype=torch.long), [[] for _ in configs]
    folders = [training.checkpoints(tmp_path / "two", config) for config in configs]
    runs = train(
        tiny_model(),
        configs,
        rows,
        progress=False,
        checkpoints=folders,
        on_log=lambda i, entry: seen[i].append(entry),
    )
    assert seen == [run.curve for run in runs], "a tracker sees what the processes logged"
    assert len(seen[0]) == 12
    saved = load_checkpoint(folders[1], 12).tensors[f"weight/{HOOK}.W_enc"]
    assert torch.equal(runs[1].saes[HOOK].W_enc, saved)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_process_that_fails_says_why(tmp_path, training):
    (tmp_path / "train.jsonl").write_text("no json\n")
    with pytest.raises(E2EError) as caught:
        train_in_processes(replace(training, processes=2), training.configs(), tmp_path)
    assert_sentence(caught, "training in 2 processes failed", "train.jsonl")


def test_a_share_of_every_micro_batch():
    with pytest.raises(ConfigError) as caught:
        train(
            tiny_model(),
            Training(sparsity_coeffs="local:0.3", batch_size=6, micro_batch_size=3).configs(),
            random_tokens(12),
            progress=False,
            processes=Processes(FakeAccelerator()),
        )
    assert_sentence(caught, "micro_batch_size", "3", "a multiple of the number of processes (2)")


def test_at_least_one_process(training):
    with pytest.raises(ConfigError) as caught:
        replace(training, processes=0)
    assert_sentence(caught, "processes", "0", "at least 1")
