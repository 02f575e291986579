"""What each key of a profile may be: a rule and the words for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from e2e_lib.errors import is_integer, is_number, is_text, require

OBJECTIVES = ("local", "e2e", "e2e_ds")
HOOK_POINTS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")


def list_of(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A check for lists, not empty, of different things that are `good`."""
    return lambda value: (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(good(item) for item in value)
        and len(set(value)) == len(value)
    )


class Rule(NamedTuple):
    """A check and what it allows, in words that end the sentence 'x is 3, but it must be …'."""

    good: Callable[[Any], bool]
    allowed: str


def _from(low: float, kind: Callable[[Any], bool] = is_number, words: str = "a number") -> Rule:
    return Rule(lambda v: kind(v) and v >= low, f"{words} of at least {low}")


def _positive() -> Rule:
    return Rule(lambda v: is_number(v) and v > 0, "a number above 0")


def _whole(low: int) -> Rule:
    return _from(low, is_integer, "a whole number")


def _boolean() -> Rule:
    return Rule(lambda v: isinstance(v, bool), "true or false")


def _fraction() -> Rule:
    return Rule(lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")


def _one_of(*words: str) -> Rule:
    return Rule(lambda v: v in words, f"one of {', '.join(words)}")


RULES = {
    "model": Rule(is_text, "storyworld, a hub name or a folder"),
    "model_revision": Rule(is_text, "a commit, tag or branch of the hub model"),
    "train_data": Rule(is_text, "storyworld, a hub data set, a folder like one, or a text file"),
    "validation_data": Rule(is_text, "storyworld, a hub data set, a folder or a text file"),
    "data_revision": Rule(is_text, "a commit, tag or branch of the hub data set"),
    "prepend_bos": _boolean(),
    "processed": _boolean(),
    "hook_point": _one_of(*HOOK_POINTS),
    "objectives": Rule(
        list_of(lambda v: v in OBJECTIVES), f"a list of some of {', '.join(OBJECTIVES)}"
    ),
    "e2e_kl_coeff": _from(0),
    "ds_kl_coeff": _from(0),
    "downstream_last_block": _boolean(),
    "dict_ratio": _positive(),
    "seeds": Rule(
        list_of(lambda v: is_integer(v) and v >= 0),
        "a list of different whole numbers of at least 0",
    ),
    "train_tokens": _whole(1),
    "batch_size": _whole(1),
    "micro_batch_size": _whole(1),
    "lr": _positive(),
    "warmup_fraction": _fraction(),
    "schedule": _one_of("constant", "linear", "cosine"),
    "min_lr_factor": _fraction(),
    "grad_clip": _positive(),
    "eval_tokens": _whole(1),
    "threads": _whole(1),
    "device": Rule(is_text, "cpu, cuda, cuda:0 or mps"),
    "tracker": _one_of("none", "wandb"),
    "precision": _one_of("auto", "fp32", "tf32", "bf16"),
    "checkpoint_seconds": _from(0),
    "processes": _whole(1),
    "one_sae_a_job": _boolean(),
    "released": Rule(lambda v: isinstance(v, str), "a hub name or folder of SAEs, or empty"),
    "released_revision": Rule(is_text, "a commit, tag or branch of the hub's SAEs"),
}


def checked(key: str, value: Any, place: str = "") -> Any:
    """`value` of `key` if its rule allows it; lists come back as tuples.

    Raises ConfigError, which names the value's `place` (the key, if not given).
    """
    if isinstance(value, str) and RULES[key].allowed.startswith("a number"):
        value = as_number(value)  # YAML reads 1e-3 as text: its floats need a dot
    require(RULES[key].good(value), place or key, value, RULES[key].allowed)
    return tuple(value) if isinstance(value, list) else value


def as_number(text: str) -> float | str:
    """The number that `text` spells, or `text`."""
    try:
        return float(text)
    except ValueError:
        return text
