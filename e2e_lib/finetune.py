"""Make a trained SAE better end to end, in its own format, and say by how much.

    python -m e2e_lib.finetune SAE [SAE ...] --model MODEL --data TEXT --output FOLDER

SAE is a folder or file of any format of `data.formats`; several are trained in one pass and share
the clean model. Each keeps its latents in their order, its format and its L0:

| it is | its L0 is held by |
|---|---|
| topk | k, exactly |
| relu | λ, steered while it trains (`TrainConfig.target_l0`) |
| jumprelu | the same, and at the end all thresholds are moved by one number, set on held-out text |

FOLDER gets for each a folder of its name: the SAE, as it came in, and `card.json`: metrics on
held-out text before and after, the share of latents that kept their direction, seconds. Stopped,
the command goes on where it was.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from e2e_lib.core.config import Precision, Seed, TrainConfig
from e2e_lib.core.evaluate import Evaluation, calibrate, evaluate
from e2e_lib.core.hooks import check_hook, clean_pass, hook_width
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.core.train import train
from e2e_lib.data.formats.sae_files import FORMATS, read_sae, write_sae
from e2e_lib.data.formats.stored import StoredSAE
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import Rows, load_rows
from e2e_lib.engine.checkpoint import clear_checkpoints
from e2e_lib.errors import (
    Checked,
    Count,
    Flag,
    ModelError,
    Positive,
    Weight,
    command,
    one_of,
    require,
    whole,
)
from e2e_lib.files import write_json
from e2e_lib.names import TransformerBridge
from e2e_lib.runs.provenance import content_digest, provenance

START_LAMBDA = 0.2  # of the loss that the sparsity term makes before λ is steered
STAYED = 0.9  # cosine from which a latent counts as having kept its direction


@dataclass(frozen=True, kw_only=True)
class FineTuning(Checked):
    """How SAEs are fine-tuned; defaults after Karvonen (2503.17272).

    Raises:
        ConfigError: an unknown parameter, or a value outside what its type allows.
    """

    model: str  # storyworld, a hub name or a folder in Hugging Face layout
    data: str  # training text: storyworld, a text file, a folder or a hub data set
    validation: str = ""  # held-out text; empty: documents of data that are not trained on
    hook: str = ""  # where the SAEs sit; empty: where their files say
    objective: Annotated[str, one_of("finetune", "finetune_ds", "e2e", "e2e_ds")] = "finetune"
    downstream_coeff: Weight = 1.0  # β, of finetune_ds and e2e_ds
    tokens: Count = 1_000_000  # of training text; whole batches count
    lr: Positive = 5e-4  # Adam's learning rate at the start; it falls linearly to 0
    batch_size: Count = 8  # rows an optimiser step
    context_size: Annotated[int, whole(2)] = 128  # tokens a row
    eval_tokens: Count = 32_768  # held-out tokens for the card; as many others set thresholds
    seed: Seed = 0  # order of the training text
    device: str = "cpu"
    precision: Precision = "fp32"
    processed: Flag = False  # fold LayerNorm and centre weights first
    prepend_bos: Flag = False  # every row starts with the beginning-of-text token


def finetune(paths: Sequence[str], settings: FineTuning, output: Path) -> list[dict[str, Any]]:
    """Fine-tune the SAEs in `paths` and write each into its own folder of `output`.

    Returns the cards, which are in `card.json` too; one that is there of the same SAE and settings
    is not made again.

    Raises:
        ModelError: no SAE, one that the model's activation does not fit, or one without a hook.
        ConfigError, DataError: a setting or text that cannot be.
    """
    names = [Path(path).expanduser().resolve().name.removesuffix(".pt") for path in paths]
    different = len(names) > 0 and len(set(names)) == len(names)
    require(different, "SAE", names, "paths that end in different names")
    places = [output / name for name in names]
    asked = [_asked(path, settings) for path in paths]
    todo = [i for i, place in enumerate(places) if _card(place).get("asked") != asked[i]]
    if todo:
        _run(
            [paths[i] for i in todo], [places[i] for i in todo], [asked[i] for i in todo], settings
        )
    return [_card(place) for place in places]


def _run(
    paths: Sequence[str],
    places: Sequence[Path],
    asked: Sequence[dict[str, Any]],
    settings: FineTuning,
) -> None:
    stored = [read_sae(path) for path in paths]
    model = load_model(settings.model, settings.device, processed=settings.processed)
    hooks = [
        _fitting_hook(model, path, one, settings.hook)
        for path, one in zip(paths, stored, strict=True)
    ]
    n_train = settings.tokens // settings.context_size // settings.batch_size * settings.batch_size
    allowed = f"at least one batch: {settings.batch_size * settings.context_size}"
    require(n_train > 0, "tokens", settings.tokens, allowed)
    held = -(-settings.eval_tokens // settings.context_size)
    rows = load_rows(
        model,
        settings.data,
        settings.validation or settings.data,
        n_train=n_train,
        n_validation=held,
        n_calibration=held,
        seed=settings.seed,
        context_size=settings.context_size,
        prepend_bos=settings.prepend_bos,
    )
    starts = [
        {hook: SAE.from_stored(one).eval().requires_grad_(False).to(settings.device)}
        for hook, one in zip(hooks, stored, strict=True)
    ]
    before = evaluate(model, starts, rows.validation, batch_size=settings.batch_size)
    configs = []
    for place, start, own in zip(places, starts, before, strict=True):
        [(hook, sae)] = start.items()
        sae.save(place / "start")
        configs.append(_config(model, rows, hook, place / "start", sae, own, settings))
    trained = train(model, configs, rows.train, checkpoints=[p / "checkpoints" for p in places])
    for run, own in zip(trained, before, strict=True):
        if any(sae.sparsifier.stored == "jumprelu" for sae in run.saes.values()):
            [l0] = [metrics["l0"] for metrics in own.saes.values()]
            calibrate(model, run.saes, rows.calibration, l0, batch_size=settings.batch_size)
    after = evaluate(
        model, [run.saes for run in trained], rows.validation, batch_size=settings.batch_size
    )
    for i, place in enumerate(places):
        _write(place, stored[i], trained[i], before[i], after[i], asked[i])


def _config(
    model: TransformerBridge,
    rows: Rows,
    hook: str,
    start: Path,
    sae: SAE,
    before: Evaluation,
    settings: FineTuning,
) -> TrainConfig:
    """Its training: the rule it has, its L0, and a λ from which that is held."""
    l0, kept = before.saes[hook]["l0"], sae.sparsifier.stored == "topk"
    x = clean_pass(model, rows.validation[:8].to(settings.device), [hook], logits=False)
    with torch.no_grad():
        penalty = float(sae.autoencode(x.activations[hook]).penalty.mean())
    if sae.sparsifier.stored == "jumprelu":  # its penalty counts latents, about
        penalty = l0
    size = before.saes[hook]["mse"] if "finetune" in settings.objective else before.model["kl"]
    coeff = START_LAMBDA * size / max(penalty / sae.d_in, 1e-12)
    options = {"downstream_coeff": settings.downstream_coeff} if "ds" in settings.objective else {}
    return TrainConfig(
        named_objective(settings.objective, 0.0 if kept else coeff, **options),
        (hook,),
        init_from={hook: str(start)},
        sparsifier=sae.sparsifier.stored,
        k=sae.sparsifier.k,
        target_l0=0.0 if kept else max(l0, 1e-3),
        dict_ratio=sae.d_sae / sae.d_in,
        seed=settings.seed,
        batch_size=settings.batch_size,
        micro_batch_size=settings.batch_size,
        lr=settings.lr,
        warmup_fraction=0.0,
        schedule="linear",
        min_lr_factor=0.0,
        grad_clip=1.0,
        precision=settings.precision,
    )


def _write(
    place: Path,
    stored: StoredSAE,
    run: TrainedRun,
    before: Evaluation,
    after: Evaluation,
    asked: dict[str, Any],
) -> None:
    """The SAE as it came in, then the card, which makes it count."""
    [(hook, sae)] = run.saes.items()
    folder = bool(FORMATS[stored.format].files)  # whose name says a layer in some formats
    write_sae(
        place / (place.name if folder else f"{place.name}.pt"),
        replace(stored, weights=sae.stored().weights),
        frequency=after.frequency[hook] if stored.format == "saelens" else None,
    )
    cosine = (sae.dictionary.cpu() * stored.weights["W_dec"]).sum(-1)
    alive = after.frequency[hook] > 0
    card = {
        "asked": asked,
        "hook": hook,
        "format": stored.format,
        "sparsifier": stored.sparsifier,
        "before": _metrics(before, hook, sae.d_sae),
        "after": _metrics(after, hook, sae.d_sae),
        "stayed": float((cosine[alive] > STAYED).float().mean()) if bool(alive.any()) else math.nan,
        "train_tokens": run.train_tokens,
        "train_seconds": run.train_seconds,
        "provenance": provenance(),
    }
    write_json(place / "card.json", card)
    clear_checkpoints(place / "checkpoints")
    for file in (place / "start").iterdir():
        file.unlink()
    (place / "start").rmdir()


def _metrics(found: Evaluation, hook: str, d_sae: int) -> dict[str, Any]:
    own, model = found.saes[hook], found.model
    blocks = found.blocks[found.blocks["hook"] != hook]
    return {
        **{key: model[key] for key in ("ce_clean", "ce_increase", "kl", "eval_tokens")},
        **{key: own[key] for key in ("l0", "mse", "explained_variance")},
        "dead": d_sae - int(own["alive"]),
        "later_mse": dict(zip(blocks["hook"], blocks["mse"].tolist(), strict=True)),
    }


def _fitting_hook(model: TransformerBridge, path: str, stored: StoredSAE, given: str) -> str:
    hook = given or stored.hook
    if not hook:
        raise ModelError(f"SAE {Path(path).name!r} does not say its hook: --hook must.")
    check_hook(model, hook)
    width = hook_width(model, hook)
    if width != stored.d_in:
        raise ModelError(
            f"SAE {Path(path).name!r} reads activations of width {stored.d_in}, but the model's "
            f"at {hook!r} have width {width}."
        )
    return hook


def _asked(path: str, settings: FineTuning) -> dict[str, Any]:
    """What decides the result: the SAE's content, and every setting."""
    values = asdict(settings)
    local = {key: values.pop(key) for key in ("model", "data", "validation")}
    shown = {key: Path(value).name for key, value in local.items()}
    contents = {key: content_digest(value) for key, value in local.items() if value}
    sae = content_digest(str(Path(path).expanduser().resolve()))
    return shown | values | {"contents": contents | {"sae": sae}}


def _card(place: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((place / "card.json").read_text("utf-8"))
        return card
    except (OSError, ValueError):
        return {}


@command
def main(arguments: list[str]) -> int:
    """Read the command line, fine-tune, print the cards."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e_lib.finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sae", nargs="+", metavar="SAE")
    parser.add_argument("--output", required=True)
    for own in fields(FineTuning):
        kind: Any = getattr(own.type, "__origin__", own.type)  # of Annotated, what it annotates
        name = f"--{own.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(name, action="store_true", dest=own.name)
        else:
            needed = own.name in ("model", "data")
            default = None if needed else own.default
            parser.add_argument(name, type=kind, required=needed, default=default, dest=own.name)
    given = vars(parser.parse_args(arguments))
    paths, output = given.pop("sae"), Path(given.pop("output")).expanduser()
    for card, path in zip(finetune(paths, FineTuning(**given), output), paths, strict=True):
        before, after = card["before"], card["after"]
        words = [
            f"{key} {before[key]:.4g} -> {after[key]:.4g}" for key in ("ce_increase", "kl", "l0")
        ]
        print(f"{Path(path).name}: {', '.join(words)}, {card['stayed']:.0%} of latents stayed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
