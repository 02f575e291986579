"""What a tokenizer and data files say about themselves is honoured, or refused in one sentence."""

import json
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from e2e_lib.data.described import document_of, load_tokenizer, vocabulary_digest
from e2e_lib.data.models import load_model
from e2e_lib.data.rows import load_rows
from e2e_lib.data.text import TextSource
from e2e_lib.errors import DataError, ModelError
from pipeline.tokenise import tokenise
from tests.helpers.tiny_models import (
    D_VOCAB,
    WORDS,
    assert_sentence,
    build_tokenizer,
    copied_folder,
    model_folder,
    reader,
    write_jsonl,
)

OWN = build_tokenizer()


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def other_tokenizer(*, eos: str | None = WORDS[0], **special: str) -> PreTrainedTokenizerFast:
    """The same words with other numbers: the last comes first."""
    ids = {word: i for i, word in enumerate([WORDS[0], *reversed(WORDS[1:])])}
    words = Tokenizer(models.WordLevel(ids, unk_token=special.get("unk_token", WORDS[0])))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    more = {"eos_token": eos} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=words, **more, **special)


def rows_of(train: object, validation: object = None, tokenizer=OWN, **values):
    sizes = {"n_train": 4, "n_validation": 2, "context_size": 8} | values
    return load_rows(reader(tokenizer), str(train), str(validation or train), **sizes)


def texts(folder: Path, n: int = 400) -> Path:
    rows = [" ".join(f"w{1 + (i * j) % 29}" for j in range(1, 3 + i % 7)) for i in range(n)]
    return write_jsonl(folder / "text.jsonl", [{"text": row} for row in rows])


@pytest.mark.parametrize("value", ["w1 " * 10_000, ["w1 w2"] * 5000, {"en": "w1 " * 9999}])
def test_a_value_that_is_too_long_for_a_sentence(value):
    """Of a row that is not what its column says, no more is shown than tells which it is."""
    name = "input_ids" if isinstance(value, str) else "text"
    with pytest.raises(DataError) as caught:
        document_of({name: value}, "a.jsonl")
    assert_sentence(caught, "a.jsonl", name, str(value)[:20])
    assert len(str(caught.value)) < 200


# ------------------------------------------------------------------ the tokenizer on the disk
@pytest.mark.parametrize("special", [{}, {"unk_token": "w1"}, {"pad_token": "w2"}])
def test_a_tokenizer_without_an_end_of_text_token_separates_no_texts(tmp_path, special):
    """Whatever the bridge makes of it: an unknown token, a padding token, or a new one."""
    folder = copied_folder(tmp_path / "model")
    other_tokenizer(eos=None, **special).save_pretrained(folder)
    model = load_model(str(folder))
    assert model.tokenizer.eos_token_id is None
    with pytest.raises(DataError) as caught:
        load_rows(model, str(texts(tmp_path)), str(tmp_path / "text.jsonl"), n_train=2,
                  n_validation=1, context_size=8)  # fmt: skip
    assert_sentence(caught, "end-of-text token", "eos_token or bos_token")


@pytest.mark.parametrize("key", ["eos_token", "bos_token"])
@pytest.mark.parametrize("added", [False, True])
def test_a_token_that_is_named_and_in_no_vocabulary(tmp_path, key, added):
    """transformers gives it a number: with a padded embedding, that of a row nobody trained."""
    folder = copied_folder(tmp_path / "model")
    file, words = folder / "tokenizer_config.json", folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "<|stop|>"}))
    if added:
        own = json.loads(words.read_text())
        own["added_tokens"].append(own["added_tokens"][0] | {"id": D_VOCAB, "content": "<|stop|>"})
        words.write_text(json.dumps(own))
        assert getattr(load_tokenizer(str(folder)), f"{key}_id") == D_VOCAB
        return
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert_sentence(caught, key, "'<|stop|>'", "in no vocabulary")


