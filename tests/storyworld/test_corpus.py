"""Vocabulary, tokenizer and dataset; importing them is light."""

import subprocess
import sys
from itertools import islice

import pytest

from e2e_lib.storyworld.corpus import TOKEN_IDS, build_tokenizer, storyworld_dataset
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.teller import LABELS


def test_import_is_light():
    code = (
        "import sys, e2e_lib.storyworld.corpus\nprint({*sys.modules} & {'torch', 'transformers'})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr


def test_vocabulary_is_what_the_stories_use(stories):
    words = {token for story in stories for token in story.tokens}
    assert words <= set(TOKEN_IDS)
    assert 400 <= len(TOKEN_IDS) <= 512
    assert len(set(TOKEN_IDS) - words) <= 5
    assert all(word == word.lower() and " " not in word for word in TOKEN_IDS)


def test_tokenizer_round_trip(stories):
    tokenizer = build_tokenizer()
    for story in stories[:100]:
        ids = tokenizer(story.text)["input_ids"]
        assert ids == [TOKEN_IDS[token] for token in story.tokens]
        assert tokenizer.decode(ids) == story.text
    end = TOKEN_IDS["<|endoftext|>"]
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
            tokenizer.unk_token_id} == {end}  # fmt: skip
    text = f"{stories[0].text} <|endoftext|> {stories[1].text}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("xylophone")["input_ids"] == [end]


def test_dataset_columns():
    data = storyworld_dataset("validation", 20, seed=3)
    assert data.column_names == ["text", "input_ids", "logprob", *LABELS]
    expected = list(islice(generate(3, "validation"), 20))
    for row, story in zip(data, expected, strict=True):
        assert row["text"] == story.text and row["logprob"] == story.logprob
        assert all(len(row[name]) == len(row["input_ids"]) for name in LABELS)
        assert row["entity"] == story.labels["entity"] and row["seen"] == story.labels["seen"]


@pytest.mark.parametrize("split, n_stories, message", [
    ("test", 5, r"split is 'test'; allowed: 'train', 'validation'"),
    ("train", 0, r"n_stories is 0; it must be at least 1"),
])  # fmt: skip
def test_bad_requests(split, n_stories, message):
    with pytest.raises(ValueError, match=message):
        storyworld_dataset(split, n_stories)
    if split == "test":
        with pytest.raises(ValueError, match=message):
            generate(0, split)
