"""Trackers: off by default, and off the network when disabled."""

import socket

import pytest

from e2e_lib.errors import ConfigError
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.launch import tracked
from tests.helpers.tiny_models import assert_sentence


def test_the_default_tracker_does_nothing():
    with tracked("none", {"run": {}}) as on_log:
        assert on_log(0, {"step": 0, "loss": 1.0}) is None


def test_an_unknown_tracker():
    with pytest.raises(ConfigError) as caught:
        Training(tracker="tensorboard")
    assert_sentence(caught, "tracker", "'tensorboard'", "none, wandb")


@pytest.mark.filterwarnings("default")  # its import warns of other packages
def test_wandb_disabled_stays_off_the_network(monkeypatch, tmp_path):
    import wandb

    def refuse(*args, **kwargs):
        raise AssertionError("no network here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    logged, start = [], wandb.init

    def init(**arguments):
        run = start(**arguments)
        monkeypatch.setattr(run, "log", lambda values, step: logged.append((values["loss"], step)))
        return run

    monkeypatch.setattr(wandb, "init", init)
    with tracked("wandb", {"one": {"lr": 1.0}, "two": {"lr": 2.0}}) as on_log:
        for step in range(2):
            on_log(1, {"step": step, "loss": 0.5})
    assert logged == [(0.5, 0), (0.5, 1)]