@pytest.mark.parametrize("dropout", [0.5, 0.01, 1.0, None])
def test_a_tokenizer_that_cuts_text_by_chance(tmp_path, dropout):
    """Rows would be others in every notebook that reads them."""
    ids = {word: i for i, word in enumerate(["<|endoftext|>", *"abcdefgh", "ab", "abc"])}
    words = Tokenizer(models.BPE(ids, [("a", "b"), ("ab", "c")], dropout=dropout))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=WORDS[0]).save_pretrained(tmp_path)
    if dropout is None:
        assert load_tokenizer(str(tmp_path))("abcab")["input_ids"] == [10, 9]
        return
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(tmp_path))
    assert_sentence(caught, f"dropout is {dropout:g}", "by chance")


def test_a_tokenizer_with_a_beginning_token_alone_separates_by_it(tmp_path):
    folder = copied_folder(tmp_path / "model")
    other_tokenizer(eos=None, bos_token="w3").save_pretrained(folder)
    model = load_model(str(folder))
    own = str(texts(tmp_path))
    rows = load_rows(model, own, own, n_train=20, n_validation=1, context_size=8)
    end = AutoTokenizer.from_pretrained(folder).bos_token_id
    assert (rows.train == end).sum() > 20 and end == D_VOCAB - 3


def named(folder: Path, kind: str | None, **more: object) -> Path:
    """A tokenizer's folder whose configuration names the class `kind`."""
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text()) | {"tokenizer_class": kind} | more
    file.write_text(json.dumps({k: value for k, value in facts.items() if value is not None}))
    return folder


def byte_pairs(digits: bool) -> PreTrainedTokenizerFast:
    """Every byte, and the pair 12; with `digits` each digit stands alone, as in SmolLM2's file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate(["<|endoftext|>", *letters, "12"])}
    words = Tokenizer(models.BPE(ids, [("1", "2")]))
    parts = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    words.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "LlamaTokenizerFast", "BertTokenizer"])
def test_a_class_that_is_not_the_files_does_not_read_text(tmp_path, capsys, kind, architecture):
    """GPT-2's and Llama's make no token of whole words, BERT's others."""
    folder = named(copied_folder(tmp_path / "model", architecture), kind)
    tokenizer = load_model(str(folder)).tokenizer
    assert tokenizer("w3 w29 w1", add_special_tokens=False)["input_ids"] == [3, 29, 1]
    assert tokenizer.eos_token_id == 0
    said = capsys.readouterr().out
    assert said.startswith("Tokenizer model: text is read as its tokenizer.json says")
    assert kind.removesuffix("Fast") in said and said.count("\n") == 1 and str(tmp_path) not in said


def test_a_class_that_nobody_names_does_not_read_text_either(tmp_path, capsys):
    """transformers takes the one that is usual for the model; its end-of-text token is kept."""
    folder = named(copied_folder(tmp_path / "model"), None, eos_token=None, bos_token=None)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("w3 w29", add_special_tokens=False)["input_ids"] == [3, 29]
    assert tokenizer.eos_token == "<|endoftext|>"
    assert "GPT2Tokenizer would not" in capsys.readouterr().out


def test_digits_are_cut_as_the_file_says(tmp_path, capsys):
    byte_pairs(digits=True).save_pretrained(tmp_path)
    copied_config(tmp_path)
    tokenizer = load_tokenizer(str(named(tmp_path, "GPT2Tokenizer")))
    ids = tokenizer("a12", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "1", "2"]
    assert "GPT2Tokenizer would not" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "TokenizersBackend", "NoSuchTokenizer"])
def test_a_class_that_reads_text_as_the_file_does_stays(tmp_path, capsys, kind):
    byte_pairs(digits=False).save_pretrained(tmp_path)
    copied_config(tmp_path)
    tokenizer = load_tokenizer(str(named(tmp_path, kind)))
    ids = tokenizer("a12", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "12"]
    assert (type(tokenizer).__name__ == kind) == (kind != "NoSuchTokenizer")
    assert capsys.readouterr().out == ""


