"""HTML from the templates beside this file: every value escaped, a dash where there is none."""

import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, Undefined
from markupsafe import Markup, escape

from e2e_lib.files import write_text

PAGES = Path(__file__).parent
NAMES = {"local": "local", "e2e": "e2e", "e2e_ds": "e2e+ds"}  # of objectives, as they are shown
SITE = "site"  # folder of a results folder for scripts and data that pages load
CODE, BOLD = re.compile(r"`([^`\n]+)`"), re.compile(r"\*\*([^*\n]+)\*\*")


class Extra(NamedTuple):
    """A page beside the report, or why a results folder has none.

    Its maker takes the results folder, writes the page there and the data that it loads into
    `site/` below, which a copy of the folder takes along. Where it cannot, no old page is left.
    """

    title: str
    file: str  # "" where it could not be made
    text: str  # one sentence: what is to be seen there, or why it is not
    runs: Collection[str] = ()  # runs that it shows, each at FILE#RUN
    figures: Collection[str] = ()  # figures whose points it shows as links


def render(template: str, **values: Any) -> str:
    """The page that a template gives of these values; only `Markup` is taken for HTML."""
    return _environment().get_template(template).render(values)


def style(*names: str) -> Markup:
    """The style sheets of these names, one after another."""
    return Markup("\n".join((PAGES / name).read_text(encoding="utf-8") for name in names))


def write_scripts(results: Path, *names: str) -> None:
    """Copy scripts that lie beside this file to where pages of `results` load them."""
    for name in names:
        write_text(results / SITE / name, (PAGES / name).read_text(encoding="utf-8"))


def number(text: str) -> str:
    """A cell of a CSV: floats to four digits, anything else as it is."""
    try:
        return text if "." not in text else f"{float(text):.4g}"
    except ValueError:
        return text


def prose(text: Any) -> Any:
    """A sentence with what stands between back-ticks as code, and between double stars bold."""
    if not isinstance(text, str):
        return text
    return Markup(BOLD.sub(r"<b>\1</b>", CODE.sub(r"<code>\1</code>", str(escape(text)))))


def plain(text: Any) -> Any:
    """A sentence without its pairs of back-ticks, for where code cannot be marked."""
    return CODE.sub(r"\1", text) if isinstance(text, str) else text


@cache
def _environment() -> Environment:
    own = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown, keep_trailing_newline=True,
    )  # fmt: skip
    own.filters |= {"number": number, "compact": _compact, "prose": prose, "plain": plain}
    return own


def _shown(value: Any) -> Any:
    """A dash for nothing, floats to three digits, anything else as it is."""
    nothing = value is None or isinstance(value, Undefined)
    return "–" if nothing else f"{value:.3g}" if type(value) is float else value


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
