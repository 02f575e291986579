"""Feature cards: whatever a token or an explanation holds, the page shows it and runs nothing."""

import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import torch

from e2e_lib.analysis.interpret import cards
from e2e_lib.analysis.interpret.cards import Card
from e2e_lib.analysis.interpret.features import Example, activation_histogram
from e2e_lib.analysis.interpret.protocol import Feature, Sample
from tests.helpers.pages import Page, browser, chromium

EVIL = "<script>document.title = 'broken'</script>"
MARKUP = ["</span>", "<img src=x onerror=\"document.title='broken'\">", "&amp;", "'\"><b>", EVIL]


def example(tokens: list[str], row: int = 0) -> Example:
    return Example(row, 0, 2, tuple(tokens), tuple(float(i) for i in range(len(tokens)))[::-1])


def hostile() -> dict[str, list[Card]]:
    """Two cards an objective, markup wherever text can stand."""
    effects = pd.DataFrame([
        (7, effect, rank, token, 0.5 - rank)
        for effect in ("raised", "lowered") for rank, token in enumerate(MARKUP)
    ], columns=["latent", "effect", "rank", "token", "logit"])  # fmt: skip
    histogram = activation_histogram(torch.tensor([[0.0, 1, 2, 2]]), bins=4)
    card = Card(
        f"layer 2 {EVIL}", f"fires where {EVIL}", {f"score {EVIL}": EVIL},
        [example(MARKUP), example(["a", "\n", "\u202e", "", " b"])], histogram, effects,
    )  # fmt: skip
    return {name: [card, card] for name in ("local", "e2e", "e2e_ds", EVIL)}


def test_every_text_is_escaped():
    text = cards.cards_page(EVIL, EVIL, hostile())
    page = Page(text)
    assert not page.all("script") and not page.all("img")
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert EVIL not in text and text.count("&lt;script&gt;") > 20
    for token in MARKUP:
        assert token in unescape(text)


def test_the_page_needs_nothing_from_outside():
    text = cards.cards_page("title", "intro", hostile())
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert re.match("#|data:|$", attributes.get(name) or "")
    assert "url(" not in text and "@import" not in text and "http://" not in text
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'")
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    assert len(page.all("article")) == 8 and len(page.all("svg")) == 8


def body_of(example: Example, histogram: pd.DataFrame) -> str:
    """The page of one card."""
    effects = pd.DataFrame(columns=["latent", "effect", "rank", "token", "logit"])
    return cards.cards_page("", "", {"local": [Card("", "", {}, [example], histogram, effects)]})


BARS = pd.DataFrame({"left": [0.0, 1.0], "right": [1.0, 2.0], "tokens": [30, 10]})


def test_contexts_are_shaded_and_cut_round_the_strongest_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cards, "CONTEXT", 2)
    shown = body_of(Example(0, 0, 3, tuple("abcdefg"), (0, 0, 1, 4, 0, 2, 0)), BARS)
    assert (
        "<li>b <span style='--a: 0.16' title='1'>c</span> "
        "<span style='--a: 0.65' title='4'><b>d</b></span> e "
        "<span style='--a: 0.33' title='2'>f</span></li>"
    ) in shown


def test_what_cannot_be_seen_is_shown():
    assert [cards.visible(t) for t in ("\n", "", " x", "a\u202eb", "\x00")] == [
        "⏎", "∅", " x", "a·b", "·",
    ]  # fmt: skip


def test_histogram_bars_are_in_proportion():
    svg = body_of(example(["a", "b", "c"]), BARS)
    heights = [float(h) for h in re.findall(r"height='([\d.]+)'>", svg)]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert "tallest bar: 30 tokens" in svg and ">2</text>" in svg
    none = body_of(example(["a", "b", "c"]), BARS.iloc[:0])
    assert "<p>none</p>" in none and "<svg" not in none


def test_cards_go_from_the_best_to_the_worst():
    codes = torch.rand(4, 6, 7)
    features = [Feature(f"r/{i}", [], [example(["x", "y", "z"])] * 20) for i in range(10, 17)]
    sample = Sample(list(range(10, 17)), codes, features)
    scores = [0.3, 0.9, None, 0.1, 0.5, 0.7, 0.2]
    table = pd.DataFrame({"explanation": [f"e{i}" for i in range(7)], "score": scores})
    table = table.assign(score=table["score"].astype(float), f1=0.25)
    effects = pd.DataFrame({"latent": [11, 13], "effect": "raised", "rank": 0, "token": "t"})
    made = cards.sample_cards(sample, table, effects, "layer 1", 4)
    assert [card.title.rsplit(" ")[-1] for card in made] == ["11", "14", "16", "12"]
    assert made[0].explanation == "e1" and made[0].facts["score"] == "0.90"
    assert made[0].facts["F1"] == "0.25" and "AUROC" not in made[0].facts
    assert len(made[0].effects) == 1 and not len(made[1].effects)
    assert "score" not in made[-1].facts
    assert len(made[0].examples) == cards.SHOWN
    assert made[0].histogram["tokens"].sum() == 24
    assert len(cards.sample_cards(sample, table, effects, "", 50)) == 7
    assert cards.sample_cards(Sample([], codes[..., :0], []), table[:0], effects, "", 5) == []


PROBE = """<pre id="probe"></pre><script>
addEventListener("load", () => { document.getElementById("probe").textContent = JSON.stringify({
  cards: document.querySelectorAll("article").length,
  spans: document.querySelectorAll("ol span").length,
  script: document.querySelectorAll("script").length,
  shaded: getComputedStyle(document.querySelector("ol span")).backgroundColor,
  bars: [...document.querySelectorAll("svg rect")].every(r => r.getBBox().height >= 0),
  text: document.querySelector("ol li").textContent,
  overflow: document.documentElement.scrollWidth - innerWidth}); });
</script></body>"""


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser_the_cards_are_there_and_nothing_runs(tmp_path: Path, width: int):
    page = cards.write_cards(tmp_path / "28_features.html", "Cards", "intro", hostile())
    text = page.read_text(encoding="utf-8")
    probed = page.with_name("probed.html")  # the policy would stop the probe, too
    open_policy = re.sub(r"<meta http-equiv[^>]*>", "", text)
    assert open_policy != text
    probed.write_text(open_policy.replace("</body>", PROBE), encoding="utf-8")
    dumped = chromium(probed, tmp_path / "a", f"--window-size={width},900", "--dump-dom")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dumped.stdout)
    assert found, dumped.stderr[-500:]
    seen = json.loads(unescape(found[1]))
    assert (seen["cards"], seen["script"], seen["bars"]) == (8, 1, True)  # the probe's own script
    assert seen["text"] == " ".join(MARKUP)
    assert seen["shaded"] == "rgba(240, 167, 10, 0.65)"
    assert seen["overflow"] <= 0
    assert "<title>Cards</title>" in dumped.stdout and "CONSOLE" not in dumped.stderr

    shot = tmp_path / "page.png"
    chromium(page, tmp_path / "b", f"--window-size={width},900", f"--screenshot={shot}")
    assert shot.stat().st_size > 10_000
