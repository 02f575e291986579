"""Whether an SAE that is there is one of this model's, at this hook, as far as its files tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e_lib.core.hooks import later_blocks
from e2e_lib.data.formats.stored import StoredSAE, block_before
from e2e_lib.engine.model.probes import hook_widths
from e2e_lib.errors import ModelError, is_text, require
from e2e_lib.files import project_path
from e2e_lib.names import FETCHED_MODELS, PAIR, TransformerBridge
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS


def fitting_hook(
    model: TransformerBridge,
    name: str,
    stored: StoredSAE,
    hook: str,
    objective: str,
    processed: bool,
) -> str:
    """Where the SAE called `name` sits: at `hook`, or where its files say if that is empty.

    Raises:
        ModelError, ConfigError: it is not one of this model there.
    """
    hook = hook or stored.hook or ""
    if not hook:
        raise ModelError(f"SAE {name!r} does not say its hook: --hook must.")
    loaded = stored.metadata.get("model_from_pretrained_kwargs")
    centred = loaded.get("center_writing_weights") if isinstance(loaded, Mapping) else None
    if isinstance(centred, bool) and centred != processed:
        raise ModelError(
            f"SAE {name!r} says that its model had center_writing_weights {centred}, but processed "
            f"is {processed}: it must be {centred}."
        )
    widths = hook_widths(model, hook)
    if widths != (stored.d_in, stored.d_out) or stored.transcoder != (PAIR in hook):
        makes = f" and makes others of width {stored.d_out}" * stored.transcoder
        raise ModelError(
            f"SAE {name!r} reads activations of width {stored.d_in}{makes}, but the model's at "
            f"{hook!r} have width {' and '.join(map(str, dict.fromkeys(widths)))}."
        )
    same = block_before(hook) == block_before(stored.hook) is not None
    if not same and stored.hook not in (None, hook):
        raise ModelError(
            f"SAE {name!r} is one of {stored.hook!r}, but --hook is {hook!r}: it must be the same "
            "activation, or be left out."
        )
    allowed = f"one without a downstream term, for no block comes after {hook}"
    wanted = objective.endswith("_ds") and not later_blocks(model, [hook])
    require(not wanted, "objective", objective, allowed)
    return hook


def unknown_model(name: str, stored: StoredSAE, asked: str) -> str:
    """What is not known of the model of the SAE called `name`; empty if it is the one `asked` for.

    Names are compared without an organisation, in any case, and with TransformerLens' aliases:
    gpt2-small is openai-community/gpt2. A folder's name says nothing if it is another.

    Raises:
        ModelError: it is an SAE of another model, and both are names that are known.
    """
    said, shown = stored.metadata.get("model_name"), Path(asked).name
    if not is_text(said) or not said:
        return f"SAE {name!r} does not say of which model it is: whether of {shown!r} is not known."
    aliases = _aliases()
    if _plain(said, aliases) == _plain(asked, aliases):
        return ""
    known = said in EMBEDDED_MODELS or _plain(said, aliases) in aliases.values()
    local = asked in FETCHED_MODELS or project_path(asked).exists()
    if known and (asked in EMBEDDED_MODELS or not local):
        raise ModelError(
            f"SAE {name!r} says that it is one of {said[:80]!r}, but --model is {asked!r}: it must "
            "be the same model."
        )
    return f"SAE {name!r} says that it is one of {said[:80]!r}: whether {shown!r} is, is not known."


def _plain(name: str, aliases: Mapping[str, str]) -> str:
    """A model's name without organisation, aliases and capitals."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return aliases.get(last, last)


def _aliases() -> dict[str, str]:
    """The last part of TransformerLens' official names, by every name it knows a model by."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    found: dict[str, str] = {}
    for official in (*OFFICIAL_MODEL_NAMES, *MODEL_ALIASES):
        last = official.rsplit("/", 1)[-1].lower()
        named = (last, *MODEL_ALIASES.get(official, ()))
        found |= dict.fromkeys(map(str.lower, named), last)
    return found


def say_unknown_models(names: Sequence[str], stored: Sequence[StoredSAE], asked: str) -> None:
    """Print, SAE by SAE, that whether it is one of the model is not known. Raises ModelError."""
    for name, one in zip(names, stored, strict=True):
        if doubt := unknown_model(name, one, asked):
            print(doubt)


def say_other_trainings(
    names: Sequence[str], stored: Sequence[StoredSAE], asked: Sequence[Mapping[str, Any]]
) -> None:
    """Print what an SAE's files say of the rows it was trained on and is not what is asked for."""
    for name, one, wanted in zip(names, stored, asked, strict=True):
        said = {key: one.metadata.get(key) for key in ("prepend_bos", "context_size")}
        other = [f"{k} {v}" for k, v in said.items() if isinstance(v, int) and v != wanted[k]]
        if other:
            print(f"SAE {name!r} says that it was trained with {' and '.join(other)}: not so here.")