def copied_config(folder: Path) -> None:
    """A configuration by which transformers knows whose tokenizer it is."""
    (folder / "config.json").write_text((model_folder("llama") / "config.json").read_text())


def test_what_looks_like_a_special_token_in_a_text_is_text(tmp_path):
    from transformers import GPT2TokenizerFast

    letters = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz<|>Ġ_ ")}
    vocabulary = letters | {"<|endoftext|>": len(letters)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    own = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    end = own.eos_token_id
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "ab<|endoftext|>c"}] * 40)
    model = reader(own, len(own))
    both = write_jsonl(tmp_path / "b.jsonl", [{"text": "xyz"}] * 40)
    rows = load_rows(model, str(path), str(both), n_train=1, n_validation=1, context_size=17)
    assert (rows.train == end).sum() == 1, "at the end of the text, and not inside"
    assert own.decode(rows.train[0, :16]) == "ab<|endoftext|>c"


# ------------------------------------------------------------------ descriptions of rows
def tokenised(folder: Path, tokenizer=None, **values) -> Path:
    """Rows of a text made by `pipeline.tokenise`."""
    (tokenizer or build_tokenizer()).save_pretrained(folder / "words")
    source = TextSource(str(texts(folder)), **({"context_size": 8} | values))
    tokenise(source, str(folder / "words"), folder / "rows")
    return folder / "rows"


def described(folder: Path, **changes: object) -> Path:
    """The same with a description that says something else; None leaves it out."""
    file = tokenised(folder) / "tokenise.json"
    facts = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))
    return file.parent


def test_rows_of_the_models_own_tokenizer_are_taken(tmp_path):
    rows = rows_of(tokenised(tmp_path))
    assert "2 rows" not in rows.read and rows.train.shape == (4, 8)


@pytest.mark.parametrize("place", ["", "data/train-00000-of-00001.parquet"])
def test_rows_of_another_tokenizer_are_refused(tmp_path, place):
    folder = tokenised(tmp_path, other_tokenizer())
    with pytest.raises(DataError) as caught:
        rows_of(folder / place)
    assert_sentence(caught, "tokenise.json", "words", "another one")


def test_a_tokenizer_of_the_same_words_that_reads_otherwise_is_another(tmp_path):
    lower = build_tokenizer()
    from tokenizers import normalizers

    lower.backend_tokenizer.normalizer = normalizers.Replace("w1", "w2")
    with pytest.raises(DataError) as caught:
        rows_of(tokenised(tmp_path, lower))
    assert_sentence(caught, "tokenise.json", "another one")


@pytest.mark.parametrize("other", [True, False])
def test_a_description_without_a_digest_is_compared_by_its_tokenizer(tmp_path, other):
    """As 0.1.0 wrote it, or as SAELens does."""
    folder = described(tmp_path, vocabulary=None)
    (other_tokenizer() if other else OWN).save_pretrained(tmp_path / "words")
    facts = json.loads((folder / "tokenise.json").read_text())
    lens = {"tokenizer_name": facts["tokenizer"], "context_size": 8, "begin_batch_token": None}
    for name, content in (("tokenise.json", facts), ("sae_lens.json", lens)):
        (folder / "tokenise.json").unlink(missing_ok=True)
        (folder / name).write_text(json.dumps(content))
        if not other:
            assert rows_of(folder).train.shape == (4, 8)
            continue
        with pytest.raises(DataError) as caught:
            rows_of(folder)
        assert_sentence(caught, name, "another one")


