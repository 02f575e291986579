"""Two results folders that ought to be the same, and a real pipeline killed again and again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from e2e_lib.errors import ResultsError
from pipeline.same import compare, main
from tests.helpers.tiny_models import assert_sentence

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
WEIGHTS = "sae_weights.safetensors"


def large(folder: str, names: list[str]) -> list[str]:
    """Tables that take long to read."""
    places = [Path(folder, name) for name in names]
    return [p.name for p in places if p.suffix == ".csv" and p.stat().st_size > 10_000]


@pytest.fixture
def folders(tmp_path):
    """Two copies of a part of the reference."""
    for name in "ab":
        folder = tmp_path / name
        for part in ("figures", "tables", "skipped"):
            shutil.copytree(REFERENCE / part, folder / part, ignore=large)
        for part in ("metrics.csv", "claims.json"):
            shutil.copy(REFERENCE / part, folder)
        run = next(p.parent for p in sorted(REFERENCE.glob(f"saes/*/{WEIGHTS}")))
        shutil.copytree(run, folder / "saes" / run.name)
    return tmp_path / "a", tmp_path / "b"


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def run_of(folder: Path) -> Path:
    return next(folder.glob("saes/*"))


def test_what_a_clock_says_may_differ(folders, capsys):
    one, other = folders
    table = pd.read_csv(other / "metrics.csv")
    table.assign(train_seconds=table["train_seconds"] * 2).to_csv(
        other / "metrics.csv", index=False
    )
    edit_json(other / "claims.json", lambda claims: [
        c.update(value=9.0) for c in claims if c["id"] == "C8a"
    ])  # fmt: skip
    metrics = run_of(other) / "metrics.json"
    edit_json(metrics, lambda m: [s.update(train_seconds=1.5) for s in m["saes"].values()])
    (other / "figures" / "30_cost_ratio.csv").write_text("a\n1\n")
    different, same = compare(one, other)
    assert different == []
    assert same > 100
    assert main([str(one), str(other)]) == 0
    assert "0 are not" in capsys.readouterr().out


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("saes/*/sae_weights.safetensors", flip),
        ("figures/20_pareto.png", flip),
        ("claims.json", lambda p: edit_json(p, lambda c: c[0].update(why="other"))),
        ("saes/*/metrics.json", lambda p: edit_json(p, lambda m: m.update(blocks=[]))),
        ("metrics.csv", lambda p: p.write_text(p.read_text().replace("0.2", "0.3", 1))),
        ("saes/*/curve.csv", lambda p: p.write_text(p.read_text().replace("0", "1", 1))),
    ],
)
def test_anything_else_is_named(folders, capsys, place, change):
    one, other = folders
    [path] = other.glob(place)
    change(path)
    name = path.relative_to(other).as_posix()
    assert compare(one, other)[0] == [f"{name} differs"]
    assert main([str(one), str(other)]) == 1
    assert f"{name} differs" in capsys.readouterr().out


def test_a_missing_file_is_named(folders):
    one, other = folders
    (other / "tables" / "24_chance.csv").unlink()
    assert compare(one, other)[0] == ["tables/24_chance.csv is in one of them alone"]


def test_bad_folders(folders, tmp_path, capsys):
    one, other = folders
    with pytest.raises(ResultsError) as caught:
        compare(one, tmp_path / "nowhere")
    assert_sentence(caught, "nowhere", "metrics.csv")
    (other / "claims.json").write_text("[{")
    assert main([str(one), str(other)]) == 2
    assert "'claims.json' is no JSON" in capsys.readouterr().err
    assert main([str(one)]) == 2


# ------------------------------------------------------------------ the real pipeline, killed
def pipeline(results: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline.run", "--profile", "smoke", "--cores", "2"]
    return subprocess.Popen(
        [*command, "--results", str(results)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


@pytest.mark.skipif("E2E_KILLS" not in os.environ, reason="E2E_KILLS=30 kills as often: 12 minutes")
def test_a_killed_pipeline_ends_with_the_same(tmp_path):
    """kill -9 at random moments of the smoke profile, and nothing done but starting it again."""
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    assert pipeline(whole).wait() == 0
    wanted, chance, kills = int(os.environ["E2E_KILLS"]), random.Random(3), 0
    while kills < wanted:
        process = pipeline(hurt)
        time.sleep(chance.uniform(4, 22))
        assert process.poll() is None, f"it came to its end after {kills} kills"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert pipeline(hurt).wait() == 0
    different, same = compare(whole, hurt)
    assert different == []
    assert same > 100
