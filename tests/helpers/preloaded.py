"""What is done in a fork server before its first child: imports, and the tiny model."""

import e2e_lib.core.train  # noqa: F401
from tests.helpers.tiny_models import tiny_model

tiny_model()
