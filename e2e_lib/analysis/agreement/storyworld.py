"""Subject-verb agreement in StoryWorld: stories of the held-out split, cut right before a verb.

The sentences are the grammar's own: the first description of a story, told after its opening and
setup, with the whole story so far before it. The language model and the SAEs know that context;
a bare sentence behind `<|endoftext|>` is nothing the grammar ever writes. Four tasks, after
Finlayson et al. 2021 and the paper's appendix I:

    simple      the red foxes                    ->  dance / dances
    nounpp      the foxes near the bridge        ->  dance / dances
    rc          the foxes that the rabbit likes  ->  dance / dances
    within_rc   the foxes that the rabbit        ->  likes / like

Relative clauses are the object relatives of the paper's templates; in a subject relative ("the
foxes that like the rabbit") the nearer verb would give the answer away. The labels of the tokens
alone say what a sentence is and which slot of the template each word fills.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from e2e_lib.errors import require
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.lexicon import END_OF_TEXT, MOODS, TRANSITIVES, Word
from e2e_lib.storyworld.teller import Story

# The labels `role` from the sentence's first word to the word before the verb -> task and slots.
_RELATIVE = ("determiner", "subject", "conjunction", "determiner", "relative_noun")
_RELATIVE_SLOTS = ("the_subj", "subj_main", "that", "the_dist", "subj_dist")
STRUCTURES: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {
    ("determiner", "adjective", "subject"): ("simple", ("the_subj", "adjective", "subj_main")),
    ("determiner", "subject", "preposition", "determiner", "landmark"): (
        "nounpp",
        ("the_subj", "subj_main", "prep", "the_dist", "subj_dist"),
    ),
    (*_RELATIVE, "relative_verb"): ("rc", (*_RELATIVE_SLOTS, "verb_dist")),
    _RELATIVE: ("within_rc", _RELATIVE_SLOTS),
}
VERBS = {mood.name: mood.verbs for mood in MOODS}


class StoryPrompt(NamedTuple):
    """A story up to a verb, which verbs can follow, and which of their forms agree."""

    task: str
    words: tuple[str, ...]  # from <|endoftext|> to the word before the verb
    slots: tuple[str, ...]  # template slot of every word, "" for the story before the sentence
    correct: tuple[str, ...]  # the agreeing form of every verb that can stand here
    wrong: tuple[str, ...]  # the other form of each
    numbers: tuple[str, ...]  # sg or pl, of every noun of the sentence


def story_prompts(n: int, seed: int = 0) -> dict[str, list[StoryPrompt]]:
    """`n` prompts of each task, from held-out stories; as many of each combination of numbers.

    Raises:
        ConfigError: n is not a multiple of 4, the number of combinations of two nouns' numbers.
    """
    require(n > 0 and n % 4 == 0, "examples", n, "a multiple of 4 of at least 4")
    cells = {
        (task, numbers): list[StoryPrompt]()
        for task, slots in STRUCTURES.values()
        for numbers in product(("sg", "pl"), repeat=sum(map(_is_noun, slots)))
    }
    missing = {cell: n // 2 ** len(cell[1]) for cell in cells}
    stories = generate(seed, "validation")
    while any(missing.values()):
        for prompt in prompts_of(next(stories)):
            cell = (prompt.task, prompt.numbers)
            if missing[cell]:
                missing[cell] -= 1
                cells[cell].append(prompt)
    prompts: dict[str, list[StoryPrompt]] = {}
    for task, _ in STRUCTURES.values():
        own = [found for cell, found in cells.items() if cell[0] == task]
        # One of each cell in turn, so that the first few prompts are balanced too.
        prompts[task] = [prompt for turn in zip(*own, strict=True) for prompt in turn]
    return prompts


def _is_noun(slot: str) -> bool:
    return slot.startswith("subj_")


def prompts_of(story: Story) -> Iterator[StoryPrompt]:
    """The prompts that a story's first description holds, if it comes right after the setup."""
    role, scene = story.labels["role"], story.labels["scene"]
    after_setup = next(i for i, name in enumerate(scene) if name not in ("opening", "setup"))
    if scene[after_setup] != "scenery":
        return
    for verb in range(after_setup, len(story.tokens)):
        structure = STRUCTURES.get(tuple(role[after_setup:verb]))
        if structure and role[verb] == ("relative_verb" if structure[0] == "within_rc" else "verb"):
            yield _prompt(story, after_setup, verb, *structure)
        if role[verb] == "verb":
            return


def _prompt(story: Story, start: int, verb: int, task: str, slots: tuple[str, ...]) -> StoryPrompt:
    number = story.labels["number"]
    # Every verb that can stand here is equally likely: those of the mood, or the clause's own.
    verbs = TRANSITIVES if task == "within_rc" else VERBS[story.labels["mood"][verb]]
    plural = number[verb] == "pl"
    nouns = [i for i, slot in enumerate(slots, start) if _is_noun(slot)]
    return StoryPrompt(
        task,
        (END_OF_TEXT, *story.tokens[:verb]),
        ("",) * (start + 1) + slots,
        _forms(verbs, plural),
        _forms(verbs, not plural),
        tuple(number[i] for i in nouns),
    )


def _forms(verbs: tuple[Word, ...], plural: bool) -> tuple[str, ...]:
    return tuple(verb.forms[0][plural] for verb in verbs)
