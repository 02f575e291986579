"""End-to-end sparse dictionary learning (Braun et al. 2024): train, evaluate, analyse SAEs."""

import warnings

# Importing any library of the field imports tqdm.auto, which then asks for widgets that nothing
# here needs, in a warning that would print a machine's folders into every executed notebook.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
