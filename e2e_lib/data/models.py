"""Language models: a hub name, a local folder in the same layout, or one of the embedded ones.

A folder with a GGUF file is such a folder once it is converted, by transformers' own reader.
"""

import hashlib
import os
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from e2e_lib.data.described import NO_CODE, load_tokenizer
from e2e_lib.data.model_checks import CheckedClass, check_files, check_names
from e2e_lib.errors import ModelError, reworded
from e2e_lib.files import project_path, writing
from e2e_lib.names import FETCHED_MODELS, TransformerBridge
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS


def model_path(name_or_folder: str) -> str:
    """The folder or hub name behind a model parameter; `EMBEDDED_MODELS` are shipped.

    A relative path is one under the project's root. `smollm2` is what `make model` has fetched,
    unless there is a folder of that name.

    Raises:
        ModelError: a local folder that lacks its configuration, weights or tokenizer, or a GGUF
            file that cannot be read.
    """
    if name_or_folder in EMBEDDED_MODELS:
        return str(EMBEDDED_MODELS[name_or_folder])
    folder = project_path(name_or_folder)
    with reworded(
        ModelError, f"model is {name_or_folder[:80]!r}, which is no name"
    ):  # too long, say
        there = folder.is_dir()
    if not there:
        folder = project_path(FETCHED_MODELS.get(name_or_folder, name_or_folder))
    looks_local = name_or_folder.startswith((".", "~", os.sep)) or name_or_folder.count("/") > 1
    if not folder.is_dir():
        if name_or_folder in {*FETCHED_MODELS, *FETCHED_MODELS.values()}:
            raise ModelError(
                f"model is {name_or_folder!r}, but it is not here yet: make model fetches it, "
                "93 MB, into build/models."
            )
        if looks_local:
            raise ModelError(
                f"model is {name_or_folder!r}, but there is no such folder: give 'storyworld', a "
                "folder in Hugging Face layout or a hub name such as 'gpt2'."
            )
        return name_or_folder
    ggufs = [] if (folder / "config.json").is_file() else sorted(folder.glob("*.gguf"))
    if len(ggufs) > 1:
        raise ModelError(
            f"model is {name_or_folder!r}, but this folder has {len(ggufs)} .gguf files: it must "
            "have one, the whole model."
        )
    if ggufs:
        return str(from_gguf(ggufs[0]))
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
    check_files(name_or_folder, folder)
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
        name_or_folder: `storyworld`, `smollm2`, a folder in Hugging Face layout or with a .gguf
            file, or a hub name.
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
        config = AutoConfig.from_pretrained(path, revision=pinned, **NO_CODE)
        kind = CheckedClass(name_or_folder, config)
        kind.check_memory(device)
        model = TransformerBridge.boot_transformers(
            path, device=device, revision=pinned, model_class=kind
        )
        if not len(getattr(model, "blocks", ())):
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


def from_gguf(file: Path, target: Path | None = None, separator: str = "") -> Path:
    """A folder in Hugging Face layout with the model of a GGUF file, its weights in float32.

    It is made once, which takes a minute, and is there whole or not at all.

    Args:
        target: where; else in the hub's cache, by the file's content.
        separator: the token that is to stand between texts, before and after each; else the file's
            own end-of-text token.

    Raises:
        ModelError: the package gguf is missing, the file is damaged or of an unknown architecture,
            or its model is too large for the memory.
        ResultsError: the folder cannot be written.
    """
    from huggingface_hub.constants import HF_HOME
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    name, folder = str(file), str(file.parent)
    if target is None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "blake2b").hexdigest()[:16]
        target = Path(HF_HOME) / "e2e_lib" / f"{file.stem}-{digest}"
    if target.is_dir():
        return target
    if find_spec("gguf") is None:
        raise ModelError(
            f"model is {name!r}, but a .gguf file is read with the package gguf, which is not "
            "installed: pip install gguf."
        )
    disable_progress_bar()
    what = f"model is {name!r}, but transformers cannot read this .gguf file"
    with reworded(ModelError, what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.from_pretrained(folder, gguf_file=file.name)
        CheckedClass(name, config).check_memory("cpu")
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file.name, output_loading_info=True
        )
        read, info = found
        check_names(name, **info)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
        if separator:
            tokenizer.bos_token = tokenizer.eos_token = separator
            config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
        # A model that was read from GGUF says that it is quantised, and cannot be saved.
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(read.state_dict())
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent, prefix=".", suffix=".part"))
        try:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            part.chmod(0o755)
            if not target.is_dir():  # another process may have been faster
                part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def check_device(device: str) -> None:
    """Raise ModelError naming the devices that are there if `device` is not."""
    present = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    if device not in present and not (device == "cuda" and len(present) > 1):
        raise ModelError(f"device is {device!r}, but this machine has {', '.join(present)}.")
