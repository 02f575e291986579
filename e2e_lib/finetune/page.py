"""Cards as pictures and pages: `card.png` of one, and pages that hold their pictures."""

import base64
from collections.abc import Iterable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e2e_lib.files import write_text
from e2e_lib.finetune.card import SIDES, WORDS, Card, error_table


def write_card_page(place: Path, card: Card) -> None:
    """Write `card.png` and `card.html` into the card's folder.

    Nothing where the extra `analysis`, which draws them, is not installed.
    """
    if find_spec("matplotlib") is None or find_spec("seaborn") is None:
        return
    write_text(place / "card.html", cards_page([card]))
    (place / "card.png").write_bytes(picture(card))


def picture(card: Card) -> bytes:
    """Squared error at the SAE and before every later block, on both sides, as a PNG."""
    from e2e_lib.plots.cost import plot_errors
    from e2e_lib.plots.page import png_of

    return png_of(plot_errors(error_table(card)))


def cards_page(cards: Iterable[Card], report: str = "") -> str:
    """One page of all cards; every value is escaped, and nothing is loaded from elsewhere.

    report: address of the page that it stands beside, to which it leads back.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    page = pages.get_template("cards.html.j2").render(cards=list(map(_shown, cards))).lstrip()
    return _beside(page, report) if report else page


def _beside(page: str, report: str) -> str:
    """A page of cards with a way back and one heading above theirs; texts of cards are escaped."""
    back = f'<a style="color: inherit" href="{escape(report)}">The report</a>'
    above = f"<main>\n<p>{back} › fine-tuned SAEs</p>\n<h1>Fine-tuned SAEs, before and after</h1>"
    page = page.replace("<h1>", "<h2>").replace("</h1>", "</h2>").replace("<main>", above)
    small = "h2 { font-size: 1.2rem; }\n</style>"
    return page.replace("\nh1 {", "\nh1, h2 {").replace("</style>", small)


def _shown(card: Card) -> dict[str, Any]:
    asked, after = card["asked"], card["after"]
    rows = {text: [_number(card[side][key]) for side in SIDES] for key, text in WORDS.items()}
    for hook in after["later_mse"]:
        pair = [_number(card[side]["later_mse"][hook]) for side in SIDES]
        rows[f"squared error at {hook}"] = pair
    stayed = card["stayed"]
    rows["directions kept (cosine above 0.9)"] = ["", "–" if stayed is None else f"{stayed:.1%}"]
    return {
        "name": asked["sae"],
        "facts": {
            "SAE": f"{card['sparsifier']}, {card['format']}",
            "hook": card["hook"],
            "model": asked["model"],
            "objective": asked["objective"],
            "training": f"{card['train_tokens']:,} tokens in {card['train_seconds']:.3g} s",
            "held-out text": f"{after['eval_tokens']:,} tokens",
            "code": asked["code"],
        },
        "rows": rows,
        "png": base64.b64encode(picture(card)).decode(),
    }


def _number(value: float | int | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
