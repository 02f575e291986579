"""In how many places a parameter of training is written, and how the first cell of 10_train is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2e_lib.errors import ConfigError
from e2e_lib.source_code import code_cells
from pipeline.plan.notebook_parameters import NOTEBOOKS, check_parameters, training_cell
from pipeline.plan.profile import ROOT

TRAIN = "10_train.ipynb"
FIELD = "    momentum: Share = 0.9  # of Adam's first moment\n"
CLIP = "    grad_clip: OptionalPositive"
ADAM = "lr=config.lr, fused=True"
# What the copy of the project is asked: every way in, and whether the optimiser hears of it.
QUESTIONS = """
import torch
from e2e_lib.core.losses import named_objective
from e2e_lib.core.sae_run import SAERun
from e2e_lib.core.config import TrainConfig
from e2e_lib.errors import ConfigError
from e2e_lib.runs.experiment import Training
from pipeline.plan.notebook_parameters import NOTEBOOKS, check_parameters
from pipeline.plan.profile import load_profile
from pipeline.plan.stages import stages
from pipeline.run import parse_overrides
from tests.helpers.tiny_models import random_tokens, tiny_model

usual, chosen = (
    next(s for s in stages(load_profile("smoke", parse_overrides(given)), "x") if s.saes)
    for given in ([], ["momentum=0.5"])
)
assert chosen.parameters == usual.parameters | {"momentum": 0.5}
check_parameters(NOTEBOOKS / "10_train.ipynb", chosen.parameters)
first, second = (Training(**stage.parameters) for stage in (usual, chosen))
assert [t.configs()[0].momentum for t in (first, second)] == [0.9, 0.5]
assert first.name(first.configs()[0]) != second.name(second.configs()[0])
run = SAERun(tiny_model(), TrainConfig(named_objective("e2e", 1.0), ("blocks.1.hook_resid_pre",),
                                       dict_ratio=2.0, momentum=0.25),
             tokens=80, rows=random_tokens(4))
assert run.optimiser.param_groups[0]["betas"][0] == 0.25
for call in (
    lambda: Training(momentum=2.0),
    lambda: TrainConfig(named_objective("e2e", 1.0), ("a",), momentum=2.0),
    lambda: load_profile("smoke", parse_overrides(["momentum=2.0"])),
):
    try:
        call()
    except ConfigError as error:
        assert str(error) == "momentum is 2.0, but it must be a number in [0, 1].", error
    else:
        raise AssertionError("taken")
"""


def test_the_first_cell_of_10_train_is_made_of_the_dataclass() -> None:
    told = "python -m pipeline.plan.notebook_parameters writes it"
    assert code_cells(NOTEBOOKS / TRAIN)[0] == training_cell(), told


@pytest.mark.slow
def test_a_new_parameter_is_written_in_two_places(tmp_path: Path) -> None:
    """Its field, with type, rule, default and comment; and its use. The cell is made by command."""
    for name in ("e2e_lib", "pipeline", "tests", "notebooks", "pyproject.toml"):
        if (ROOT / name).is_dir():  # without what another process may be writing just now
            compiled = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=compiled)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    places = {
        "e2e_lib/core/config.py": (CLIP, FIELD + CLIP),
        "e2e_lib/core/sae_run.py": (ADAM, f"{ADAM}, betas=(config.momentum, 0.999)"),
    }
    for name, (old, new) in places.items():
        text = (tmp_path / name).read_text()
        assert text.count(old) == 1, name
        (tmp_path / name).write_text(text.replace(old, new))
    python([sys.executable, "-m", "pipeline.plan.notebook_parameters"], tmp_path)
    assert FIELD.strip().replace("Share", "float") in code_cells(tmp_path / "notebooks" / TRAIN)[0]
    python([sys.executable, "-c", QUESTIONS], tmp_path)


def python(command: list[str], project: Path) -> None:
    done = subprocess.run(
        command,
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_where_one_that_is_there_is_written() -> None:
    """`min_lr_factor`: field, use, what the authors' files call it, fine-tuning's 0, made cell."""
    lines = {
        path.relative_to(ROOT).as_posix(): count
        for room in ("e2e_lib", "pipeline", "notebooks")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".ipynb")
        and (count := sum("min_lr_factor" in line for line in path.read_text().splitlines()))
    }
    assert lines == {
        "e2e_lib/core/config.py": 2,
        "e2e_lib/finetune/tune.py": 1,
        "e2e_lib/runs/released.py": 2,
        f"notebooks/{TRAIN}": 1,
    }


def test_an_unknown_parameter_of_a_notebook_is_an_error_with_all_that_are_known() -> None:
    with pytest.raises(ConfigError) as caught:
        check_parameters(NOTEBOOKS / TRAIN, {"colour": "red"})
    sentence = str(caught.value)
    assert sentence.startswith("colour is no parameter of 10_train.ipynb; allowed are ")
    assert "objectives" in sentence and "min_lr_factor" in sentence


def test_what_a_reader_adds_to_the_cell_is_an_error_too() -> None:
    """Papermill is not asked there: the notebook hands every annotated name to `Training`."""
    names: dict[str, object] = {}
    parameters, opening = code_cells(NOTEBOOKS / TRAIN)[:2]
    exec(parameters + '\ncolour: str = "red"', names)
    with pytest.raises(ConfigError, match="colour is no parameter of Training; allowed are"):
        exec(opening, names)
