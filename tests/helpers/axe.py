"""axe-core, the usual checker of accessibility, on copies of pages in a headless browser."""

import json
import re
from collections.abc import Sequence
from html import unescape
from importlib import resources
from pathlib import Path
from typing import Any

from tests.helpers.pages import chromium

DARK = "(prefers-color-scheme: dark)"
RUN = """<script src="SCRIPT"></script><script>
addEventListener("load", async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const { violations, passes } = await axe.run();
  const found = violations.flatMap(({ id, impact, nodes }) => nodes.map((node) =>
    ({ rule: id, impact, selector: node.target.join(" "), why: node.failureSummary })));
  const all = JSON.parse(sessionStorage.getItem("axe") || "[]");
  all.push({ page: "PAGE", passed: passes.map(({ id }) => id), found });
  sessionStorage.setItem("axe", JSON.stringify(all));
  if ("NEXT") location.href = "NEXT";
  else document.body.append(Object.assign(document.createElement("pre"),
    { id: "axe", textContent: JSON.stringify(all) }));
});
</script></body>"""


def checked(pages: Sequence[Path], profile: Path) -> list[dict[str, Any]]:
    """Of each page, folds open, in light and in dark: page, passed (rules), found (rule, impact,
    selector, why).

    One start of the browser: each page leads to the next one, and the last shows all. Copies lie
    beside the pages, without their security policies, which forbid foreign scripts.
    """
    script = profile.with_name("axe.min.js")
    script.write_bytes((resources.files("axe_core_python") / "axe.min.js").read_bytes())
    copies = [p.with_name(f"axe_{look}_{p.name}") for p in pages for look in ("light", "dark")]
    for i, copy in enumerate(copies):
        _, look, name = copy.name.split("_", 2)
        text = copy.with_name(name).read_text(encoding="utf-8")
        for sheet in re.findall('<link rel="stylesheet" href="([^"]+)">', text):
            rules = (copy.parent / sheet).read_text(encoding="utf-8")
            text = text.replace("</head>", f"<style>{rules}</style></head>")
        text = text.replace(DARK, "all" if look == "dark" else "not all")
        following = copies[i + 1].as_uri() if i + 1 < len(copies) else ""
        run = RUN.replace("SCRIPT", script.as_uri()).replace("NEXT", following)
        run = run.replace("PAGE", f"{name}, {look}")
        text = text.replace("Content-Security-Policy", "x").replace("</body>", run)
        copy.write_text(text, encoding="utf-8")
    shown = chromium(
        copies[0], profile, "--virtual-time-budget=60000", "--window-size=1280,900", "--dump-dom"
    )
    found = re.search(r'<pre id="axe">(.*?)</pre>', shown.stdout, re.S)
    assert found, shown.stderr[-500:]
    return list(json.loads(unescape(found[1])))
