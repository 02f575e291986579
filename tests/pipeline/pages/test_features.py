"""The page of features: addresses lead where they should, sorting and searching are right."""

import json
from pathlib import Path

import pytest
import torch

from e2e_lib.analysis.interpret.browser import Dictionary, write_browser
from e2e_lib.errors import ResultsError
from pipeline.pages.features import EDGE, HEIGHT, WIDTH, write_features
from pipeline.pages.render import PAGES
from tests.helpers.javascript import Script
from tests.helpers.pages import Page, put

DICTIONARIES = [
    {"key": f"{name}-{layer}", "run": f"{name}-run.{layer}", "objective": name, "layer": layer}
    for layer in (1, 2, 3) for name in ("local", "e2e", "e2e_ds")
]  # fmt: skip
TEXT = {"words": ["the", "Cat", "sat", "dog"], "rows": {"7": [0, 1, 2], "9": [0, 3, 2]}}
FEATURES = [
    {"id": 4, "label": "role = verb", "score": 0.2, "contexts": [[7, 1, []]], "raised": []},
    {"id": 11, "label": "", "score": None, "contexts": [[9, 1, []]], "raised": [["sat", 1]]},
    {"id": 2, "label": "kind = pet", "score": 0.9, "contexts": [[9, 2, []]], "raised": []},
]


@pytest.fixture(scope="module")
def script() -> Script:
    made = Script(PAGES / "features.js")
    made.set("all", DICTIONARIES)
    made.set("text", TEXT)
    made.set("features", FEATURES)
    return made


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("#local-17", {"key": "local-2", "id": 17}),
        ("#local-1", {"key": "local-2", "id": 1}),
        ("#e2e_ds-0-3", {"key": "e2e_ds-3", "id": 0}),
        ("#e2e-run.1", {"key": "e2e-1", "id": None}),
        ("#e2e-run%2E1", {"key": "e2e-1", "id": None}),
        ("#local-17-9", None),
        ("#<img>", None),
        ("#%", None),
        ("", None),
    ],
)
def test_an_address_leads_to_a_feature(
    script: Script, address: str, found: dict[str, object] | None
) -> None:
    script.set("address", address)
    assert script("target(address, all, 2)") == found


@pytest.mark.parametrize(
    ("query", "order", "ids"),
    [
        ("", "score", [2, 4, 11]),
        ("", "id", [2, 4, 11]),
        ("", "label", [2, 4, 11]),
        ("dog", "score", [11]),
        ("CAT", "score", [4]),
        ("sat", "id", [2, 11]),
        ("verb role", "score", [4]),
        ("11", "score", [11]),
        ("zebra", "score", []),
    ],
)
def test_features_are_sorted_and_searched(
    script: Script, query: str, order: str, ids: list[int]
) -> None:
    script.set("query", query)
    assert script(f"listed(features, query, '{order}', text).map((one) => one.id)") == ids


def test_the_page_reads_what_the_library_writes(script: Script, tmp_path: Path) -> None:
    contexts = [[7, 1, [[0, 0.5], [1, 2.0]]], [9, 2, []]]
    facts = {"label": "", "contexts": contexts, "raised": [["cat", 1.0], ["dog", 0.5]]}
    own = [facts | {"id": i, "lowered": [["cat", -1.0]]} for i in (3, 5)]
    made = [Dictionary(key, {"layer": 2}, own, torch.eye(2)) for key in ("local-2", "e2e-2")]
    write_browser(tmp_path, made, torch.zeros(10, 4, dtype=torch.int64), str, "")
    text = (tmp_path / "site" / "features_local-2.js").read_text(encoding="utf-8")
    script.set("written", json.loads(text.partition(" = ")[2].rstrip(";\n")))
    for i, (seen, true) in enumerate(zip(script("unfolded(written)"), own, strict=True)):
        assert seen == true | {"near": [[[own[i]["id"], 1], [own[1 - i]["id"], 0]]]}


