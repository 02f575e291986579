"""What the profile `published` reads, small and on this disk: model, release, text, agreement data.

All of it has the form of the real thing: twelve blocks of GPT-2 in the hub's layout, the authors'
18 files, rows of `input_ids`, JSON lines a task. The model is random, and the release is random
SAEs; so that the model does the agreement tasks all the same, the verb that it prefers counts as
the one that agrees.
"""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from e2e_lib.analysis.agreement.prompts import TEMPLATES
from tests.helpers.chat_server import completion
from tests.helpers.released_files import write_release
from tests.helpers.tiny_models import write_jsonl

D_MODEL, N_CTX, D_SAE = 16, 32, 32
WORDS = {
    "the_subj": ["The"],
    "subj_main": ["girl", "girls", "cook", "cooks", "guard", "guards", "poet", "poets"],
    "prep": ["near", "behind", "beside", "with"],
    "that": ["that"],
    "the_dist": ["the"],
    "subj_dist": ["farmer", "farmers", "chef", "chefs", "driver", "drivers"],
    "verb_dist": ["likes", "like", "avoids", "avoid"],
}
VERBS = [("has", "have"), ("is", "are"), ("goes", "go"), ("does", "do")]
VOCABULARY = ["<|endoftext|>", *(w for own in (*WORDS.values(), *VERBS) for w in own), "."]


def write_stand_in(folder: Path, n_rows: int = 3000, n_prompts: int = 24) -> dict[str, str]:
    """Write it all into `folder`; returns the overrides of `published` that name it."""
    torch.manual_seed(0)
    model = _write_model(folder / "gpt2")
    table = datasets.Dataset.from_dict({"input_ids": _told(model, n_rows).tolist()})
    table.to_parquet(folder / "text" / "data" / "train-00000-of-00001.parquet")
    _write_agreement(folder / "agreement", model, n_prompts)
    write_release(folder / "release", D_MODEL, D_SAE)
    text = str(folder / "text")
    return {
        "model": str(folder / "gpt2"), "train_data": text, "validation_data": text,
        "released": str(folder / "release"),
    }  # fmt: skip


def _write_model(folder: Path) -> Any:
    """A random GPT-2 of twelve blocks, and a tokenizer of whole words."""
    shape = GPT2Config(
        n_layer=12, n_embd=D_MODEL, n_head=2, n_positions=N_CTX, vocab_size=len(VOCABULARY),
        bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(shape)
    model.save_pretrained(folder)
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=VOCABULARY[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), VOCABULARY[0])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def _told(model: Any, n_rows: int) -> Tensor:
    """Rows that the model tells itself, so that no SAE can predict them better than it does."""
    ids = torch.zeros(n_rows, 1, dtype=torch.long)
    while ids.shape[1] < N_CTX:
        chances = model(ids).logits[:, -1].softmax(dim=-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1)], dim=1)
    return ids


def _write_agreement(folder: Path, model: Any, n: int) -> None:
    """A file a task, in the form of Marks et al."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    for task, template in TEMPLATES.items():
        rows = []
        for i in range(n):
            choice = [_one(WORDS[slot], generator) for slot in template]
            pair = VERBS[i % len(VERBS)]
            tokens = [VOCABULARY.index(word) for word in ["<|endoftext|>", *choice]]
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0, -1]
            right, wrong = sorted(pair, key=lambda verb: -logits[VOCABULARY.index(verb)])
            prefix = " ".join(choice)
            rows.append({
                "clean_prefix": prefix, "patch_prefix": prefix, "clean_answer": f" {right}",
                "patch_answer": f" {wrong}", "case": "singular",
            })  # fmt: skip
        write_jsonl(folder / f"{task}_train.json", rows)


def _one(words: list[str], generator: torch.Generator) -> str:
    return words[int(torch.randint(len(words), (), generator=generator))]


def word_answer(body: dict) -> tuple[int, dict, str]:
    """A language model that knows one kind of explanation: the words that fire at the maximum."""
    question = body["messages"][0]["content"]
    if "Answer with a JSON list" not in question:
        words = dict.fromkeys(re.findall(r"^(\S+)\t10$", question, re.MULTILINE))
        return 200, {}, completion(f"the words {', '.join(words)}.")
    explained = re.search(r"active on the words (.*)\.$", question, re.MULTILINE)
    words = explained.group(1).split(", ") if explained else []
    tokens = json.loads(next(line for line in question.splitlines() if line.startswith("[")))
    return 200, {}, completion(json.dumps([10 * (token in words) for token in tokens]))