@pytest.mark.parametrize(
    ("changes", "asked", "parts"),
    [
        ({"tokenizer": "gone/model", "vocabulary": None}, {}, ["'gone/model'", "compare"]),
        ({"prepend_bos": True}, {}, ["begins with the beginning-of-text token", "prepend_bos"]),
        ({}, {"context_size": 16}, ["8 tokens", "context_size is 16", "8 or a divisor of it"]),
        ({}, {"context_size": 5}, ["8 tokens", "context_size is 5"]),
        ({"prepend_bos": True}, {"context_size": 4, "prepend_bos": True}, ["must be 8, or"]),
        ({"context_size": "8"}, {}, ["tokenise.json", "whole number"]),
        ({"context_size": 0}, {}, ["tokenise.json", "at least 1"]),
        ({"context_size": -8}, {}, ["tokenise.json", "at least 1"]),
        ({"prepend_bos": True}, {"prepend_bos": True}, ["begins with token 0", "one has 8"]),
        ({"tokenizer": None}, {}, ["tokenise.json", "tokenizer must be a name"]),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit(tmp_path, changes, asked, parts):
    with pytest.raises(DataError) as caught:
        rows_of(described(tmp_path, **changes), **asked)
    assert_sentence(caught, *parts)


@pytest.mark.parametrize("place", ["data", "train", "data/validation", "data/my_train"])
def test_a_description_tells_of_the_folders_below_it(tmp_path, place):
    """Of data/ and of a split's folder, given alone, as of a file in it."""
    file = described(tmp_path, vocabulary="another") / "data" / "train-00000-of-00001.parquet"
    folder = tmp_path / "rows" / place
    folder.mkdir(parents=True, exist_ok=True)
    file.rename(folder / file.name)
    for name in (folder, folder / file.name):
        with pytest.raises(DataError) as caught:
            rows_of(name)
        assert_sentence(caught, "tokenise.json", "another one")
    other = tmp_path / "rows" / "elsewhere"
    folder.rename(other)
    assert rows_of(other).train.shape == (4, 8), "a folder of another name is its own"


@pytest.mark.parametrize(
    ("digest", "words"), [("", "another one"), (5, "must be a digest"), ([], "must be a digest")]
)
def test_a_digest_that_is_none_is_not_the_models(tmp_path, digest, words):
    with pytest.raises(DataError) as caught:
        rows_of(described(tmp_path, vocabulary=digest))
    assert_sentence(caught, "tokenise.json", words)


def test_rows_that_are_shorter_than_described(tmp_path):
    folder = described(tmp_path, prepend_bos=True)
    for file in folder.rglob("*.parquet"):
        rows = [[0, 1 + i % 20, 1 + i // 20, 3] for i in range(400)]  # no two alike
        datasets.Dataset.from_dict({"input_ids": rows}).to_parquet(file)
    with pytest.raises(DataError) as caught:
        rows_of(folder, prepend_bos=True)
    assert_sentence(caught, "every row has 8 tokens", "one has 4")


def test_rows_that_are_longer_than_described(tmp_path):
    file = write_jsonl(
        tmp_path / "a.jsonl", [{"input_ids": [1 + i % 29, 2, 3, 4, 0]} for i in range(60)]
    )
    facts = {"tokenizer": "x", "vocabulary": vocabulary_digest(OWN), "prepend_bos": False}
    (tmp_path / "tokenise.json").write_text(json.dumps(facts | {"context_size": 4}))
    with pytest.raises(DataError) as caught:
        rows_of(file, context_size=4)
    assert_sentence(caught, "every row has 4 tokens", "one has 5")
    (tmp_path / "tokenise.json").write_text(json.dumps(facts | {"context_size": 5}))
    assert rows_of(file, context_size=5).train.shape == (4, 5)
    lens = {"tokenizer_name": "x", "context_size": 5, "begin_batch_token": 0}
    (tmp_path / "sae_lens.json").write_text(json.dumps(lens))
    with pytest.raises(DataError) as caught:
        rows_of(file, context_size=5)
    assert_sentence(caught, "tokenise.json and a sae_lens.json", "must go")


def test_rows_may_be_cut_to_a_divisor(tmp_path):
    long = rows_of(tokenised(tmp_path), n_train=8, n_validation=1)
    short = rows_of(tmp_path / "rows", n_train=16, n_validation=2, context_size=4)
    assert short.train.reshape(8, 8).tolist() == long.train.tolist()


def test_a_beginning_token_is_not_put_before_rows_that_have_it(tmp_path):
    bos = {"bos_token": "w29"}
    own = build_tokenizer()
    own.add_special_tokens(bos)
    rows = rows_of(tokenised(tmp_path, own, prepend_bos=True), tokenizer=own, prepend_bos=True)
    assert (rows.train == 29).sum(1).max() <= 2, "the word itself may be in a row"
    assert (rows.train[:, 0] == 29).all()
    direct = rows_of(tmp_path / "text.jsonl", tokenizer=own, prepend_bos=True, n_train=150)
    assert {tuple(r) for r in rows.train.tolist()} & {tuple(r) for r in direct.train.tolist()}


# ------------------------------------------------------------------ columns beside the ids
def ready(folder: Path, **columns: list) -> Path:
    return write_jsonl(folder / "a.jsonl", [
        {name: values[i % len(values)] for name, values in columns.items()} for i in range(60)
    ])  # fmt: skip


def test_masked_tokens_are_left_out(tmp_path):
    """Padding on either side, as tokenizers make it."""
    ids = [[7, 8, 9, 0, 5, 5], [5, 5, 5, 10, 11, 0]]
    mask = [[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    path = ready(tmp_path, input_ids=ids, attention_mask=mask)
    other = write_jsonl(tmp_path / "b.jsonl", [{"input_ids": [1, 2, 3, 0]}] * 20)
    assert not (rows_of(path, other, n_train=20).train == 5).any()
    table = datasets.Dataset.from_dict({"input_ids": ids * 20, "attention_mask": mask * 20})
    table.to_parquet(tmp_path / "a.parquet")
    assert not (rows_of(tmp_path / "a.parquet", other, n_train=10).train == 5).any()


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"text": ["w1 w2"], "input_ids": [[1, 2]]}, ["both 'text' and 'input_ids'", "only one"]),
        ({"input_ids": [[1, None, 0, 2]]}, ["input_ids [1, None, 0, 2]", "a whole number"]),
        ({"input_ids": [["w1", "0", "w2"]]}, ["input_ids ['w1', '0', 'w2']", "a whole number"]),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, ["attention_mask [1]", "2 token ids"]),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 3]]}, ["attention_mask", "0 or 1"]),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 1]]}, ["token_type_ids [0, 1]", "must be"]),
        ({"input_ids": [[1, 2]], "position_ids": [[0, 0]]}, ["position_ids [0, 0]", "one text"]),
        ({"input_ids": [[1, 2]], "segment_ids": [[1, 2]]}, ["segment_ids [1, 2]", "one text"]),
        ({"input_ids": [[1, 2]], "seq_idx": [[0, 1]]}, ["seq_idx [0, 1]", "one text"]),
        ({"input_ids": [[1, 2]], "seq_lengths": [[1, 1]]}, ["seq_lengths [1, 1]", "one text"]),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_honoured(tmp_path, columns, parts):
    path = ready(tmp_path, **columns)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert_sentence(caught, str(path), *parts)


def test_columns_that_say_nothing_new_are_read_over(tmp_path):
    columns = {"input_ids": [[1, 2, 3, 0]], "attention_mask": [[1] * 4]}
    columns |= {"token_type_ids": [[0] * 4], "position_ids": [[0, 1, 2, 3]], "labels": [[1] * 4]}
    columns |= {"segment_ids": [[7] * 4], "seq_lengths": [[4]]}
    other = write_jsonl(tmp_path / "b.jsonl", [{"input_ids": [4, 5, 0]}] * 20)
    assert rows_of(ready(tmp_path, **columns), other).train.shape == (4, 8)
