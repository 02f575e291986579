"""Every SAE that a profile trains: the main grid and the sweeps, as jobs of `10_train`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from e2e_lib.names import number_word, with_null_channel
from e2e_lib.runs.experiment import Training
from pipeline.plan.profile import Profile
from pipeline.plan.sweeps import NULL_SCALE, WARM_START, Sweep


class Job(NamedTuple):
    """SAEs of one layer, seed and setting: they read the same rows of text and share a kernel."""

    label: str  # layer2-seed0, lr0.003-seed0
    layer: int
    training: Training  # without results folder and start, which `stages` adds
    start: float | None = None  # λ of the local SAE of the same layer and seed to start from


def jobs(profile: Profile) -> list[Job]:
    """The main grid's jobs, then the sweeps'."""
    main: list[Job] = []
    for layer in profile.layers:
        grids = {o: profile.sparsity_coeffs[o][layer] for o in profile.objectives}
        settings = {o: _setting(profile, layer, o) for o in grids}
        few = profile.seeds_elsewhere if layer != profile.middle_layer else 0
        seeds = profile.seeds[: few or None]
        main += _jobs(f"layer{layer}", layer, seeds, grids, settings)
    found = [*main, *(j for name, s in profile.sweeps.items() for j in _swept(profile, name, s))]
    return [one for job in found for one in _apart(job)] if profile.one_sae_a_job else found


def _apart(job: Job) -> Iterator[Job]:
    """A job for every SAE of `job`."""
    for objective, coeffs in job.training.grids.items():
        for coeff in coeffs:
            alone: dict[str, Any] = {
                "objectives": objective,
                "sparsity_coeffs": f"{objective}:{number_word(coeff)}",
            }
            label = f"{job.label}-{objective}-l{number_word(coeff)}"
            yield job._replace(label=label, training=replace(job.training, **alone))


def start_job(todo: Sequence[Job], job: Job) -> Job | None:
    """The main grid's job that trains the local SAE which `job` starts from, if it has one."""
    for other in todo if job.start is not None else ():
        here = (other.layer, other.training.seed) == (job.layer, job.training.seed)
        if here and other.start is None and job.start in other.training.grids.get("local", ()):
            return other
    return None


def _setting(profile: Profile, layer: int, objective: str) -> Training:
    """The main grid's training of one objective at one layer, of any seed and λ."""
    return replace(
        profile.training,
        hook=f"blocks.{layer}.{profile.hook_point}",
        downstream_coeff=profile.downstream_coeff[layer],
        train_tokens=profile.train_tokens[objective],
        lr=profile.lr[objective],
    )


def _swept(profile: Profile, name: str, sweep: Sweep) -> Iterator[Job]:
    """One sweep's jobs; what the main grid trains already is left out."""
    for value in sweep.values:
        for layer in sweep.layers:
            settings = {}
            for objective in sweep.sparsity_coeffs:
                main = _setting(profile, layer, objective)
                changes: dict[str, Any] = {name: value}
                if name == WARM_START:
                    changes = {"train_tokens": int(value), "lr": sweep.lr or main.lr}
                if name == NULL_SCALE:
                    changes = {"hook": with_null_channel(main.hook, float(value))}
                changed = replace(main, **changes)
                if name == WARM_START or not _same(changed, main):
                    settings[objective] = changed
            grids = {o: sweep.sparsity_coeffs[o][layer] for o in settings}
            label = f"{name}{value if isinstance(value, int) else number_word(value)}"
            label += "" if len(sweep.layers) == 1 else f"-layer{layer}"
            start = sweep.start[layer] if sweep.start else None
            yield from _jobs(label, layer, sweep.seeds, grids, settings, start)


def _same(one: Training, other: Training) -> bool:
    """Whether two settings train the same, of whose tokens whole batches count."""
    return one.train_rows == other.train_rows and other == replace(
        one, train_tokens=other.train_tokens
    )


def _jobs(
    label: str,
    layer: int,
    seeds: Sequence[int],
    grids: Mapping[str, Sequence[float]],
    settings: Mapping[str, Training],
    start: float | None = None,
) -> Iterator[Job]:
    """One job a seed; objectives that train on other tokens or at another rate get their own."""
    groups: dict[Training, list[str]] = {}
    for objective, setting in settings.items():
        groups.setdefault(setting, []).append(objective)
    for setting, objectives in groups.items():
        coeffs = [f"{o}:{','.join(map(number_word, grids[o]))}" for o in objectives]
        which: dict[str, Any] = {
            "objectives": ",".join(objectives),
            "sparsity_coeffs": ";".join(coeffs),
        }
        name = label if len(groups) == 1 else f"{label}-{'-'.join(objectives)}"
        for seed in seeds:
            yield Job(f"{name}-seed{seed}", layer, replace(setting, seed=seed, **which), start)
