"""Prompts for subject-verb agreement (paper, appendix I): data in, tensors out.

Two sources: StoryWorld's own grammar (`agreement.storyworld`), and the data set that the paper
names, Finlayson et al. 2021 as JSON lines in the form of Marks et al. (github.com/saprmarks/
feature-circuits, folder data, from where the authors' script reads it too): one file a task, fields
clean_prefix, patch_prefix, clean_answer and patch_answer. The answer to the clean prefix is
the verb that agrees, the answer to the patch prefix the one that does not.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from jaxtyping import Int
from torch import Tensor

from e2e_lib.analysis.agreement.storyworld import StoryPrompt, story_prompts
from e2e_lib.data.readers import records
from e2e_lib.data.text import import_datasets
from e2e_lib.errors import DataError, closest, reworded
from e2e_lib.files import project_path
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.storyworld.lexicon import END_OF_TEXT

# Word by word, the slots of each task's template.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "simple": ("the_subj", "subj_main"),
    "nounpp": ("the_subj", "subj_main", "prep", "the_dist", "subj_dist"),
    "rc": ("the_subj", "subj_main", "that", "the_dist", "subj_dist", "verb_dist"),
    "within_rc": ("the_subj", "subj_main", "that", "the_dist", "subj_dist"),
}
TASKS = tuple(TEMPLATES)
FIELDS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
NO_SLOT = -1
TIMEOUT = 60.0  # seconds that a server may keep silent


class Prompts(NamedTuple):
    """One task's prompts. Every prompt ends right before a verb that has to agree.

    slots: which slot of the template a token fills, as an index into `slot_names`; -1 for the
    beginning-of-text token, for text before the sentence, and for padding.
    correct, wrong: forms of the same verbs that agree and do not; one verb in the paper's data, in
    StoryWorld all verbs that can stand there.
    """

    task: str
    tokens: Int[Tensor, "examples pos"]  # right-padded
    last: Int[Tensor, " examples"]  # position of the last real token
    correct: Int[Tensor, "examples verbs"]
    wrong: Int[Tensor, "examples verbs"]
    slots: Int[Tensor, "examples pos"]
    slot_names: tuple[str, ...]

    def part(self, start: int, stop: int) -> "Prompts":
        """Prompts `start` to `stop`, the latter not included."""
        return self._replace(**{name: x[start:stop] for name, x in self._tensors().items()})

    def to(self, device: Any) -> "Prompts":
        """The same on another device."""
        return self._replace(**{name: x.to(device) for name, x in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {name: x for name, x in self._asdict().items() if isinstance(x, Tensor)}


def knows_storyworld(tokenizer: Any) -> bool:
    """Whether a tokenizer has StoryWorld's words under StoryWorld's ids."""
    return bool(tokenizer.get_vocab() == TOKEN_IDS)


def storyworld_prompts(n: int, seed: int = 0) -> dict[str, Prompts]:
    """`n` prompts of each task from held-out stories; see `agreement.storyworld`.

    Raises:
        ConfigError: n is not a multiple of 4.
    """
    return {task: _from_story(task, found) for task, found in story_prompts(n, seed).items()}


def _from_story(task: str, prompts: Sequence[StoryPrompt]) -> Prompts:
    names = tuple(slot for slot in prompts[0].slots if slot)
    index = {name: i for i, name in enumerate(names)} | {"": NO_SLOT}

    def ids(words: tuple[str, ...]) -> list[int]:
        return [TOKEN_IDS[word] for word in words]

    return Prompts(
        task,
        *_padded([ids(p.words) for p in prompts], TOKEN_IDS[END_OF_TEXT]),
        torch.tensor([ids(p.correct) for p in prompts]),
        torch.tensor([ids(p.wrong) for p in prompts]),
        _padded([[index[slot] for slot in p.slots] for p in prompts], NO_SLOT)[0],
        names,
    )


def file_prompts(
    source: str,
    tokenizer: Any,
    n: int,
    *,
    files: str = "{task}_train.json",
    revision: str = "",
    tasks: Sequence[str] = TASKS,
) -> dict[str, Prompts]:
    """The first `n` prompts of each task, as the authors took them.

    Args:
        source: a folder, the http(s) address of one, or the name of a hub data set.
        tokenizer: the model's; its beginning-of-text (or end-of-text) token starts every prompt.
        files: name of a task's file, `{task}` in place of the task.
        revision: commit of the hub data set; "" for the newest.
        tasks: of simple, nounpp, rc and within_rc.

    Raises:
        DataError: unknown task, unreadable file, missing field, a prefix that is not a word for
            each slot of its template, or an answer whose first token cannot be told.
    """
    for task in tasks:
        if task not in TEMPLATES:
            raise DataError(f"task is {task!r}, but it must be one of {', '.join(TASKS)}.")
    return {
        task: _from_rows(task, _rows(source, files.replace("{task}", task), revision, n), tokenizer)
        for task in tasks
    }


def _rows(source: str, file: str, revision: str, n: int) -> list[Mapping[str, Any]]:
    folder = project_path(source)
    what = (
        f"agreement data is {source!r}, but it must be a folder, its address or a hub data set "
        f"with a file {file} of JSON lines"
    )
    with reworded(DataError, what):
        if source.startswith(("https://", "http://")):
            return _read_lines(f"{source.rstrip('/')}/{file}", n)
        # `datasets` would see a pattern in the folder's name, and keep a copy of what was there.
        if folder.is_dir() or source.startswith((".", "/", "~")):
            return list(islice(records(folder / file), n))
        rows = import_datasets().load_dataset(
            source, data_files=file, revision=revision or None, split="train"
        )
    return list(rows.select(range(min(n, len(rows)))))


def _read_lines(address: str, n: int) -> list[Mapping[str, Any]]:
    """The first `n` JSON lines at an address."""
    try:
        with urlopen(address, timeout=TIMEOUT) as lines:
            return [json.loads(line) for line in islice(lines, n)]
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


def _from_rows(task: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> Prompts:
    if not rows:
        raise DataError(f"agreement data of the task {task!r} is empty, but it must hold prompts.")
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise DataError("The tokenizer has neither a bos_token nor an eos_token to start prompts.")
    template = TEMPLATES[task]
    tokens, slots, answers = [], [], []
    for number, row in enumerate(rows, 1):
        where = f"prompt {number} of the task {task!r}"
        for field in FIELDS:
            if not isinstance(row.get(field), str):
                raise DataError(
                    f"{where} has no text in the field {field!r}, but needs {', '.join(FIELDS)}; "
                    f"the nearest it has are {closest(field, row)}."
                )
        text = row["clean_prefix"]
        if len(text.split()) != len(template):
            raise DataError(
                f"{where} is {text!r}, but must have one word for each of {', '.join(template)}."
            )
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
        tokens.append([start, *ids])
        # A token belongs to the word that its last character is in.
        slots.append([NO_SLOT, *(len(text[:end].split()) - 1 for end in ends)])
        answers.append(_answers(row, ids, tokenizer, where))
    correct, wrong = torch.tensor(answers).unsqueeze(-1).unbind(1)
    padded = _padded(slots, NO_SLOT)[0]
    return Prompts(task, *_padded(tokens, start), correct, wrong, padded, template)


def _answers(row: Mapping[str, Any], ids: list[int], tokenizer: Any, where: str) -> list[int]:
    """First token of the agreeing and of the other verb, as they follow the clean prefix."""
    found = []
    for field in ("clean_answer", "patch_answer"):
        whole = tokenizer(row["clean_prefix"] + row[field], add_special_tokens=False)["input_ids"]
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise DataError(
                f"{where} has {row[field]!r} as its {field}, but that must begin with a token of "
                "its own after the prefix, most often with a space."
            )
        found.append(whole[len(ids)])
    if found[0] == found[1]:
        raise DataError(
            f"{where} has the answers {row['clean_answer']!r} and {row['patch_answer']!r}, but "
            "their first tokens must differ."
        )
    return found


def _padded(rows: list[list[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows filled up on the right, and each one's last position before that."""
    width = max(map(len, rows))
    padded = torch.tensor([row + [fill] * (width - len(row)) for row in rows])
    return padded, torch.tensor([len(row) - 1 for row in rows])
