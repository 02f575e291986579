"""What compares the model's clean and spliced outputs, a few tokens at a time.

At a vocabulary of 50,257 the logits of a batch and their softmax are most of the memory of a
training step and, on a CPU, much of its time. Here they exist for a chunk of tokens only, forward
and backward: the gradient with respect to a hidden state is known as soon as its token's
distribution is, so it is computed at once and kept, as wide as the hidden state and not as the
vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Logits in a chunk: 256 MiB on a CPU, 1,335 tokens of GPT-2's vocabulary: of fewer, a product
# spends more on fetching the unembedding than on multiplying with it.
CHUNK_VALUES = {"cpu": 1 << 26}
DEVICE_CHUNK_VALUES = 1 << 28  # and 1 GiB on an accelerator
# Logits that a CPU takes from first to last before the next: 2 MiB, a part of its cores' cache.
# What is not a product passes over them several times, and through memory each takes longer.
BLOCK_VALUES = 1 << 19

Head = Callable[[Tensor], Tensor]  # hidden states (1, tokens, d_model) to logits (1, tokens, vocab)
# Logits (1, tokens, vocab) to a value of each token and its gradient to these logits.
ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


class TokenMetrics(NamedTuple):
    """Of every token but, where a next token is needed, of each row's last."""

    kl: Float[Tensor, "batch pos"]  # KL(clean ‖ spliced), nats
    cross_entropy: Float[Tensor, "batch predicted"]  # of the next token, nats
    top1_agreement: Float[Tensor, "batch pos"]  # 1 where both have the same likeliest next token


def means_over_tokens(
    against: Callable[[Tensor], ValueAndGradient],
    head: Head,
    clean: Float[Tensor, "batch pos d_model"],
    spliced: Sequence[Float[Tensor, "batch pos d_model"]],
) -> list[Float[Tensor, ""]]:
    """The mean over all tokens of a comparison of logits, for each of several spliced passes.

    Args:
        against: the comparison: called with the clean logits of a chunk, gives what compares.
        head: from the hidden states after the last norm to logits; a frozen function.
        clean: hidden states of the untouched model; no gradient reaches them.
        spliced: hidden states of passes over the same tokens; each gets its exact gradient.
    """
    tokens = clean.shape[0] * clean.shape[1]
    wanted = torch.is_grad_enabled() and any(h.requires_grad for h in spliced)
    totals = torch.zeros(len(spliced), device=clean.device)
    flat = [h.detach().reshape(tokens, -1) for h in spliced]
    gradients = [torch.empty_like(h) if wanted else h for h in flat]
    for part, clean_part in _chunks(head, clean):
        with torch.no_grad():
            compare = against(head(clean_part))
        for i, hidden in enumerate(flat):
            own = hidden[part][None].requires_grad_(wanted)
            logits = head(own)
            with torch.no_grad():
                of_tokens, to_logits = compare(logits)
                totals[i] += of_tokens.sum()
            if wanted:
                (gradient,) = torch.autograd.grad(logits, own, to_logits.to(logits.dtype))
                torch.div(gradient[0], tokens, out=gradients[i][part])
    values = list(totals / tokens)
    if not wanted:
        return values
    known = zip(spliced, values, gradients, strict=True)
    return [_Known.apply(hidden, value, grad.view_as(hidden)) for hidden, value, grad in known]


def mean_kls(
    head: Head,
    clean: Float[Tensor, "batch pos d_model"],
    spliced: Sequence[Float[Tensor, "batch pos d_model"]],
) -> list[Float[Tensor, ""]]:
    """The mean over all tokens of KL(clean ‖ spliced), for each of several passes, differentiable.

    Arguments are those of `means_over_tokens`.
    """
    return means_over_tokens(partial(kl_to, kept=len(spliced) > 1), head, clean, spliced)


def kl_to(clean_logits: Float[Tensor, "... vocab"], *, kept: bool = True) -> ValueAndGradient:
    """`losses.token_kl` from these clean logits, with its gradient to the spliced ones: q − p.

    The softmax p of the clean logits is made once for however many spliced passes, and kept;
    for a single one it takes less time to make it a few tokens at a time and to forget it.
    """
    clean = clean_logits.flatten(0, -2)
    runs = list(_blocks(clean))

    def of_clean() -> Iterator[tuple[Tensor, Tensor]]:
        return (softmax(clean[few].float()) for few in runs)

    known = list(of_clean()) if kept else None

    def value_and_gradient(logits: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits)
        values = torch.empty(len(clean), device=clean.device)
        own, to_own = logits.flatten(0, -2), gradient.view_as(clean)
        for few, (p, clean_sum) in zip(runs, known or of_clean(), strict=True):
            x, y = clean[few].float(), own[few].float()
            q, own_sum = softmax(y)
            torch.sub(q, p, out=to_own[few])
            # Σ p (log p − log q), by the differences of logits: exact where both are alike.
            # Summed token by token: over all of a chunk's products at once, float32 loses digits.
            values[few] = torch.sub(x, y, out=q).mul_(p).sum(-1) + (own_sum - clean_sum)
        return values.view(logits.shape[:-1]), gradient

    return value_and_gradient


