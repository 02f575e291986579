"""A JavaScript engine without a browser, for the arithmetic of the report's pages."""

import json
from pathlib import Path
from typing import Any

from py_mini_racer import MiniRacer

# What every browser has, and the bare engine lacks.
ATOB = """
function atob(text) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", bytes = [];
  let bits = 0, held = 0;
  for (const letter of text.replaceAll("=", "")) {
    bits = ((bits << 6) | letters.indexOf(letter)) & 0xffffff;
    held += 6;
    if (held >= 8) bytes.push(String.fromCharCode((bits >> (held -= 8)) & 255));
  }
  return bytes.join("");
}
"""


class Script:
    """A script that has been run, whose functions can be called."""

    def __init__(self, path: Path) -> None:
        self.engine = MiniRacer()
        self.engine.eval(ATOB + path.read_text(encoding="utf-8"))

    def set(self, name: str, value: Any) -> None:
        """A global variable of this JSON."""
        self.engine.eval(f"var {name} = {json.dumps(value)};")

    def __call__(self, expression: str) -> Any:
        """What an expression gives, of JSON's types; typed arrays come as lists."""
        plain = "(key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value"
        return json.loads(str(self.engine.eval(f"JSON.stringify({expression}, {plain})")))
