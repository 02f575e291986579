"""What only running the language model tells: how large its activations are."""

from collections.abc import Mapping, Sequence
from typing import Any

from e2e_lib.files import source_path

ROWS = 16  # rows of held-out text: thousands of tokens, more than a median needs


def activation_scales(
    values: Mapping[str, Any], layers: Sequence[int], context_size: int
) -> dict[int, float]:
    """Typical size of an activation's element at the profile's hook point, by layer.

    Raises ModelError or DataError, in one sentence, if model or text cannot be read: before
    anything is trained.
    """
    # Slow to import, and needed for a model that nobody has tuned λ for.
    from e2e_lib.core.hooks import activation_scale
    from e2e_lib.data.models import load_model
    from e2e_lib.data.rows import load_rows
    from e2e_lib.data.text import source_pair

    model = load_model(
        source_path(values["model"]),
        processed=values["processed"],
        revision=values["model_revision"],
    )
    text = source_path(values["validation_data"])
    rows = load_rows(
        *source_pair(text, text, context_size, values["prepend_bos"], values["data_revision"]),
        model.tokenizer,
        model.cfg.d_vocab,
        n_train=1,
        n_validation=ROWS,
    )
    hooks = {layer: f"blocks.{layer}.{values['hook_point']}" for layer in layers}
    scales = activation_scale(model, rows.validation, list(hooks.values()))
    return {layer: scales[hook] for layer, hook in hooks.items()}
