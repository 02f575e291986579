"""What is done in a fork server before its first child: imports, the tiny model, a digest."""

import e2e_lib.core.train  # noqa: F401
from e2e_lib.source_code import training_digest
from tests.helpers.tiny_models import tiny_model

tiny_model()
training_digest()
