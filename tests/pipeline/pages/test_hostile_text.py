"""What others wrote, or must not read: HTML, network addresses, keys, and unsafe loaders."""

import ast
import base64
import json
import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from e2e_lib.analysis.interpret import endpoint
from e2e_lib.analysis.interpret.explainers import Message
from e2e_lib.analysis.interpret.protocol import UnreachableError
from e2e_lib.runs import tables as runs
from pipeline.execution.scrub import scrub_text
from pipeline.pages.features import write_features
from pipeline.pages.notebook_html import write_notebook_html
from pipeline.plan.profile import ROOT
from pipeline.report import write_report
from pipeline.run_notebook import NotebookError, run_notebook
from tests.helpers.hostile import batch, changed_bytes, changed_value, json_text, survives
from tests.helpers.pages import EVIL, Page, png, put
from tests.helpers.run_folders import NEW, write_run
from tests.helpers.tiny_models import model_folder, small_sae

KEY = "sk-this-is-a-secret-0123456789"
SOURCES = sorted([*(ROOT / "e2e_lib").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# ------------------------------------------------------------------ HTML
MARKUP = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from([
            "<script>", "</script>", "<img src=x onerror=alert(1)>", "</main>", "&lt;", "&#60;",
            "'", '"', ">", "<", "<!--", "-->", "]]>", "\0", "\n", "\r", "\u202e", "</span>",
            "javascript:", "<b", "=", "`", "1.5", "é",
        ]),
        max_size=6,
    ).map("".join),
)  # fmt: skip


class Outline(HTMLParser):
    """Tags with the names of their attributes, and what an attacker would add."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(" ".join([tag, *(name for name, _ in attrs)]))

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")


def features(folder: Path, text: str) -> str:
    """The page of features with `text` wherever a results folder may hold one."""
    facts = {"run": text, "objective": text, "layer": 2, "l0": 1.0}
    put(
        folder / "site" / "features.json", {"about": text, "dictionaries": [facts | {"key": "a-2"}]}
    )
    (folder / "site" / "features_a-2.js").touch()
    return (folder / write_features(folder).file).read_text(encoding="utf-8")


@batch(40)
@given(MARKUP)
def test_the_page_of_features_holds_text_and_no_markup_of_it(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "features"
    assert Outline(features(folder, text)).tags == Outline(features(folder, "word")).tags


def report(folder: Path, text: str) -> str:
    """A report whose every text is `text`."""
    texts = dict.fromkeys(("title", "alt", "caption", "paper", "reason", "error", "claim"), text)
    for kind in ("figures", "tables", "skipped", "failed"):
        put(folder / kind / "a.json", {"name": text, **texts})
    row = ",".join(f'"{cell}"' for cell in [text.replace('"', '""')] * 2)
    (folder / "tables" / "a.csv").write_text(f"{row}\n{row}\n", encoding="utf-8", newline="")
    claim = {"id": text, "value": text, "low": text, "high": text, "n": text, "verdict": text}
    put(folder / "claims.json", [claim | texts | {"how": text, "paper_value": text}])
    put(folder / "profile.json", {"name": text, "model": text, text: text})
    origin = {"commit": text, "cpu": text, "packages": {text: text}}
    put(folder / "saes" / "r" / "run.json", {"status": "ok", "provenance": origin})
    return write_report(folder).read_text(encoding="utf-8")


@batch(150)
@given(MARKUP.filter(lambda text: not set("\0\r\n") & set(text) and text not in ("name", "model")))
def test_reports_hold_text_and_no_markup_of_it(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "escaped"
    text = text.encode("utf-8", "replace").decode() or "x"
    assert Outline(report(folder, text)).tags == Outline(report(folder, "word")).tags


@pytest.mark.parametrize("text", ["<b>", "<script>alert(1)</script>", "<i>1.5", "&"])
def test_a_cell_of_a_table_is_escaped_with_a_dot_in_it_and_without(
    tmp_path: Path, text: str
) -> None:
    put(tmp_path / "tables" / "a.json", {"title": "t"})
    (tmp_path / "tables" / "a.csv").write_text(f"{text},1.5\n{text},1.5\n", encoding="utf-8")
    assert f"<td>{escape(text)}</td><td>1.5</td>" in write_report(tmp_path).read_text()


def test_a_page_or_notebook_cannot_be_named_into_a_script(tmp_path: Path) -> None:
    name = "javascript:alert('1')"
    (tmp_path / f"{name}.html").write_text("<title></title>")
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(), tmp_path / "notebooks" / f"{name}.ipynb")
    links = [a["href"] or "" for a in Page(write_report(tmp_path).read_text()).all("a")]
    assert len([link for link in links if "alert" in link]) == 3
    assert not any(link.startswith("javascript:") for link in links)


def test_a_figure_cannot_fetch_a_file_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = tmp_path / "results"
    put(folder / "figures" / "a.json", {"name": "../../secret", "title": "t"})
    (folder / "figures" / "a.png").write_bytes(png())
    page = Page(write_report(folder).read_text())
    assert [image["src"] for image in page.all("img")] == ["figures/a.png"]


def test_outputs_of_an_executed_notebook_are_escaped(tmp_path: Path) -> None:
    """Printed tokens, tables of them, error messages, a title and the alt text of a picture."""
    table = pd.DataFrame({"token": [EVIL], EVIL: [1]})
    error = new_output("error", ename=EVIL, evalue=EVIL, traceback=[f"\x1b[31m{EVIL}\x1b[0m"])
    picture = new_output(
        "display_data",
        {"image/png": base64.b64encode(png()).decode()},
        metadata={"image/png": {"alt": EVIL}},
    )
    shown = {"text/html": table.to_html(), "text/plain": repr(table)}
    outputs = [
        new_output("stream", name="stdout", text=EVIL),
        new_output("execute_result", {"text/plain": EVIL}),
        new_output("display_data", shown), error, picture,
    ]  # fmt: skip
    cells = [new_markdown_cell("# Tokens"), new_code_cell("x", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    page = Page(write_notebook_html(tmp_path / "a.ipynb").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert [image["alt"] for image in page.all("img")] == [EVIL]


# ------------------------------------------------------------------ damaged results
TEXTS = {"name": "p", "title": "t", "alt": "a", "caption": "c", "paper": "p"}
REPORTED = {
    "figures/p.json": TEXTS, "tables/t.json": TEXTS, "skipped/s.json": {"name": "s", "reason": "r"},
    "failed/f.json": {"name": "f", "error": "e"}, "profile.json": {"name": "x", "model": "y"},
    "claims.json": [{"id": "C1", "value": 1.0, "low": 0.5, "high": 2, "verdict": "holds"}],
}  # fmt: skip


@pytest.mark.usefixtures("without_type_checks")
@batch(300)
@given(st.data())
def test_reports_of_damaged_folders(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "reported"
    for name, facts in REPORTED.items():
        put(folder / name, facts)
    (folder / "tables" / "t.csv").write_text("a,b\n1,2.5\n")
    name = data.draw(st.sampled_from([*REPORTED, "tables/t.csv"]))
    sound = (folder / name).read_bytes()
    damaged = changed_bytes(sound)
    if name in REPORTED:
        changed = changed_value(REPORTED[name]).map(lambda value: json_text(value).encode())
        damaged = changed | damaged
    (folder / name).write_bytes(data.draw(damaged))
    survives(write_report, folder)


# ------------------------------------------------------------------ the network
OFFLINE = """
import importlib, os, pkgutil, socket, sys
from pathlib import Path

