"""Live splice: the page's arithmetic is torch's, and what it cannot show it says."""

from itertools import islice, pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from e2e_lib.core.hooks import clean_pass, spliced_pass
from e2e_lib.core.sae import SAE
from e2e_lib.data.models import load_model
from e2e_lib.runs.read import run_config, sae_folder
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS, encode
from e2e_lib.storyworld.grammar import generate
from pipeline.pages.live import (
    LONGEST,
    embedded_model,
    examples,
    live_data,
    matched_runs,
    packed,
    write_live,
)
from pipeline.pages.render import PAGES
from tests.helpers.javascript import Script
from tests.helpers.pages import Page
from tests.helpers.run_folders import write_run

REFERENCE = Path(__file__).resolve().parents[3] / "results" / "reference"
SENTENCES, WORDS = 50, 13

# A page without a browser: every element takes what it is given, a pause ends when a test says so.
PAGE = """
var elements = {}, waiting = new Map(), pauses = 0;
var made = () => ({ listeners: {}, selectedIndex: 0, addEventListener(kind, act) {
  this.listeners[kind] = act; }, replaceChildren(...children) { this.children = children; } });
var document = { getElementById: (id) => elements[id] ||= made() };
var element = (name, attributes, ...children) => ({ name, attributes, children });
var setTimeout = (act, pause, ...given) => (waiting.set(++pauses, () => act(...given)), pauses);
var clearTimeout = (number) => waiting.delete(number);
var typed = (text) => (elements.sentence.value = text, elements.sentence.listeners.input());
document.getElementById("sentence").value = "";
"""


def sentences(n: int) -> list[list[int]]:
    """How held-out stories begin, behind the token that begins a text."""
    stories = islice(generate(7, "validation"), n)
    return [[0, *encode(story.tokens[:WORDS])] for story in stories]


@pytest.fixture(scope="module")
def script() -> Script:
    """The page's script with the reference's model and SAEs."""
    return ready(live_data(REFERENCE))


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return matched_runs(REFERENCE)


def ready(data: object) -> Script:
    script = Script(PAGES / "live.js")
    script.set("LIVE", data)
    script.engine.eval("for (const one of [LIVE.model, ...(LIVE.saes || [])])"
                       "  one.weights = unpacked(one.weights);")  # fmt: skip
    return script


def largest_difference(seen: object, true: Tensor) -> float:
    return float((torch.tensor(seen) - true.detach()).abs().max())


@torch.no_grad()
def test_the_page_computes_what_torch_does(script: Script, runs: pd.DataFrame) -> None:
    """Logits within 0.01 and L0 within 1 % on 50 sentences, each with one of the three SAEs."""
    assert list(runs["objective"]) == ["local", "e2e", "e2e_ds"]
    texts = sentences(SENTENCES)
    model = load_model(run_config(REFERENCE)["model"])
    fired = torch.zeros(2)
    for place, row in enumerate(runs.itertuples()):
        sae, own = SAE.load(sae_folder(REFERENCE, row.run, row.hook)), texts[place::3]
        clean = clean_pass(model, torch.tensor(own))
        true = spliced_pass(model, clean, {row.hook: sae})
        codes = sae.encode(true.inputs[row.hook])
        for i, text in enumerate(own):
            seen = script(f"spliced(LIVE.model, {text}, LIVE.saes[{place}], new Set())")
            assert largest_difference(seen["logits"], true.logits[i]) < 0.01
            assert (
                largest_difference(script(f"forward(LIVE.model, {text})"), clean.logits[i]) < 0.01
            )
            fired += torch.tensor([(torch.tensor(seen["codes"]) > 0).sum(), (codes[i] > 0).sum()])
    in_the_page, in_torch = fired.tolist()
    assert in_the_page == pytest.approx(in_torch, rel=0.01) and in_torch > SENTENCES


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_every_embedded_model_runs(name: str) -> None:
    """Tied and untied embeddings, however many heads."""
    script, texts = ready({"model": embedded_model(EMBEDDED_MODELS[name])}), sentences(3)
    with torch.no_grad():
        true = GPT2LMHeadModel.from_pretrained(EMBEDDED_MODELS[name])(torch.tensor(texts)).logits
    for text, logits in zip(texts, true, strict=True):
        assert largest_difference(script(f"forward(LIVE.model, {text})"), logits) < 0.01


@torch.no_grad()
def test_a_feature_that_is_switched_off_is_zero_and_the_rest_stays(
    script: Script, runs: pd.DataFrame
) -> None:
    [text] = sentences(1)
    run = "spliced(LIVE.model, {}, LIVE.saes[1], new Set({}))"
    on = script(run.format(text, []))
    codes = torch.tensor(on["codes"])
    strongest = int(codes[-1].argmax())
    off = script(run.format(text, [strongest]))
    sae = SAE.load(sae_folder(REFERENCE, *runs.iloc[1][["run", "hook"]]))
    less = codes.clone()
    less[:, strongest] = 0
    script.set("codes", less[-1].tolist())
    decoded = script("affine(codes, LIVE.saes[1].weights.W_dec, LIVE.saes[1].weights.b_dec)")
    assert largest_difference(decoded, sae.decode(less[-1])) < 0.01
    assert off["codes"] == on["codes"], "the page shows what would be active"
    assert largest_difference(off["logits"], torch.tensor(on["logits"])) > 0.01