def by_autograd(
    token_loss: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor], ValueAndGradient]:
    """What compares by any differentiable loss of (clean logits, spliced logits) of a token."""

    def against(clean_logits: Tensor) -> ValueAndGradient:
        def value_and_gradient(logits: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                own = logits.detach().float().requires_grad_()
                values = token_loss(clean_logits.float(), own)
                (gradient,) = torch.autograd.grad(values.sum(), own)
            return values.detach(), gradient

        return value_and_gradient

    return against


def fisher_sketch(
    generator: torch.Generator, clean_logits: Float[Tensor, "one token vocab"]
) -> ValueAndGradient:
    """What gives each token 0, and as gradient a draw whose outer product has the mean of Fisher's.

    With v a random sign for each word, √p v − p (√p · v): its second moment is diag(p) − p pᵀ, the
    Fisher information of the logits, as that of a drawn word's [y] − p is; but every word takes
    part, and rare ones do not come as seldom large steps.
    """
    p = clean_logits.float().softmax(-1)
    signs = torch.randint(0, 2, p.shape, generator=generator, device=p.device).mul_(2).sub_(1)
    root = p.sqrt() * signs
    sketch = root - p * root.sum(-1, keepdim=True)
    return lambda logits: (torch.zeros_like(logits[..., 0]), sketch)


class _Known(torch.autograd.Function):
    """A number whose gradient with respect to `hidden` has been computed along with it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * weights[0], None, None


@torch.no_grad()
def token_metrics(
    head: Head,
    tokens: Int[Tensor, "batch pos"],
    clean: Float[Tensor, "batch pos d_model"],
    spliced: Sequence[Float[Tensor, "batch pos d_model"]],
) -> tuple[Float[Tensor, "batch predicted"], list[TokenMetrics]]:
    """The clean model's cross-entropy of each next token, and the metrics of each spliced pass.

    A row's last token predicts nothing. Nothing here is averaged.
    """
    n = tokens.numel()
    following = tokens.roll(-1, dims=1).reshape(n, 1)  # what a row's last gets is dropped below
    clean_ce, found = (
        torch.empty(n, device=clean.device),
        torch.empty(len(spliced), 3, n, device=clean.device),
    )
    for part, clean_part in _chunks(head, clean):
        log_p = _log_softmax(head(clean_part))[0]
        p, top = log_p.exp(), log_p.argmax(-1)
        clean_ce[part] = -log_p.gather(1, following[part]).squeeze(1)
        for i, hidden in enumerate(spliced):
            log_q = _log_softmax(head(hidden.reshape(n, -1)[part][None]))[0]
            found[i, 0, part] = torch.linalg.vecdot(p, log_p - log_q)
            found[i, 1, part] = -log_q.gather(1, following[part]).squeeze(1)
            found[i, 2, part] = (log_q.argmax(-1) == top).float()
    rows = found.view(len(spliced), 3, *tokens.shape)
    metrics = [TokenMetrics(kl, ce[:, :-1], agree) for kl, ce, agree in rows]
    return clean_ce.view(tokens.shape)[:, :-1], metrics


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1)


def softmax(logits: Float[Tensor, "... vocab"]) -> tuple[Tensor, Float[Tensor, "..."]]:
    """Probabilities, and log Σ exp of the logits: at the likeliest token both are known."""
    probabilities = logits.softmax(-1)
    return probabilities, logits.amax(-1) - probabilities.amax(-1).log()


def _chunks(
    head: Head, hidden: Float[Tensor, "batch pos d_model"]
) -> Iterator[tuple[slice, Tensor]]:
    """Runs of tokens whose logits are few enough, and their hidden states (1, tokens, d_model)."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    with torch.no_grad():
        vocabulary = head(flat[None, :1]).shape[-1]
    most = CHUNK_VALUES.get(hidden.device.type, DEVICE_CHUNK_VALUES)
    for part in _parts(len(flat), max(1, most // vocabulary)):
        # A slice first, its first axis then: products of three axes are folded into two only if
        # the strides say that nothing lies between.
        yield part, flat[part][None]


def _blocks(logits: Float[Tensor, "token vocab"]) -> Iterator[slice]:
    """Runs of a chunk's tokens whose logits fit into a CPU's cache; on an accelerator all."""
    tokens, vocabulary = logits.shape
    return _parts(tokens, max(1, BLOCK_VALUES // vocabulary) if logits.is_cpu else tokens)


def _parts(length: int, most: int) -> Iterator[slice]:
    """Runs of at most so many, as equal as can be."""
    size = -(-length // max(1, -(-length // most)))
    for start in range(0, length, max(1, size)):
        yield slice(start, start + size)
