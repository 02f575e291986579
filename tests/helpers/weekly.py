"""What takes minutes: E2E_SLOW=full has all of it, as continuous integration does every week."""

import os

import pytest

FULL = os.environ.get("E2E_SLOW") == "full"
weekly = pytest.mark.skipif(not FULL, reason="E2E_SLOW=full: minutes")
