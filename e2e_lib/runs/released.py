"""SAEs that others trained: the authors' files and checkpoints, and SAELens folders of them.

| kind | files | what names the run |
|---|---|---|
| the authors' release | `KIND_similar_MATCH_layer_N.pt` and `.yaml` | the yaml |
| their checkpoints | `samples_N.pt` with `final_config.yaml` beside it | the yaml |
| SAELens' registry | folders with `cfg.json` in `gpt2-small__res_*-ajt` | the paper's tables |

KIND is local, e2e or downstream, MATCH ce or l0. Where a release has no yaml of the authors' form,
λ comes from the paper's Tables 2 and 3. SAEs of one checkpoint are taken one by one.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from e2e_lib import paper
from e2e_lib.core.config import TrainConfig
from e2e_lib.core.losses import Objective, named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.data.formats.authors import read_tensors
from e2e_lib.data.formats.saelens import CONFIG, WEIGHTS, read_config
from e2e_lib.engine.model.probes import check_hook, hook_width
from e2e_lib.errors import ModelError, reworded
from e2e_lib.files import project_path
from e2e_lib.names import TransformerBridge, layer_of, split_names
from e2e_lib.runs.experiment import Training

RELEASED = re.compile(r"(local|e2e|downstream)_similar_(ce|l0)_layer_(\d+)$")
CHECKPOINT = re.compile(r"samples_(\d+)$")
REGISTRY = re.compile(r"res_s([cl])(l|e|efr)-ajt")  # s: similar, c or l: CE or L0, then the kind
KINDS = {"local": "local", "e2e": "e2e", "downstream": "e2e_ds"} | {
    "l": "local", "e": "e2e", "efr": "e2e_ds",
}  # fmt: skip
MATCHES = {"ce": 2, "c": 2, "l0": 3, "l": 3}  # the table that an SAE is in
BETA = {2: 2.5, 6: 2.5, 10: 0.05}  # paper, appendix D
# How the authors trained their GPT-2 SAEs, for what a release does not say (paper, appendix D).
USUAL = {
    "seed": 0, "n_samples": 400_000, "n_ctx": 1024, "batch_size": 8, "effective_batch_size": 16,
    "lr": 5e-4, "lr_schedule": "cosine", "min_lr_factor": 0.1, "warmup_samples": 20_000,
    "max_grad_norm": 10.0,
}  # fmt: skip


class ReleasedSAE(NamedTuple):
    """One SAE and what its makers say about its training."""

    sae: SAE
    hook: str
    config: TrainConfig
    train_tokens: int
    origin: str  # file or folder within the release


def released_paths(names: str, revision: str = "main") -> list[Path]:
    """Files and folders of SAEs in `names`: folders or hub names, separated by commas.

    A hub name and a folder with the same files give the same. Of checkpoints in one folder the
    latest is taken.

    Raises:
        ModelError: a name that is neither, or one without SAEs.
    """
    found: list[Path] = []
    for name in _several(names):
        folder = project_path(name)
        folder = folder if folder.is_dir() else _download(name, revision)
        files = sorted(folder.rglob("*.pt"))
        latest = {file.parent: file for file in sorted(files, key=_samples) if _samples(file) >= 0}
        own = [f for f in files if RELEASED.match(f.stem) or f in latest.values()]
        configs = sorted(folder.rglob(CONFIG))
        own += [c.parent for c in configs if (c.parent / WEIGHTS).is_file()]
        if not own:
            raise ModelError(
                f"released is {name!r}, but it holds no SAEs: neither KIND_similar_MATCH_layer_N.pt"
                f" or samples_N.pt nor folders with {CONFIG} and {WEIGHTS}."
            )
        found += own
    return found


def read_released(path: Path) -> list[ReleasedSAE]:
    """The SAEs of one of `released_paths`, on the CPU; a checkpoint may hold several.

    Raises:
        ModelError: weights that are damaged, not plain tensors or of shapes that do not fit
            together, or a description that does not say how they were trained.
    """
    if path.is_dir():
        hook = _registry_hook(path)
        sets = REGISTRY.findall(str(path))
        if not sets:
            raise ModelError(
                f"SAE folder {path.name!r} is none of the paper's: its path must hold res_*-ajt, "
                "the name of its set in SAELens' registry."
            )
        match, kind = sets[-1]
        sae = SAE.load(path)
        if sae.sparsifier.stored != "relu":
            raise ModelError(
                f"SAE folder {path.name!r} holds a {sae.sparsifier.stored} SAE; the paper's are "
                "relu."
            )
        return [_described({}, _printed(match, kind, layer_of(hook)), sae, hook, path)]
    saes = {prefix: SAE.from_weights(w) for prefix, w in read_tensors(path).items()}
    released = RELEASED.match(path.stem)
    if released:
        kind, match, layer = released.groups()
        facts = _read_yaml(path.with_suffix(".yaml"), wanted=False)
        hook, sae = f"blocks.{layer}.hook_resid_pre", next(iter(saes.values()))
        objective = _objective(facts) if "loss" in facts else _printed(match, kind, int(layer))
        return [_described(facts, objective, sae, hook, path)]
    facts = _read_yaml(path.with_name("final_config.yaml"), wanted=True)
    hooks = {prefix: prefix.replace("-", ".") for prefix in saes}
    objective = _objective(facts)
    return [_described(facts, objective, sae, hooks[p], path) for p, sae in saes.items()]


def training_of(found: ReleasedSAE, **shared: Any) -> Training:
    """The training that `found` came from, evaluated as `shared` says.

    shared: `experiment.EVALUATION`. Training text is named as the held-out text is: both are parts
    of the authors' data set, so a digest decides what is held out, as in profile gpt2.
    """
    return Training(
        hook=found.hook,
        seed=found.config.seed,
        dict_ratio=found.config.dict_ratio,
        train_tokens=found.train_tokens,
        batch_size=found.config.batch_size,
        micro_batch_size=found.config.micro_batch_size,
        train_data=shared["validation_data"],
        **shared,
    )


def shown(names: str) -> str:
    """`names` for a run's record: of a folder the last part, for those of a machine stay there."""
    parts = _several(names)
    return ",".join(Path(n).name if project_path(n).is_dir() else n for n in parts)


