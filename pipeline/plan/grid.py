"""Every SAE that a profile trains: the main grid and the sweeps, as jobs of `10_train`."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.plan.profile import Profile
from pipeline.plan.sweeps import WARM_START, Sweep


class Job(NamedTuple):
    """SAEs of one layer, seed and setting: they read the same rows of text and share a kernel."""

    label: str  # layer2-seed0, lr0.003-seed0
    layer: int
    seed: int
    grids: dict[str, tuple[float, ...]]  # λ by objective
    train_tokens: int
    dict_ratio: float
    lr: float
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
        main += _jobs(f"layer{layer}", layer, profile.seeds, grids, settings)
    found = [*main, *(j for name, s in profile.sweeps.items() for j in _swept(profile, name, s))]
    return [one for job in found for one in _apart(job)] if profile.one_sae_a_job else found


def _apart(job: Job) -> Iterator[Job]:
    """A job for every SAE of `job`."""
    for objective, grid in job.grids.items():
        for coeff in grid:
            label = f"{job.label}-{objective}-l{coeff:g}"
            yield job._replace(label=label, grids={objective: (coeff,)})


def start_job(profile: Profile, job: Job) -> Job | None:
    """The main grid's job that trains the local SAE which `job` starts from, if it has one."""
    for other in jobs(profile) if job.start is not None else ():
        here = (other.layer, other.seed, other.start) == (job.layer, job.seed, None)
        if here and job.start in other.grids.get("local", ()):
            return other
    return None


def whole_batches(tokens: int, profile: Profile) -> int:
    """The tokens that training really uses: whole batches of rows."""
    batch = profile.batch_size * profile.context_size
    return tokens // batch * batch


def _main(profile: Profile, objective: str) -> _Setting:
    return _Setting(profile.train_tokens[objective], profile.dict_ratio, profile.lr[objective])


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
            start = sweep.start[layer] if sweep.start else None
            yield from _jobs(label, layer, sweep.seeds, grids, settings, start)


def _setting(
    profile: Profile, name: str, sweep: Sweep, objective: str, value: float
) -> _Setting | None:
    """The main grid's setting with one value changed; None where that changes nothing."""
    main = _main(profile, objective)
    if name == WARM_START:
        return main._replace(train_tokens=int(value), lr=sweep.lr or main.lr)
    changed = _Setting(**(main._asdict() | {name: value}))
    tokens = [whole_batches(setting.train_tokens, profile) for setting in (changed, main)]
    same = changed[1:] == main[1:] and tokens[0] == tokens[1]
    return None if same else changed


def _jobs(
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
        own = {o: grids[o] for o in objectives}
        name = label if len(groups) == 1 else f"{label}-{'-'.join(objectives)}"
        for seed in seeds:
            yield Job(f"{name}-seed{seed}", layer, seed, own, *setting, start)
