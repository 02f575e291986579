"""Fine-tuning of an SAE that is there: better, as many latents, its own format, all or nothing."""

import json
import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae import SAE
from e2e_lib.core.train import Trainer, train
from e2e_lib.data.formats.sae_files import format_of, read_sae, write_sae
from e2e_lib.data.rows import load_rows
from e2e_lib.engine.checkpoint import StoppedError
from e2e_lib.errors import ConfigError, ModelError
from e2e_lib.finetune import tune
from e2e_lib.finetune.__main__ import main
from e2e_lib.finetune.calibrate import calibrate
from e2e_lib.finetune.card import read_card
from e2e_lib.finetune.fitting import unknown_model
from e2e_lib.finetune.tune import FineTuning, finetune
from tests.helpers.tiny_models import (
    assert_sentence,
    copied_folder,
    random_tokens,
    small_sae,
    tiny_model,
    write_jsonl,
)

HOOK = "blocks.1.hook_resid_pre"
FORMATS = {
    "relu": "saelens",
    "topk": "sparsify",
    "batchtopk": "dictionary_learning",
    "jumprelu": "saelens",
}
SETTINGS = {"tokens": 3200, "context_size": 10, "eval_tokens": 1200, "lr": 3e-3}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A model, a text, and an SAE of each kind, trained locally for a while."""
    folder = tmp_path_factory.mktemp("there")
    copied_folder(folder / "model")
    rows = random_tokens(4000, positions=24, seed=5)
    write_jsonl(folder / "text.jsonl", [{"input_ids": row} for row in rows.tolist()])
    saes = {}
    with torch.random.fork_rng():
        for name, written in FORMATS.items():
            k = 4 if name in ("topk", "batchtopk") else None
            config = TrainConfig(
                named_objective("local", 0.0 if k else 0.2), (HOOK,), sparsifier=name, k=k,
                dict_ratio=4.0, batch_size=4, micro_batch_size=4, lr=1e-2,
            )  # fmt: skip
            [run] = train(tiny_model(), [config], random_tokens(400), progress=False)
            if name == "batchtopk":
                calibrate(tiny_model(), run.saes, random_tokens(80, seed=3))
            path = folder / "saes" / ("layers.0" if written == "sparsify" else name)
            write_sae(path, replace(run.saes[HOOK].stored(), hook=HOOK), written)
            saes[name] = path
    return folder, saes


def settings(folder, **values):
    return FineTuning(
        model=str(folder / "model"),
        **{"data": str(folder / "text.jsonl"), "hook": HOOK, **SETTINGS, **values},
    )


def test_every_kind_is_better_and_what_it_was(there, tmp_path):
    folder, saes = there
    before = {name: read_sae(path) for name, path in saes.items()}
    cards = finetune([str(path) for path in saes.values()], settings(folder), tmp_path)
    for (name, path), card in zip(saes.items(), cards, strict=True):
        assert card["after"]["kl"] < 0.9 * card["before"]["kl"], name
        tolerance = 1e-6 if name == "topk" else 0.05
        assert card["after"]["l0"] == pytest.approx(card["before"]["l0"], rel=tolerance), name
        made = tmp_path / path.name / path.name
        assert format_of(made) == format_of(path)
        after = read_sae(made)
        assert (after.sparsifier, after.k) == (before[name].sparsifier, before[name].k)
        assert sorted(f.name for f in made.parent.iterdir()) == sorted(["card.json", path.name])
        cosine = (after.weights["W_dec"] * before[name].weights["W_dec"]).sum(-1)
        assert cosine.median() > 0.9  # every latent is where it was
        assert set(card["after"]["later_mse"]) == {
            *(f"blocks.{i}.hook_resid_pre" for i in (2, 3)), "blocks.3.hook_resid_post"
        }  # fmt: skip


def test_a_transcoder_is_tuned_too(there, tmp_path):
    pair = "blocks.1.mlp.hook_in>blocks.1.hook_mlp_out"
    config = TrainConfig(
        named_objective("local", 0.2), (pair,), skip=True, dict_ratio=4.0, batch_size=4,
        micro_batch_size=4, lr=1e-2,
    )  # fmt: skip
    [run] = train(tiny_model(), [config], random_tokens(200), progress=False)
    run.saes[pair].save(tmp_path / "skip", {"hook_name": pair})
    own = settings(there[0], hook="", tokens=1600)
    [card] = finetune([str(tmp_path / "skip")], own, tmp_path / "out")
    made = read_sae(tmp_path / "out" / "skip" / "skip")
    assert (made.hook, made.architecture) == (pair, "skip_transcoder")
    assert not torch.equal(made.weights["W_skip"], run.saes[pair].W_skip)
    assert card["after"]["kl"] < card["before"]["kl"]
    assert card["after"]["l0"] == pytest.approx(card["before"]["l0"], rel=0.05)
    with pytest.raises(ModelError) as caught:
        finetune([str(tmp_path / "skip")], replace(own, hook=HOOK), tmp_path / "other")
    assert_sentence(caught, "skip", "makes others", HOOK)


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_the_card_is_of_what_the_file_holds(there, tmp_path, name):
    """In half precision, which rounds."""
    folder, saes = there
    path = tmp_path / saes[name].name
    write_sae(path, replace(read_sae(saes[name]), dtype="bfloat16"), FORMATS[name])
    [card] = finetune([str(path)], settings(folder, tokens=400), tmp_path / "out")
    made = read_sae(tmp_path / "out" / path.name / path.name)
    assert made.dtype == "bfloat16"
    rows = load_rows(
        tiny_model(), str(folder / "text.jsonl"), str(folder / "text.jsonl"), n_train=1,
        n_validation=120, context_size=10,
    ).validation  # fmt: skip
    [found] = evaluate(tiny_model(), [{HOOK: SAE.from_stored(made).eval()}], rows)
    assert found.model["kl"] == pytest.approx(card["after"]["kl"], rel=1e-4)
    assert found.saes[HOOK]["l0"] == pytest.approx(card["after"]["l0"], rel=1e-4)


def test_what_is_done_is_not_done_again_unless_something_changed(there, tmp_path, monkeypatch):
    folder, saes = there
    path, given = str(saes["topk"]), settings(folder, tokens=400)
    [card] = finetune([path], given, tmp_path)
    monkeypatch.setattr(tune, "train", None)
    assert finetune([path], given, tmp_path) == [card]
    with pytest.raises(TypeError):
        finetune([path], replace(given, lr=1e-3), tmp_path)


def test_what_is_asked_tells_hub_names_apart(there):
    """Of one last part; what lies here is told by its content, and named without its folder."""
    folder, saes = there
    asked = [
        tune._asked(str(saes["relu"]), settings(folder, data=data, validation=held))
        for data, held in (("a/text", "b/held"), ("b/text", "b/held"), ("a/text", "a/held"))
    ]
    assert asked[0] != asked[1] != asked[2] != asked[0]
    assert asked[0]["data"] == "a/text" and asked[0]["model"] == "model"
    models = [replace(settings(folder), model=f"{name}/tiny") for name in "ab"]
    assert len({tune._asked(str(saes["relu"]), own)["model"] for own in models}) == 2


def test_a_training_that_was_begun_otherwise_is_not_gone_on_with(there, tmp_path, monkeypatch):
    folder, saes = there
    path, cut = str(saes["relu"]), tmp_path / "cut"
    (cut / "relu" / "checkpoints").mkdir(parents=True)  # of an older version
    with monkeypatch.context() as patch:
        patch.setattr(tune, "calibrate", lambda *_, **__: [][0])
        with pytest.raises(IndexError):
            finetune([path], settings(folder, tokens=400, eval_tokens=400), cut)
    [begun] = (cut / "relu").glob("checkpoints*/")
    assert len(list(begun.iterdir())) == 1, "the state of its last step"
    other = settings(folder, tokens=200, eval_tokens=400, lr=1e-3)
    [card], [fresh] = (finetune([path], other, place) for place in (cut, tmp_path / "fresh"))
    assert card["after"] == fresh["after"]
    assert sorted(f.name for f in (cut / "relu").iterdir()) == ["card.json", "relu"]


def test_stopped_in_the_middle_it_goes_on_and_ends_in_the_same_bits(there, tmp_path, monkeypatch):
    folder, saes = there
    paths = [str(saes[name]) for name in ("relu", "jumprelu")]
    given = settings(folder, tokens=400, eval_tokens=400)  # five steps
    done = []

    def on_log(index, entry):
        done.append(entry["step"])
        if len(done) == 2 * len(paths):  # both have two steps
            os.kill(os.getpid(), signal.SIGTERM)

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(tune, "train", partial(train, on_log=on_log))
        with pytest.raises(StoppedError) as caught:
            finetune(paths, given, cut)
    assert_sentence(caught, "SIGTERM", "step 2 of 5")
    assert not list(cut.rglob("card.json")) and len(list(cut.glob("*/checkpoints*"))) == 2
    steps, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: steps.append(self.done) or step(self))
    again = finetune(paths, given, cut)
    assert steps == [2, 3, 4], "it went on where it was"
    for card, fresh in zip(again, finetune(paths, given, whole), strict=True):
        assert all(card[key] == fresh[key] for key in ("before", "after", "stayed", "train_tokens"))
    for name in ("relu", "jumprelu"):
        one, other = (read_sae(place / name / name).weights for place in (cut, whole))
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_an_sae_of_a_format_that_is_only_read(there, tmp_path):
    folder, saes = there
    stored = read_sae(saes["jumprelu"])
    place = tmp_path / "gemma-scope-2b-pt-res" / "layer_0" / "average_l0_4"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **{name: t.numpy() for name, t in stored.weights.items()})
    linked = tmp_path / "mine"  # and by another name than that which tells the hook
    linked.symlink_to(place)
    small = settings(folder, tokens=200, eval_tokens=400)
    [card] = finetune([str(linked)], small, tmp_path / "out")
    made = read_sae(tmp_path / "out" / "mine" / "mine")
    assert (card["format"], made.format, made.sparsifier) == ("saelens", "saelens", "jumprelu")
    assert made.hook == "blocks.0.hook_resid_post"


@pytest.mark.parametrize("centred", [True, False])
def test_an_sae_of_weights_that_were_processed_otherwise(there, tmp_path, centred):
    folder, saes = there
    said = {"model_from_pretrained_kwargs": {"center_writing_weights": centred}}
    write_sae(tmp_path / "a", replace(read_sae(saes["relu"]), metadata=said))
    with pytest.raises(ModelError) as caught:
        finetune([str(tmp_path / "a")], settings(folder, processed=not centred), tmp_path / "out")
    assert_sentence(caught, "center_writing_weights", f"must be {centred}")


@pytest.mark.parametrize(
    ("said", "asked", "found"),
    [
        ("gpt2-small", "openai-community/gpt2", ""),  # aliases
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped", ""),
        ("storyworld", "storyworld", ""),
        ("Tiny", "somewhere/tiny", ""),
        ("gpt2-medium", "gpt2", ModelError),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", ModelError),
        ("gpt2", "storyworld", ModelError),
        ("storyworld", "gpt2", ModelError),
        ("mine", "gpt2", "whether 'gpt2' is, is not known"),  # perhaps a folder of that model
        ("gpt2", "smollm2", "whether 'smollm2' is, is not known"),  # a folder that make fetched
        ("gpt2", "FOLDER", "whether 'model' is, is not known"),
        (None, "gpt2", "does not say of which model"),
        (3, "gpt2", "does not say of which model"),
    ],
)
def test_whether_it_is_an_sae_of_this_model(there, said, asked, found):
    folder, saes = there
    stored = replace(read_sae(saes["relu"]), metadata={"model_name": said} if said else {})
    asked = asked.replace("FOLDER", str(folder / "model"))
    if isinstance(found, str):
        sentence = unknown_model("it", stored, asked)
        assert found in sentence and bool(found) == bool(sentence) and str(folder) not in sentence
        return
    with pytest.raises(found) as caught:
        unknown_model("it", stored, asked)
    assert_sentence(caught, "'it'", repr(said), "--model", repr(asked))


def test_an_sae_of_another_model_is_refused_and_an_unknown_one_said(there, tmp_path, capsys):
    folder, saes = there
    told = replace(read_sae(saes["relu"]), metadata={"model_name": "tiny-b"}, hook=HOOK)
    write_sae(tmp_path / "a", told)
    finetune([str(tmp_path / "a")], settings(folder, tokens=400), tmp_path / "out")
    said = capsys.readouterr().out
    assert "SAE 'a' says that it is one of 'tiny-b': whether 'model' is, is not known.\n" in said
    write_sae(tmp_path / "b", replace(told, metadata={"model_name": "gpt2"}))
    other = replace(settings(folder, hook=""), model="storyworld")
    with pytest.raises(ModelError) as caught:
        finetune([str(tmp_path / "b")], other, tmp_path / "none")
    assert_sentence(caught, "'b'", "'gpt2'", "'storyworld'")
    assert not (tmp_path / "none").exists()


def test_the_command(there, tmp_path, capsys):
    folder, saes = there
    where = ["--model", str(folder / "model"), "--data", str(folder / "text.jsonl")]
    small = ["--tokens", "400", "--context-size", "10", "--eval-tokens", "200", "--hook", HOOK]
    out = ["--output", str(tmp_path / "out")]
    assert main([str(saes["relu"]), *where, *small, "--objective", "e2e_ds", *out]) == 0
    assert "relu: ce_increase" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "relu" / "card.json").read_text())
    assert card["asked"]["objective"] == "e2e_ds"
    assert str(folder) not in json.dumps(card)
    page = (tmp_path / "out" / "relu" / "card.html").read_text()
    assert f"<dt>hook</dt><dd>{HOOK}</dd>" in page and f"{card['after']['kl']:.4g}" in page
    assert str(folder) not in page
    assert (tmp_path / "out" / "relu" / "card.png").read_bytes().startswith(b"\x89PNG")
    assert main([str(saes["relu"]), *where, *small, "--objective", "local", *out]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: objective is 'local', but it must be one of finetune")


@pytest.mark.parametrize(
    ("values", "error", "parts"),
    [
        ({"hook": "blocks.9.hook_resid_pre"}, ModelError, ("blocks.9", "blocks 0 to 3")),
        ({"hook": "blocks.1.mlp.hook_pre"}, ModelError, ("width 12", "width 48")),
        ({"tokens": 30}, ConfigError, ("tokens", "30", "80")),
        ({"hook": "blocks.2.hook_resid_pre"}, ModelError, ("blocks.0.hook_resid_post", "--hook")),
        ({"hook": "blocks.0.hook_mlp_out"}, ModelError, ("blocks.0.hook_resid_post", "--hook")),
        ({"context_size": 25}, ConfigError, ("context_size is 25", "24")),
        ({"data": ""}, ConfigError, ("data", "a text file")),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    there, tmp_path, values, error, parts
):
    folder, saes = there
    with pytest.raises(error) as caught:
        finetune([str(saes["topk"])], settings(folder, **values), tmp_path)
    assert_sentence(caught, *parts)
    assert not list(tmp_path.iterdir())


def test_an_l0_that_is_not_held_is_an_error(there, tmp_path, monkeypatch):
    folder, saes = there
    monkeypatch.setattr(tune, "calibrate", lambda model, saes, *_, **__: saes[HOOK].b_enc.add_(9))
    with pytest.raises(ModelError) as caught:
        finetune([str(saes["relu"])], settings(folder, tokens=400), tmp_path)
    assert_sentence(caught, "'relu'", "L0", "eval_tokens")
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("hook", ["blocks.3.hook_resid_pre", "ln_final.hook_normalized"])
def test_no_block_comes_after_it(there, tmp_path, hook):
    folder, saes = there
    path = tmp_path / "last"
    write_sae(path, replace(read_sae(saes["relu"]), hook=hook))
    with pytest.raises(ConfigError) as caught:
        finetune([str(path)], settings(folder, hook="", objective="e2e_ds"), tmp_path / "out")
    assert_sentence(caught, "objective is 'e2e_ds'", hook)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "shift"), [("relu", -1e4), ("jumprelu", -1e4), ("relu", 1e4)])
def test_an_l0_that_cannot_be_held(there, tmp_path, name, shift):
    """That of an SAE which never fires, or of which every latent does."""
    folder, saes = there
    stored = read_sae(saes[name])
    moved = {**stored.weights, "b_enc": stored.weights["b_enc"] + shift}
    write_sae(tmp_path / "moved", replace(stored, weights=moved))
    with pytest.raises(ModelError) as caught:
        finetune([str(tmp_path / "moved")], settings(folder), tmp_path / "out")
    assert_sentence(caught, "'moved'", "L0 of 48" if shift > 0 else "L0 of 0", "above 0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["saes", "saes/relu"])
def test_an_output_in_the_saes_own_place(there, output):
    folder, saes = there
    with pytest.raises(ConfigError) as caught:
        finetune([str(saes["relu"])], settings(folder), folder / output)
    assert_sentence(caught, "output", "'relu'", "would change")


@pytest.mark.parametrize("content", ["[1]", '{"asked": 1}', '{"format": []}', "{"])
def test_a_damaged_card_is_none(tmp_path, content):
    (tmp_path / "card.json").write_text(content)
    assert read_card(tmp_path) == {}


def test_a_card_counts_with_a_whole_sae_beside_it(tmp_path):
    place, card = tmp_path / "relu", {"format": "saelens"}
    place.mkdir()
    (place / "card.json").write_text(json.dumps(card))
    assert read_card(place) == {}
    (place / "relu").mkdir()
    (place / "relu" / "cfg.json").write_text("{}")
    assert read_card(place) == {}, "its weights are gone"
    small_sae().save(place / "relu")
    assert read_card(place) == card


def test_two_of_one_name_and_one_without_a_hook(there, tmp_path):
    folder, saes = there
    path = str(saes["topk"])
    with pytest.raises(ConfigError) as caught:
        finetune([path, path], settings(folder), tmp_path)
    assert_sentence(caught, "SAE", "different names")
    nameless = tmp_path / "nameless"
    write_sae(nameless, replace(read_sae(saes["relu"]), hook=None, metadata={}))
    with pytest.raises(ModelError) as caught:
        finetune([str(nameless)], settings(folder, hook=""), tmp_path / "out")
    assert_sentence(caught, "nameless", "--hook")
