"""Agreement prompts: StoryWorld's own, and the paper's data set in a small file of its form."""

import os
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from zlib import crc32

import pytest
import torch

from e2e_lib.analysis.agreement import prompts as agreement
from e2e_lib.analysis.agreement.storyworld import VERBS, prompts_of, story_prompts
from e2e_lib.errors import ConfigError, DataError
from e2e_lib.storyworld.corpus import TOKEN_IDS
from e2e_lib.storyworld.corpus import build_tokenizer as storyworld_tokenizer
from e2e_lib.storyworld.grammar import generate
from e2e_lib.storyworld.lexicon import MOODS, TRANSITIVES
from tests.helpers.tiny_models import assert_sentence, build_tokenizer, write_jsonl

SINGULARS = {v.forms[0][0] for mood in MOODS for v in mood.verbs} | {
    verb.forms[0][0] for verb in TRANSITIVES
}


@pytest.fixture(scope="module")
def stories():
    return story_prompts(8, seed=3)


def test_as_many_of_every_combination_of_numbers(stories):
    for task, prompts in stories.items():
        cells = Counter(prompt.numbers for prompt in prompts)
        assert len(cells) == (2 if task == "simple" else 4)
        assert set(cells.values()) == {8 // len(cells)}
        # The first few are balanced too.
        assert len(Counter(p.numbers for p in prompts[:4])) == len(cells)


def test_the_correct_form_agrees_with_the_noun_of_the_task(stories):
    for task, prompts in stories.items():
        for prompt in prompts:
            number = prompt.numbers[1 if task == "within_rc" else 0]
            assert all((form in SINGULARS) == (number == "sg") for form in prompt.correct)
            assert all((form in SINGULARS) == (number == "pl") for form in prompt.wrong)
            assert len(prompt.correct) == len(prompt.wrong) == (6 if task == "within_rc" else 7)


def test_every_word_of_the_sentence_has_its_slot(stories):
    prompt = stories["rc"][0]
    named = {slot: word for slot, word in zip(prompt.slots, prompt.words, strict=True) if slot}
    assert list(named) == list(agreement.TEMPLATES["rc"])
    assert (named["the_subj"], named["the_dist"]) == ("the", "the")
    assert named["that"] in ("that", "who")
    assert prompt.words[0] == "<|endoftext|>"
    assert prompt.words[prompt.slots.index("the_subj") - 1] == "."


def test_prompts_are_cut_from_held_out_stories_right_before_the_verb():
    some = islice(generate(0, "validation"), 60)
    drawn = [(story, prompt) for story in some for prompt in prompts_of(story)]
    assert {prompt.task for _, prompt in drawn} == set(agreement.TASKS)
    for story, prompt in drawn:
        n = len(prompt.words) - 1
        assert list(prompt.words[1:]) == story.tokens[:n]
        assert story.tokens[n] in prompt.correct  # what the generator wrote agrees
        if prompt.task != "within_rc":
            assert len(prompt.correct) == len(VERBS[story.labels["mood"][n]])


def test_same_seed_same_prompts_and_n_is_checked(stories):
    assert story_prompts(8, seed=3) == stories
    assert story_prompts(8, seed=4) != stories
    with pytest.raises(ConfigError) as caught:
        story_prompts(6)
    assert_sentence(caught, "examples is 6", "multiple of 4")


def test_storyworld_tensors(stories):
    prompts = agreement.storyworld_prompts(8, seed=3)["nounpp"]
    tokenizer = storyworld_tokenizer()
    assert agreement.knows_storyworld(tokenizer)
    assert not agreement.knows_storyworld(build_tokenizer())
    for i, story in enumerate(stories["nounpp"]):
        end = int(prompts.last[i]) + 1
        assert tokenizer.decode(prompts.tokens[i, :end]) == " ".join(story.words)
        assert (prompts.tokens[i, end:] == TOKEN_IDS["<|endoftext|>"]).all()
        assert prompts.slots[i, end - 5 : end].tolist() == [0, 1, 2, 3, 4]
        assert (prompts.slots[i, : end - 5] == -1).all() and (prompts.slots[i, end:] == -1).all()
        assert tokenizer.decode(prompts.correct[i]) == " ".join(story.correct)
    assert prompts.part(2, 5).last.tolist() == prompts.last[2:5].tolist()
    assert prompts.part(2, 5).slot_names == agreement.TEMPLATES["nounpp"]


# ------------------------------------------------------------------- the paper's data set
def row(prefix: str, right: str = " w8", wrong: str = " w9", **other: object) -> dict:
    fields = {"clean_prefix": prefix, "patch_prefix": prefix, "clean_answer": right}
    return fields | {"patch_answer": wrong, "case": "singular_plural"} | other


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "simple_train.json", [row("w1 w2"), row("w1 w3", " w9", " w8")])
    write_jsonl(tmp_path / "nounpp_train.json", [row("w1 w2 w4 w1 w5")])
    write_jsonl(tmp_path / "rc_train.json", [row("w1 w2 w4 w1 w5 w6")])
    write_jsonl(tmp_path / "within_rc_train.json", [row("w1 w2 w4 w1 w5")])
    return tmp_path


