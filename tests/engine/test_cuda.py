"""What a GPU computes is what the CPU computes; skipped where there is none."""

import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.losses import named_objective
from e2e_lib.core.train import train
from e2e_lib.data.models import load_model
from e2e_lib.engine.checkpoint import StoppedError
from tests.helpers.tiny_models import ARCHITECTURES, model_folder, random_tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
HOOK = "blocks.1.hook_resid_pre"
OBJECTIVES = ("local", "e2e", "e2e_ds")


def configs(**others) -> list[TrainConfig]:
    small = {"dict_ratio": 4.0, "batch_size": 8, "micro_batch_size": 4, "lr": 0.01}
    return [TrainConfig(named_objective(o, 0.1), (HOOK,), **small | others) for o in OBJECTIVES]


def trained(device: str, architecture: str = "gpt2", processed: bool = False, **options):
    model = load_model(str(model_folder(architecture)), device, processed=processed)
    chosen = options.pop("configs", None) or configs()
    return model, train(model, chosen, random_tokens(160), progress=False, **options)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_training_as_on_a_cpu(architecture, processed):
    (cpu, ours), (gpu, theirs) = (trained(d, architecture, processed) for d in ("cpu", "cuda"))
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one.curve, other.curve, strict=True):
            assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
        assert other.train_seconds > 0
        assert other.alive_paper[HOOK] == pytest.approx(one.alive_paper[HOOK], abs=1)
    rows = random_tokens(20, seed=9)
    results = [
        evaluate(m, [r.saes for r in runs], rows) for m, runs in ((cpu, ours), (gpu, theirs))
    ]
    for one, other in zip(*results, strict=True):
        assert other.model == pytest.approx(one.model, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_stay_close(precision):
    _, exact = trained("cuda")
    _, low = trained("cuda", configs=configs(precision=precision))
    for one, other in zip(exact, low, strict=True):
        assert other.saes[HOOK].W_dec.dtype == torch.float32
        assert other.curve[-1]["loss"] == pytest.approx(one.curve[-1]["loss"], rel=0.05)


def test_a_stopped_training_goes_on(tmp_path):
    folders = [tmp_path / o for o in OBJECTIVES]

    def stop(index, entry):
        if entry["step"] == 9 and index == 2:
            raise KeyboardInterrupt

    with pytest.raises((StoppedError, KeyboardInterrupt)):
        trained("cuda", checkpoints=folders, checkpoint_seconds=0.0, on_log=stop)
    (_, again), (_, whole) = trained("cuda", checkpoints=folders), trained("cuda")
    for one, other in zip(again, whole, strict=True):
        assert len(one.curve) == len(other.curve)
        assert one.curve[-1]["loss"] == pytest.approx(other.curve[-1]["loss"], rel=1e-4)
