"""A profile cut down to a few steps: does the whole path work, with this model and this text?"""

from dataclasses import replace

from pipeline.plan.notebook_parameters import joined
from pipeline.plan.profile import Profile
from pipeline.plan.sweeps import evenly

BATCHES, BATCH_SIZE, EVAL_ROWS, DICT_RATIO = 3, 2, 2, 2.0
# Notebooks that read more of the text, or ask more of a model, than a trial can wait for.
SMALL = {
    # A feature is scored on 20 rows of the second half.
    "28_interpretability": {"n_features": 2, "n_rows": 48, "n_cards": 1},
    "29_faithfulness": {"examples": 8, "ranking_examples": 4, "kept_singly": 2},
}


def shrunk(profile: Profile) -> Profile:
    """`profile` on three batches of two rows, with tiny dictionaries, one seed and one λ each.

    Model, text, context, layers, objectives, schedule and accumulation over micro-batches stay as
    they are; sweeps go, and the dearest notebooks read little. Its name ends in -shrunk, so that
    its results have a folder of their own.
    """
    accumulates = profile.micro_batch_size < profile.batch_size
    grids = {
        objective: {layer: evenly(grid, 1) for layer, grid in by_layer.items()}
        for objective, by_layer in profile.sparsity_coeffs.items()
    }
    tokens = BATCHES * BATCH_SIZE * profile.context_size
    return replace(
        profile,
        name=f"{profile.name}-shrunk",
        seeds=profile.seeds[:1],
        sparsity_coeffs=grids,
        dict_ratio=DICT_RATIO,
        batch_size=BATCH_SIZE,
        micro_batch_size=1 if accumulates else BATCH_SIZE,
        train_tokens=dict.fromkeys(profile.train_tokens, tokens),
        eval_tokens=EVAL_ROWS * profile.context_size,
        one_sae_a_job=False,
        sweeps={},
        notebook_parameters=joined(profile.notebook_parameters, SMALL),
    )