def test_a_file_a_task(folder):
    prompts = agreement.file_prompts(str(folder), build_tokenizer(), 10)
    assert list(prompts) == list(agreement.TASKS)
    simple = prompts["simple"]
    assert simple.tokens.tolist() == [[0, 1, 2], [0, 1, 3]]  # end-of-text first
    assert simple.last.tolist() == [2, 2]
    assert simple.slots.tolist() == [[-1, 0, 1]] * 2
    assert (simple.correct.tolist(), simple.wrong.tolist()) == ([[8], [9]], [[9], [8]])
    assert prompts["rc"].slots.tolist() == [[-1, 0, 1, 2, 3, 4, 5]]
    assert prompts["rc"].slot_names[-1] == "verb_dist"
    one = agreement.file_prompts(str(folder), build_tokenizer(), 1, tasks=["simple"])
    assert one["simple"].tokens.shape == (1, 3)


def test_a_folder_on_a_server(folder, monkeypatch):
    """The same prompts as from the folder; a file that is not there is named."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        near, far = (
            agreement.file_prompts(x, build_tokenizer(), 1) for x in (str(folder), address)
        )
        with pytest.raises(DataError) as caught:
            agreement.file_prompts(address, build_tokenizer(), 1, files="{task}.jsonl")
        server.shutdown()
    assert_sentence(caught, "simple.jsonl", "HTTP Error 404")
    assert list(far) == list(near) == list(agreement.TASKS)
    for task in near:
        assert far[task].tokens.equal(near[task].tokens) and len(far[task].tokens) == 1
        assert far[task].correct.equal(near[task].correct)


@pytest.mark.parametrize("name", ["[ab]", "a::b", "{task}", "*"])
def test_a_folder_is_read_as_it_is_called_and_as_it_is_now(tmp_path, name):
    for place, word in ((name, "w3"), ("a", "w9"), (name, "w4")):
        (tmp_path / place).mkdir(exist_ok=True)
        file = write_jsonl(tmp_path / place / "simple_train.json", [row(f"w1 {word}")])
        os.utime(file, (1e9, 1e9))
        if place == name:
            given = str(tmp_path / name), build_tokenizer(), 9
            found = agreement.file_prompts(*given, tasks=["simple"])
            assert found["simple"].tokens.tolist() == [[0, 1, int(word[1:])]]


class Pieces:
    """A tokenizer that cuts words into pairs of letters; a space goes with what follows it."""

    bos_token_id, eos_token_id = 0, 0

    def __call__(self, text: str, add_special_tokens: bool, return_offsets_mapping: bool = False):
        starts, i = [], 0
        while i < len(text):
            size = min(2 + (text[i] == " "), len(text) - i)
            space = text.find(" ", i + 1)
            size = min(size, space - i) if space > 0 else size
            starts.append((i, i + size))
            i += size
        ids = [crc32(text[a:b].encode()) for a, b in starts]
        return {"input_ids": ids, "offset_mapping": starts}


def test_a_word_of_several_tokens_has_one_slot_and_rows_are_padded(tmp_path):
    rows = [row("The girls", " are", " is"), row("The men", " are", " is")]
    write_jsonl(tmp_path / "simple_train.json", rows)
    prompts = agreement.file_prompts(str(tmp_path), Pieces(), 2, tasks=["simple"])["simple"]
    # Th|e| gi|rl|s and Th|e| me|n
    assert prompts.slots.tolist() == [[-1, 0, 0, 1, 1, 1], [-1, 0, 0, 1, 1, -1]]
    assert prompts.last.tolist() == [5, 4]
    assert prompts.tokens[1, 5] == 0
    first = [crc32(piece.encode()) for piece in (" ar", " is")]
    assert torch.cat([prompts.correct[0], prompts.wrong[0]]).tolist() == first


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({"clean_prefix": "w1 w2"}, ["prompt 2", "'patch_prefix'", "clean_answer"]),
        (row("w1 w2 w3"), ["'w1 w2 w3'", "the_subj, subj_main"]),
        (row("w1 w2", "x"), ["'x'", "clean_answer", "token of its own"]),
        (row("w1 w2", " w8", ""), ["''", "patch_answer"]),
        (row("w1 w2", " w8 w1", " w8 w2"), ["must differ"]),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, parts):
    write_jsonl(tmp_path / "simple_train.json", [row("w1 w2"), bad])
    with pytest.raises(DataError) as caught:
        agreement.file_prompts(str(tmp_path), build_tokenizer(), 10, tasks=["simple"])
    assert_sentence(caught, *parts)


def test_unknown_task_missing_file_no_hub(folder, tmp_path):
    with pytest.raises(DataError) as caught:
        agreement.file_prompts(str(folder), build_tokenizer(), 1, tasks=["anaphora"])
    assert_sentence(caught, "'anaphora'", "simple, nounpp, rc, within_rc")
    for source in (str(tmp_path), str(tmp_path / "nowhere"), "someone/agreement"):
        with pytest.raises(DataError) as caught:
            agreement.file_prompts(source, build_tokenizer(), 1, files="{task}.jsonl")
        assert_sentence(caught, source, "simple.jsonl")
    with pytest.raises(DataError, match="neither a bos_token nor an eos_token"):
        agreement.file_prompts(str(folder), build_tokenizer(eos=False), 1)
