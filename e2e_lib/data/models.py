"""Language models: a hub name, a local folder in the same layout, or one of the embedded ones."""

import os
import warnings
from pathlib import Path

import torch

from e2e_lib.data.described import load_tokenizer
from e2e_lib.data.model_checks import CheckedClass
from e2e_lib.errors import ModelError, reworded
from e2e_lib.files import project_path
from e2e_lib.names import TransformerBridge
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS


def model_path(name_or_folder: str) -> str:
    """The folder or hub name behind a model parameter; `EMBEDDED_MODELS` are shipped.

    A relative path is one under the project's root.

    Raises:
        ModelError: a local folder that lacks its configuration, weights or tokenizer.
    """
    if name_or_folder in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name_or_folder])
    folder = project_path(name_or_folder)
    looks_local = name_or_folder.startswith((".", "~", os.sep)) or name_or_folder.count("/") > 1
    if not folder.is_dir():
        if looks_local:
            raise ModelError(
                f"model is {name_or_folder!r}, but there is no such folder: give 'storyworld', a "
                "folder in Hugging Face layout or a hub name such as 'gpt2'."
            )
        return name_or_folder
    for kind, names in {
        "configuration": ["config.json"],
        "tokenizer": ["tokenizer.json", "vocab.json", "tokenizer.model"],
        "weights": ["model.safetensors", "model.safetensors.index.json"],
    }.items():
        if not any((folder / n).is_file() for n in names):
            raise ModelError(
                f"model is {name_or_folder!r}, but this folder has no {kind}: it must hold "
                f"{' or '.join(names)}."
            )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model is {name_or_folder!r}, but this folder holds an adapter, which would not be "
            "applied: it must hold weights that the adapter is merged into."
        )
    return str(folder)


def load_model(
    name_or_folder: str,
    device: str = "cpu",
    *,
    processed: bool = False,
    revision: str = "main",
    random_weights: int = 0,
) -> TransformerBridge:
    """A frozen language model with hooks, in evaluation mode and float32.

    Args:
        name_or_folder: `storyworld`, `storyworld-loud`, a folder in Hugging Face layout, or a hub
            name.
        device: `cpu`, `cuda`, `cuda:1`, ...
        processed: fold LayerNorm and centre the weights that write to the residual stream: the
            basis of the paper's GPT-2 SAEs. CE and KL do not change by it.
        revision: commit, tag or branch of a hub model.
        random_weights: seed by which each weight tensor's elements are shuffled in the end: a model
            of the same sizes that has learnt nothing, a sanity row; 0: its own weights.

    Raises:
        ModelError: no such device, folder or hub model, files that cannot be read, a model too
            large for the memory, or one that is not what its folder says (`model_checks`).

    >>> model = load_model("storyworld")
    >>> model.cfg.n_layers, model.cfg.d_model, model.cfg.d_vocab
    (5, 64, 451)
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    path = model_path(name_or_folder)
    check_device(device)
    disable_progress_bar()  # of reading weights: noise in every executed notebook
    what = (
        f"model is {name_or_folder!r}, but it could not be loaded: a hub name needs a network or a "
        "cached copy, a folder needs sound files"
    )
    pinned = None if Path(path).is_dir() else revision
    with reworded(ModelError, what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party deprecations that no caller can act on
        config = AutoConfig.from_pretrained(path, revision=pinned)
        kind = CheckedClass(name_or_folder, config)
        kind.check_memory(device)
        model = TransformerBridge.boot_transformers(
            path, device=device, revision=pinned, model_class=kind
        )
        if not hasattr(model, "blocks"):
            raise ModelError(f"model is {name_or_folder!r}, but it has no plain row of blocks.")
        kind.check_same(model, "wrapping it")
    if processed:
        what = f"processed is true, but TransformerLens cannot process model {name_or_folder!r}"
        with reworded(ModelError, what), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.enable_compatibility_mode()
            kind.check_same(model, "processing it")
    # As it is on the disk: the bridge invents an end-of-text token, in its property's setter too.
    own = vars(model)
    own["_tokenizer" if "_tokenizer" in own else "tokenizer"] = load_tokenizer(path, pinned)
    model.eval()
    for parameter in model.original_model.parameters():
        parameter.requires_grad_(False)
    return with_random_weights(model, random_weights) if random_weights else model


def with_random_weights(model: TransformerBridge, seed: int) -> TransformerBridge:
    """Shuffle the elements of every weight of `model`, in place: sizes stay, what was learnt goes.

    Give it a model that nothing has run yet, as `load_model` returns it.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.original_model.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.data = parameter.data.flatten()[order].view_as(parameter)
    return model


def check_device(device: str) -> None:
    """Raise ModelError naming the devices that are there if `device` is not."""
    present = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device not in present and not (device == "cuda" and len(present) > 1):
        raise ModelError(f"device is {device!r}, but this machine has {', '.join(present)}.")
