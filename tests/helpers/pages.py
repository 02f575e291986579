"""Pages under test: hostile text, a picture, what a page holds, and a real browser to open it."""

import base64
import json
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

EVIL = "<script>document.title = 'broken'</script> & \"quotes\" 'too'"

RUNS = """run,model,objective,layer,hook,sparsity_coeff,kl_coeff,downstream_coeff,seed,dict_ratio,\
train_tokens,lr,init_from,l0,alive,ce_increase
a,m,local,1,blocks.1.hook_resid_pre,2.0,,,0,10,9,0.1,,12.0,600,0.2
b,m,e2e,1,blocks.1.hook_resid_pre,2.0,1,,0,10,9,0.1,,9.0,500,0.1
c,m,e2e,1,blocks.1.hook_resid_pre,3.0,1,,0,10,9,0.1,,5.0,400,-0.1
d,m,e2e,1,blocks.1.hook_resid_pre,4.0,1,,0,10,9,0.1,,5.0,400,
"""


def png(width: int = 600, height: int = 300) -> bytes:
    """A plain grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    rows = b"".join(b"\0" + b"\x99" * width for _ in range(height))
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def put(path: Path, facts: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts), encoding="utf-8")


def hostile_results(folder: Path) -> Path:
    """A results folder whose every text is hostile."""
    from e2e_lib.analysis.claims.verdicts import VERDICTS  # here: it brings seaborn, two seconds

    put(folder / "profile.json", {"results": "results/x", "name": EVIL, "model": EVIL})
    for name in ("pareto", "geometry"):
        texts = {"name": name, "title": EVIL, "alt": f"alt {EVIL}", "caption": EVIL, "paper": EVIL}
        texts["finding"] = f"Here: {EVIL}"
        put(folder / "figures" / f"{name}.json", texts)
        (folder / "figures" / f"{name}.png").write_bytes(png())
        (folder / "figures" / f"{name}.csv").write_text("a\n1\n")
    put(folder / "tables" / "t.json", {"name": "t", "title": EVIL, "caption": EVIL, "paper": ""})
    quoted = EVIL.replace('"', '""')
    (folder / "tables" / "t.csv").write_text(f'token,value\n"{quoted}",0.123456\n')
    put(folder / "skipped" / "umap.json", {"name": "umap", "reason": EVIL})
    claims = [
        {"id": f"C{i}", "claim": EVIL, "paper_value": "0.45", "value": 0.25, "low": 0.2}
        | {"high": 0.3, "n": 3, "verdict": word, "how": EVIL}
        for i, word in enumerate(VERDICTS)
    ]
    claims.append(claims[2] | {"id": "C9", "value": None, "low": None, "high": None})
    put(folder / "claims.json", claims)
    picture = new_output(
        "display_data",
        {"image/png": base64.b64encode(png()).decode()},
        metadata={"image/png": {"alt": "the curve"}},
    )
    cells = [new_markdown_cell("# Pareto <i>"), new_code_cell('save("pareto")', outputs=[picture])]
    (folder / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "20_pareto.ipynb")
    return folder


class Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def chromium(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium on one page, without a network."""
    quiet = ("--disable-background-networking", "--disable-gpu", "--enable-logging=stderr")
    command = [str(browser()), "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}"]
    return subprocess.run(
        [*command, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
