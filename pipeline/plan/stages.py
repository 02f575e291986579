"""Which notebooks a profile runs, with which parameters, in which order: the only list of them.

A stage is one run of one notebook; when it must run again, `fresh.py` says.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.plan.grid import Job, jobs, start_job
from pipeline.plan.notebook_parameters import Parameter
from pipeline.plan.profile import Profile

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
CHECKLIST = "91_checklist"
ALL_NOTEBOOKS = (*INTRODUCTIONS, TRAIN, PUBLISHED, *ANALYSES, CLAIMS, CHECKLIST)
# Seconds that training on a million tokens takes, roughly: the two objectives that run the whole
# model cost more than the one that stops at the SAE. Only ratios matter.
SECONDS_PER_MILLION = {"local": 60.0, "e2e": 150.0, "e2e_ds": 160.0}
KERNEL_SECONDS = 15.0  # starting a kernel, importing torch, loading the model


class Stage(NamedTuple):
    """One run of one notebook."""

    name: str  # of its marker and its executed copy, e.g. 10_train-layer2-seed0
    notebook: str  # file name without .ipynb
    parameters: dict[str, Parameter]  # what differs from the notebook's defaults
    after: tuple[str, ...]  # stages whose results it reads
    seconds: float  # rough guess, for the order and the time left
    saes: int  # how many it trains

    @property
    def threads(self) -> int:
        """Of torch, which 10_train and 11_published are told; other notebooks take one."""
        return int(self.parameters.get("threads", 1))

    @property
    def gpus(self) -> int:
        """How many it needs, if the profile's device is one: one for each of its processes."""
        runs_on_one = str(self.parameters.get("device", "")).startswith("cuda")
        return int(self.parameters.get("processes", 1)) if runs_on_one else 0


def stages(profile: Profile, results: str) -> list[Stage]:
    """Every stage of `profile` writing into the folder `results`, longest training first."""
    own = profile.notebook_parameters
    return [
        stage._replace(parameters=stage.parameters | own.get(stage.notebook, {}))
        for stage in _stages(profile, results)
    ]


def _stages(profile: Profile, results: str) -> list[Stage]:
    """The same without what the profile sets in single notebooks."""
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
        Stage(CHECKLIST, CHECKLIST, folder, trained, KERNEL_SECONDS, 0),
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
        "precision": profile.precision,
        "checkpoint_seconds": profile.checkpoint_seconds,
        "processes": profile.processes,
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
    from e2e_lib.runs.experiment import planned  # imports torch, which few profiles need here

    parameters = _training_parameters(profile, results, origin)
    return planned(parameters, {"local": [job.start]})[0]
