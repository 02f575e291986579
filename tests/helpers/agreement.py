"""How far a model, as the package runs it, is from Hugging Face's own forward, in four numbers.

    E2E_ARCHITECTURES=full pytest tests/engine/model/test_architectures.py

measures every architecture of `helpers/architectures.py`, and writes docs/architectures.md.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from e2e_lib.core.hooks import clean_pass, spliced_pass
from e2e_lib.core.losses import Objective, compute, token_kl
from e2e_lib.core.sae import SAE
from e2e_lib.data.models import load_model
from e2e_lib.engine.model.frozen_model import runner
from e2e_lib.engine.model.probes import replaced_pass
from e2e_lib.engine.model.rebuilt import WRAPPED
from e2e_lib.names import TransformerBridge, resid_pre
from tests.helpers.architectures import BLOCKS, architecture_folder
from tests.helpers.tiny_models import random_tokens, small_sae

LAST = BLOCKS - 1
INNER = ("hook_attn_out", "hook_mlp_out")


class Agreement(NamedTuple):
    """Largest differences, each as a share of the spread of what is compared."""

    way: str  # fast, or why not
    logits: float  # log-probabilities of a pass
    residual: float  # the residual stream before the last block
    splice: float  # log-probabilities with another residual stream there; the blocks before skipped
    gradient: float  # of the KL term of an e2e SAE there, to its decoder's bias
    inner: float  # value at, and log-probabilities with another one at, the other hooks it has
    hooks: tuple[str, ...]  # which these are


def agreement(architecture: str, processed: bool) -> Agreement:
    """Of one tiny random model, in float32, over two rows of 20 tokens.

    A processed model's residual stream is compared without its mean, which processing takes out.
    """
    folder, tokens = architecture_folder(architecture), random_tokens(2, 20)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        model = load_model(str(folder), processed=processed)
        runner(model, [])
    way = said.getvalue().strip().partition("which is slower: ")[2] or "fast"
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    theirs.requires_grad_(False)
    block, hook = theirs.get_submodule(block_name(model, LAST)), resid_pre(LAST)
    sae = small_sae(24, d_in=model.cfg.d_model)

    clean = clean_pass(model, tokens, [hook])
    seen: list[Tensor] = []
    with replaced(block, lambda x: seen.append(x.detach())):
        logits = theirs(tokens).logits
    ours, residual = clean.activations[hook], seen[0]
    plain, centred = difference(ours, residual), difference(centre(ours), centre(residual))
    change = centre(torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)))

    spliced = replaced_pass(model, tokens, hook, ours + change)
    with replaced(block, lambda x: x + change):
        expected = theirs(tokens).logits

    bias = gradient_of_kl(model, clean, sae)
    offset = residual - ours if processed else 0  # a mean that no later block sees
    own = small_sae(24, d_in=model.cfg.d_model)
    with replaced(block, lambda x: own(x - offset)[0] + offset):
        loss = token_kl(logits, theirs(tokens).logits).mean()
    [reference] = torch.autograd.grad(loss, own.b_dec)
    hooks = tuple(h for h in INNER if f"blocks.{LAST}.{h}" in model.hook_dict)
    return Agreement(
        way,
        probabilities_apart(clean.logits, logits),
        min(plain, centred) if processed else plain,
        probabilities_apart(spliced, expected),
        difference(centre(bias), centre(reference)) if processed else difference(bias, reference),
        max((inner_difference(model, tokens, f"blocks.{LAST}.{h}") for h in hooks), default=0.0),
        hooks,
    )


def gradient_of_kl(model: TransformerBridge, clean: Any, sae: SAE) -> Tensor:
    """Gradient of the loss that training takes to the decoder's bias of an e2e SAE, without λ."""
    spliced = spliced_pass(model, clean, {resid_pre(LAST): sae})
    terms = compute([Objective(0.0, kl_coeff=1.0)], clean, [spliced])
    [gradient] = torch.autograd.grad(terms[0]["kl"], sae.b_dec)
    return gradient


def inner_difference(model: TransformerBridge, tokens: Tensor, hook: str) -> float:
    """Between the package's value and splice at a hook, and what TransformerBridge's own hooks do.

    Hugging Face's classes have no such places: the bridge says where they are.
    """
    [ours] = clean_pass(model, tokens, [hook], logits=False).activations.values()
    kept: list[Tensor] = []
    generator = torch.Generator().manual_seed(3)
    change = torch.randn(ours.shape, generator=generator) * ours.std()

    def bridge(value: Tensor, hook: Any) -> Tensor:
        kept.append(value)
        return value + change

    with torch.no_grad():
        expected = model.run_with_hooks(tokens, fwd_hooks=[(hook, bridge)], return_type="logits")
        spliced = replaced_pass(model, tokens, hook, ours + change)
    return max(difference(ours, kept[0]), probabilities_apart(spliced, expected))


@contextlib.contextmanager
def replaced(block: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """`change` of the hidden states that a block of Hugging Face's gets; None leaves them."""

    def before(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        new = change(given)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def block_name(model: TransformerBridge, layer: int) -> str:
    """A block's name in Hugging Face's model."""
    wanted = model.blocks[layer].original_component
    named = model.original_model.named_modules(remove_duplicate=False)
    return next(name.replace(WRAPPED, "") for name, module in named if module is wanted)


def centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.std())


def probabilities_apart(one: Tensor, other: Tensor) -> float:
    return difference(one.log_softmax(-1), other.log_softmax(-1))
