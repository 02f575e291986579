"""What an answer may do to the check: anything."""

import copy
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from e2e_lib.teach.judging.exercise import RIGHT, SLOW, WRONG, Verdict, judge
from e2e_lib.teach.lesson import exercise

KL, AUTOENCODE = exercise("kl_loss"), exercise("autoencode")


def kl(clean: Any, own: Any) -> Any:
    p, q = clean.log_softmax(-1), own.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def on(change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda clean, own: change(kl(clean, own))


def changes_its_input(clean: Any, own: Any) -> Any:
    value = kl(clean, own)
    clean += 1
    return value


def one_by_one(clean: Any, own: Any) -> Any:
    rows = zip(clean.flatten(0, -2), own.flatten(0, -2), strict=True)
    return torch.stack([kl(p[None], q[None]) for p, q in rows]).mean()


def without_gradient(clean: Any, own: Any) -> Any:
    torch.set_grad_enabled(False)
    return kl(clean, own)


class Hostile:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]

    def __float__(self) -> float:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "answer, hint",
    [
        (on(torch.Tensor.item), "the result is the number "),
        (
            on(lambda kl: kl.detach().numpy()),
            "is of type ndarray, but it should be a tensor",
        ),
        (on(lambda kl: kl[None]), "has shape (1,), but it should be ()"),
        (on(torch.Tensor.double), "is of type torch.float64, but it should be torch.float32"),
        (on(lambda kl: kl.to("meta")), "lies on device meta, but it should be cpu"),
        (on(lambda kl: kl * torch.nan), "holds NaN where it should not"),
        (on(lambda kl: 3 * kl), "3 times as large"),
        (on(lambda kl: (kl, kl)), "the number of things returned is 2, but it should be 1"),
        (on(lambda kl: Hostile()), "the result is of type Hostile, but it should be a tensor"),
        (on(lambda kl: kl.to_sparse()), "layout"),
        (
            changes_its_input,
            "what it changed in place is “clean_logits”, but it should be “nothing”",
        ),
        (without_gradient, "the spliced logits were detached"),
        (lambda clean: clean, "it raised TypeError"),
        (lambda clean, own: clean @ own, "it raised RuntimeError"),
        (lambda clean, own: sys.exit(3), "it raised SystemExit: 3"),
        (lambda clean, own: exec("raise BaseException"), "it raised BaseException"),
        (
            (x for x in [1]),
            "kl_loss is of type generator, but the check calls it as kl_loss(clean_logits",
        ),
        (kl(torch.ones(1, 2), torch.ones(1, 2)), "kl_loss is of type Tensor"),
    ],
)
def test_a_hint_for_anything(answer: Any, hint: str) -> None:
    found = judge(KL, answer)
    assert found.word != RIGHT and hint in found.hint, found
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_an_error_is_shown_with_the_learner_s_own_line() -> None:
    def answer(clean: Any, own: Any) -> Any:
        missing = clean.no_such_thing
        return missing

    found = judge(KL, answer)
    assert "at “missing = clean.no_such_thing”" in found.hint
    assert "The check calls kl_loss(clean_logits, spliced_logits)." in found.hint


def test_a_loop_over_tokens_is_right_and_too_slow() -> None:
    found = judge(KL, one_by_one)
    assert found.word == SLOW and found.hint.startswith("the numbers are right, but")


def test_what_never_ends_is_stopped() -> None:
    def forever(clean: Any, own: Any) -> Any:
        while True:
            with suppress(Exception):
                time.sleep(0.01)

    start = time.monotonic()
    found = judge(replace(KL, seconds=0.3), forever)
    assert found.word == SLOW and "stopped after 0.3 seconds" in found.hint
    assert time.monotonic() - start < 5


def test_outside_the_main_thread_no_time_is_kept() -> None:
    found: list[Verdict] = []
    thread = threading.Thread(target=lambda: found.append(judge(KL, kl)))
    thread.start()
    thread.join()
    assert found == [Verdict(RIGHT)]


