"""One library of SAEs, in an environment of its own: it runs our files, and makes files of its own.

    python peer.py LIBRARY FOLDER

Imports nothing of this project. Reads `inputs.safetensors`, every folder of `ours/` that LIBRARY
can read, and `stand_ins/`; writes `theirs/LIBRARY/NAME/` and, in `LIBRARY.safetensors`, the codes
and the output of all of these by LIBRARY's own code. `LIBRARY.json` has its version and what it
failed to load.
"""

import importlib.metadata
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Codes = tuple[Tensor, Tensor]
Case = tuple[str, Callable[[], nn.Module], Callable[[nn.Module, Tensor], Codes]]
D_IN, D_SAE, D_OUT = 6, 10, 4
PACKAGES = {
    "sae_lens": "sae-lens", "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning", "e2e_sae": "e2e-sae",
}  # fmt: skip


def plain(sae: Any, x: Tensor) -> Codes:
    codes = sae.encode(x)
    return codes, sae(x) if hasattr(sae, "W_skip") else sae.decode(codes)


@torch.no_grad()
def filled(sae: nn.Module, *, unit: str = "") -> nn.Module:
    """The same with random parameters; rows of the decoder named `unit` at unit length."""
    for name, parameter in sae.named_parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape))
        if name == "threshold":
            parameter.abs_()
        if name == unit:
            dim = 0 if parameter.shape == (D_IN, D_SAE) else 1
            parameter.div_(parameter.norm(dim=dim, keepdim=True))
    return sae


