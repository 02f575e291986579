"""Which notebooks a profile runs, with which parameters, in which order: the only list of them.

A stage is one run of one notebook. Its digest changes when the notebook's code or a module of the
library that it imports changes, so that a plotting fix redraws figures and retrains nothing.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.grid import Job, jobs, start_job
from pipeline.profile import ROOT, Profile

NOTEBOOKS = ROOT / "notebooks"
LIBRARY = ROOT / "e2e_lib"
BY_HAND = "02_one_sae_by_hand"  # the one introduction that writes a figure
INTRODUCTIONS = ("00_start_here", "01_language_model", BY_HAND)
TRAIN = "10_train"
PUBLISHED = "11_published"  # in place of training, in profiles with `released`
ANALYSES = (
    *("20_pareto", "21_similar_ce", "22_downstream_reconstruction", "23_geometry"),
    *("24_umap", "25_activations", "26_pca_direction", "27_hyperparameters"),
    *("28_interpretability", "29_faithfulness", "30_training_cost"),
)
# Analyses that run the language model again, on held-out text.
WITH_MODEL = ("25_activations", "26_pca_direction", "28_interpretability", "29_faithfulness")
CLAIMS = "90_claims"
ALL_NOTEBOOKS = (*INTRODUCTIONS, TRAIN, PUBLISHED, *ANALYSES, CLAIMS)
# Seconds that training on a million tokens takes, roughly: the two objectives that run the whole
# model cost more than the one that stops at the SAE. Only ratios matter.
SECONDS_PER_MILLION = {"local": 60.0, "e2e": 150.0, "e2e_ds": 160.0}
KERNEL_SECONDS = 15.0  # starting a kernel, importing torch, loading the model

Parameter = str | int | float | bool


class Stage(NamedTuple):
    """One run of one notebook."""

    name: str  # of its marker and its executed copy, e.g. 10_train-layer2-seed0
    notebook: str  # file name without .ipynb
    parameters: dict[str, Parameter]  # what differs from the notebook's defaults
    after: tuple[str, ...]  # stages whose results it reads
    seconds: float  # rough guess, for the order and the time left
    saes: int  # how many it trains


def stages(profile: Profile, results: str) -> list[Stage]:
    """Every stage of `profile` writing into the folder `results`, longest training first."""
    makers = _evaluation if profile.released else _training
    training = sorted(makers(profile, results), key=lambda stage: -stage.seconds)
    trained = tuple(stage.name for stage in training)
    folder: dict[str, Parameter] = {"results_folder": results}
    subject: dict[str, Parameter] = {
        "model": profile.model,
        "validation_data": profile.validation_data,
        "device": profile.device,
    }
    return [
        *training,
        *(
            Stage(name, name, folder if name == BY_HAND else {}, (), KERNEL_SECONDS, 0)
            for name in INTRODUCTIONS
        ),
        *(
            Stage(
                name,
                name,
                folder | subject if name in WITH_MODEL else folder,
                trained,
                KERNEL_SECONDS,
                0,
            )
            for name in ANALYSES
        ),
        Stage(CLAIMS, CLAIMS, folder, ANALYSES, KERNEL_SECONDS, 0),
    ]


def _training(profile: Profile, results: str) -> Iterator[Stage]:
    """One stage for every job of the grid; a warm start comes after the run that it starts from."""
    for job in jobs(profile):
        origin = start_job(profile, job)
        cost = sum(SECONDS_PER_MILLION[o] * len(grid) for o, grid in job.grids.items())
        yield Stage(
            f"{TRAIN}-{job.label}",
            TRAIN,
            _training_parameters(profile, results, job),
            (f"{TRAIN}-{origin.label}",) if origin else (),
            KERNEL_SECONDS + cost * job.train_tokens / 1e6,
            sum(len(grid) for grid in job.grids.values()),
        )


def _training_parameters(profile: Profile, results: str, job: Job) -> dict[str, Parameter]:
    """The parameters of notebook 10_train, in its order."""
    coeffs = [f"{o}:{','.join(f'{c:g}' for c in grid)}" for o, grid in job.grids.items()]
    return {
        "results_folder": results,
        "model": profile.model,
        "train_data": profile.train_data,
        "validation_data": profile.validation_data,
        "hook": f"blocks.{job.layer}.{profile.hook_point}",
        "objectives": ",".join(job.grids),
        "sparsity_coeffs": ";".join(coeffs),
        "seed": job.seed,
        "dict_ratio": job.dict_ratio,
        "train_tokens": job.train_tokens,
        "batch_size": profile.batch_size,
        "micro_batch_size": profile.micro_batch_size,
        "context_size": profile.context_size,
        "lr": job.lr,
        "warmup_fraction": profile.warmup_fraction,
        "schedule": profile.schedule,
        "min_lr_factor": profile.min_lr_factor,
        "grad_clip": profile.grad_clip,
        "e2e_kl_coeff": profile.e2e_kl_coeff,
        "ds_kl_coeff": profile.ds_kl_coeff,
        "downstream_coeff": profile.downstream_coeff[job.layer],
        "eval_tokens": profile.eval_tokens,
        "threads": profile.threads,
        "device": profile.device,
        "tracker": profile.tracker,
        "processed": profile.processed,
        "model_revision": profile.model_revision,
        "data_revision": profile.data_revision,
        "prepend_bos": profile.prepend_bos,
        "downstream_last_block": profile.downstream_last_block,
        "init_from": _start_run(profile, results, job),
    }


def _evaluation(profile: Profile, results: str) -> Iterator[Stage]:
    """The one stage of a profile that trains nothing: it evaluates the SAEs that others released.

    A guess of a tenth of local's training for each, which is no more than an order of magnitude.
    """
    saes = sum(len(grid) for grids in profile.sparsity_coeffs.values() for grid in grids.values())
    parameters: dict[str, Parameter] = {
        "results_folder": results,
        "released": profile.released,
        "released_revision": profile.released_revision,
        "model": profile.model,
        "model_revision": profile.model_revision,
        "processed": profile.processed,
        "validation_data": profile.validation_data,
        "data_revision": profile.data_revision,
        "prepend_bos": profile.prepend_bos,
        "context_size": profile.context_size,
        "eval_tokens": profile.eval_tokens,
        "batch_size": profile.micro_batch_size,
        "threads": profile.threads,
        "device": profile.device,
    }
    seconds = KERNEL_SECONDS + saes * 0.1 * SECONDS_PER_MILLION["local"]
    yield Stage(PUBLISHED, PUBLISHED, parameters, (), seconds, saes)


def _start_run(profile: Profile, results: str, job: Job) -> str:
    """The folder name of the local run that `job` starts from; empty for a run from scratch."""
    origin = start_job(profile, job)
    if origin is None or job.start is None:
        return ""
    from e2e_lib.experiment import planned  # imports torch, which few profiles need here

    parameters = _training_parameters(profile, results, origin)
    return planned(parameters, {"local": [job.start]})[0]


def digest(notebook: str, folder: Path = NOTEBOOKS, library: Path = LIBRARY) -> str:
    """A digest of the notebook's code cells and of every module of the library behind them."""
    path = folder / f"{notebook}.ipynb"
    source = "\n".join(code_cells(path))
    files = sorted(imported(source, library))
    content = "\0".join([source, *(file.read_text(encoding="utf-8") for file in files)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def file_digest(
    names: tuple[str, ...] = ("report.py", "notebook_html.py", "report.css", "notebook.css"),
) -> str:
    """A digest of the pipeline's files that make the report."""
    content = b"\0".join((ROOT / "pipeline" / name).read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:16]


def code_cells(path: Path) -> list[str]:
    """The source of every code cell of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def imported(source: str, library: Path = LIBRARY) -> set[Path]:
    """The library's files that `source` imports, directly or through one another."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        new = _direct_imports(waiting.pop(), library) - found
        found |= new
        waiting += [file.read_text(encoding="utf-8") for file in new]
    return found


def _direct_imports(source: str, library: Path) -> set[Path]:
    """The library's files behind the import statements of `source`, also those in functions."""
    plain = "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))
    names: set[str] = set()
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    found: set[Path] = set()
    for name in names:
        package, *parts = name.split(".")
        if package == library.name:
            place = library.joinpath(*parts)
            found |= {f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()}
    return found
