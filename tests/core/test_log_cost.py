"""What a training curve costs: it is whole where that is little, else a small share of all."""

from types import SimpleNamespace

import pytest

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.losses import named_objective
from e2e_lib.core.train import Trainer, train
from e2e_lib.engine import records
from e2e_lib.engine.records import LOG_SHARE, StepCost
from pipeline.plan.grid import jobs
from pipeline.plan.profile import load_profile
from tests.helpers.tiny_models import random_tokens, tiny_model

HOOK = "blocks.1.hook_resid_pre"
SIZES = {
    "storyworld": (5, 64, 451), "gpt2": (12, 768, 50257), "smollm2": (30, 576, 49152),
    "tinystories": (8, 64, 50257),
}  # fmt: skip


def lists(name):
    """Cost, steps and points' sizes of each list that a profile trains side by side."""
    profile, (blocks, width, vocabulary) = load_profile(name), SIZES[name]
    cfg = SimpleNamespace(n_layers=blocks, d_model=width, d_vocab=vocabulary)
    for job in jobs(profile):
        own = job.training
        for spliced in (False, True):
            names = [n for n in own.grids if (n != "local") == spliced]
            if not names:
                continue
            run = SimpleNamespace(
                objective=SimpleNamespace(needs_splice=spliced),
                saes={own.hook: SimpleNamespace(d_sae=int(own.dict_ratio * width))},
            )
            runs = [run] * sum(len(own.grids[n]) for n in names)
            sizes = own.batch_size, own.micro_batch_size, own.context_size
            model = SimpleNamespace(cfg=cfg)
            yield StepCost.of(model, runs, "bf16"), own.train_rows // own.batch_size, sizes


@pytest.mark.parametrize("name", ["storyworld", "gpt2", "tinystories"])
def test_curves_of_these_profiles_are_whole(name):
    for cost, steps, sizes in lists(name):
        assert cost.affordable(steps, 20, *sizes) == (20, sizes[1])


def test_smollm2_s_curves_stay_below_their_share():
    found = []
    for cost, steps, (batch, micro, context) in lists("smollm2"):
        logs, rows = cost.affordable(steps, 20, batch, micro, context)
        points = len({*range(0, steps, -(-steps // logs)), steps - 1})
        assert points * rows * cost.point <= LOG_SHARE * steps * batch * cost.step
        assert points >= 3 and rows >= 1
        found.append(21 * micro * cost.point / (steps * batch * cost.step))
    assert len(found) == 12 and max(found) > 0.3, "what whole curves would cost"


def test_the_step_by_hand():
    sae = SimpleNamespace(d_sae=40)
    local, e2e = (
        SimpleNamespace(objective=SimpleNamespace(needs_splice=s), saes={HOOK: sae})
        for s in (False, True)
    )
    block, head, codes = 12 * 12**2, 12 * 30, 2 * 12 * 40
    cost = StepCost.of(tiny_model(), [local, e2e], "fp32")
    later = 3 * block + head
    assert cost == (block + 2 * codes + 3 * later, 4 * block + head + 2 * later + 2 * codes, 2)
    assert StepCost.of(tiny_model(), [local], "fp32").step == block + codes


def test_fewer_points_and_rows_train_the_same(monkeypatch):
    objective, rows = named_objective("e2e", 0.1), random_tokens(80)
    config = TrainConfig(objective, (HOOK,), dict_ratio=3.0, batch_size=4, micro_batch_size=4)
    [whole] = train(tiny_model(), [config], rows, progress=False)
    monkeypatch.setattr(records, "DEAR_POINT", 0.0)
    trainer = Trainer(tiny_model(), [config], rows)
    assert trainer.log_rows == 1 and 1 < trainer.log_every < 20
    [few] = train(tiny_model(), [config], rows, progress=False)
    assert len(few.curve) < len(whole.curve)
    same = {e["step"]: (e["loss"], e["l0"]) for e in whole.curve}
    both = [e for e in few.curve if e["step"] in same]
    assert len(both) >= 2 and all((e["loss"], e["l0"]) == same[e["step"]] for e in both)
    assert (few.saes[HOOK].W_dec == whole.saes[HOOK].W_dec).all()
