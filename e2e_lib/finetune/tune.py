"""The training of SAEs that are there: `finetune`, and what it takes."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from e2e_lib.core.config import Precision, Seed, TrainConfig
from e2e_lib.core.evaluate import Evaluation, evaluate
from e2e_lib.core.hooks import clean_pass
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.core.train import train
from e2e_lib.data.formats.sae_files import as_writable, read_sae, write_sae
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
    one_of,
    require,
    whole,
)
from e2e_lib.files import expanded
from e2e_lib.finetune.calibrate import calibrate
from e2e_lib.finetune.card import (
    read_card,
    sae_place,
    state_folder,
    write_outcome,
)
from e2e_lib.finetune.fitting import fitting_hook, say_other_trainings, say_unknown_models
from e2e_lib.names import Data, Device, Model, TransformerBridge, ends
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.source_code import digest

START_LAMBDA = 0.5  # of the loss that the sparsity term makes before λ is steered
HELD = 0.1  # of its L0, by which an SAE may be off on other held-out text than sets it
CODE = "from e2e_lib.finetune import tune"  # what decides the result


@dataclass(frozen=True, kw_only=True)
class FineTuning(Checked):
    """How SAEs are fine-tuned; defaults after Karvonen (2503.17272).

    Raises:
        ConfigError: an unknown parameter, or a value outside what its type allows.
    """

    model: Model  # storyworld, a hub name or a folder in Hugging Face layout
    data: Data  # training text: storyworld, a text file, a folder or a hub data set
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
    device: Device = "cpu"
    precision: Precision = "fp32"
    processed: Flag = False  # fold LayerNorm and centre weights first
    prepend_bos: Flag = False  # every row starts with the beginning-of-text token
    random_weights: Seed = 0  # as in `load_model`
    model_revision: str = "main"  # commit, tag or branch of a hub model
    data_revision: str = "main"  # the same of hub data sets


def finetune(paths: Sequence[str], settings: FineTuning, output: Path) -> list[dict[str, Any]]:
    """Fine-tune the SAEs in `paths` and write each into its own folder of `output`.

    Each is written in its own format; of one that is only read, in SAELens'. Returns the cards,
    which are in `card.json` too; one that is there of the same SAE, settings and code is not made
    again.

    Raises:
        ModelError: no SAE, one of another model, one that the model's activation does not fit, one
            without a hook or of weights processed otherwise, or one whose L0 could not be held;
            others beside it are written.
        ConfigError, DataError: a setting or text that cannot be.
    """
    places = [output / _name(path) for path in paths]
    different = len(places) > 0 and len(set(places)) == len(places)
    require(different, "SAE", [p.name for p in places], "paths that end in different names")
    for path, place in zip(paths, places, strict=True):
        own, out = expanded(path).resolve(), place.resolve()
        apart = not (own.is_relative_to(out) or out.is_relative_to(own))
        allowed = f"apart from SAE {place.name!r}, which it would change"
        require(apart, "output", output.name, allowed)
    asked = [_asked(path, settings) for path in paths]
    todo = [i for i, place in enumerate(places) if read_card(place).get("asked") != asked[i]]
    if todo:
        _run(
            [paths[i] for i in todo], [places[i] for i in todo], [asked[i] for i in todo], settings
        )
    return [read_card(place) for place in places]


def _run(
    paths: Sequence[str],
    places: Sequence[Path],
    asked: Sequence[dict[str, Any]],
    settings: FineTuning,
) -> None:
    stored = [as_writable(read_sae(path)) for path in paths]
    names = [place.name for place in places]
    say_unknown_models(names, stored, settings.model)
    model = load_model(
        settings.model,
        settings.device,
        processed=settings.processed,
        revision=settings.model_revision,
        random_weights=settings.random_weights,
    )
    hooks = [
        fitting_hook(model, name, one, settings.hook, settings.objective, settings.processed)
        for name, one in zip(names, stored, strict=True)
    ]
    say_other_trainings(names, stored, asked)
    rows = _rows(model, settings)
    starts = [
        {hook: SAE.from_stored(one).eval().requires_grad_(False).to(settings.device)}
        for hook, one in zip(hooks, stored, strict=True)
    ]
    before = evaluate(model, starts, rows.validation, batch_size=settings.batch_size)
    for path, hook, own, one in zip(paths, hooks, before, stored, strict=True):
        _require_l0(path, own.saes[hook]["l0"], one)
    states = [state_folder(place, one) for place, one in zip(places, asked, strict=True)]
    trained = _trained(model, rows, starts, before, states, settings)
    for run, own in zip(trained, before, strict=True):
        [(hook, sae)] = run.saes.items()
        l0 = own.saes[hook]["l0"]
        if sae.sparsifier.stored != "topk" and l0 > 0:
            calibrate(model, run.saes, rows.calibration, l0, batch_size=settings.batch_size)
    made = [
        _as_written(run.saes, one, place)
        for run, one, place in zip(trained, stored, places, strict=True)
    ]
    after = evaluate(model, made, rows.validation, batch_size=settings.batch_size)
    lost = []
    for i, place in enumerate(places):
        start_l0, l0 = (one[i].saes[hooks[i]]["l0"] for one in (before, after))
        if abs(l0 - start_l0) <= HELD * start_l0:
            write_outcome(place, stored[i], trained[i], before[i], after[i], asked[i])
        else:
            lost.append(f"SAE {place.name!r} had an L0 of {start_l0:.3g} and has {l0:.3g} now")
        clear_checkpoints(states[i])
    if lost:
        raise ModelError(
            f"{lost[0]}, which held-out text did not bring back, so that it is not written: give "
            "more eval_tokens, or a smaller lr."
        )


def _rows(model: TransformerBridge, settings: FineTuning) -> Rows:
    """Whole batches to train on, and as many rows to set thresholds as for the card."""
    n_train = settings.tokens // settings.context_size // settings.batch_size * settings.batch_size
    allowed = f"at least one batch: {settings.batch_size * settings.context_size}"
    require(n_train > 0, "tokens", settings.tokens, allowed)
    held = -(-settings.eval_tokens // settings.context_size)
    return load_rows(
        model,
        settings.data,
        settings.validation or settings.data,
        n_train=n_train,
        n_validation=held,
        n_calibration=held,
        seed=settings.seed,
        context_size=settings.context_size,
        prepend_bos=settings.prepend_bos,
        revision=settings.data_revision,
    )


def _require_l0(path: str, l0: float, stored: StoredSAE) -> None:
    if not 0 < l0 < stored.d_sae + (stored.sparsifier == "topk"):
        raise ModelError(
            f"SAE {_name(path)!r} has an L0 of {l0:g} on held-out text, but to be held it must "
            f"be above 0 and below its {stored.d_sae} latents."
        )


def _trained(
    model: TransformerBridge,
    rows: Rows,
    starts: Sequence[Mapping[str, SAE]],
    before: Sequence[Evaluation],
    states: Sequence[Path],
    settings: FineTuning,
) -> list[TrainedRun]:
    """The SAEs after their training, which goes on from what `states` hold of it."""
    with tempfile.TemporaryDirectory() as folder:
        configs = []
        for i, (start, own) in enumerate(zip(starts, before, strict=True)):
            [(hook, sae)] = start.items()
            sae.save(Path(folder, str(i)))
            configs.append(_config(model, rows, hook, Path(folder, str(i)), sae, own, settings))
        return train(model, configs, rows.train, checkpoints=states)


def _as_written(saes: Mapping[str, SAE], stored: StoredSAE, place: Path) -> dict[str, SAE]:
    """What the files will compute: those of half precision round."""
    [(hook, sae)] = saes.items()
    if stored.dtype in ("float32", "float64"):
        return {hook: sae}
    with tempfile.TemporaryDirectory() as folder:
        path = sae_place(Path(folder) / place.name, stored.format)
        write_sae(path, replace(stored, weights=sae.stored().weights))
        rounded = SAE.from_stored(read_sae(path)).eval().requires_grad_(False)
    return {hook: rounded.to(sae.b_enc.device)}


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
        penalty = float(sae.autoencode(x.activations[ends(hook)[0]]).penalty.mean())
    if sae.sparsifier.stored == "jumprelu":  # its penalty counts latents, about
        penalty = l0
    size = before.saes[hook]["mse"] if "finetune" in settings.objective else before.model["kl"]
    coeff = START_LAMBDA * size / max(penalty / sae.d_out, 1e-12)
    options = {"downstream_coeff": settings.downstream_coeff} if "ds" in settings.objective else {}
    return TrainConfig(
        named_objective(settings.objective, 0.0 if kept else coeff, **options),
        (hook,),
        init_from={hook: str(start)},
        sparsifier=sae.sparsifier.stored,
        skip=sae.W_skip is not None,
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


def _name(path: str) -> str:
    # As it is called, for a name tells a hook: of a link its own, which the hub's cache has too.
    named = expanded(path).absolute()
    plain = named if named.name not in ("", "..") else named.resolve()
    return plain.name.removesuffix(".pt")


def _asked(path: str, settings: FineTuning) -> dict[str, Any]:
    """What decides the result: the SAE's content, every setting, the code."""
    values = asdict(settings)
    local = {key: values.pop(key) for key in ("model", "data", "validation")}
    contents = {key: content_digest(local[key]) for key in ("data", "validation") if local[key]}
    contents["model"] = model_digest(settings.model)
    # No folder is shown; of a hub name both parts tell it from others.
    shown = {k: Path(value).name if contents.get(k) else value for k, value in local.items()}
    contents["sae"] = content_digest(str(expanded(path).resolve()))
    return {"sae": _name(path)} | shown | values | {"contents": contents, "code": digest([CODE])}
