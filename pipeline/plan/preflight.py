"""One step of everything that a training will do, on a model nobody here has tried, before it all.

An architecture may load and then fail, hours later, in the kernel: at a hook of a late layer, in
an objective whose turn comes last. So whatever the kernel calls is called once, on a few tokens,
and as much held-out text is read as any analysis will ask for.
`shrunk` is the longer trial: every notebook of a profile, in a few steps.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2e_lib.data.text import TextSource, named_split, open_source, source_pair
from e2e_lib.errors import DataError, E2EError, ModelError, command, require, reworded
from e2e_lib.names import SPARSIFIERS, TransformerBridge
from e2e_lib.runs.experiment import Training
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from pipeline.plan.grid import jobs
from pipeline.plan.model_size import evenly, most_memory
from pipeline.plan.notebook_parameters import NOTEBOOKS, joined, row_parameters
from pipeline.plan.notebook_parameters import ROWS as ROWS_OF_TEXT
from pipeline.plan.pins import on_hub
from pipeline.plan.profile import ROOT, Profile, read_profile
from pipeline.plan.stages import FINETUNE, WITH_MODEL, Stage, stages

ROWS, TOKENS = 2, 8  # rows, for one alone is no batch
STORYWORLD, PLAIN = "storyworld", (".txt", ".jsonl", ".json")  # endless; files that nothing packs
# Bytes of memory that a token takes: int32, and held out as int64 beside it.
TRAINING_ROWS, HELD_OUT_ROWS = 4, 12
# Mostly a token has some bytes. But three bytes can be eighteen letters once they are normalised,
# and each letter's bytes be tokens, and behind a text of one letter stands a separator.
TOKENS_A_BYTE = 16
# A profile cut down to a few steps: does the whole path work, with this model and this text?
BATCHES, BATCH_SIZE, EVAL_ROWS, DICT_RATIO = 3, 2, 2, 2.0
# Notebooks that read more of the text, or ask more of a model, than a trial can wait for.
SMALL = {
    "12_finetune": {"objectives": "finetune", "seeds": 1},
    **{name: {"longer": ""} for name in ("27_hyperparameters", "90_claims")},
    # A feature is scored on 20 rows of the second half.
    "28_interpretability": {"n_features": 2, "n_rows": 48, "n_browsed": 6},
    "29_faithfulness": {"examples": 8, "ranking_examples": 4, "kept_singly": 2},
    "40_what_the_network_uses": {"n_pairs": 2},
    "41_functional_importance": {"n_pairs": 4, "oracle_pairs": 4, "n_stories": 4},
    "42_loudness": {"n_rows": 4, "n_pairs": 2},
    "43_sparsifiers": {"n_pairs": 2},
}


def shrunk(profile: Profile) -> Profile:
    """`profile` on three batches of two rows, with tiny dictionaries, one seed and one λ each.

    Model, text, context, layers, objectives, schedule and accumulation over micro-batches stay as
    they are; sweeps go, and the dearest notebooks read little. Its name ends in -shrunk, so that
    its results have a folder of their own.
    """
    training = profile.training
    accumulates = training.micro_batch_size < training.batch_size
    grids = {
        objective: {layer: evenly(grid, 1) for layer, grid in by_layer.items()}
        for objective, by_layer in profile.sparsity_coeffs.items()
    }
    tokens = BATCHES * BATCH_SIZE * training.context_size
    return profile.but(
        name=f"{profile.name}-shrunk",
        seeds=profile.seeds[:1],
        sparsity_coeffs=grids,
        dict_ratio=DICT_RATIO,
        batch_size=BATCH_SIZE,
        micro_batch_size=1 if accumulates else BATCH_SIZE,
        processes=1,  # for so few rows cannot be shared
        train_tokens=dict.fromkeys(profile.train_tokens, tokens),
        eval_tokens=EVAL_ROWS * training.context_size,
        one_sae_a_job=False,
        sweeps={},
        notebook_parameters=joined(profile.notebook_parameters, SMALL),
    )


def tried_apart(profile: Profile, results: Path, todo: Sequence[Stage]) -> None:
    """`try_model` and `enough_text` in a process of its own, which gives memory and GPU back.

    Embedded models are known, and what is trained already needs no trial.

    Raises:
        ModelError: what these two raise, or the process was killed.
    """
    pending = [s for s in todo if s.saes and not (results / "done" / f"{s.name}.json").exists()]
    if not pending or profile.released or profile.training.model in EMBEDDED_MODELS:
        return
    trial = [sys.executable, "-m", "pipeline.plan.preflight", str(results.resolve())]
    done = subprocess.run(trial, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["killed, perhaps for want of memory"]
        said = last[0].removeprefix("error: ")
        known = done.returncode == 2 and last[0] != said
        raise ModelError(said if known else f"model {profile.training.model!r} fails: {said}.")


def check_amounts(profile: Profile, on_this_machine: bool) -> None:
    """Raise ConfigError if more tokens are asked for than memory holds, or than a text can have.

    Text is read to its end, and rows are kept, before the first of them is trained on.
    """
    memory, training = most_memory(on_this_machine), profile.training
    sources = source_pair(training.train_data, training.validation_data)
    for source, kept, amounts in zip(
        sources, (TRAINING_ROWS, HELD_OUT_ROWS), _amounts(profile), strict=True
    ):
        within = [(memory // kept, "of which memory holds the rows")]
        if (size := text_bytes(source)) is not None:
            within.append((TOKENS_A_BYTE * size, f"for {source.shown} has {size:,} bytes"))
        most, why = min(within)
        for name, value, tokens in amounts:
            require(tokens <= most, name, value, f"fewer: at most {most:,} tokens, {why}")


def _amounts(profile: Profile) -> tuple[list[tuple[str, int, int]], ...]:
    """Of the training text and of the held-out text: parameter, its value, tokens that it takes."""
    width = profile.training.context_size
    trained = [job.training for job in jobs(profile)]
    train = [("train_tokens", own.train_tokens, own.train_rows * width) for own in trained]
    held = [
        ("eval_tokens", own.eval_tokens, (own.eval_rows + own.calibration_rows) * width)
        for own in trained
    ]
    for notebook, parameters in profile.notebook_parameters.items():
        for name, times in {**dict.fromkeys(ROWS_OF_TEXT, width), "eval_tokens": 1}.items():
            if value := int(parameters.get(name, 0)):
                held.append((f"{name} of {notebook}", value, value * times))
    return [] if profile.released else train, held


def text_bytes(source: TextSource) -> int | None:
    """Bytes of a text's files, whose tokens they bound; None where they are packed, or elsewhere.

    Raises:
        DataError: it cannot be opened.
    """
    if source.name == STORYWORLD or on_hub(source.name):
        return None
    files = open_source(source).shards
    plain = all(file.suffix.lower() in PLAIN for file in files)
    return sum(file.stat().st_size for file in files) if plain else None


def try_model(profile: Profile) -> TransformerBridge:
    """Train and evaluate for one step at each hook and objective of the profile; the model.

    Raises:
        ModelError: the model cannot be loaded.
        E2EError: it cannot be trained on in this way.
    """
    from e2e_lib.data.models import load_model  # slow to import

    start, training = time.monotonic(), profile.training
    model = load_model(
        training.model,
        training.device,
        processed=training.processed,
        revision=training.model_revision,
    )
    tried = {(job.training.hook, job.training.objectives): job.training for job in jobs(profile)}
    for (hook, _), one in tried.items():
        what = f"model is {training.model!r}, but it cannot be trained on at {hook}"
        with reworded(E2EError, what):
            _one_step(model, small(one), training.context_size)
    hooks = ", ".join(dict.fromkeys(hook for hook, _ in tried))
    print(f"Tried one step at {hooks}: {time.monotonic() - start:.0f} s.", flush=True)
    return model


def enough_text(model: TransformerBridge, profile: Profile, todo: Sequence[Stage]) -> None:
    """Read held-out text as the stage does that reads most of it: it may come last of all.

    Of a stream from the hub there is enough.

    Raises:
        DataError: there is less of it.
    """
    from e2e_lib.data.rows import held_out_rows  # slow to import

    training = profile.training
    if on_hub(named_split(training.validation_data)[0]):
        return
    trained = (job.training for job in jobs(profile))
    wanted = {max(own.eval_rows + own.calibration_rows for own in trained): ""}
    for stage in todo:
        if stage.notebook == FINETUNE:  # for its cards, and as much again by which L0 is held
            tokens = int(stage.parameters.get("eval_tokens", 0)) or training.eval_tokens
            rows = 2 * -(-tokens // training.context_size)
            wanted.setdefault(rows, f"eval_tokens of {stage.name} asks for too much: ")
        reads = stage.notebook in WITH_MODEL
        known = row_parameters(NOTEBOOKS / f"{stage.notebook}.ipynb") if reads else {}
        for name in known:
            rows = int((known | stage.parameters)[name])
            wanted.setdefault(rows, f"{name} of {stage.name} asks for too much: ")
    most = max(wanted)
    try:
        held_out_rows(
            model,
            training.train_data,
            training.validation_data,
            most,
            context_size=training.context_size,
            prepend_bos=training.prepend_bos,
            revision=training.data_revision,
        )
    except DataError as error:
        raise DataError(f"{wanted[most]}{error}") from error


def small(training: Training) -> Training:
    """One step of `training`, on short rows, with one λ of each objective and few latents.

    Of so few latents at most one fires on a token where a number of them is asked for.
    """
    held = SPARSIFIERS[training.sparsifier].holds_k
    first = {name: 1.0 if held else coeffs[0] for name, coeffs in training.grids.items()}
    width = min(TOKENS, training.context_size)
    return replace(
        training,
        sparsity_coeffs=";".join(f"{name}:{coeff!r}" for name, coeff in first.items()),
        target_l0=min(training.target_l0, 0.5),
        dict_ratio=0.5,
        batch_size=ROWS,
        micro_batch_size=ROWS,
        processes=1,
        context_size=width,
        train_tokens=ROWS * width,
        seed=0,
    )


def _one_step(model: TransformerBridge, training: Training, context_size: int) -> None:
    """What notebook 10_train does, of random tokens; and a pass over a row of full length."""
    import torch

    from e2e_lib import calibrate, clean_pass, evaluate, train

    clean_pass(model, torch.zeros(1, context_size, dtype=torch.long, device=model.cfg.device))
    generator = torch.Generator().manual_seed(0)
    size = (ROWS, training.context_size)
    rows = torch.randint(model.cfg.d_vocab, size, generator=generator)
    configs = training.configs()
    for spliced in (False, True):
        group = [c for c in configs if c.objective.needs_splice == spliced]
        if group:
            sae_sets = [run.saes for run in train(model, group, rows, progress=False)]
            for saes in sae_sets if training.calibration_rows else ():
                calibrate(model, saes, rows, training.target_l0 or None)
            evaluate(model, sae_sets, rows)


@command
def main(arguments: list[str]) -> None:
    """Try the model and the text of the profile.json in a results folder."""
    profile, results = read_profile(Path(arguments[0]) / "profile.json")
    enough_text(try_model(profile), profile, stages(profile, results))


if __name__ == "__main__":
    sys.exit(main())
