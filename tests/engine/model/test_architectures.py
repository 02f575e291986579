"""Many architectures, tiny and random: raw and processed they are what Hugging Face computes.

E2E_ARCHITECTURES=full measures all of them, in minutes, and writes docs/architectures.md.
"""

import os

import pytest
import torch

from e2e_lib.core.hooks import clean_pass, spliced_pass
from e2e_lib.core.losses import Objective, compute
from e2e_lib.data.models import load_model
from e2e_lib.engine.model.probes import hook_width
from e2e_lib.errors import ModelError
from e2e_lib.files import project_path, replace_block
from e2e_lib.names import resid_pre
from tests.helpers.agreement import Agreement, agreement
from tests.helpers.architectures import ARCHITECTURES, BLOCKS, architecture_folder
from tests.helpers.tiny_models import random_tokens, small_sae

FULL = os.environ.get("E2E_ARCHITECTURES") == "full"
# Each has one thing that others have not.
USUAL = {
    "OPT": False,  # its head calls another module than its `base_model`
    "OpenAIGPT": False,  # its blocks return lists
    "Falcon": False,  # loses its mask when asked for attentions
    "Granite": True,  # scales what a branch adds
    "Cohere": True,  # has a factor of its logits folded in
    "CodeGen": True,  # gets biases that its projections had not
    "Phi3": True,  # gate and input of the MLP in one
    "Mamba": True,  # no attention, no length
}
# TransformerLens cannot process them, or makes another model of them: `model_checks` says so.
NOT_PROCESSED = ("BitNet", "FalconH1", "GptOss", "VaultGemma")
NO_GRADIENT = ("Rwkv",)  # the class overwrites on a CPU what a gradient needs: nothing is compared
SAME = 1e-4
CASES = [
    (name, processed)
    for name in (ARCHITECTURES if FULL else USUAL)
    for processed in ((False, True) if FULL else (USUAL[name],))
]
found: dict[tuple[str, bool], Agreement | str] = {}


@pytest.mark.parametrize(("name", "processed"), CASES)
def test_agreement_with_hugging_face(name: str, processed: bool) -> None:
    if processed and name in NOT_PROCESSED:
        with pytest.raises(ModelError, match="process"):
            load_model(str(architecture_folder(name)), processed=True)
        found[name, processed] = "refused"
        return
    if name in NO_GRADIENT:
        with pytest.raises(RuntimeError, match="inplace operation"):
            agreement(name, processed)
        found[name, processed] = "fast, no gradient"
        return
    found[name, processed] = own = agreement(name, processed)
    numbers = (own.logits, own.residual, own.splice, own.gradient, own.inner)
    assert max(numbers) < SAME, own
    assert own.way == "fast"


@pytest.mark.skipif(not FULL, reason="E2E_ARCHITECTURES=full measures and writes all")
def test_the_table() -> None:
    assert len(ARCHITECTURES) >= 40 and found.keys() == set(CASES)
    columns = ("logits", "residual", "splice", "gradient", "inner")
    lines = [
        f"| architecture | weights | way | {' | '.join(columns)} | inner hooks |",
        f"|---|---|---|{'---:|' * len(columns)}---|",
    ]
    for (name, processed), own in found.items():
        start = f"| {name} | {'processed' if processed else 'raw'} |"
        if isinstance(own, str):
            lines.append(f"{start} {own} |{' |' * len(columns)} |")
            continue
        numbers = " | ".join(f"{getattr(own, column):.0e}" for column in columns)
        hooks = ", ".join(hook.removeprefix("hook_") for hook in own.hooks)
        lines.append(f"{start} {own.way} | {numbers} | {hooks} |")
    replace_block(project_path("docs/architectures.md"), "table", "\n".join(lines))


def test_the_committed_table_has_every_architecture() -> None:
    text = project_path("docs/architectures.md").read_text(encoding="utf-8")
    for name in ARCHITECTURES:
        assert f"\n| {name} | raw | fast" in text and f"\n| {name} | processed |" in text


@pytest.mark.parametrize("layer", range(BLOCKS))
@pytest.mark.parametrize("name", NO_GRADIENT)
def test_a_gradient_by_finite_differences(name: str, layer: int) -> None:
    """Of the KL of an e2e SAE to its decoder's bias, where nothing else can be asked."""
    model, tokens = load_model(str(architecture_folder(name))), random_tokens(2, 20)
    sae, at, step = small_sae(24, d_in=model.cfg.d_model), resid_pre(layer), 3e-3

    def kl() -> torch.Tensor:
        clean = clean_pass(model, tokens, [at])
        passes = [spliced_pass(model, clean, {at: sae})]
        return compute([Objective(0.0, kl_coeff=1.0)], clean, passes)[0]["kl"]

    [gradient] = torch.autograd.grad(kl(), sae.b_dec)
    start = sae.b_dec.detach().clone()
    for _ in range(3):
        direction, ends = torch.randn_like(start), []
        for sign in (1, -1):
            sae.b_dec.data = start + sign * step * direction
            ends.append(float(kl().detach()))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient @ direction), abs=2e-3)


def test_a_hook_that_is_never_reached() -> None:
    model = load_model(str(architecture_folder("GPT2")))
    assert "blocks.1.hook_mlp_in" in model.hook_dict, "asked for, but not switched on"
    with pytest.raises(ModelError, match="no pass of this model reaches it"):
        hook_width(model, "blocks.1.hook_mlp_in")