def test_ctrl_c_is_the_learner_s() -> None:
    def answer(clean: Any, own: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(KL, answer)


def test_relations_of_numbers_are_told() -> None:
    def wrong(change: Callable[[Any], Any]) -> str:
        def answer(*case: Any) -> Any:
            output, codes = AUTOENCODE.reference(*case)
            return change(output), codes

        found = judge(AUTOENCODE, answer)
        assert found.word == WRONG
        return found.hint

    assert "all are 2 times as large" in wrong(lambda x: 2 * x)
    assert "all are too large by 1" in wrong(lambda x: x + 1)
    assert "the right ones in another order" in wrong(lambda x: x.flip(0))
    assert "instead of" in wrong(lambda x: x**2)


def test_three_wrong_ways_that_nobody_listed() -> None:
    """For every exercise; none is right, all say something."""
    for name, answers in {
        "sparsity": [
            lambda codes, d_in: codes.max(-1).values.mean() / d_in,
            lambda codes, d_in: codes.median(),
            lambda codes, d_in: torch.tensor(0.5),
        ],
        "kl_loss": [
            lambda p, q: F.kl_div(q, p),
            lambda p, q: (p.softmax(-1) - q.softmax(-1)).abs().sum(-1).mean(),
            lambda p, q: F.cross_entropy(q.flatten(0, -2), p.argmax(-1).flatten()),
        ],
        "downstream": [
            lambda a, b, k: F.mse_loss(a[-1], b[-1]),
            lambda a, b, k: sum((x - y).abs().mean() for x, y in zip(a, b, strict=True)),
            lambda a, b, k: a,
        ],
        "topk": [
            lambda pre, k: pre.relu(),
            lambda pre, k: pre.topk(k - 1).values,
            lambda pre, k: torch.where(pre > 0.5, pre, 0),
        ],
        "autoencode": [
            lambda x, *w: (x, x),
            lambda x, W, b, D, c: (torch.sigmoid(x @ W + b) @ D + c, x @ W),
            lambda x, W, b, D, c: x @ W @ D,
        ],
        "exchange": [lambda x, at: x, lambda x, at: x.flip(0), lambda x, at: x[at]],
        "ce_at_l0": [lambda *_: 0.1, lambda x, y, t: y[0], lambda x, y, t: np.polyfit(x, y, 1)],
        "judge_claim": [lambda *_: "holds", lambda *_: True, lambda low, *_: low],
        "find_lambda": [lambda *_: 1.0, lambda f, t, e: f(t), lambda f, t, e: t],
        "probe": [lambda *_: 0.5, lambda *_: 1.0, lambda x, w, c: float(x.mean())],
        "spliced": [
            lambda run, block, f: run(),
            lambda run, block, f: f(run()),
            lambda run, block, f: block(torch.ones(1, 4)),
        ],
        "rule": [lambda t: t.seen, lambda t: len(t.word) > 3, lambda t: t.role in ("verb", "name")],
        "warm_start": [lambda sae: sae.W_dec, lambda sae: type(sae)(3, 5), lambda sae: "sae"],
    }.items():
        for answer in answers:
            found = judge(exercise(name), answer)
            assert found.word != RIGHT and len(found.hint) > 20, (name, found)


def swallows(run: Any, block: Any, replace: Any) -> Any:
    try:
        return exercise("spliced").reference(run, block, replace)
    except Exception:
        return None


def leaves_another_forward(run: Any, block: Any, replace: Any) -> Any:
    own = block.forward
    block.forward = lambda x, *others: own(replace(x), *others)
    return run()


def runs_twice(run: Any, block: Any, replace: Any) -> Any:
    return [exercise("spliced").reference(run, block, replace) for _ in range(2)][1]


def clears_all_hooks(run: Any, block: Any, replace: Any) -> Any:
    block.register_forward_pre_hook(lambda _, seen: (replace(seen[0]), *seen[1:]))
    try:
        return run()
    finally:
        block._forward_pre_hooks.clear()


def writes_into_the_activation(run: Any, block: Any, replace: Any) -> Any:
    handle = block.register_forward_pre_hook(
        lambda _, seen: [None, seen[0].copy_(replace(seen[0]))][0]
    )
    try:
        return run()
    finally:
        handle.remove()


def zeroes_the_old(sae: Any) -> Any:
    new = copy.deepcopy(sae)
    sae.W_dec.data.zero_()
    return new


def rescales(sae: Any) -> Any:
    new = copy.deepcopy(sae)
    new.W_dec.data *= 3  # its rows are brought to length 1 in any case
    return new


def sorts_in_place(l0: Any, ce: Any, target: float) -> Any:
    found = exercise("ce_at_l0").reference(l0, ce, target)
    l0.sort()
    return found


def centres_in_place(x: Any, words: Any, coin: Any) -> Any:
    x -= x.mean(0)
    return exercise("probe").reference(x, words, coin)


def bisects_for_ever(l0_of: Any, target: float, tolerance: float) -> Any:
    low, high = 1e-4, 1e4
    while (l0 := l0_of(tried := (low * high) ** 0.5)) != target:
        low, high = (tried, high) if l0 > target else (low, tried)
    return tried


def bounds_inclusive_below(low: float, high: float, above: Any, below: Any) -> str:
    inside = (above is None or above <= low) and (below is None or high < below)
    return "holds" if inside else exercise("judge_claim").reference(low, high, above, below)


def refuted_just_below(low: float, high: float, above: Any, below: Any) -> str:
    outside = above is not None and high <= above
    return "refuted" if outside else exercise("judge_claim").reference(low, high, above, below)


def one_sided(low: float, high: float, above: Any, below: Any) -> str:
    said = exercise("judge_claim").reference(low, high, above, below)
    return "undecided" if None not in (above, below) and low > below else str(said)


@pytest.mark.parametrize(
    "name, answer, hint",
    [
        ("spliced", swallows, "raised an error, the error goes on is no"),
        ("spliced", leaves_another_forward, "whether the model is as it was is no"),
        ("spliced", clears_all_hooks, "whether a hook that was there before stays is no"),
        (
            "spliced",
            writes_into_the_activation,
            "it raised RuntimeError: one of the variables",
        ),
        ("kl_loss", lambda *case: [kl(*case)], "the result is of type list, but it should be a"),
        ("kl_loss", lambda *case: "a\nb", "the result is “a b”, but it should be a tensor"),
        (
            "judge_claim",
            bounds_inclusive_below,
            "below = None is “holds”, but it should be “undecided”",
        ),
        (
            "judge_claim",
            refuted_just_below,
            "[0.1, 0.67] with above = 0.67 and below = 1.5 is “ref",
        ),
        (
            "judge_claim",
            one_sided,
            "[1.6, 2] with above = 0.67 and below = 1.5 is “undec",
        ),
        ("spliced", runs_twice, "the number of calls of run() is 2, but it should be 1"),
        ("topk", lambda pre, k: exercise("topk").reference(pre, 3), "(input 3 of 3; right on 2)"),
        ("warm_start", rescales, "its W_dec has the wrong numbers"),
        ("warm_start", zeroes_the_old, "what it changed in place is “W_dec”"),
        ("ce_at_l0", sorts_in_place, "what it changed in place is “l0”"),
        ("ce_at_l0", lambda x, y, t: np.interp([t], x[::-1], y[::-1]), "is of type ndarray, but"),
        ("probe", centres_in_place, "what it changed in place is “x”"),
        ("find_lambda", bisects_for_ever, "whether it stops when L0 is within the tolerance is no"),
        ("find_lambda", lambda *case: "3", "the result is “text”, but it should be “a number”"),
        ("judge_claim", lambda low, *_: "holds" if low < 0.45 else None, "it returned nothing ("),
    ],
)
def test_what_a_right_number_may_hide_is_seen(name: str, answer: Any, hint: str) -> None:
    found = judge(exercise(name), answer)
    assert found.word == WRONG and hint in found.hint, found


def test_a_probe_without_bias_or_of_ids_is_not_right() -> None:
    """Nor one that judges on some of what it was fitted to, or looks at a single number."""

    def fitted(x: Any, coin: Any, judged: slice) -> float:
        half, y = len(x) // 2, 2.0 * coin - 1
        weights = torch.linalg.lstsq(x[:half], y[:half, None]).solution[:, 0]
        return float(((x @ weights > 0) == (y > 0))[judged].float().mean())

    def bias(x: Any) -> Any:
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)

    def one_number(x: Any, words: Any, coin: Any) -> float:
        return max(float(((x - x.mean(0) > 0)[:, i] == (coin > 0)).float().mean()) for i in (0, 1))

    def overlapping(x: Any, words: Any, coin: Any) -> float:
        """Fitted to three quarters of the tokens, judged on the second half."""
        three = torch.cat([x[: 3 * len(x) // 4], x[: 3 * len(x) // 4]])
        y = 2.0 * torch.cat([coin[: 3 * len(coin) // 4]] * 2) - 1
        weights = torch.linalg.lstsq(bias(three), y[:, None], driver="gelsd").solution[:, 0]
        held = slice(len(x) // 2, None)
        return float(((bias(x)[held] @ weights > 0) == (coin[held] > 0)).float().mean())

    for answer in (
        overlapping,
        lambda x, words, coin: fitted(x, coin, slice(len(x) // 2, None)),
        lambda x, words, coin: fitted(bias(x), coin, slice(None)),
        lambda x, words, coin: fitted(bias(words[:, None].float()), coin, slice(None)),
        one_number,
    ):
        assert judge(exercise("probe"), answer).word != RIGHT


def by_gradient_descent(x: Any, words: Any, coin: Any) -> Any:
    half, linear = len(x) // 2, torch.nn.Linear(x.shape[1], 1)
    optimiser = torch.optim.Adam(linear.parameters(), lr=0.1, weight_decay=1e-2)
    for _ in range(100):
        loss = F.binary_cross_entropy_with_logits(linear(x[:half])[:, 0], coin[:half].float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return ((linear(x[half:])[:, 0] > 0) == coin[half:].bool()).float().mean()


def by_log_bisection(l0_of: Any, target: float, tolerance: float) -> float:
    low, high = -4.0, 4.0
    while True:
        middle = (low + high) / 2
        l0 = l0_of(10**middle)
        if abs(l0 - target) <= tolerance:
            return 10**middle
        low, high = (middle, high) if l0 > target else (low, middle)


def pair_by_pair(x: Any, at: Any) -> Any:
    new = x.clone()
    for i in range(0, len(x), 2):
        new[i, at[i]], new[i + 1, at[i]] = x[i + 1, at[i]], x[i, at[i]]
    return new


@pytest.mark.parametrize(
    "name, answer",
    [
        ("sparsity", lambda codes, d_in: codes.abs().sum(-1).mean() / d_in),
        ("sparsity", lambda codes, d_in: codes.norm(p=1, dim=-1).div(d_in).mean()),
        ("topk", lambda pre, k: pre.relu() * (pre >= pre.topk(k).values[..., -1:])),
        (
            "kl_loss",
            lambda p, q: F.kl_div(
                q.log_softmax(-1).flatten(0, -2),
                p.softmax(-1).flatten(0, -2),
                reduction="batchmean",
            ),
        ),
        (
            "downstream",
            lambda a, b, layer: (
                sum(((a[k] - b[k].detach()) ** 2).mean() for k in range(layer + 1, len(a) - 1))
                / (len(a) - layer - 2)
            ),
        ),
        (
            "autoencode",
            lambda x, W, b, D, c: (
                (codes := (x @ W + b).clamp(min=0)) @ (D / D.norm(dim=1, keepdim=True)) + c,
                codes,
            ),
        ),
        (
            "downstream",  # the gradient to what is sliced off is 0, not missing
            lambda a, b, layer: F.mse_loss(
                torch.stack(list(a))[layer + 1 : -1], torch.stack(list(b))[layer + 1 : -1].detach()
            ),
        ),
        ("warm_start", copy.deepcopy),
        ("probe", by_gradient_descent),
        ("find_lambda", by_log_bisection),
        ("exchange", pair_by_pair),
        ("rule", lambda t: t.kind == "child" and t.role == "name"),
        ("rule", lambda t: True if t.role == "name" else None),
    ],
)
def test_other_right_answers_pass(name: str, answer: Any) -> None:
    assert judge(exercise(name), answer) == Verdict(RIGHT)


def test_numbers_of_any_kind_are_numbers() -> None:
    asked = exercise("ce_at_l0")
    for kind in (float, np.float32, torch.tensor):
        assert judge(asked, lambda *case, kind=kind: kind(asked.reference(*case))).word == RIGHT