# ------------------------------------------------------------------ SAELens
def sae_lens(folder: Path) -> Iterator[Case]:
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes import gated_sae, jumprelu_sae, standard_sae, topk_sae, transcoder
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )

    for path in sorted((folder / "ours").glob("saelens*")):
        yield f"ours/{path.name}", lambda path=path: SAE.load_from_disk(path), plain

    def through(loader: Any, path: Path, repo: str, name: str, **overrides: Any) -> nn.Module:
        """What `SAE.from_pretrained` does, with the hub's files in `path`."""
        loaders.hf_hub_download = lambda repo_id, filename, subfolder="", **_: str(
            path / Path(subfolder, filename).relative_to(name)
        )
        loaders.get_safetensors_tensor_shapes = lambda repo_id, filename: {
            k: list(t.shape) for k, t in load_file(path / Path(filename).relative_to(name)).items()
        }
        config, tensors, _ = loader(repo, name, "cpu", cfg_overrides=overrides)
        config = loaders.handle_config_defaulting(config)
        sae = SAE.from_dict(config | {"device": "cpu", "dtype": "float32"})
        sae.load_state_dict({k: t.float().contiguous() for k, t in tensors.items()})
        if config.get("normalize_activations") == "expected_average_only_in":
            hyper = json.loads((path / "hyperparams.json").read_text())
            norm = hyper["dataset_average_activation_norm"]["in"]
            sae.fold_activation_norm_scaling_factor(hyper["d_model"] ** 0.5 / norm)
        return sae

    one = loaders.dictionary_learning_sae_huggingface_loader_1
    for path in sorted((folder / "ours").glob("dictionary_learning*")):
        yield f"ours/{path.name}", lambda path=path: through(one, path, "a/b", "c"), plain
    for path in sorted((folder / "ours").glob("sparsify*")):
        load = lambda path=path: SAE.load_from_disk(  # noqa: E731
            path / "layers.4", converter=loaders.sparsify_disk_loader, dtype="float32"
        )
        yield f"ours/{path.name}", load, plain

    size = {"d_in": D_IN, "d_sae": D_SAE}
    stand_ins = folder / "stand_ins"
    layouts = {
        "gemma_scope": (
            loaders.gemma_2_sae_huggingface_loader, "gemma_scope/gemma-scope-2b-pt-res",
            "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", size,
        ),
        "gemma_scope_2": (
            loaders.gemma_3_sae_huggingface_loader, "gemma_scope_2",
            "google/gemma-scope-2-4b-pt", "resid_post/layer_17_width_16k_l0_medium", {},
        ),
        "llama_scope": (
            loaders.llama_scope_sae_huggingface_loader, "llama_scope",
            "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L8R-8x", {"dtype": "float32"},
        ),
    }  # fmt: skip
    for name, (loader, inner, repo, where, overrides) in layouts.items():
        path = stand_ins / inner / where
        load = lambda a=(loader, path, repo, where), o=overrides: through(*a, **o)  # noqa: E731
        yield f"stand_ins/{name}", load, plain

    def saved(name: str, sae: Any, unit: str = "") -> Case:
        def make() -> nn.Module:
            filled(sae, unit=unit)
            path = folder / "theirs" / "sae_lens" / name
            save = getattr(sae, "save_inference_model", sae.save_model)
            save(path)
            return SAE.load_from_disk(path)

        return f"theirs/sae_lens/{name}", make, plain

    yield saved("standard", standard_sae.StandardSAE(standard_sae.StandardSAEConfig(**size)))
    yield saved("jumprelu", jumprelu_sae.JumpReLUSAE(jumprelu_sae.JumpReLUSAEConfig(**size)))
    yield saved("gated", gated_sae.GatedSAE(gated_sae.GatedSAEConfig(**size)))
    topk = topk_sae.TopKSAEConfig(**size, k=3)
    yield saved("topk", topk_sae.TopKSAE(topk), unit="W_dec")
    topk = topk_sae.TopKSAEConfig(**size, k=3, rescale_acts_by_decoder_norm=True)
    yield saved("topk_rescaled", topk_sae.TopKSAE(topk))
    batch = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=3))
    batch.topk_threshold.fill_(0.3)
    yield saved("batchtopk", batch)
    nested = MatryoshkaBatchTopKTrainingSAEConfig(**size, k=3, matryoshka_widths=[4, D_SAE])
    nested = MatryoshkaBatchTopKTrainingSAE(nested)
    nested.topk_threshold.fill_(0.3)
    yield saved("matryoshka_batchtopk", nested)
    for word in ("", "Skip", "JumpReLU", "JumpReLUSkip"):
        kind = getattr(transcoder, f"{word}TranscoderConfig")
        config = kind(**size, d_out=D_OUT, apply_b_dec_to_input=False)
        config.metadata.hook_name = "blocks.4.ln2.hook_normalized"
        config.metadata.hook_name_out = "blocks.4.hook_mlp_out"
        yield saved(config.architecture(), getattr(transcoder, f"{word}Transcoder")(config))


# ------------------------------------------------------------------ dictionary_learning
def dictionary_learning(folder: Path) -> Iterator[Case]:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
    from dictionary_learning.utils import load_dictionary

    def load(path: Path) -> nn.Module:
        return load_dictionary(str(path), "cpu")[0]

    for path in sorted((folder / "ours").glob("dictionary_learning*")):
        yield f"ours/{path.name}", lambda path=path: load(path), plain

    def saved(sae: Any, unit: str = "", **trainer: Any) -> Case:
        name = type(sae).__name__

        def make() -> nn.Module:
            filled(sae, unit=unit)
            path = folder / "theirs" / "dictionary_learning" / name
            path.mkdir(parents=True)
            torch.save(sae.state_dict(), path / "ae.pt")
            config = {
                "dict_class": name, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 3,
                "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3",
            }  # fmt: skip
            whole = {"trainer": config | trainer, "buffer": {"ctx_len": 128}}
            (path / "config.json").write_text(json.dumps(whole))
            return load(path)

        return f"theirs/dictionary_learning/{name}", make, plain

    size = (D_IN, D_SAE)
    yield saved(dictionary.AutoEncoder(*size))
    yield saved(dictionary.AutoEncoderNew(*size))
    yield saved(dictionary.JumpReluAutoEncoder(*size))
    yield saved(dictionary.GatedAutoEncoder(*size))
    yield saved(top_k.AutoEncoderTopK(*size, 3), unit="decoder.weight", k=3)
    batch = batch_top_k.BatchTopKSAE(*size, 3)
    batch.threshold.fill_(0.3)
    yield saved(batch, k=3)
    nested = matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(*size, 3, [4, 6])
    nested.threshold.fill_(0.3)
    yield saved(nested, k=3)


