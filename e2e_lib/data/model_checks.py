"""Whether a language model is what its folder says: looked at once, at load, in seconds.

Libraries load what fits and draw the rest at random, run a model that sees the future, and rewrite
weights by rules that fit most architectures. Each of these gives numbers, of another model.
"""

import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from e2e_lib.errors import ModelError, reworded
from e2e_lib.names import TransformerBridge

PROBE_TOKENS = 16  # of the passes that look at a model
SAME = 1e-3  # largest difference of a log-probability, as a share of their spread
# Tensors that old files hold and that are computed anew today: masks, rotations, positions.
COMPUTED = re.compile(
    r"\.(attn|attention|self_attn|self_attention)\.(attention\.)?(bias|masked_bias)$"
    r"|\.inv_freq$|(^|\.)position_ids$"
)
Rows = Int[Tensor, "row=2 pos"]
LogProbs = Float[Tensor, "row=2 pos vocab"]


class CheckedClass:
    """The class that Hugging Face has for a model's configuration; what it loads is looked at.

    TransformerBridge asks it for the model, and wraps what it gets.

    Attributes:
        log_probs: of the model as it was loaded, on `rows`; None before.
    """

    def __init__(self, name: str, config: Any) -> None:
        """Raises ModelError: `config` is not that of a model which predicts each next token."""
        from transformer_lens.model_bridge.sources import transformers as source
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        if getattr(config, "is_encoder_decoder", False):
            raise _no_decoder(name, "an encoder with a decoder", config)
        unknown = f"model is {name!r}, but TransformerLens does not know its architecture"
        with reworded(ModelError, unknown):
            architecture = source.determine_architecture_from_hf_config(config)
            self.kind = source.get_hf_model_class_for_architecture(architecture)
        # To read what is no text TransformerLens would install packages, torch among them.
        several = architecture.endswith("ForConditionalGeneration")
        if several or self.kind not in (AutoModelForCausalLM, AutoModelForMaskedLM):
            raise _no_decoder(name, "not of text alone", config)
        self.name, self.config = name, config
        text = config.get_text_config()
        self.rows = probe_rows(text.vocab_size, getattr(text, "max_position_embeddings", None))
        self.log_probs: LogProbs | None = None

    def check_memory(self, device: str) -> None:
        """Raise ModelError if the weights, in float32, are larger than the memory that is free."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = self.kind.from_config(self.config)
        count = sum(parameter.numel() for parameter in model.parameters())
        for place, free in free_memory(device).items():
            if 4 * count > free:
                raise ModelError(
                    f"model is {self.name!r}, but its {count / 1e9:.2f} billion parameters "
                    f"take {4 * count / 1e9:.1f} GB in float32, and {place} has "
                    f"{free / 1e9:.1f} GB free."
                )

    def from_pretrained(self, path: str, **options: Any) -> Any:
        """The model. Raises ModelError: it is not what its folder says."""
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = self.kind.from_pretrained(path, **options)
        check_names(self.name, **info)
        check_finite(self.name, dict(model.named_parameters()))
        with reworded(ModelError, f"model is {self.name!r}, but it does not run on tokens alone"):
            with torch.no_grad():
                logits = model.eval()(input_ids=self.rows.to(model.device)).logits
            self.log_probs = logits.float().log_softmax(-1).cpu()
        check_causal(self.name, self.log_probs)
        return model

    def check_same(self, model: TransformerBridge, doing: str) -> None:
        """Raise ModelError unless `model` gives the log-probabilities of what was loaded.

        doing: what was done to it, to stand in 'but TransformerLens … changes'.
        """
        assert self.log_probs is not None
        with torch.no_grad():
            logits = model(self.rows.to(model.cfg.device), return_type="logits")
        found = logits.float().log_softmax(-1).cpu()
        difference = float((found - self.log_probs).abs().max())
        if not difference <= SAME * float(self.log_probs.std()):
            raise ModelError(
                f"model is {self.name!r}, but TransformerLens {doing} changes what it computes: "
                f"log-probabilities differ by up to {difference:.2g} from those of Hugging Face's "
                f"own {self.config.model_type}."
            )


def _no_decoder(name: str, kind: str, config: Any) -> ModelError:
    return ModelError(
        f"model is {name!r}, but it is {kind} ({config.model_type}): only a decoder alone, which "
        "predicts each next token of a text, can be taken apart here."
    )


def probe_rows(d_vocab: int, n_ctx: int | None) -> Rows:
    """Two rows of tokens, the same but for the last one."""
    length = min(PROBE_TOKENS, n_ctx or PROBE_TOKENS)
    row = torch.randint(d_vocab, (length,), generator=torch.Generator().manual_seed(0))
    other = row.clone()
    other[-1] = (row[-1] + 1) % d_vocab
    return torch.stack([row, other])


def check_files(name: str, folder: Path) -> None:
    """Raise ModelError unless a folder's weights are its own files, there once, and no codes.

    Of two sets, or of two tensors of one name, a library takes one; what lies elsewhere can change
    unseen; whole numbers are those of a quantised model, without the scales that they want.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = {whole.name}
    if index.is_file():
        with reworded(ModelError, f"model is {name!r}, but its {index.name} names no weights"):
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            elsewhere = sorted(file for file in files if Path(file).name != file)
        if elsewhere:
            raise ModelError(
                f"model is {name!r}, but its {index.name} names {elsewhere[0]!r}: weights must lie "
                "in the folder itself."
            )
        if whole.is_file() and files != {whole.name}:
            raise ModelError(
                f"model is {name!r}, but this folder holds weights twice, in {whole.name} and in "
                f"the files of {index.name}: one of the two must go."
            )
    with reworded(ModelError, f"model is {name!r}, but its weights could not be loaded"):
        seen: Counter[str] = Counter()
        for file in sorted(files):
            with safe_open(folder / file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    seen[key] += 1
                    kind = tensors.get_slice(key).get_dtype()
                    if "F" not in kind and not COMPUTED.search(key):
                        raise ModelError(
                            f"model is {name!r}, but its {key} is of {kind}: weights must be "
                            "floating-point numbers, for nothing here reads quantised ones."
                        )
        bare = {key.partition(".")[2] for key in seen}  # as the model without its head is saved
        for key in sorted(seen):
            if seen[key] > 1 or key in bare:
                raise ModelError(
                    f"model is {name!r}, but its weights hold {key} twice, of which a library "
                    "takes one: the other must go."
                )


def check_names(
    name: str,
    missing_keys: Collection[str],
    unexpected_keys: Collection[str],
    mismatched_keys: Collection[tuple[str, Any, Any]] = (),
    **_: Any,
) -> None:
    """Raise ModelError unless there is a tensor for each parameter and a place for each tensor.

    The arguments are what Hugging Face's `output_loading_info` gives.
    """
    parts = []
    if mismatched_keys:
        key, here, wanted = sorted(mismatched_keys)[0]
        parts.append(f"{key} is {tuple(here)} and not {tuple(wanted)}")
    if missing := set(missing_keys) - {key for key, *_ in mismatched_keys}:
        parts.append(f"{_listed(missing)} missing, which would be drawn at random")
    if extra := [key for key in unexpected_keys if not COMPUTED.search(key)]:
        parts.append(f"{_listed(extra)} without a place in the model")
    if parts:
        raise ModelError(
            f"model is {name!r}, but its weights are not those of its config.json: "
            f"{', and '.join(parts)}."
        )


def _listed(keys: Collection[str]) -> str:
    shown = ", ".join(sorted(keys)[:2])
    listed = f"({shown}{', …' if len(keys) > 2 else ''})"
    return f"one tensor {listed} is" if len(keys) == 1 else f"{len(keys)} tensors {listed} are"


def check_finite(name: str, tensors: dict[str, Tensor]) -> None:
    """Raise ModelError naming the first tensor that holds a NaN or an infinite number."""
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"model is {name!r}, but {count} of the {tensor.numel()} numbers in its {key} are "
                "NaN or infinite: the file is damaged, or was saved from a training that failed."
            )


def check_causal(name: str, log_probs: LogProbs) -> None:
    """Raise ModelError if an output is not finite, or an earlier one depends on the last token."""
    if not bool(torch.isfinite(log_probs).all()):
        raise ModelError(
            f"model is {name!r}, but its outputs are not finite though its weights are: it "
            "computes with numbers too large for float32."
        )
    one, other = log_probs[:, :-1]
    difference = float((one - other).abs().max())
    if not difference <= SAME * float(log_probs.std()):
        raise ModelError(
            f"model is {name!r}, but it sees the tokens that it is to predict: another last token "
            f"changes earlier log-probabilities by up to {difference:.2g}, as in an encoder like "
            "BERT."
        )


def free_memory(device: str) -> dict[str, int]:
    """Bytes that are free where weights are read to, by the place's name, where it says so."""
    places = {}
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        places["this machine"] = int(facts["MemAvailable"].split()[0]) << 10
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        if limit.isdigit():
            places["this container"] = int(limit)
    except (OSError, ValueError, LookupError):  # not Linux, or no limit
        pass
    if device.startswith("cuda"):
        places[device] = torch.cuda.mem_get_info(device)[0]
    return places
