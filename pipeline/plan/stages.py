"""Which notebooks a profile runs, with which parameters, in which order: the only list of them.

A stage is one run of one notebook; when it must run again, `fresh.py` says.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

from e2e_lib.names import number_word
from e2e_lib.runs.experiment import EVALUATION
from pipeline.plan.grid import Job, jobs, start_job
from pipeline.plan.notebook_parameters import Parameter
from pipeline.plan.profile import Profile

BY_HAND = "02_one_sae_by_hand"  # the one introduction that writes a figure
INTRODUCTIONS = ("00_start_here", "01_language_model", BY_HAND)
TRAIN = "10_train"
PUBLISHED = "11_published"  # in place of training, in profiles with `released`
FINETUNE = "12_finetune"  # trains too, but reads what was trained, and makes no run
ANALYSES = (
    FINETUNE,
    *("20_pareto", "21_similar_ce", "22_downstream_reconstruction", "23_geometry"),
    *("24_umap", "25_activations", "26_pca_direction", "27_hyperparameters"),
    *("28_interpretability", "29_faithfulness", "30_training_cost"),
    *("40_what_the_network_uses", "41_functional_importance", "42_loudness", "43_sparsifiers"),
)
# Analyses that run the language model again, on held-out text.
WITH_MODEL = (
    FINETUNE,
    *("25_activations", "26_pca_direction", "28_interpretability", "29_faithfulness"),
    *("40_what_the_network_uses", "41_functional_importance", "42_loudness", "43_sparsifiers"),
)
# Analyses of the similar SAEs of one seed, `match_seed`.
WITH_SEED = (
    *("21_similar_ce", "22_downstream_reconstruction", "23_geometry", "24_umap"),
    *("25_activations", "26_pca_direction", "28_interpretability", "29_faithfulness"),
    "41_functional_importance",
)
CLAIMS = "90_claims"
CHECKLIST = "91_checklist"
ALL_NOTEBOOKS = (*INTRODUCTIONS, TRAIN, PUBLISHED, *ANALYSES, CLAIMS, CHECKLIST)
# Seconds that training on a million tokens takes, roughly: the two objectives that run the whole
# model cost more than the one that stops at the SAE. Only ratios matter.
SECONDS_PER_MILLION = {"local": 60.0, "e2e": 150.0, "e2e_ds": 160.0}
OTHERS = 160.0  # of the other objectives
KERNEL_SECONDS = 15.0  # starting a kernel, importing torch, loading the model


class Stage(NamedTuple):
    """One run of one notebook."""

    name: str  # of its marker and its executed copy, e.g. 10_train-layer2-seed0
    notebook: str  # file name without .ipynb
    parameters: dict[str, Parameter]  # what differs from the notebook's defaults
    after: tuple[str, ...]  # stages whose results it reads
    seconds: float = KERNEL_SECONDS  # rough guess, for the order and the time left
    saes: int = 0  # how many it trains

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
        name: getattr(profile.training, name) for name in ("model", "validation_data", "device")
    }
    text: dict[str, Parameter] = {"train_data": profile.training.train_data}
    everywhere = (0,) if profile.released else profile.seeds[: profile.seeds_elsewhere or None]
    first = min(everywhere)  # as `matched.similar` by itself
    seed: dict[str, Parameter] = {"match_seed": first} if first else {}  # theirs is 0
    analyses = tuple(name for name in ANALYSES if not (profile.released and name == FINETUNE))
    return [
        *training,
        *(Stage(name, name, folder if name == BY_HAND else {}, ()) for name in INTRODUCTIONS),
        *(
            Stage(
                name,
                name,
                folder
                | (subject if name in WITH_MODEL else {})
                | (seed if name in WITH_SEED else {})
                | (text if name == FINETUNE else {}),
                trained,
            )
            for name in analyses
        ),
        Stage(CLAIMS, CLAIMS, folder, analyses),
        Stage(CHECKLIST, CHECKLIST, folder, trained),
    ]


def _training(profile: Profile, results: str) -> Iterator[Stage]:
    """One stage for every job of the grid; a warm start comes after the run that it starts from."""
    todo = jobs(profile)
    for job in todo:
        origin, training = start_job(todo, job), job.training
        start = _start_run(origin, job) if origin else ""
        cost = sum(
            SECONDS_PER_MILLION.get(o, OTHERS) * len(grid) for o, grid in training.grids.items()
        )
        yield Stage(
            f"{TRAIN}-{job.label}",
            TRAIN,
            asdict(replace(training, results_folder=results, init_from=start)),
            (f"{TRAIN}-{origin.label}",) if origin else (),
            KERNEL_SECONDS + cost * training.train_tokens / 1e6,
            sum(map(len, training.grids.values())),
        )


def _start_run(origin: Job, job: Job) -> str:
    """The folder name of the local run of `origin` that `job` starts from, by its λ or k."""
    assert job.start is not None
    coeffs = f"local:{number_word(job.start)}"
    alone = replace(origin.training, objectives="local", sparsity_coeffs=coeffs)
    [config] = alone.configs()  # imports torch, which few profiles need here
    return alone.name(config)


def _evaluation(profile: Profile, results: str) -> Iterator[Stage]:
    """The one stage of a profile that trains nothing: it evaluates the SAEs that others released.

    A guess of a tenth of local's training for each, which is no more than an order of magnitude.
    """
    saes = sum(len(grid) for grids in profile.sparsity_coeffs.values() for grid in grids.values())
    parameters: dict[str, Parameter] = {
        "results_folder": results,
        "released": profile.released,
        "released_revision": profile.released_revision,
        **{name: getattr(profile.training, name) for name in EVALUATION},
        "batch_size": profile.training.micro_batch_size,
    }
    seconds = KERNEL_SECONDS + saes * 0.1 * SECONDS_PER_MILLION["local"]
    yield Stage(PUBLISHED, PUBLISHED, parameters, (), seconds, saes)