# ------------------------------------------------------------------ sparsify
def sparsify(folder: Path) -> Iterator[Case]:
    from sparsify import SaeConfig, SparseCoder

    def dense(sae: SparseCoder, x: Tensor) -> Codes:
        found = sae(x)
        codes = torch.zeros(len(x), D_SAE).scatter(1, found.latent_indices, found.latent_acts)
        return codes, found.sae_out

    for path in sorted((folder / "ours").glob("sparsify*")):
        load = lambda path=path: SparseCoder.load_from_disk(path / "layers.4")  # noqa: E731
        yield f"ours/{path.name}", load, dense

    def saved(name: str, **config: Any) -> Case:
        def make() -> nn.Module:
            sae = filled(SparseCoder(D_IN, SaeConfig(num_latents=D_SAE, **config)), unit="W_dec")
            path = folder / "theirs" / "sparsify" / name / "layers.3"
            sae.save_to_disk(path)
            return SparseCoder.load_from_disk(path)

        return f"theirs/sparsify/{name}", make, dense

    yield saved("topk", k=3)
    yield saved("all", k=D_SAE)


# ------------------------------------------------------------------ the authors' own
def e2e_sae(folder: Path) -> Iterator[Case]:
    """Their class out of its module: the whole package needs a part that was not published."""
    files = importlib.metadata.files("e2e-sae") or []
    [file] = [file for file in files if file.as_posix() == "e2e_sae/models/sparsifiers.py"]
    kind = runpy.run_path(str(file.locate()))["SAE"]

    def both(sae: nn.Module, x: Tensor) -> Codes:
        output, codes = sae(x)
        return codes, output

    def load(path: Path) -> nn.Module:
        [file] = path.glob("*.pt")
        sae, tensors = kind(D_IN, D_SAE), torch.load(file, weights_only=True)
        # Releases lack the layer's number in the encoder; in a checkpoint a hook stands before all.
        tensors = {re.sub("encoder.(0.)?", "encoder.0.", key): t for key, t in tensors.items()}
        sae.load_state_dict({re.sub("^blocks[^.]*.", "", key): t for key, t in tensors.items()})
        return sae

    for path in sorted((folder / "ours").glob("authors*")):
        yield f"ours/{path.name}", lambda path=path: load(path), both

    def saved(name: str, file: str, old: str, new: str) -> Case:
        def make() -> nn.Module:
            sae, path = filled(kind(D_IN, D_SAE)), folder / "theirs" / "e2e_sae" / name
            path.mkdir(parents=True)
            held = {re.sub(old, new, key): t for key, t in sae.state_dict().items()}
            torch.save(held, path / file)
            return load(path)

        return f"theirs/e2e_sae/{name}", make, both

    yield saved("checkpoint", "samples_400000.pt", "^", "blocks-3-hook_resid_pre.")
    yield saved("released", "e2e_similar_ce_layer_3.pt", "encoder.0", "encoder")


@torch.no_grad()
def main(library: str, folder: Path) -> None:
    torch.manual_seed(0)
    x = load_file(folder / "inputs.safetensors")["x"]
    found, failed = {}, {}
    for name, make, run in globals()[library](folder):
        try:
            codes, output = run(make(), x)
        except Exception as error:  # a class that the library cannot load is a row of the table
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            continue
        found |= {f"{name} codes": codes.float().contiguous()}
        found |= {f"{name} output": output.float().contiguous()}
    save_file(found, folder / f"{library}.safetensors")
    facts = {"version": importlib.metadata.version(PACKAGES[library]), "torch": torch.__version__}
    (folder / f"{library}.json").write_text(json.dumps(facts | {"failed": failed}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
