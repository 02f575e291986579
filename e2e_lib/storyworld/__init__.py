"""StoryWorld: small stories with the truth about every token, and a tiny model of them.

Importing this package needs neither torch nor transformers; the language model's training is in
`e2e_lib.storyworld.language_model`.
"""

from pathlib import Path

from e2e_lib.storyworld.corpus import (
    TOKEN_IDS,
    build_tokenizer,
    storyworld_dataset,
)
from e2e_lib.storyworld.grammar import MAX_TOKENS, SPLITS, generate
from e2e_lib.storyworld.lexicon import DECOYS, END_OF_TEXT
from e2e_lib.storyworld.teller import LABELS, Story

STORYWORLD_FOLDER = Path(__file__).parent / "model"  # the shipped language model

__all__ = [
    "DECOYS",
    "END_OF_TEXT",
    "LABELS",
    "MAX_TOKENS",
    "SPLITS",
    "STORYWORLD_FOLDER",
    "TOKEN_IDS",
    "Story",
    "build_tokenizer",
    "generate",
    "storyworld_dataset",
]