def _several(names: str) -> list[str]:
    """The names that commas are between; of a folder they are its name's."""
    return [names] if project_path(names).is_dir() else split_names(names)


def check_fit(model: TransformerBridge, found: ReleasedSAE) -> None:
    """Raise ModelError unless `found` fits the model's activation at its hook point."""
    check_hook(model, found.hook)
    width = hook_width(model, found.hook)
    if width != found.sae.d_in:
        raise ModelError(
            f"SAE {found.origin!r} reads activations of width {found.sae.d_in}, but the model's at "
            f"{found.hook!r} have width {width}."
        )


def as_trained(found: ReleasedSAE) -> TrainedRun:
    """`found` as `train` would return it; what training alone measures is NaN or empty."""
    return TrainedRun(
        config=found.config,
        saes={found.hook: found.sae.eval().requires_grad_(False)},
        curve=[],
        grad_norm=math.nan,
        alive_paper={},
        alive_window_tokens=0,
        train_tokens=found.train_tokens,
        train_seconds=math.nan,
    )


def _samples(path: Path) -> int:
    found = CHECKPOINT.match(path.stem)
    return int(found[1]) if found else -1


def _download(name: str, revision: str) -> Path:
    """The folder of a hub model in the local cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download

    wanted = ["*.pt", "*.yaml", f"*{CONFIG}", f"*{WEIGHTS}"]
    what = (
        f"released is {name!r}, but it is no folder and the hub does not give its revision "
        f"{revision!r}, which needs a network or a cached copy"
    )
    with reworded(ModelError, what):
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def _read_yaml(path: Path, wanted: bool) -> dict[str, Any]:
    """A mapping out of a yaml file; {} where there is none and none is `wanted`."""
    import yaml

    if not path.is_file() and not wanted:
        return {}
    with reworded(ModelError, f"SAE description {path.name!r} is missing or cannot be read"):
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ModelError(f"SAE description {path.name!r} must be a mapping of names to values.")
    return facts


def _registry_hook(folder: Path) -> str:
    """The hook point that a SAELens configuration of any version names."""
    config = read_config(folder)
    what = f"SAE folder {folder.name!r}: its {CONFIG} must name a hook, as blocks.6.hook_resid_pre"
    with reworded(ModelError, what):
        named = [config.get("metadata") or {}, config]
        names = [c[key] for c in named for key in ("hook_name", "hook_point") if c.get(key)]
        layer_of(str(names[0]))
        return str(names[0])


def _printed(match: str, kind: str, layer: int) -> Objective:
    """The objective of one of the paper's published SAEs (Tables 2 and 3, appendix D)."""
    name = KINDS[kind]
    for row in paper.rows(MATCHES[match]):
        if row[:2] == [layer, name]:
            return named_objective(name, float(row[2]), downstream_coeff=BETA[layer])
    raise ModelError(f"layer is {layer}, but the paper's released SAEs are at {list(BETA)}.")


def _objective(facts: Mapping[str, Any]) -> Objective:
    """The objective in the authors' training configuration; coefficients of 0 only log."""
    what = "SAE description: its loss must name sparsity.coeff and at least one term"
    with reworded(ModelError, what):
        terms = facts["loss"]
        downstream = terms.get("in_to_orig") or {}
        return Objective(
            float(terms["sparsity"]["coeff"]),
            local_coeff=_coeff(terms, "out_to_in"),
            kl_coeff=_coeff(terms, "logits_kl"),
            downstream_coeff=float(downstream.get("total_coeff") or 0) or None,
            downstream_hooks=tuple(downstream.get("hook_positions") or ()),
            p_norm=float(terms["sparsity"].get("p_norm", 1.0)),
        )


def _coeff(terms: Mapping[str, Any], name: str) -> float | None:
    return float((terms.get(name) or {}).get("coeff") or 0) or None


def _described(
    facts: Mapping[str, Any], objective: Objective, sae: SAE, hook: str, path: Path
) -> ReleasedSAE:
    """The SAE with what `facts` say about its training, and the paper's values for the rest."""
    said = {key: facts[key] for key in USUAL if facts.get(key) is not None}
    with reworded(ModelError, f"SAE description of {path.name!r} does not fit a training run"):
        context = (facts.get("train_data") or {}).get("n_ctx")
        values: dict[str, Any] = USUAL | said | ({"n_ctx": context} if context else {})
        tokens = int(values["n_samples"]) * int(values["n_ctx"])
        config = TrainConfig(
            objective,
            (hook,),
            dict_ratio=sae.d_sae / sae.d_in,
            seed=int(values["seed"]),
            batch_size=int(values["effective_batch_size"]),
            micro_batch_size=int(values["batch_size"]),
            lr=float(values["lr"]),  # yaml reads 5e-4 as text
            warmup_fraction=int(values["warmup_samples"]) / int(values["n_samples"]),
            schedule=str(values["lr_schedule"]),
            min_lr_factor=float(values["min_lr_factor"]),
            grad_clip=float(values["max_grad_norm"]),
        )
    return ReleasedSAE(sae, hook, config, tokens, path.name)
