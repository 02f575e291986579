"""What every job and kernel would compute anew, done in a fork server before its first child."""

from e2e_lib.source_code import library_digest, notebook_digest
from pipeline.plan.notebook_parameters import NOTEBOOKS

library_digest()
for path in NOTEBOOKS.glob("*.ipynb"):
    notebook_digest(path)