def test_words_before_the_first_change_are_not_computed_again(script: Script) -> None:
    """The same numbers as from the beginning, wherever a text is changed."""
    first, other = sentences(2)
    script.engine.eval(
        "var kept = memory(), computed = 0, encodeOne = encode;"
        "encode = (...given) => (computed++, encodeOne(...given));"
    )
    texts = ([], first[:9], first, first, [*first[:7], *other[7:]], first[:3], other)
    for last, text in pairwise(texts):
        run = f"spliced(LIVE.model, {text}, LIVE.saes[0], new Set()"
        same = next((i for i, own in enumerate(text) if last[i : i + 1] != [own]), len(text))
        before = script("computed")
        seen = script(f"{run}, kept)")
        assert script("computed") - before == len(text) - same
        assert seen == script(f"{run})")
    script.engine.eval("encode = encodeOne;")


def test_a_long_text_waits_for_a_pause_and_says_that_it_is_computing(script: Script) -> None:
    story = next(s for s in generate(3, "validation") if len(s.tokens) > 60)
    script.engine.eval(PAGE + "var decode = numbers; numbers = (values) => values;")  # they are
    script.engine.eval("startPage(); numbers = decode;")
    shown = "elements.text.children.length"
    assert script("elements.status.textContent") == "" and script(shown) == 1
    script.set("long", " ".join(story.tokens[:50]))
    script.engine.eval("typed(long + ' zebra'); typed(long); typed(long + ' .');")
    assert script("elements.status.textContent") == "Computing 51 words …"
    assert script("waiting.size") == 1 and script(shown) == 1
    script.engine.eval("[...waiting.values()][0]();")
    assert script("elements.status.textContent") == "" and script(shown) == 52
    assert script("elements.result.hidden") is False
    script.engine.eval("waiting.clear(); typed(long + ' . .');")  # one word: at once
    assert script("waiting.size") == 0 and script(shown) == 53
    script.engine.eval("typed('. ' + long); typed('otto');")  # what is no longer asked for, is not
    assert script("waiting.size") == 0 and script(shown) == 2


@pytest.mark.parametrize("name", ["k", "threshold"])
def test_other_sparsifiers_are_the_library_s(name: str, script: Script) -> None:
    sae = SAE(6, 20, *(("topk", 3) if name == "k" else ("jumprelu",)))
    with torch.no_grad():
        for tensor in sae.parameters():
            tensor.normal_().abs_() if tensor.ndim == 1 else tensor.normal_()
    stored, x = sae.stored(), torch.randn(6)
    weights = {key: packed(tensor.numpy()) for key, tensor in stored.weights.items()}
    script.set("other", {"k": stored.k, "weights": weights})
    codes = script(f"encode({{...other, weights: unpacked(other.weights)}}, {x.tolist()})")
    assert largest_difference(codes, sae.encode(x)) < 1e-3 and any(codes)


def test_words_are_read_and_none_is_guessed(script: Script) -> None:
    story = next(generate(7, "validation"))
    script.set("text", story.text)
    assert script("read(text, LIVE.model.words)") == {"ids": encode(story.tokens), "unknown": []}
    script.set("text", "Otto SKIPS,but <b>zebras</b> don’t!")
    seen = script("read(text, LIVE.model.words)")
    known = encode(["otto", "skips", ",", "but"])
    assert seen["ids"][:4] == known and seen["ids"][-1] == encode(["!"])[0]
    assert seen["unknown"] == ["<", "b", ">", "zebras", "<", "/", "b", ">", "don’t"]
    script.set("text", "<|endoftext|>")
    assert "endoftext" in script("read(text, LIVE.model.words)")["unknown"]


def test_sentences_to_begin_with_are_whole_and_known(script: Script) -> None:
    for text in examples():
        script.set("text", text)
        seen = script("read(text, LIVE.model.words)")
        assert text.endswith(".") and not seen["unknown"] and len(seen["ids"]) <= LONGEST


def test_the_page_needs_nothing_but_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "saes").symlink_to(REFERENCE / "saes")
    made = write_live(tmp_path)
    page = Page((tmp_path / made.file).read_text(encoding="utf-8"))
    for script in page.all("script"):
        assert (tmp_path / str(script["src"])).is_file()
    fields = {tag["id"] for name in ("textarea", "select") for tag in page.all(name)}
    assert fields == {tag["for"] for tag in page.all("label")}
    assert "innerHTML" not in (tmp_path / "site" / "live.js").read_text(encoding="utf-8")


def test_why_there_is_no_page_is_said(tmp_path: Path) -> None:
    for objective in ("local", "e2e", "e2e_ds"):
        write_run(tmp_path, objective, objective=objective)
    (tmp_path / "live.html").write_text("an old one")
    made = write_live(tmp_path)
    assert not made.file and "weights" in made.text and not (tmp_path / "live.html").exists()
    assert not write_live(tmp_path / "nothing").file
    for objective in ("local", "e2e", "e2e_ds"):
        (tmp_path / "saes" / objective / "sae_weights.safetensors").touch()
    assert "'tiny' is too large" in write_live(tmp_path).text
