"""A profile's file may hold anything; what YAML 1.1 would make of numbers is what nobody wrote."""

from pathlib import Path
from typing import Any

import pytest

from e2e_lib.errors import ConfigError
from pipeline.plan import profile
from pipeline.plan.profile import PROFILES, load_profile, read_yaml
from pipeline.run import main, number_of_cores, parse_overrides
from tests.helpers.tiny_models import assert_sentence, model_folder

SMOKE = (PROFILES / "smoke.yaml").read_text(encoding="utf-8")
OWN = {"model": "storyworld", "train_data": "storyworld", "validation_data": "storyworld"}


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    monkeypatch.setattr(profile, "PROFILES", folder)
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "mine.yaml").write_bytes(raw)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is None, but it must be a mapping"),
        ("- model: storyworld\n", "must be a mapping"),
        ("storyworld", "is 'storyworld', but it must be a mapping"),
        (SMOKE.replace("  ", "\t"), "cannot be read (ScannerError"),
        (f"{SMOKE}\n---\nlr: 3\n", "cannot be read (ComposerError"),
        (f"{SMOKE}\nlr: 0.5\n", "the key lr is there twice"),
        (SMOKE.replace("  e2e: [0.3", "  local: [0.3"), "the key local is there twice"),
        (f"{SMOKE}\nthreads: !!python/name:os.system\n", "cannot be read (ConstructorError"),
        (b"\xff\xfe" + SMOKE.encode("utf-16-le")[:101], "cannot be read (UnicodeDecodeError"),
        (SMOKE.replace("seeds: [0, 1]\n", ""), "seeds is missing from the profile mine"),
        (SMOKE.replace("layers: [2]\n", ""), "layers is missing from the profile mine"),
    ],
)
def test_a_file_that_is_no_profile_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, words: str
) -> None:
    written(tmp_path, monkeypatch, content)
    with pytest.raises(ConfigError) as caught:
        load_profile("mine", OWN)
    assert_sentence(caught, "mine", words)


@pytest.mark.parametrize("layers", ["auto", "auto middle", "[2]", "3"])
@pytest.mark.parametrize("coeffs", ["auto 3 2", "{local: [1, 2], e2e: {2: [1, 3]}, e2e_ds: 7}"])
def test_a_model_of_ones_own_in_any_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: str, coeffs: str
) -> None:
    """What a file says of its own model is replaced, however it says it."""
    lines = [line for line in SMOKE.splitlines() if line[:6] not in ("layers", "sparsi")]
    grid = [line for line in lines if not line.startswith(("  local:", "  e2e"))]
    own = "\n".join([*grid, f"layers: {layers}", f"sparsity_coeffs: {coeffs}"])
    written(tmp_path, monkeypatch, own)
    monkeypatch.setattr(
        "pipeline.plan.model_size.activation_scales",
        lambda values, layers, _: dict.fromkeys(layers, 1),
    )
    texts = {"train_data": "storyworld", "validation_data": "storyworld", "objectives": ["local"]}
    found = load_profile("mine", {"model": str(model_folder("gpt2")), **texts})
    few = layers in ("auto middle", "[2]")
    counts = {layer: len(grid) for layer, grid in found.sparsity_coeffs["local"].items()}
    assert (len(counts) == 1) == few
    assert max(counts.values()) == (3 if coeffs.startswith("auto") else 2)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("010", 10), ("0100000", 100_000), ("-007", -7), ("0x10", 16), ("0o10", 8),
        ("1_000", 1000), ("1:30", "1:30"), ("1:40:00", "1:40:00"), ("190:20.5", "190:20.5"),
        ("2026-11-30", "2026-11-30"), ("1e-3", 0.001), ("-.5", -0.5), ("3.", 3.0),
        ("-.inf", -float("inf")), ("08", 8), ("1.5e400", float("inf")),
    ],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_2(word: str, value: Any) -> None:
    assert read_yaml(f"a: [{word}]") == {"a": [value]}
    assert type(read_yaml(word)) is type(value)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("sparsity_coeffs={local: [1], local: [2], e2e: [1], e2e_ds: [1]}", ["key local"]),
        ("sweeps={lr: {values: [1e-3], values: [2e-3]}}", ["key values", "twice"]),
        ("train_tokens=1:40:00", ["train_tokens of local is '1:40:00'"]),
        ("seeds=[1:30]", ["seeds is ['1:30']"]),
        ("train_tokens={local: 1e5, e2e: 1e5, e2e_ds: 1e5, e2e_sd: 3}", ["key is 'e2e_sd'"]),
        ("lr={local: 1, e2e: 1, e2e_ds: 1, finetune: 1}", ["lr key is 'finetune'"]),
    ],
)
def test_what_is_said_twice_or_of_nothing(setting: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("smoke", parse_overrides([setting]))
    assert_sentence(caught, *parts)


def test_a_rate_of_an_objective_that_is_left_out_may_stand() -> None:
    rates = {"lr": {"local": 1e-3, "e2e": 2e-3, "e2e_ds": 3e-3}, "objectives": ["local", "e2e"]}
    assert load_profile("smoke", rates | {"sweeps": {}}).lr == {"local": 1e-3, "e2e": 2e-3}


@pytest.mark.parametrize("word", ["0123456", "1e5", "2026-11-30", "true", "7"])
def test_a_revision_is_its_letters(word: str) -> None:
    found = load_profile("smoke", parse_overrides([f"model_revision={word}"]))
    assert found.training.model_revision == word


@pytest.mark.parametrize("name", ["../profiles/smoke", "./smoke", "smoke.yaml", "smoke/", ""])
def test_a_profile_is_named_and_no_path(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--profile", name, "--results", str(tmp_path / "x")]) == 2
    assert f"PROFILE is {name!r}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["²", "1²", "½"])
def test_no_number_of_cores(text: str) -> None:
    with pytest.raises(ConfigError, match=f"CORES is '{text}'"):
        number_of_cores(text)
