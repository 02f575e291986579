"""The wrapper round papermill and the Snakemake graph, on small stand-in notebooks."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from e2e_lib.errors import ConfigError, DataError
from e2e_lib.files import write_json
from e2e_lib.runs.provenance import content_digest
from e2e_lib.runs.tables import metrics_table
from e2e_lib.source_code import code_cells, imported, notebook_digest
from pipeline.execution.executor import environment, snakemake_command
from pipeline.execution.fresh import maker, plan_digest, set_aside
from pipeline.execution.scrub import last_of_bars, scrub_text
from pipeline.plan.grid import jobs, start_job
from pipeline.plan.notebook_parameters import NOTEBOOKS
from pipeline.plan.profile import ROOT, load_profile
from pipeline.plan.stages import ALL_NOTEBOOKS, INTRODUCTIONS, PUBLISHED, stages
from pipeline.run import main as command_line
from pipeline.run import run
from pipeline.run_notebook import NotebookError, main, run_notebook
from tests.helpers.synthetic_results import write_results

PARAMETERS = "\n".join(
    [
        'results_folder: str = "results/x"  # where',
        "count: int = 3  # how many",
    ]
)

COEFFS = {"local": [5.1, 8.0, 12.0], "e2e": [0.4, 0.98, 1.9], "e2e_ds": [15.0, 30.0, 58.0]}


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook with a parameters cell and these code cells."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# A stand-in"),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, cells),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path


def test_success_leaves_marker_and_copy(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "a.ipynb", "import os, sys", "print(count * 2, os.getcwd())"
    )
    marker = run_notebook(notebook, tmp_path / "r", {"count": 21}, "a-1")
    facts = json.loads(marker.read_text())
    assert facts["name"] == "a-1" and facts["parameters"] == {"count": 21}
    executed = (tmp_path / "r" / "notebooks" / "a-1.ipynb").read_text()
    assert "42 ." in executed  # the kernel works in the project's root, whose name is scrubbed
    assert str(ROOT) not in executed and str(tmp_path) not in executed
    assert not list((tmp_path / "r" / "running").iterdir())


def test_unknown_parameter_fails_before_anything_runs(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "print(1)")
    with pytest.raises(ConfigError, match=r"cuont is no parameter of a\.ipynb.*count"):
        run_notebook(notebook, tmp_path / "r", {"cuont": 3})
    assert not (tmp_path / "r" / "notebooks" / "a.ipynb").exists()
    assert not (tmp_path / "r" / "done" / "a.json").exists()


@pytest.mark.parametrize("when", ["before", "while it runs"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_input_that_is_another_by_now_is_no_success(
    tmp_path: Path, when: str, kind: str
) -> None:
    """Stages before and after the change would be of two texts."""
    place = tmp_path / "text.txt" if kind == "file" else tmp_path / "data"
    text = place if kind == "file" else place / "train.txt"
    text.parent.mkdir(exist_ok=True)
    text.write_text("one")
    inputs = {"train_data": str(content_digest(str(place)))}
    change = f"open({str(text)!r}, 'w').write('two')"
    parameters = PARAMETERS + '\ntrain_data: str = ""'
    cell = change if when == "while it runs" else "open('never', 'w')"
    notebook = write_notebook(tmp_path / "a.ipynb", cell, parameters=parameters)
    if when == "before":
        text.write_text("two")
    results = tmp_path / "r"
    with pytest.raises(DataError, match="TRAIN has changed since the pipeline began"):
        run_notebook(notebook, results, {"train_data": str(place)}, inputs=inputs)
    assert not (results / "done" / "a.json").exists()
    assert "TRAIN has changed" in json.loads((results / "failed" / "a.json").read_text())["error"]
    assert (results / "notebooks" / "a.ipynb").exists() == (when == "while it runs")


FAILURES = {"ValueError": ("raise ValueError('λ is -1,\\nbut')", "λ is -1, but")}
FAILURES["SyntaxError"] = ("λ is = 1", "invalid syntax")


@pytest.mark.parametrize("kind", FAILURES)
def test_failure_is_one_sentence_and_leaves_no_marker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    source, words = FAILURES[kind]
    notebook = write_notebook(tmp_path / "a.ipynb", source)
    results = tmp_path / "r"
    (results / "done").mkdir(parents=True)
    (results / "done" / "a.json").write_text("{}")  # of an earlier success
    assert main([str(notebook), "--results", str(results)]) == 2
    said = capsys.readouterr().err
    assert f"a.ipynb, cell 2: {kind}: {words}" in said and len(said.splitlines()) == 1
    assert not (results / "done" / "a.json").exists()
    executed = results / "notebooks" / "a.ipynb"
    assert kind in executed.read_text() and str(tmp_path) not in executed.read_text()
    assert kind in json.loads((results / "failed" / "a.json").read_text())["error"]


def test_a_dead_kernel_is_noticed(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "import os; os._exit(1)")
    with pytest.raises(NotebookError, match=r"a\.ipynb"):
        run_notebook(notebook, tmp_path / "r", {})


def test_scrubbing_keeps_urls_relative_paths_and_fractions() -> None:
    home = Path.home()
    assert scrub_text(f"{ROOT}/results/x.csv") == "results/x.csv"
    assert scrub_text(f"in {home / 'x'} now") in ("in ~/x now", "in …/x now")
    assert scrub_text("/tmp/ipykernel_12/34.py:3: UserWarning") == "…/34.py:3: UserWarning"
    for kept in ("../data/x", "https://e.org/usr/lib/x", "1/2", "e2e / local", "tokens/s"):
        assert scrub_text(kept) == kept


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    def stream(name: str, text: str) -> dict[str, str]:
        return {"output_type": "stream", "name": name, "text": text}

    picture = {"output_type": "display_data", "data": {}}
    outputs = [
        stream("stderr", "\r 10%"),
        stream("stderr", "\r 90%"),
        stream("stderr", "\r100%\n"),
        stream("stdout", "a\nb\r\n"),
        picture,
    ]
    kept = [stream("stderr", "100%\n"), stream("stdout", "a\nb\r\n"), picture]
    assert last_of_bars(outputs) == kept


def test_stages_of_a_profile() -> None:
    profile = load_profile("workshop")
    todo = stages(profile, "results/x")
    training = [stage for stage in todo if stage.saes]
    # The middle layer's two seeds, one of each other layer; of topk two a rate.
    assert len(training) == 2 + 2 + 2 * 2
    assert sum(stage.saes for stage in training) == 3 * (5 * 2 + 3 + 3) + 3 * 2
    assert [s.seconds for s in training] == sorted((s.seconds for s in training), reverse=True)
    names = [stage.name for stage in todo]
    assert len(set(names)) == len(names)
    assert {stage.notebook for stage in todo} == set(ALL_NOTEBOOKS) - {PUBLISHED}
    for stage in todo:
        assert set(stage.after) <= set(names)
    one = next(stage for stage in training if stage.name == "10_train-layer1-seed0")
    assert one.parameters["hook"] == "blocks.1.hook_resid_pre" and one.parameters["seed"] == 0
    assert one.parameters["objectives"] == "local,e2e,e2e_ds"
    assert ";e2e:" in str(one.parameters["sparsity_coeffs"])
    tokens = {"local": 9000, "e2e": 5000, "e2e_ds": 5000}
    apart = stages(load_profile("smoke", {"train_tokens": tokens, "seeds": [0]}), "results/x")
    names = {stage.name for stage in apart if stage.saes and "layer" in stage.name}
    assert names == {"10_train-layer2-local-seed0", "10_train-layer2-e2e-e2e_ds-seed0"}


def test_stages_of_sweeps() -> None:
    sweeps = {
        "lr": {"values": [0.003, 0.01]},  # the second is the main grid's own
        "train_tokens": {"values": [20_000], "sparsity_coeffs": {"local": [3.0, 5.0]}},
        "warm_start": {"values": [10_000], "seeds": 2, "start": 12.0, "lr": 0.001},
        "null_scale": {"values": [8], "sparsity_coeffs": 1},
    }
    profile = load_profile("smoke", {"sweeps": sweeps, "sparsity_coeffs": COEFFS})
    todo = {s.name: s for s in stages(profile, "results/x")}
    assert {name for name in todo if name.startswith("10_train")} == {
        "10_train-layer2-seed0", "10_train-layer2-seed1", "10_train-lr0.003-seed0",
        "10_train-train_tokens20000-seed0", "10_train-warm_start10000-seed0",
        "10_train-warm_start10000-seed1", "10_train-null_scale8-seed0",
    }  # fmt: skip
    channel = todo["10_train-null_scale8-seed0"]
    assert channel.parameters["hook"] == "blocks.2.hook_resid_pre.null_8"
    assert channel.parameters["sparsity_coeffs"] == "local:8;e2e:0.98;e2e_ds:30"
    lr, tokens = (todo[f"10_train-{n}-seed0"] for n in ("lr0.003", "train_tokens20000"))
    assert (lr.parameters["lr"], lr.parameters["init_from"], lr.after) == (0.003, "", ())
    assert lr.parameters["sparsity_coeffs"] == "local:5.1,8,12;e2e:0.4,0.98,1.9;e2e_ds:15,30,58"
    assert (tokens.parameters["train_tokens"], tokens.saes) == (20_000, 2)
    assert tokens.parameters["sparsity_coeffs"] == "local:3,5"
    warm = todo["10_train-warm_start10000-seed1"]
    assert warm.after == ("10_train-layer2-seed1",)
    assert (warm.parameters["lr"], warm.parameters["objectives"]) == (0.001, "e2e,e2e_ds")
    assert str(warm.parameters["init_from"]).startswith("local-blocks.2.hook_resid_pre-l12-s1-")
    assert "10_train-warm_start10000-seed1" in todo["20_pareto"].after


def test_stages_of_objective_by_sparsifier() -> None:
    """What is fine-tuned comes after its start, of the same sparsifier, L0, place and seed."""
    sweeps = {
        "null_scale": {"values": [30], "sparsity_coeffs": 1},
        "sparsifiers": {
            "values": ["topk", "jumprelu"], "l0": [4, 8], "seeds": 1,
            "still": ["decoder", "random_weights"],
            "objectives": ["local", "e2e", "finetune"], "null_scale": [30], "start": {"local": 0.5},
            "finetune_tokens": 5000, "lr": {"topk": 0.003, "jumprelu": {"e2e": 0.001}},
        },
    }  # fmt: skip
    given = {"sparsity_coeffs": {"local": [3.0], "e2e": [0.5]}, "objectives": ["local", "e2e"]}
    profile = load_profile("smoke", given | {"sweeps": sweeps, "seeds": [0]})
    todo = {s.name: s for s in stages(profile, "results/x") if s.saes}
    own = {name.removeprefix("10_train-sparsifiers-"): s for name, s in todo.items()}
    jump = {f"jumprelu{k}-{o}-seed0" for k in (4, 8) for o in ("local", "e2e")}
    tuned = {"topk-4", "topk-8", "jumprelu-4", "jumprelu-8", "relu-l3"}
    tuned |= {"topk-8-null30", "relu-null30-l3"}
    assert set(own) == jump | {f"{one}-finetune-seed0" for one in tuned} | {
        "topk-seed0", "topk-decoder-seed0", "topk-random_weights-seed0", "topk-null30-seed0",
        "10_train-layer2-seed0", "10_train-null_scale30-seed0",
    }  # fmt: skip
    after = {one: own[f"{one}-finetune-seed0"].after for one in tuned}
    assert after["relu-l3"] == ("10_train-layer2-seed0",)
    assert after["relu-null30-l3"] == ("10_train-null_scale30-seed0",)
    assert after["topk-4"] == after["topk-8"] == ("10_train-sparsifiers-topk-seed0",)
    assert after["topk-8-null30"] == ("10_train-sparsifiers-topk-null30-seed0",)
    assert after["jumprelu-8"] == ("10_train-sparsifiers-jumprelu8-local-seed0",)
    first, still = own["topk-seed0"].parameters, own["topk-decoder-seed0"].parameters
    assert (first["sparsity_coeffs"], first["lr"]) == ("local:4,8;e2e:4,8", 0.003)
    assert (still["still"], still["sparsity_coeffs"]) == ("decoder", "local:8;e2e:8")
    assert own["topk-random_weights-seed0"].parameters["random_weights"] == 1
    steered = own["jumprelu8-local-seed0"].parameters
    assert (steered["target_l0"], steered["sparsity_coeffs"]) == (8.0, "local:0.5")
    assert own["jumprelu8-e2e-seed0"].parameters["lr"] == 0.001
    last = own["topk-8-finetune-seed0"].parameters
    assert (last["train_tokens"], last["objectives"], last["sparsity_coeffs"]) == (
        5000, "finetune", "finetune:8",
    )  # fmt: skip
    assert str(last["init_from"]).startswith("local-blocks.2.hook_resid_pre-topk8-s0-")
    plain = {s.name: s for s in stages(profile.but(sweeps={}), "results/x") if s.saes}
    assert plain == {name: todo[name] for name in plain}, "the main grid stays as it is"


def test_a_warm_start_names_the_run_that_the_notebook_makes() -> None:
    """The name is worked out before training: cells of 10_train must come to the same one."""
    todo = {s.name: s for s in stages(load_profile("smoke"), "results/x")}
    main, warm = todo["10_train-layer2-seed1"], todo["10_train-warm_start10000-seed1"]
    cells = code_cells(NOTEBOOKS / "10_train.ipynb")
    made: dict[str, Any] = {}
    exec(cells[0], made)
    made |= main.parameters
    for cell in cells[1:3]:  # the training, its configurations
        exec(cell, made)
    names = [made["training"].name(config) for config in made["configs"]]
    assert warm.parameters["init_from"] in names


def test_a_sweep_over_several_layers_names_them() -> None:
    given = {"lr": {"values": [0.5], "layers": [1, 3]}}
    todo = stages(load_profile("workshop", {"sweeps": given}), "results/x")
    named = {s.name for s in todo if "lr" in s.name}
    assert named == {"10_train-lr0.5-layer1-seed0", "10_train-lr0.5-layer3-seed0"}
    layer = {s.name: s.parameters["hook"] for s in todo if "lr" in s.name}
    assert layer["10_train-lr0.5-layer3-seed0"] == "blocks.3.hook_resid_pre"


def test_digest_follows_imports(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    (library / "sub").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "plots": "import math",
        "train": "from lib import hooks\nfrom lib.sub.words import x",
        "hooks": "def f():\n    import lib.late",
        "late": "",
        "sub/__init__": "",
        "sub/words": "x = 1",
    }.items():
        (library / f"{name}.py").write_text(text)
    found = {f.relative_to(library).as_posix() for f in imported("import lib.train", library)}
    assert {"train.py", "hooks.py", "late.py", "sub/words.py"} <= found
    assert "plots.py" not in found
    write_notebook(tmp_path / "n.ipynb", "import lib.train")
    before = notebook_digest(tmp_path / "n.ipynb", library)
    (library / "plots.py").write_text("import cmath")
    assert notebook_digest(tmp_path / "n.ipynb", library) == before
    (library / "late.py").write_text("# y = 2")
    assert notebook_digest(tmp_path / "n.ipynb", library) == before
    (library / "late.py").write_text("y = 2")
    changed = notebook_digest(tmp_path / "n.ipynb", library)
    assert changed != before
    (library / "sub" / "weights.bin").write_bytes(b"1")  # what a package loads is part of it
    assert notebook_digest(tmp_path / "n.ipynb", library) != changed


def test_a_damaged_notebook_has_a_digest(tmp_path: Path) -> None:
    """It will fail when it runs, and alone."""
    (tmp_path / "n.ipynb").write_text("<<<<<<< HEAD")
    assert notebook_digest(tmp_path / "n.ipynb") != notebook_digest(tmp_path / "none.ipynb")
    (tmp_path / "m.ipynb").write_text("<<<<<<< MAIN")
    assert notebook_digest(tmp_path / "n.ipynb") != notebook_digest(tmp_path / "m.ipynb")
    with pytest.raises(Exception, match="JSON"):
        run_notebook(tmp_path / "n.ipynb", tmp_path / "r", {"x": 1})
    assert "JSON" in json.loads((tmp_path / "r" / "failed" / "n.json").read_text())["error"]


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder with one stand-in for every notebook; training takes any parameter it is given."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    training = stages(load_profile("smoke"), "x")[0].parameters
    for name in ALL_NOTEBOOKS:
        known = training if name == "10_train" else {"results_folder": "x"}
        lines = "\n".join(f"{key}: {type(v).__name__} = {v!r}  # x" for key, v in known.items())
        write_notebook(folder / f"{name}.ipynb", "print(1)", parameters=lines)
    return folder


def snakemake(results: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the pipeline's Snakemake in `results`."""
    command = [part for part in snakemake_command(results, 2) if part not in ("--quiet", "rules")]
    return subprocess.run(
        [*command, *more], env=environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_graph_has_every_job(tmp_path: Path, stand_ins: Path) -> None:
    """One job a stage, and what Snakemake keeps stays in the results folder."""
    results = tmp_path / "results"
    results.mkdir()
    profile = load_profile("smoke", {"seeds": [0], "objectives": ["local"]})
    (results / "profile.json").write_text(profile.to_json(os.path.relpath(results, ROOT)))
    dry = snakemake(results, "--dry-run", "--config", f"notebooks={stand_ins}")
    assert dry.returncode == 0, dry.stderr
    jobs = len(stages(profile, "x")) + 3  # the table, the report, all
    assert any(line.split() == ["total", str(jobs)] for line in dry.stdout.splitlines())
    assert (results / ".snakemake").is_dir() and not (Path.cwd() / ".snakemake").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_failing_run_names_the_notebook_and_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make run` on data that does not exist: non-zero exit, one sentence, no table."""
    notebooks = Path(shutil.copytree(NOTEBOOKS, tmp_path / "notebooks"))
    texts = {"train_data": "no/such.jsonl", "validation_data": "no/other.jsonl"}
    chosen = {"objectives": ["local"], "seeds": [0], "train_tokens": 4096, "sweeps": {}, **texts}
    profile, results = load_profile("smoke", chosen), tmp_path / "results"
    for stage in stages(profile, os.path.relpath(results, ROOT)):
        if stage.notebook in INTRODUCTIONS:  # finished: they take minutes, whatever the data
            facts = {"name": stage.name, "plan": plan_digest(stage), "seconds": 1.0}
            code = notebook_digest(notebooks / f"{stage.notebook}.ipynb")
            write_json(results / "done" / f"{stage.name}.json", facts | {"code": code})
    assert run(profile, results, cores=2, notebooks=notebooks) == 1
    assert not (results / "notebooks" / f"{INTRODUCTIONS[0]}.ipynb").exists()
    error = capsys.readouterr().err
    assert "10_train-layer2-seed0 failed" in error and "jsonl" in error
    assert not (results / "done" / "10_train-layer2-seed0.json").exists()
    assert not (results / "metrics.csv").exists()
    assert "Not finished" in (results / "index.html").read_text()


def test_python_of_the_pipeline_is_this_one() -> None:
    assert snakemake_command(Path("x"), 1)[0] == sys.executable


def test_runs_of_other_settings_are_set_aside(tmp_path: Path) -> None:
    results = write_results(tmp_path, layers=(2,), seeds=(0, 1), weights=False)
    grids = {objective: [0.3, 1.0] for objective in ("local", "e2e", "e2e_ds")}
    same = {"lr": 1e-3, "downstream_coeff": 2.5, "dict_ratio": 10.0, "sparsity_coeffs": grids}
    same |= {"batch_size": 1, "micro_batch_size": 1, "context_size": 64}  # 400,000 in whole rows
    profile = load_profile("smoke", same | {"train_tokens": 400_000, "seeds": [1]})
    strangers = set_aside(results, profile)
    assert len(strangers) == 3 * 4 * 2 - 3 * 2
    assert {f.name for f in (results / "set_aside").iterdir()} == set(strangers)
    kept = metrics_table(results)
    assert set(kept["sparsity_coeff"]) == {0.3, 1.0} and set(kept["seed"]) == {1}
    assert set_aside(tmp_path / "nothing", profile) == []
    # A finished training whose SAE somebody deleted is not finished.
    marker = results / "done" / "10_train-layer2-seed1.json"
    write_json(marker, {})
    assert set_aside(results, profile) == [] and marker.exists()
    shutil.rmtree(results / "saes" / kept["run"][0])
    assert set_aside(results, profile) == [] and not marker.exists()


def test_a_sweep_of_beta_trains_e2e_ds_alone() -> None:
    given = {"downstream_coeff": {"values": [0.5, 2.5]}}  # the second is the main grid's
    profile = load_profile(
        "smoke", {"sweeps": given, "downstream_coeff": 2.5, "sparsity_coeffs": COEFFS}
    )
    [stage] = [s for s in stages(profile, "results/x") if s.name.startswith("10_train-downstream")]
    assert stage.name == "10_train-downstream_coeff0.5-seed0"
    assert (stage.parameters["objectives"], stage.parameters["downstream_coeff"]) == ("e2e_ds", 0.5)
    row = {
        "objective": "e2e_ds", "layer": 2, "seed": 0, "sparsity_coeff": 30.0, "init_from": "",
        "train_tokens": 40_960, "dict_ratio": 5.0, "lr": 0.01,
    }  # fmt: skip
    todo = jobs(profile)

    def found(beta: float) -> str:
        weights = {"kl_coeff": 0.5, "downstream_coeff": beta}
        config = {"objective": weights, "hook_names": ["blocks.2.hook_resid_pre"]}
        return maker(row | {"config": config}, profile, todo)

    assert (found(2.5), found(0.5), found(0.25)) == ("10_train-layer2-seed0", stage.name, "")


def test_runs_of_sweeps_are_wanted() -> None:
    sweeps = {"lr": {"values": [0.003]}, "warm_start": {"values": [20_000], "start": 8.0}}
    profile = load_profile("smoke", {"sweeps": sweeps, "sparsity_coeffs": COEFFS})
    row = {
        "objective": "e2e", "layer": 2, "seed": 0, "sparsity_coeff": 0.98, "train_tokens": 40_960,
        "dict_ratio": 5.0, "lr": 0.01, "init_from": "",
        "config": {
            "hook_names": ["blocks.2.hook_resid_pre"],
            "objective": {"kl_coeff": 1.0, "downstream_coeff": None},
        },
    }  # fmt: skip
    start = "local-blocks.2.hook_resid_pre-l8-s0-0a1b2c3d"
    warm = row | {"train_tokens": 19_456, "init_from": start}
    todo = jobs(profile)
    assert maker(row, profile, todo) == "10_train-layer2-seed0"
    assert maker(row | {"lr": 0.003}, profile, todo) == "10_train-lr0.003-seed0"
    assert maker(warm, profile, todo) == "10_train-warm_start20000-seed0"
    for other in (
        row | {"lr": 0.03},
        row | {"seed": 1, "lr": 0.003},  # the sweep has the first seed alone
        row | {"init_from": start},  # of the main run's tokens
        warm | {"init_from": ""},
        warm | {"init_from": start.replace("l8", "l12")},
        warm | {"objective": "local", "sparsity_coeff": 8.0},
    ):
        assert not maker(other, profile, todo), other


@pytest.mark.parametrize("name", ["sparsifiers", "storyworld"])
def test_the_runs_of_every_job_are_kept_when_the_pipeline_goes_on(name: str) -> None:
    """Sparsifiers that hold k have it for λ; a start is named by it."""
    profile = load_profile(name)
    todo = [job for job in jobs(profile) if job.training.seed == 0]
    for job in todo:
        names = {""}
        if first := start_job(todo, job):
            names = {first.training.name(c) for c in first.training.configs()}
            names = {n for n in names if re.match(rf"local-.*-[a-z]+{job.start:g}-s0-", n)}
        [start] = names
        for config in job.training.configs():
            told = json.loads(json.dumps(job.training.describe(config)))
            row = {"objective": told["objective_name"], "config": told, "k": told.get("k")}
            row |= {key: told[key] for key in ("seed", "train_tokens", "dict_ratio", "lr")}
            row |= {"sparsity_coeff": told["objective"]["sparsity_coeff"], "init_from": start}
            assert maker(row, profile, todo) == f"10_train-{job.label}"


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 4, "micro_batch_size": 4}, {"schedule": "linear"}, {"grad_clip": 1.0},
        {"warmup_fraction": 0.1}, {"ds_kl_coeff": 1.0}, {"downstream_coeff": 1.0},
        {"downstream_last_block": True}, {"threads": 2}, {"eval_tokens": 4096},
        {"precision": "bf16"}, {"processed": True}, {"prepend_bos": True},
        {"hook_point": "hook_mlp_out"}, {"random_weights": 1}, {"sparsifier": "jumprelu"},
        {"still": "decoder"}, {"target_l0": 6.0}, {"sparsity_warmup": 0.3}, {"dead_share": 0.2},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_no_run_of_another_value_of_any_parameter_is_kept(changed: dict[str, Any]) -> None:
    """Else its figures would mix both."""
    usual = {"sparsity_coeffs": COEFFS, "sweeps": {}}
    [job] = [j for j in jobs(load_profile("smoke", usual)) if j.label == "layer2-seed0"]
    config = next(c for c in job.training.configs() if c.objective.name == "e2e_ds")
    told = json.loads(json.dumps(job.training.describe(config)))
    row = {"objective": "e2e_ds", "layer": 2, "init_from": "", "config": told}
    row |= {key: told[key] for key in ("seed", "train_tokens", "dict_ratio", "lr")}
    row["sparsity_coeff"] = told["objective"]["sparsity_coeff"]
    same, other = (load_profile("smoke", usual | more) for more in ({}, changed))
    assert maker(row, same, jobs(same)) == "10_train-layer2-seed0"
    assert maker(row, other, jobs(other)) == ""


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_results_folder_that_cannot_be_written_to_ends_in_one_sentence(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    place.write_text("no folder")
    results = place if kind == "file" else place / "below"
    assert command_line(["--profile", "smoke", "--results", str(results)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: 'snakemake.log' cannot be written to the folder")
    assert "\n" not in said
    assert place.read_text() == "no folder"
