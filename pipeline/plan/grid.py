"""Every SAE that a profile trains: the main grid and the sweeps, as jobs of `10_train`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from e2e_lib.names import FINE_TUNED, SPARSIFIERS, number_word, with_null_channel
from e2e_lib.runs.experiment import Training
from pipeline.plan.profile import Profile
from pipeline.plan.sweeps import NULL_SCALE, SHUFFLED, WARM_START, SparsifierSweep, Sweep


class Job(NamedTuple):
    """SAEs of one layer, seed and setting: they read the same rows of text and share a kernel."""

    label: str  # layer2-seed0, lr0.003-seed0
    layer: int
    training: Training  # without results folder and start, which `stages` adds
    start: float | None = None  # λ or k of the local SAE to start from, of the same seed and place


def jobs(profile: Profile) -> list[Job]:
    """The main grid's jobs, then the sweeps'."""
    main: list[Job] = []
    for layer in profile.layers:
        grids = {o: profile.sparsity_coeffs[o][layer] for o in profile.objectives}
        settings = {o: _setting(profile, layer, o) for o in grids}
        few = profile.seeds_elsewhere if layer != profile.middle_layer else 0
        seeds = profile.seeds[: few or None]
        main += _jobs(f"layer{layer}", layer, seeds, grids, settings)
    found = [*main]
    for name, sweep in profile.sweeps.items():
        if isinstance(sweep, SparsifierSweep):
            found += _sparsified(profile, sweep)
        else:
            found += _swept(profile, name, sweep)
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
    """The first job that trains the local SAE which `job` starts from, if it has one.

    Of what a sweep may vary the main grid is the first, and other sparsifiers have one of an L0.
    """
    for other in todo if job.start is not None else ():
        here = _place(other) == _place(job) and other.training.still == "none"
        if here and other.start is None and job.start in other.training.grids.get("local", ()):
            return other
    return None


def _place(job: Job) -> tuple[Any, ...]:
    """What an SAE shares with the one that it starts from."""
    own = job.training
    return job.layer, own.seed, own.hook, own.sparsifier, own.target_l0, own.random_weights


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


def _sparsified(profile: Profile, sweep: SparsifierSweep) -> Iterator[Job]:
    """Objective × sparsifier at every L0, sanity rows, and what stands beside null channels."""
    hook = f"blocks.{profile.middle_layer}.{profile.hook_point}"
    own, first, middle = profile.training.sparsifier, sweep.values[0], (sweep.middle,)
    for name in sweep.values:
        yield from _held(profile, sweep, name, sweep.l0, hook=hook)
    for part in sweep.still:
        row: dict[str, Any] = {SHUFFLED: 1} if part == SHUFFLED else {"still": part}
        yield from _held(profile, sweep, first, middle, part, sanity=True, hook=hook, **row)
    for coeff in profile.sparsity_coeffs.get("local", {}).get(profile.middle_layer, ()):
        yield from _tuned(profile, sweep, own, f"l{number_word(coeff)}", coeff, hook=hook)
    dial = profile.sweeps.get(NULL_SCALE)
    for scale in sweep.null_scale:
        label, beside = f"null{number_word(scale)}", with_null_channel(hook, scale)
        yield from _held(profile, sweep, first, middle, label, hook=beside)
        if isinstance(dial, Sweep) and scale in dial.values:
            here = replace(sweep, seeds=tuple(s for s in sweep.seeds if s in dial.seeds))
            for coeff in dial.sparsity_coeffs.get("local", {}).get(profile.middle_layer, ()):
                place = f"{label}-l{number_word(coeff)}"
                yield from _tuned(profile, here, own, place, coeff, hook=beside)


def _held(
    profile: Profile,
    sweep: SparsifierSweep,
    name: str,
    l0: Sequence[float],
    label: str = "",
    sanity: bool = False,
    **changes: Any,
) -> Iterator[Job]:
    """A sparsifier at every L0: by k, in one job, or by a λ that is steered to each.

    Of sanity rows nothing is fine-tuned.
    """
    holds, end = SPARSIFIERS[name].holds_k, f"-{label}" if label else ""
    scratch = [o for o in sweep.objectives if o not in FINE_TUNED]
    for group in (l0,) if holds else tuple((one,) for one in l0):
        aim = changes if holds else changes | {"target_l0": float(group[0])}
        grids = {o: group if holds else (sweep.start[o],) for o in scratch}
        settings = {o: _set(profile, sweep, name, o, **aim) for o in scratch}
        at = "" if holds else number_word(group[0])
        place = f"sparsifiers-{name}{at}{end}"
        yield from _jobs(place, profile.middle_layer, sweep.seeds, grids, settings)
        for start in () if sanity else grids.get("local", ()):
            of = f"{at or number_word(start)}{end}"
            yield from _tuned(profile, sweep, name, of, start, **aim)


def _tuned(
    profile: Profile, sweep: SparsifierSweep, name: str, label: str, start: float, **changes: Any
) -> Iterator[Job]:
    """What is fine-tuned from one local SAE of every seed, which has λ or k `start`."""
    for objective in [o for o in sweep.objectives if o in FINE_TUNED]:
        coeff = sweep.start[objective] if "target_l0" in changes else start
        setting = {objective: _set(profile, sweep, name, objective, **changes)}
        place = f"sparsifiers-{name}-{label}-{objective}"
        layer = profile.middle_layer
        yield from _jobs(place, layer, sweep.seeds, {objective: (coeff,)}, setting, start)


def _set(
    profile: Profile, sweep: SparsifierSweep, name: str, objective: str, **changes: Any
) -> Training:
    """The training of one pair; of an objective that the main grid lacks, like its first."""
    known = objective if objective in profile.objectives else profile.objectives[0]
    main = _setting(profile, profile.middle_layer, known)
    tokens = sweep.finetune_tokens if objective in FINE_TUNED else main.train_tokens
    own: dict[str, Any] = {
        "sparsifier": name,
        "lr": sweep.lr[name][objective],
        "train_tokens": tokens,
    }
    return replace(main, sparsity_coeffs="local:1", **own, **changes)  # `_jobs` writes its own


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