asked = []

def refuse(kind):
    def call(*arguments, **options):
        if kind != "connect" or arguments[0].family in (socket.AF_INET, socket.AF_INET6):
            asked.append(f"{kind} {arguments[-2:]}")
        raise OSError("this test has no network")
    return call

socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect")
socket.getaddrinfo = refuse("getaddrinfo")
socket.create_connection = refuse("create_connection")

import e2e_lib, pipeline
modules = [
    module.name for package in (e2e_lib, pipeline)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # a plug-in of a cluster that is not installed
        assert error.name.split(".")[0] not in ("e2e_lib", "pipeline"), error

import warnings
warnings.simplefilter("ignore")
from e2e_lib.data.rows import load_rows
from e2e_lib.core.evaluate import evaluate
from e2e_lib.data.models import load_model
from e2e_lib.runs.released import read_released, released_paths
from e2e_lib.core.sae import SAE
from pipeline.plan.pins import pinned
from pipeline.plan.profile import load_profile
from pipeline.report import write_report

folder, text, release, results = map(Path, sys.argv[1:])
for name, source, hook in (
    ("storyworld", "storyworld", "blocks.2.hook_resid_pre"),
    (str(folder), str(text), "blocks.1.hook_resid_pre"),
):
    model = load_model(name)
    rows = load_rows(model, source, source, n_train=4, n_validation=2, context_size=8)
    sae = SAE(model.cfg.d_model, 8)
    evaluate(model, [{hook: sae.eval()}], rows.validation)
assert read_released(released_paths(str(release))[0])
profile = load_profile("smoke")
assert pinned(profile, results) == profile
own = {"model": str(folder), "train_data": str(text), "validation_data": str(text)}
own |= {"sparsity_coeffs": {"local": [1.0], "e2e": [1.0], "e2e_ds": [1.0]}, "context_size": 8}
assert pinned(load_profile("smoke", own), results).training.model == str(folder)
write_report(results)
print(len(modules), "modules;", "asked:", asked)
"""


@pytest.mark.slow
def test_nothing_is_contacted_unless_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every module, StoryWorld, local models, texts and SAEs, without being told to be offline."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    text = tmp_path / "words.txt"
    text.write_text("".join(f"w{i % 25 + 1} w{i % 7 + 1} w3 w{i // 25 + 1}\n" for i in range(400)))
    release, results = tmp_path / "res_sll-ajt", tmp_path / "results"
    small_sae().save(release / "blocks.6.hook_resid_pre", {"hook_name": "blocks.6.hook_resid_pre"})
    put(results / "profile.json", {"name": "x"})
    arguments = [str(path) for path in (model_folder("gpt2"), text, release, results)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(r"\d+ modules; asked: \[\]", done.stdout.strip().splitlines()[-1])
    assert int(done.stdout.strip().splitlines()[-1].split()[0]) > 60


# ------------------------------------------------------------------ keys
LEAKY = """import os

key = os.environ["E2E_OPENAI_API_KEY"]
print("the key is", key)
print("and again", key, file=__import__("sys").stderr)
key"""


@pytest.mark.slow
def test_a_key_that_a_cell_prints_stays_out_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs, the error message and its traceback, the record of the failure, the pages."""
    monkeypatch.setenv("E2E_OPENAI_API_KEY", KEY)
    notebook = tmp_path / "a.ipynb"
    cells = [
        new_code_cell("x: int = 1  # none", metadata={"tags": ["parameters"]}),
        new_code_cell(LEAKY),
        new_code_cell('raise ValueError(f"refused: {key}")'),
    ]
    made = new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(made, notebook)
    results = tmp_path / "results"
    with pytest.raises(NotebookError) as caught:
        run_notebook(notebook, results, {})
    assert KEY not in str(caught.value)
    write_report(results)
    files = [path for path in results.rglob("*") if path.is_file()]
    assert {"a.ipynb", "a.html", "a.json", "index.html"} <= {path.name for path in files}
    assert not [path.name for path in files if KEY.encode() in path.read_bytes()]
    assert "the key is [secret]" in (results / "notebooks" / "a.ipynb").read_text()


@pytest.mark.parametrize("name", ["E2E_OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "MY_PASSWORD"])
def test_values_of_secret_variables_are_scrubbed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, KEY)
    assert scrub_text(f"Bearer {KEY}!") == "Bearer [secret]!"
    monkeypatch.setenv(name, "short")  # would be found in half of all texts
    assert scrub_text("a short text") == "a short text"


def test_a_key_reaches_no_record_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from e2e_lib.analysis.claims.checklist import checklist
    from e2e_lib.runs.provenance import provenance, this_code

    monkeypatch.setenv("E2E_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert KEY not in json.dumps(provenance()) + this_code()
    write_run(tmp_path, "a", origin=NEW)
    assert KEY not in checklist(tmp_path).to_csv() + runs.metrics_table(tmp_path).to_csv()


def test_a_key_reaches_no_error_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = endpoint.Endpoint("http://127.0.0.1:9/v1", "m", KEY, retries=0, timeout=1.0)
    message: Message = {"role": "user", "content": "hello"}
    with pytest.raises(UnreachableError) as caught:
        asked([message], 5)
    assert KEY not in str(caught.value) + repr(asked) + repr(caught.value)
    for bad in (f"{KEY}\n", f"{KEY}é"):
        with pytest.raises(ValueError, match="API_KEY") as wrong:
            endpoint.Endpoint("http://127.0.0.1:9/v1", "m", bad)
        assert KEY not in str(wrong.value)


# ------------------------------------------------------------------ loaders
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.full_load", "yaml.unsafe_load"),
    *("yaml.load_all", "yaml.unsafe_load_all", "pd.read_pickle", "pd.read_html", "pd.read_xml"),
    *("np.fromfile", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
}


def unsafe(source: str) -> list[str]:
    """What in a source could run or fetch what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [n for n in names if n and n.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            bad = name in FORBIDDEN_CALLS
            bad |= name == "torch.load" and options.get("weights_only") != "True"
            bad |= (
                name in ("np.load", "numpy.load")
                and options.get("allow_pickle", "False") != "False"
            )
            bad |= options.get("shell") == "True" or options.get("trust_remote_code") == "True"
            found += [ast.unparse(node)[:80]] if bad else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "torch.load(p)", "yaml.load(t)", "eval(x)",
        "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "run(c, shell=True)",
        "load_dataset(n, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_counts_as_unsafe(source: str) -> None:
    assert unsafe(source)


def test_no_source_and_no_notebook_loads_anything_unsafely() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in SOURCES}
    for path in NOTEBOOKS:
        cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        sources[path.name] = "\n".join(cells)
    assert len(sources) > 80
    assert {name: found for name, text in sources.items() if (found := unsafe(text))} == {}


def test_weights_are_read_from_safetensors_or_the_restricted_reader_alone() -> None:
    text = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in SOURCES}
    assert [name for name, source in text.items() if "torch.load(" in source] == [
        "e2e_lib/data/formats/tensors.py"
    ]
