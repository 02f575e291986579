"""Every SAE that a profile trains: the main grid and the sweeps, as jobs of `10_train`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from e2e_lib.runs.experiment import Training
from pipeline.plan.profile import Profile
from pipeline.plan.sweeps import WARM_START, Sweep


class Job(NamedTuple):
    """SAEs of one layer, seed and setting: they read the same rows of text and share a kernel."""

    label: str  # layer2-seed0, lr0.003-seed0
    layer: int
    training: Training  # without results folder and start, which `stages` adds
    start: float | None = None  # λ of the local SAE of the same layer and seed to start from


class _Setting(NamedTuple):
    train_tokens: int
    dict_ratio: float
    lr: float


def jobs(profile: Profile) -> list[Job]:
    """The main grid's jobs, then the sweeps'."""
    main: list[Job] = []
    for layer in profile.layers:
        grids = {o: profile.sparsity_coeffs[o][layer] for o in profile.objectives}
        settings = {o: _main(profile, o) for o in grids}
        main += _jobs(profile, f"layer{layer}", layer, profile.seeds, grids, settings)
    found = [*main, *(j for name, s in profile.sweeps.items() for j in _swept(profile, name, s))]
    return [one for job in found for one in _apart(job)] if profile.one_sae_a_job else found


def _apart(job: Job) -> Iterator[Job]:
    """A job for every SAE of `job`."""
    for objective, coeffs in job.training.grids.items():
        for coeff in coeffs:
            label = f"{job.label}-{objective}-l{coeff:g}"
            one = replace(
                job.training, objectives=objective, sparsity_coeffs=f"{objective}:{coeff:g}"
            )
            yield job._replace(label=label, training=one)


def start_job(todo: Sequence[Job], job: Job) -> Job | None:
    """The main grid's job that trains the local SAE which `job` starts from, if it has one."""
    for other in todo if job.start is not None else ():
        here = (other.layer, other.training.seed) == (job.layer, job.training.seed)
        if here and other.start is None and job.start in other.training.grids.get("local", ()):
            return other
    return None


def _main(profile: Profile, objective: str) -> _Setting:
    ratio = profile.training.dict_ratio
    return _Setting(profile.train_tokens[objective], ratio, profile.lr[objective])


def _swept(profile: Profile, name: str, sweep: Sweep) -> Iterator[Job]:
    """One sweep's jobs; what the main grid trains already is left out."""
    for value in sweep.values:
        for layer in sweep.layers:
            settings = {
                objective: setting
                for objective in sweep.sparsity_coeffs
                if (setting := _setting(profile, name, sweep, objective, value)) is not None
            }
            grids = {o: sweep.sparsity_coeffs[o][layer] for o in settings}
            label = f"{name}{value if isinstance(value, int) else f'{value:g}'}"
            label += "" if len(sweep.layers) == 1 else f"-layer{layer}"
            start = (
                float(f"{sweep.start[layer]:g}") if sweep.start else None
            )  # as trainings name it
            yield from _jobs(profile, label, layer, sweep.seeds, grids, settings, start)


def _setting(
    profile: Profile, name: str, sweep: Sweep, objective: str, value: float
) -> _Setting | None:
    """The main grid's setting with one value changed; None where that changes nothing."""
    main = _main(profile, objective)
    if name == WARM_START:
        return main._replace(train_tokens=int(value), lr=sweep.lr or main.lr)
    changed = _Setting(**(main._asdict() | {name: value}))
    rows = [
        replace(profile.training, train_tokens=s.train_tokens).train_rows for s in (changed, main)
    ]
    return None if changed[1:] == main[1:] and rows[0] == rows[1] else changed


def _jobs(
    profile: Profile,
    label: str,
    layer: int,
    seeds: tuple[int, ...],
    grids: Mapping[str, tuple[float, ...]],
    settings: Mapping[str, _Setting],
    start: float | None = None,
) -> Iterator[Job]:
    """One job a seed; objectives that train on other tokens or at another rate get their own."""
    groups: dict[_Setting, list[str]] = {}
    for objective, setting in settings.items():
        groups.setdefault(setting, []).append(objective)
    for setting, objectives in groups.items():
        coeffs = [f"{o}:{','.join(f'{coeff:g}' for coeff in grids[o])}" for o in objectives]
        name = label if len(groups) == 1 else f"{label}-{'-'.join(objectives)}"
        for seed in seeds:
            training = replace(
                profile.training,
                hook=f"blocks.{layer}.{profile.hook_point}",
                objectives=",".join(objectives),
                sparsity_coeffs=";".join(coeffs),
                seed=seed,
                downstream_coeff=profile.downstream_coeff[layer],
                **setting._asdict(),
            )
            yield Job(f"{name}-seed{seed}", layer, training, start)
