"""Trackers: off by default, and off the network when disabled."""

import socket

import pytest

from e2e_lib.errors import ConfigError
from e2e_lib.runs.launch import Tracker
from tests.helpers.tiny_models import assert_sentence


def test_the_default_tracker_does_nothing():
    tracker = Tracker("none", "run", {})
    assert tracker.run is None
    tracker.log(0, {"loss": 1.0})
    tracker.finish()


def test_an_unknown_tracker():
    with pytest.raises(ConfigError) as caught:
        Tracker("tensorboard", "run", {})
    assert_sentence(caught, "tracker", "'tensorboard'", "none, wandb")


@pytest.mark.filterwarnings("default")  # its import warns of other packages
def test_wandb_disabled_stays_off_the_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("no network here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    tracker = Tracker("wandb", "run", {"lr": 1.0})
    assert tracker.run is not None
    for step in range(2):
        tracker.log(step, {"loss": 1.0})
    tracker.finish()