def mapped(folder: Path, *rows: str) -> str:
    """The page of three dictionaries and of a map with these rows."""
    put(folder / "site" / "features.json", {"about": "", "dictionaries": DICTIONARIES[:3]})
    for one in DICTIONARIES[:3]:
        (folder / "site" / f"features_{one['key']}.js").touch()
    (folder / "figures").mkdir(exist_ok=True)
    header = "layer,pair,run,objective,seed,latent,frequency,x,y,region"
    (folder / "figures" / "24_umap.csv").write_text("\n".join([header, *rows]))
    made = write_features(folder)
    page = (folder / made.file).read_text(encoding="utf-8")
    assert bool(made.figures) == ("sides" in page), "the report links what is there"
    return page


def test_every_point_of_a_map_leads_to_its_feature(script: Script, tmp_path: Path) -> None:
    page = mapped(
        tmp_path,
        "1,e2e - local,e2e-run.1,e2e,0,17,0.1,-2,8,0",
        "1,e2e - local,e2e-run.1,e2e,0,3,0.1,2,4,2",
        "1,e2e - local,local-run.1,local,0,5,0.1,0,6,0",
        "9,e2e - local,not on the page,e2e,0,5,0.1,0,6,0",
    )
    index = json.loads(page.partition('id="index">')[2].partition("</script>")[0])
    [own] = index["maps"]
    assert own["name"] == "e2e and local, layer 1"
    right, bottom = WIDTH - EDGE, HEIGHT - EDGE
    script.set("map", own)
    points = script("pointsOf(map)")
    assert points == [  # the largest y is at the top
        {"key": "e2e-1", "id": 17, "x": EDGE, "y": EDGE, "region": 0},
        {"key": "e2e-1", "id": 3, "x": right, "y": bottom, "region": 2},
        {"key": "local-1", "id": 5, "x": WIDTH // 2, "y": HEIGHT // 2, "region": 0},
    ]
    script.set("points", points)
    for start, arrow, end in (
        (0, "ArrowRight", 2), (2, "ArrowRight", 1), (2, "ArrowLeft", 0), (1, "ArrowLeft", 2),
        (0, "ArrowLeft", 0), (0, "ArrowDown", 0), (1, "ArrowUp", 1),
    ):  # fmt: skip
        assert script(f"points.indexOf(beyond(points, points[{start}], '{arrow}'))") == end
    for one in points:
        script.set("address", f"#{one['key'].partition('-')[0]}-{one['id']}-1")
        found = script("target(address, all, 2)")
        assert found == {"key": one["key"], "id": one["id"]}


def test_a_page_without_a_map_has_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert '"maps":[]' in mapped(tmp_path, "9,e2e - local,not on the page,e2e,0,5,0.1,0,6,0")
    one = mapped(tmp_path, "1,e2e - local,e2e-run.1,e2e,0,17,0.1,-2,8,0")
    assert f'"points":[17,{EDGE},{EDGE},0]' in one
    for row in (
        "1,e2e - local,e2e-run.1,e2e,0,17,0.1,nan,8,0",
        "1,2",
        "1,a,e2e-run.1,e,0,x,,1,1,0",
    ):
        with pytest.raises(ResultsError, match=r"'figures/24_umap\.csv' is damaged"):
            mapped(tmp_path, row)


def test_the_page_has_labels_and_its_neighbours_alone(tmp_path: Path) -> None:
    put(tmp_path / "site" / "features.json", {"about": "", "dictionaries": DICTIONARIES})
    for one in DICTIONARIES[:-1]:
        (tmp_path / "site" / f"features_{one['key']}.js").touch()
    made = write_features(tmp_path)
    assert list(made.runs) == [one["run"] for one in DICTIONARIES[:-1]], "whose data are there"
    page = Page((tmp_path / made.file).read_text(encoding="utf-8"))
    fields = {tag["id"] for name in ("input", "select") for tag in page.all(name)}
    assert fields == {tag["for"] for tag in page.all("label")}
    assert [one["value"] for one in page.all("option") if "selected" in one] == ["local-2"]
    outside = [str(tag["src"]) for tag in page.all("script") if "src" in tag]
    assert outside == [f"site/{name}.js" for name in ("features_text", "page", "features")]
    for name in ("page.js", "features.js"):
        assert "innerHTML" not in (tmp_path / "site" / name).read_text(encoding="utf-8")


def test_without_data_it_is_said_why(tmp_path: Path) -> None:
    (tmp_path / "features.html").touch()
    made = write_features(tmp_path)
    assert not made.file and "notebook 28" in made.text
    assert not (tmp_path / "features.html").exists()
