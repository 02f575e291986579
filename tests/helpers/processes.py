"""Processes that a test may kill or starve: forked from one that is ready to train."""

import multiprocessing
import tempfile
from pathlib import Path

import torch

# Not forked from the test's own process, whose threads and open files they must not share.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.helpers.preloaded"])


def prepare_child(folder: Path) -> None:
    """One thread, and temporary files in a folder that the test removes: a child cannot."""
    torch.set_num_threads(1)
    tempfile.tempdir = str(folder)
