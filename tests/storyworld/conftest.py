"""Stories to look at, told once."""

import subprocess
import sys
from itertools import islice

import pytest

from e2e_lib.storyworld.grammar import generate


@pytest.fixture(scope="session")
def stories():
    return list(islice(generate(seed=11), 800))


@pytest.fixture(scope="session")
def texts():
    """Surface only, from a process of its own: run-time type checks would slow it tenfold."""
    code = """if True:
        from itertools import islice
        from e2e_lib.storyworld.grammar import generate
        for story in islice(generate(seed=12), 3000):
            print(story.text)
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.splitlines()
