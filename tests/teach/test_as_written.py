"""Wrong answers as learners write them: the hint is that of their mistake, whatever its form."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from e2e_lib.core.sae import SAE
from e2e_lib.teach.judging.exercise import KNOWN, RIGHT, WRONG, judge
from e2e_lib.teach.lesson import exercise


# ------------------------------------------------------------------ W2: which hook, which function
def hooked(register: str, hook_of: Callable[[Any], Any]) -> Callable[..., Any]:
    def spliced(run: Any, block: Any, replace: Any) -> Any:
        handle = getattr(block, register)(hook_of(replace))
        try:
            return run()
        finally:
            handle.remove()

    return spliced


def a_pre_hook(replace: Any) -> Any:
    def hook(module: Any, arguments: Any) -> Any:
        return (replace(arguments[0]), *arguments[1:])

    return hook


def a_forward_hook(replace: Any) -> Any:
    def my_hook(mod: Any, inp: Any, out: Any) -> Any:
        return replace(out)

    return my_hook


def of_its_input(replace: Any) -> Any:
    return lambda module, arguments, output: replace(arguments[0])


def of_all_its_inputs(replace: Any) -> Any:
    return lambda module, arguments, output: (replace(arguments[0]), *arguments[1:])


@pytest.mark.parametrize(
    "register, hook_of, hint",
    [
        ("register_forward_hook", a_pre_hook, "you wrote a pre-hook and registered it with"),
        ("register_forward_pre_hook", a_forward_hook, "you wrote a forward hook and registered"),
        ("register_forward_pre_hook", of_its_input, "you wrote a forward hook and registered"),
        ("register_forward_hook", a_forward_hook, "you replaced the block's output."),
        ("register_forward_hook", of_its_input, "as if there were no block"),
        ("register_forward_hook", of_all_its_inputs, "the tuple it returned went on as the block"),
        ("register_forward_pre_hook", lambda replace: replace, "`replace` is no hook by itself"),
    ],
)
def test_a_hook_on_the_wrong_side_is_told_as_that(register: str, hook_of: Any, hint: str) -> None:
    found = judge(exercise("spliced"), hooked(register, hook_of))
    assert found.word == KNOWN and hint in found.hint, found


def test_an_argument_that_the_block_misses_is_no_output_that_a_hook_misses() -> None:
    """Both raise "missing 1 required positional argument"."""
    lost = judge(exercise("spliced"), hooked("register_forward_pre_hook", lambda f: a_single(f)))
    assert "one thing in place of all its arguments" in lost.hint


def a_single(replace: Any) -> Any:
    return lambda module, arguments: replace(arguments[0])


# ------------------------------------------------------------------ W2: which states
def by_range(begin: int, end: int) -> Callable[..., Any]:
    """Blocks from layer + begin to before len(states) - end, one by one."""

    def downstream(spliced_states: Any, clean_states: Any, layer: int) -> Any:
        total, n = 0.0, 0
        for k in range(layer + begin, len(clean_states) - end):
            total = total + (spliced_states[k] - clean_states[k].detach()).square().mean()
            n += 1
        return total / n

    return downstream


def by_slice(begin: int, end: int | None) -> Callable[..., Any]:
    def downstream(spliced_states: Any, clean_states: Any, layer: int) -> Any:
        later = slice(layer + begin, end)
        pairs = zip(spliced_states[later], clean_states[later], strict=True)
        return torch.stack([F.mse_loss(a, b.detach()) for a, b in pairs]).mean()

    return downstream


def returns_in_the_loop(spliced_states: Any, clean_states: Any, layer: int) -> Any:
    errors = []
    for a, b in zip(spliced_states[layer + 1 : -1], clean_states[layer + 1 : -1], strict=True):
        errors.append(F.mse_loss(a, b.detach()))
        return torch.stack(errors).mean()


@pytest.mark.parametrize(
    "answer, hint",
    [
        (by_range(1, 2), "one state too few: the last block's input is left out."),
        (by_slice(1, -2), "one state too few: the last block's input is left out."),
        (by_range(2, 1), "one state too few: the first block behind the SAE"),
        (by_slice(0, -2), "all are one state too early"),
        (by_slice(2, None), "all are one state too late"),
        (returns_in_the_loop, "Does a return stand inside the loop?"),
    ],
)
def test_a_state_too_few_is_told_as_that(answer: Any, hint: str) -> None:
    found = judge(exercise("downstream"), answer)
    assert found.word == KNOWN and hint in found.hint, found
    assert judge(exercise("downstream"), by_range(1, 1)).word == RIGHT


# ------------------------------------------------------------------ W5: which targets
def probe_of(
    target: Callable[[Any], Any], right: Callable[[Any, Any], Any], intercept: bool = True
) -> Callable[..., Any]:
    def probe(x: Any, words: Any, coin: Any) -> Any:
        half, y = len(x) // 2, target(coin).float()
        inputs = torch.cat([x, torch.ones_like(x[:, :1])], 1) if intercept else x
        weights = torch.linalg.lstsq(inputs[:half], y[:half, None]).solution[:, 0]
        return right(inputs[half:] @ weights, y[half:]).float().mean().item()

    return probe


def minus_or_one(coin: Any) -> Any:
    return 2.0 * coin - 1


def at_0(guess: Any, y: Any) -> Any:
    return (guess > 0) == (y > 0)


def at_a_half(guess: Any, y: Any) -> Any:
    return (guess > 0.5) == (y > 0.5)


def by_sign(guess: Any, y: Any) -> Any:
    return guess.sign() == y


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("right", [at_0, by_sign, at_a_half])
@pytest.mark.parametrize("target", [torch.sign, torch.Tensor.float])
def test_targets_of_0_and_1_are_told_as_that(target: Any, right: Any, intercept: bool) -> None:
    found = judge(exercise("probe"), probe_of(target, right, intercept))
    if intercept and right is at_a_half:  # the one way in which 0 and 1 are right
        assert found.word == RIGHT
    else:
        assert found.word == KNOWN and found.hint.startswith("with 0 and 1 exchanged"), found


def test_a_missing_intercept_alone_is_another_mistake() -> None:
    found = judge(exercise("probe"), probe_of(minus_or_one, at_0, intercept=False))
    assert found.word == KNOWN and "Has the map a bias, a column of ones?" in found.hint
    assert judge(exercise("probe"), probe_of(minus_or_one, by_sign)).word == RIGHT


def test_a_probe_of_the_coin_itself_and_one_of_the_words_are_told_apart() -> None:
    plain = exercise("probe").reference

    def of_the_coin(x: Any, words: Any, coin: Any) -> Any:
        return plain(torch.cat([x, coin[:, None]], 1), words, coin)

    def of_the_words(x: Any, words: Any, coin: Any) -> Any:
        return plain(torch.cat([x, words[:, None]], 1), words, coin)

    assert "do the coins, or the words" in judge(exercise("probe"), of_the_coin).hint
    assert "the probe read the token's id." in judge(exercise("probe"), of_the_words).hint


# ------------------------------------------------------------------ all others
def scattered_and_lost(pre: Any, k: int) -> Any:
    values, places = pre.topk(k, dim=-1)
    codes = torch.zeros_like(pre)
    codes.scatter(-1, places, values.relu())
    return codes


def above_the_kth(pre: Any, k: int) -> Any:
    return torch.where(pre > pre.topk(k).values[..., -1:], pre, 0).relu()


def assigned_and_lost(x: Any, at: Any) -> Any:
    row, new = torch.arange(len(x)), x.clone()
    new[row][:, at] = x[row ^ 1][:, at]
    return new


def every_row_at_all(x: Any, at: Any) -> Any:
    new = x.clone()
    new[:, at] = x[torch.arange(len(x)) ^ 1][:, at]
    return new


def renamed(sae: SAE) -> SAE:
    new = SAE(sae.d_in, sae.d_sae)
    for own, theirs in zip(new.parameters(), sae.parameters(), strict=True):
        own = theirs.clone()  # type: ignore[assignment]
        assert own is not theirs
    return new


def whatever_the_tolerance(l0_of: Any, target: float, tolerance: float) -> float:
    low, high = 1e-4, 1e4
    while abs((l0 := l0_of(tried := (low * high) ** 0.5)) - target) > 1:
        low, high = (tried, high) if l0 > target else (low, tried)
    return tried


def refuted_unless_inside(low: float, high: float, above: Any, below: Any) -> str:
    floor = -np.inf if above is None else above
    ceiling = np.inf if below is None else below
    if low <= floor <= high or low <= ceiling <= high:
        return "undecided"
    return "holds" if floor < low and high < ceiling else "refuted"


def none_beyond(l0: Any, ce: Any, target: float) -> Any:
    order = np.argsort(l0)
    if not l0.min() <= target <= l0.max():
        return None
    return np.interp(target, l0[order], ce[order])


@pytest.mark.parametrize(
    "name, answer, hint",
    [
        ("topk", scattered_and_lost, "all codes are 0. scatter returns a new tensor"),
        ("topk", above_the_kth, "you kept one too few"),
        ("exchange", assigned_and_lost, "nothing has changed."),
        ("exchange", every_row_at_all, "every row got all the positions"),
        ("warm_start", renamed, "nothing was taken over"),
        ("ce_at_l0", none_beyond, "which is nan here, not None"),
        ("sparsity", lambda codes, d_in: codes.sum() / len(codes) / d_in, "number of rows only"),
        ("kl_loss", lambda p, q: (p.softmax(-1) * (p - q)).sum(-1).mean(), "the logits as they"),
        ("find_lambda", whatever_the_tolerance, "is `tolerance` what you stop at"),
        ("judge_claim", refuted_unless_inside, "where there is no interval (nan)"),
        ("rule", lambda t: (t.role == "name",), "and ends without a comma"),
        ("rule", lambda t: t.role == "name" or "pronoun", "both sides of an `or` too"),
    ],
)
def test_what_learners_write_gets_the_hint_of_its_mistake(
    name: str, answer: Any, hint: str
) -> None:
    found = judge(exercise(name), answer)
    assert found.word == KNOWN and hint in found.hint, found


def test_nan_beside_either_bound_is_undecided() -> None:
    """Right but where only `below` is given: `not low <= below` is true of nan."""

    def answer(low: float, high: float, above: Any, below: Any) -> str:
        said = str(exercise("judge_claim").reference(low, high, above, below))
        return "refuted" if below is not None and not low <= below else said

    found = judge(exercise("judge_claim"), answer)
    assert "[nan, nan] with above = None and below = 0.45 is “refuted”" in found.hint, found


@pytest.mark.parametrize(
    "name, answer, hint",
    [
        # a case is named with all that its answer depends on
        ("judge_claim", lambda *_: "Holds", "on [0.2, 0.4] with above = None and below = 0.45 is"),
        ("ce_at_l0", lambda *_: 0.5, "at L0 10, of SAEs at L0 40, 22, 12, 5, is 0.5, but"),
        # the first place that differs, of what is only in another order
        (
            "exchange",
            lambda x, at: x.flip(2),
            "order, the first that differs at [0, 0, ",
        ),
        # one end of a sentence is enough
        ("kl_loss", lambda p, q: F.kl_div(q, p, reduction="sum"), "of 0 or of less, or 0 / 0?"),
    ],
)
def test_other_messages_say_where(name: str, answer: Any, hint: str) -> None:
    found = judge(exercise(name), answer)
    assert found.word == WRONG and hint in found.hint and "raised" not in found.hint, found
    assert not found.hint.endswith("?.")
