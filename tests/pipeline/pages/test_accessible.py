"""axe-core finds nothing but minor things on any page of the report, in light and in dark."""

import base64
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from e2e_lib.analysis.interpret.browser import Dictionary, write_browser
from pipeline.report import write_report
from tests.helpers.axe import checked
from tests.helpers.pages import RUNS, browser, hostile_results, png, put

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "results" / "reference"


def features(key: str) -> Dictionary:
    """Two features that fire, the second without an explanation."""
    context = [0, 1, [[1, 2.0], [2, 0.5]]]
    facts = {"score": 0.5, "f1": None, "share": 0.01, "most": 2.0, "contexts": [context]}
    shown = facts | {"bars": [3, 1], "raised": [["cat", 0.5]], "lowered": [["dog", -0.5]]}
    both = [shown | {"id": i, "label": label} for i, label in enumerate(("role = verb", ""))]
    objective, layer = key.split("-")
    facts = {"run": key, "objective": objective, "layer": int(layer), "alive": 2}
    return Dictionary(key, facts, both, torch.eye(2))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Everything that a results folder may hold."""
    folder = hostile_results(tmp_path / "results")
    (folder / "metrics.csv").write_text(RUNS)
    put(folder / "failed" / "x.json", {"name": "x", "error": "ValueError: no"})
    keys = ("local-2", "e2e-2", "e2e_ds-2")
    write_browser(folder, [features(key) for key in keys], torch.tensor([[0, 1, 2]]), str, "By n.")
    points = [f"2,p,{key},o,0,{i},0.1,{x},{i},{i}" for x, key in enumerate(keys) for i in (0, 1)]
    header = "layer,pair,run,objective,seed,latent,frequency,x,y,region"
    (folder / "figures" / "24_umap.csv").write_text("\n".join([header, *points]))
    formulas = "## One\n$$\\mathcal L=\\lVert c\\rVert_1$$ of $\\hat x$\n## Two\n[a link](x)"
    outputs = [
        new_output("stream", text="printed"),
        new_output("stream", name="stderr", text="warned"),
        new_output("display_data", {"image/png": base64.b64encode(png()).decode()}),
        new_output(
            "display_data", {"text/html": f"<table><tr>{80 * '<td>wide</td>'}</tr></table>"}
        ),
    ]
    code = "# why\nfor x in [1, 'a']:\n    print(f'{x:.2f}', None, @y)  # odd"
    cells = [new_markdown_cell("# Title"), new_markdown_cell(formulas)]
    cells += [new_code_cell(code, outputs=outputs), new_code_cell("study.figure('pareto', x)")]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "21_similar_ce.ipynb")
    (folder / "saes").symlink_to(REFERENCE / "saes")
    return folder


@pytest.mark.browser
@pytest.mark.skipif(browser() is None, reason="no chromium, chromium-browser or google-chrome")
def test_axe_finds_nothing_but_minor_things(results: Path, tmp_path: Path) -> None:
    write_report(results)
    names = ("index", "features", "live", "notebooks/21_similar_ce")
    pages = checked([results / f"{name}.html" for name in names], tmp_path / "profile")
    assert len(pages) == 2 * len(names)
    assert all({"color-contrast", "html-has-lang"} <= set(page["passed"]) for page in pages)
    found = [
        f"{page['page']}: {one['rule']} ({one['impact']}) at {one['selector']}: {one['why']}"
        for page in pages for one in page["found"] if one["impact"] != "minor"
    ]  # fmt: skip
    assert not found, "\n".join(found)
