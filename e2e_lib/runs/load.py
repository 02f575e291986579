"""What analyses of saved SAEs read again: the language model, held-out rows of text, the SAEs.

Analyses that only need tables read them through `runs`; this is for those that run the model.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.sae import SAE
from e2e_lib.data.formats.saelens import CONFIG, WEIGHTS, firing_frequency, read_config
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import held_out_rows
from e2e_lib.errors import ResultsError, require
from e2e_lib.files import project_path
from e2e_lib.names import TransformerBridge
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.runs.read import finished, run_config, sae_folder


class Subject(NamedTuple):
    """The frozen model behind a results folder, and text that no SAE of it was trained on."""

    model: TransformerBridge
    rows: Int[Tensor, "rows pos"]


class SavedSAE(NamedTuple):
    """A saved SAE, where it sits, and the share of evaluation tokens on which each latent fired."""

    sae: SAE
    hook: str
    frequency: Float[Tensor, " d_sae"]


def load_subject(
    results: Path,
    model: str,
    validation_data: str,
    n_rows: int,
    *,
    device: str = "cpu",
) -> Subject:
    """The model that the runs of `results` were trained on, and its first held-out rows.

    Context size and processing are the runs' own. The rows are the ones that the runs were
    evaluated on (the first of them, if fewer are asked for; further ones of the source, if more).

    Args:
        results: a folder with finished runs.
        model, validation_data: as notebook 10_train takes them.
        n_rows: rows of text.

    Raises:
        ResultsError: the runs were trained on a model with another name or other weights, on this
            text, or evaluated on a text of this name that was another; or the folder holds no
            finished run.
        ModelError, DataError: model or text cannot be read.
    """
    config = run_config(results)
    if lacking := [name for name in ("context_size", "processed") if name not in config]:
        raise ResultsError(f"the runs in {results.name!r} do not say their {', '.join(lacking)}.")
    digest, contents = model_digest(model), config.get("contents", {})
    name, recorded = Path(model).name if digest else model, str(config["model"])
    known = Path(recorded).name if contents.get("model") else recorded
    if (name, digest) != (known, contents.get("model")):
        raise ResultsError(
            f"model is {name!r}, but the runs in {results.name!r} were trained on "
            f"{recorded!r}" + (" with other weights." if known == name else ".")
        )
    text, evaluated = Path(validation_data).name, str(config.get("validation_data"))
    own = content_digest(validation_data)
    if text == Path(evaluated).name and contents.get("validation") not in (None, own):
        raise ResultsError(
            f"validation_data is {text!r}, but the runs in {results.name!r} were evaluated on "
            "other text of that name: give that text, or train again."
        )
    learnt, held = (
        contents.get(key) == own if own else config.get(f"{key}_data") == validation_data
        for key in ("train", "validation")
    )
    if learnt and not held:
        raise ResultsError(
            f"validation_data is {text!r}, but that is the text on which the runs in "
            f"{results.name!r} were trained: give what they were evaluated on, {evaluated!r}."
        )
    language_model = load_model(
        model,
        device,
        processed=config["processed"],
        revision=config.get("model_revision", "main"),
        random_weights=config.get("random_weights", 0),
    )
    named = [(config.get(f"{k}_data"), contents.get(k)) for k in ("train", "validation")]
    rows = held_out_rows(
        language_model,
        # One source for both is split by document digest, wherever it lies now.
        validation_data if named[0] == named[1] else str(named[0][0]),
        validation_data,
        n_rows,
        context_size=config["context_size"],
        prepend_bos=config.get("prepend_bos", False),
        revision=config.get("data_revision"),
    )
    return Subject(language_model, rows.to(language_model.cfg.device))


def load_saes(
    results: Path, runs: pd.DataFrame | Iterable[str], device: str = "cpu"
) -> dict[str, SavedSAE]:
    """SAEs by run name, of those `runs` whose weights are there.

    runs: names, or rows of the metrics table (columns run and hook). The committed reference ships
    the weights of matched runs only; a run without weights is left out.
    """
    pairs = (
        zip(runs["run"], runs["hook"], strict=True)
        if isinstance(runs, pd.DataFrame)
        else ((name, None) for name in runs)
    )
    saved: dict[str, SavedSAE] = {}
    for name, hook in pairs:
        try:
            folder = sae_folder(results, name, hook)
        except ResultsError:
            continue
        hook = hook or run_config(results, name)["hook_names"][0]
        sae, frequency = SAE.load(folder, device), firing_frequency(folder).to(device)
        if len(frequency) != sae.d_sae:
            raise ResultsError(
                f"run {name!r} has firing frequencies of {len(frequency)} latents, but an SAE of "
                f"{sae.d_sae}: delete its folder and train it again."
            )
        saved[name] = SavedSAE(sae.eval().requires_grad_(False), hook, frequency)
    return saved


def clean_activations(
    subject: Subject, hook: str, batch_size: int = 16
) -> Float[Tensor, "rows pos d"]:
    """The model's activations at a hook on all rows; memory for all of them at once is needed."""
    parts = [
        clean_pass(subject.model, tokens, [hook], logits=False).activations[hook]
        for tokens in subject.rows.split(batch_size)
    ]
    return torch.cat(parts)


def start_folders(
    results: Path, start: str, hooks: Sequence[str], dict_ratio: float
) -> dict[str, str]:
    """{hook: folder of the saved SAE that a training starts from}.

    start: a finished run of `results`, or a folder with a saved SAE, or of several hooks with a
    folder for each.

    Raises:
        ConfigError: there is no such SAE, or its dictionary ratio is another one.
    """
    run = results / "saes" / start
    base = run if finished(run) else project_path(start)
    found = {}
    for hook in hooks:
        folder = base / hook if (base / hook).is_dir() else base
        saved = (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
        allowed = "a finished run with weights, or a folder with a saved SAE for each hook"
        require(saved, "init_from", start, allowed)
        config = read_config(folder)
        d_in, d_sae = config["d_in"], config["d_sae"]
        allowed = f"that of init_from, which has {d_sae} latents for {d_in}"
        require(int(dict_ratio * d_in) == d_sae, "dict_ratio", dict_ratio, allowed)
        found[hook] = str(folder)
    return found


def start_digest(folder: str) -> str | None:
    """Digest of a saved SAE that a training starts from; of a finished run's the weights, for its
    name, which says all else, is part of the folder's."""
    own = Path(folder)
    run = finished(own) or finished(own.parent)
    return content_digest(str(own / WEIGHTS if run else own))
