"""What training would refuse is refused before anything starts; and one place decides one thing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from safetensors.torch import load_file, save_file

from e2e_lib.data.models import load_model
from e2e_lib.data.rows import load_rows
from e2e_lib.engine.model.probes import activation_scale
from e2e_lib.errors import ConfigError, DataError, ModelError
from e2e_lib.names import parse_sparsity_coeffs
from e2e_lib.runs.experiment import Training
from e2e_lib.runs.provenance import content_digest
from pipeline.plan.grid import jobs
from pipeline.plan.model_size import auto_grid
from pipeline.plan.notebook_parameters import NOTEBOOKS, notebook_types
from pipeline.plan.preflight import check_amounts
from pipeline.plan.profile import load_profile, read_yaml
from pipeline.plan.stages import WITH_SEED, stages
from pipeline.run import main, parse_overrides
from tests.helpers.tiny_models import assert_sentence, copied_folder, model_folder, write_jsonl

ALL = ["local", "e2e", "e2e_ds"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["layers=[4]", "middle_layer=4"], ["layers is [4]", "below 4", "downstream_last_block"]),
        (["layers=[2, 4]"], ["layers is [2, 4]", "e2e_ds", "objectives"]),
        (["dict_ratio=0.001"], ["dict_ratio is 0.001", "at least 1/64"]),
        (["dict_ratio=1e8"], ["dict_ratio is 100000000.0", "memory holds"]),
        (["processes=3"], ["processes is 3", "a divisor of micro_batch_size (8)"]),
        (["threads=1000000"], ["threads is 1000000", "1024 at most"]),
        (["dict_ratio=1.7e308"], ["dict_ratio is 1.7e+308", "memory holds"]),
        (["sweeps={dict_ratio: {values: [1e-2]}}"], ["dict_ratio is 0.01", "1/64"]),
        (["device=CUDA"], ["device is 'CUDA'", "cpu, cuda"]),
        (["device=gpu"], ["device is 'gpu'", "cpu, cuda"]),
        (["device=cuda:x"], ["device is 'cuda:x'", "cuda:0"]),
        (["device=cuda:77"], ["device is 'cuda:77'", "this machine has cpu"]),
        (["batch_size=3", "micro_batch_size=2"], ["micro_batch_size is 2", "divisor"]),
        (["train_tokens=100"], ["train_tokens is 100", "one batch"]),
        (["sweeps={train_tokens: {values: [100]}}"], ["train_tokens is 100", "one batch"]),
        (["sweeps={warm_start: {values: [5]}}"], ["train_tokens is 5", "one batch"]),
        (["TRAIN=no_such.txt"], ["no_such.txt", "no such file"]),
        (["VALIDATION=./no_such"], ["./no_such", "folder"]),
        (["TRAIN=README.md"], ["README.md", ".jsonl"]),
        (["context_size=4096"], ["context_size is 4096", "128"]),
        (["e2e_kl_coeff=0.0"], ["e2e_kl_coeff is 0", "above 0", "e2e is another"]),
        (["ds_kl_coeff=0.0"], ["ds_kl_coeff is 0", "above 0", "e2e_ds is another"]),
        (["downstream_coeff=0"], ["downstream_coeff is 0", "above 0", "e2e_ds is another"]),
        (["sweeps={downstream_coeff: {values: [0.0]}}"], ["downstream_coeff is 0", "another"]),
        (["skip=true"], ["skip is True", "IN>OUT"]),
        (["TRAIN=storyworld:foo"], ["no split 'foo'", "train, validation"]),
        (["VALIDATION=storyworld:test"], ["no split 'test'", "train, validation"]),
        (
            ["target_l0=8.0", "sparsity_coeffs={local: [0], e2e: [1], e2e_ds: [1]}", "sweeps={}"],
            ["sparsity_coeffs is 'local:0", "above 0 where target_l0 steers it"],
        ),
        (["target_l0=320", "sweeps={}"], ["target_l0 is 320", "below 320", "dict_ratio 5"]),
        (
            ["target_l0=40", "sweeps={dict_ratio: {values: [0.5]}}"],
            ["target_l0 is 40", "below 32", "dict_ratio 0.5"],
        ),
        (["sweeps={sparsifiers: {values: [jumprelu], l0: [320]}}"], ["l0 is 320", "below 320"]),
        (
            [
                "sweeps={sparsifiers: {values: [relu, batchtopk], l0: [0.0009]}}",
                "sparsifier=jumprelu",
            ],
            ["l0 is 0.0009", "at least 1/1024"],
        ),
    ],
)
def test_the_command_refuses_in_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], parts: list[str]
) -> None:
    results = tmp_path / "results"
    assert main(["--profile", "smoke", "--results", str(results), *settings]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert not (results / "notebooks").exists()


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["layers=[1, 99]"], ["layers is [1, 99]", "from 0 to 4"]),
        (["layers=[-1]"], ["layers is [-1]", "from 0 to 4"]),
        (["downstream_coeff={2: 0.4, 5: 1}"], ["downstream_coeff is 5", "from 0 to 4"]),
        (["downstream_coeff={2: 0.4, two: 1}"], ["downstream_coeff is 'two'", "from 0 to 4"]),
        (
            ["sparsity_coeffs={local: {2: [1], 99: [1]}, e2e: [1], e2e_ds: [1]}"],
            ["sparsity_coeffs of local is 99", "from 0 to 4"],
        ),
        (["notebook_parameters={02_one_sae_by_hand: {layer: 5}}"], ["is 5", "from 0 to 4"]),
        (["notebook_parameters={26_pca_direction: {layer: 3}}"], ["layer of 26", "[-1, 2]"]),
        (
            ["notebook_parameters={40_what_the_network_uses: {layer: 5}}"],
            ["layer of 40", "is 5", "-1 or a layer from 0 to 4"],
        ),
        (
            ["notebook_parameters={41_functional_importance: {necessity_layer: 1}}"],
            ["necessity_layer of 41", "is 1", "[-1, 2]"],
        ),
    ],
)
def test_a_layer_that_will_not_be_there_is_refused_before_it_all(
    settings: list[str], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("smoke", parse_overrides(settings))
    assert_sentence(caught, *parts)


def test_layers_of_notebooks_that_will_be_there_pass() -> None:
    """The profile trains layer 2 of five; and no notebook has a layer that nobody looks at."""
    for layer in (-1, 0, 4):
        own = {"40_what_the_network_uses": {"layer": layer}, "26_pca_direction": {"layer": 2}}
        assert load_profile("smoke", {"notebook_parameters": own})
    mappings = {"downstream_coeff": dict.fromkeys(range(5), 0.4)}
    assert load_profile("smoke", mappings).downstream_coeff == {2: 0.4}
    named = {
        (path.stem, name)
        for path in NOTEBOOKS.glob("*.ipynb")
        for name in notebook_types(path)
        if "layer" in name
    }
    looked_at = {("02_one_sae_by_hand", "layer"), ("26_pca_direction", "layer")}
    looked_at |= {("40_what_the_network_uses", "layer")}
    assert named == looked_at | {("41_functional_importance", "necessity_layer")}


MEMORY = 6_000_000  # bytes


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["train_tokens=1e18"], ["train_tokens is 1000000000000000000", "1,500,000 tokens"]),
        (["train_tokens={local: 40960, e2e: 1e15, e2e_ds: 40960}"], ["train_tokens is 1000", "me"]),
        (["sweeps={train_tokens: {values: [2e6]}}"], ["train_tokens is 2000000", "memory"]),
        (["eval_tokens=1e18"], ["eval_tokens is 1000000000000000000", "500,000 tokens", "memory"]),
        (["notebook_parameters={25_activations: {n_rows: 3907}}"], ["n_rows of 25", "is 3907"]),
        (["notebook_parameters={12_finetune: {eval_tokens: 500001}}"], ["eval_tokens of 12"]),
        (["TRAIN=a.txt", "train_tokens=40960"], ["train_tokens is 40960", "24,000", "a.txt"]),
        (["VALIDATION=a.txt", "eval_tokens=24001"], ["eval_tokens is 24001", "1,500 bytes"]),
        (["VALIDATION=data", "eval_tokens=24001"], ["eval_tokens is 24001", "1,500 bytes"]),
    ],
)
def test_more_tokens_than_there_can_be_are_refused_before_it_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    parts: list[str],
) -> None:
    """Four bytes a token of the training text, twelve held out; 16 tokens a byte of a file."""
    monkeypatch.setattr("pipeline.plan.preflight.most_memory", lambda here: MEMORY)
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "data" / "validation.txt"):
        path.write_text("0123456789abcd\n" * 100)
    words = [word.replace("=a.", f"={tmp_path}/a.") for word in settings]
    words = [word.replace("=data", f"={tmp_path}/data") for word in words]
    results = tmp_path / "results"
    assert main(["--profile", "smoke", "--results", str(results), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert not results.exists()


def test_as_many_tokens_as_there_may_be_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.preflight.most_memory", lambda here: MEMORY)
    text = tmp_path / "a.txt"
    text.write_text("0123456789abcd\n" * 100)
    check_amounts(load_profile("smoke", {"eval_tokens": 499_968}), on_this_machine=True)
    own = {"validation_data": str(text), "eval_tokens": 23_936}
    check_amounts(load_profile("smoke", own), on_this_machine=True)
    text.rename(tmp_path / "a.parquet")  # a packed file's size tells nothing
    own = {"validation_data": str(tmp_path / "a.parquet"), "eval_tokens": 200_000}
    monkeypatch.setattr("e2e_lib.data.readers.records", lambda path: iter([{"text": "a"}]))
    check_amounts(load_profile("smoke", own), on_this_machine=True)


def test_texts_are_looked_at_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.jsonl").write_text("[]\n")
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": "w1"}])
    for setting, words in (
        (f"TRAIN={tmp_path}/a.txt", "empty file"),
        (f"VALIDATION={tmp_path}/b.jsonl", "JSON object"),
        (f"VALIDATION={tmp_path}", "no split 'validation'"),
        (f"TRAIN={tmp_path}:dev", "no split 'dev'"),
        (f"TRAIN={tmp_path}/train.jsonl:test", "no splits"),
    ):
        assert main(["--profile", "smoke", "--results", str(tmp_path / "r"), setting]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        ("28_interpretability: {n_rows: 0}", ["n_rows of 28", "is 0", "at least 1"]),
        ("29_faithfulness: {ranking_examples: 0}", ["ranking_examples of 29", "at least 1"]),
        ("42_loudness: {n_pairs: 1}", ["n_pairs of 42", "is 1", "at least 2"]),
        ("26_pca_direction: {layer: -2}", ["layer of 26", "is -2", "at least -1"]),
        ("12_finetune: {share: -0.1}", ["share of 12", "-0.1", "at least 0"]),
        ("24_umap: {umap_seed: -1}", ["umap_seed of 24", "at least 0"]),
        ("12_finetune: {objectives: 'finetune,local'}", ["finetune,local", "finetune_ds, e2e"]),
        ("28_interpretability: {backend: openai}", ["'openai'", "storyworld, endpoint, local"]),
        ("28_interpretability: {backend: 'local,auto'}", ["'local,auto'", "one of storyworld"]),
        ("28_interpretability: {backend: local}", ["explainer_model is ''", "the hub's layout"]),
        (
            "28_interpretability: {backend: local, explainer_model: ./none/x}",
            ["explainer_model is './none/x'", "a folder"],
        ),
        ("43_sparsifiers: {kinds: 'coin,colours'}", ["'coin,colours'", "some of coin, adverb"]),
        ("43_sparsifiers: {kinds: 'coin,adverb,coin'}", ["coin,adverb,coin", "each once"]),
        ("12_finetune: {objectives: 'e2e,e2e'}", ["'e2e,e2e'", "each once"]),
        ("24_umap: {umap_seed: 4294967296}", ["umap_seed of 24", "below 4294967296"]),
        ("25_activations: {bootstrap_seed: 5e12}", ["bootstrap_seed of 25", "below 4294967296"]),
    ],
)
def test_what_an_analysis_would_refuse_is_refused_before_it_all(own: str, parts: list[str]) -> None:
    with pytest.raises((ConfigError, ModelError)) as caught:
        load_profile("smoke", parse_overrides([f"notebook_parameters={{{own}}}"]))
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("name", ["home", "locked"])
def test_a_folder_that_is_no_model_is_not_read_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """MODEL=~ would be hours of reading; and what may not be read is said."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a.bin").write_text("x")
    if name == "home":
        monkeypatch.setattr("e2e_lib.runs.provenance._content", lambda files: 1 / 0)
        given = {"train_data": "storyworld", "validation_data": "storyworld"}
        with pytest.raises(ModelError, match="folder without a config"):
            load_profile("smoke", {"model": str(tmp_path / "home"), **given})
        return

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(DataError, match="cannot be read"):
        content_digest(str(tmp_path / "home"))


def test_the_last_layer_is_trained_where_its_objective_can_be() -> None:
    last = {"layers": [4], "middle_layer": 4}
    few = {o: [1.0] for o in ALL}
    assert jobs(load_profile("smoke", {**last, "objectives": ALL[:2], "sweeps": {}}))
    more = {**last, "downstream_last_block": True, "sparsity_coeffs": few, "sweeps": {}}
    assert "e2e_ds" in jobs(load_profile("smoke", more))[0].training.grids


@pytest.mark.parametrize("name", ["workshop", "storyworld", "gpt2", "tinystories", "published"])
def test_shipped_profiles_pass(name: str) -> None:
    assert stages(load_profile(name), "x")


@pytest.mark.parametrize(
    ("seeds", "elsewhere", "expected"),
    [([3], 0, 3), ([5, 0], 0, 0), ([5, 0], 1, 5), ([0, 7], 1, 0), ([9, 4, 1], 2, 4)],
)
def test_the_similar_saes_are_those_of_a_seed_that_every_layer_has(
    seeds: list[int], elsewhere: int, expected: int
) -> None:
    given = {"seeds": seeds, "seeds_elsewhere": elsewhere, "sweeps": {}}
    todo = stages(load_profile("smoke", given), "x")
    types = {
        name: notebook_types(NOTEBOOKS / f"{name}.ipynb") for name in {s.notebook for s in todo}
    }
    asks = {name for name, own in types.items() if "match_seed" in own}
    assert asks == set(WITH_SEED)
    told = {s.parameters.get("match_seed", 0) for s in todo if s.notebook in asks}
    assert told == {expected}


# ------------------------------------------------------------------ numbers are one thing
@pytest.mark.parametrize(
    "coeffs", [[0.1234567, 0.12345671], [1 / 3, 0.333333, 0.3333333], [1e-7, 1.00000001e-7]]
)
def test_a_sparsity_coefficient_is_trained_as_it_was_planned(coeffs: list[float]) -> None:
    grids = dict.fromkeys(ALL, coeffs)
    for alone in (False, True):
        profile = load_profile(
            "smoke", {"sparsity_coeffs": grids, "sweeps": {}, "seeds": [0], "one_sae_a_job": alone}
        )
        todo = stages(profile, "x")
        assert len({stage.name for stage in todo}) == len(todo)
        trained = [s.parameters["sparsity_coeffs"] for s in todo if s.notebook == "10_train"]
        found = [parse_sparsity_coeffs(str(text)) for text in trained]
        assert sorted(c for own in found for c in own.get("local", ())) == sorted(coeffs)


@pytest.mark.parametrize("name", ["lr", "dict_ratio", "null_scale"])
def test_values_of_a_sweep_are_told_apart(name: str) -> None:
    values = [7.0000001, 7.0000002]
    profile = load_profile("smoke", {"sweeps": {name: {"values": values}}, "seeds": [0]})
    todo = stages(profile, "x")
    assert len({stage.name for stage in todo}) == len(todo)
    swept = [s for s in todo if s.name.startswith(f"10_train-{name}")]
    assert len({str(s.parameters) for s in swept}) == len(swept) == 2


def test_a_warm_start_is_from_the_very_sae() -> None:
    grids = {o: [0.1234567, 0.12345671] for o in ALL}
    sweeps = {"warm_start": {"values": [10_000], "start": 0.12345671}}
    profile = load_profile("smoke", {"sparsity_coeffs": grids, "sweeps": sweeps, "seeds": [0]})
    [job] = [job for job in jobs(profile) if job.start is not None]
    assert job.start == 0.12345671


@pytest.mark.parametrize("word", ["1e-3", "1E-3", "1.e-3", "+.1e-2", "0.001"])
def test_a_number_is_one_wherever_it_stands(word: str) -> None:
    given = parse_overrides([
        f"sparsity_coeffs={{local: [{word}], e2e: {{2: [{word}]}}, e2e_ds: [{word}]}}",
        f"lr={word}", f"downstream_coeff={{2: {word}}}", f"sweeps={{lr: {{values: [{word}]}}}}",
    ])  # fmt: skip
    profile = load_profile("smoke", given)
    assert profile.sparsity_coeffs == {o: {2: (0.001,)} for o in ALL}
    assert profile.downstream_coeff == {2: 0.001}
    assert set(profile.lr.values()) == {0.001} and profile.sweeps["lr"].values == (0.001,)


def test_whole_numbers_may_be_written_so_too_and_words_stay_words() -> None:
    assert load_profile("smoke", parse_overrides(["train_tokens=1e6"])).train_tokens["e2e"] == 10**6
    assert read_yaml("[e2e, 1e, 12e5x, '1e3']") == ["e2e", "1e", "12e5x", "1e3"]
    with pytest.raises(ConfigError, match="train_tokens of local is 100000"):
        load_profile("smoke", parse_overrides(["train_tokens=1.000005e5"]))


# ------------------------------------------------------------------ λ of a model of one's own
def texts(n: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"text": " ".join(f"w{1 + (i * j + start) % 29}" for j in range(1, 20))} for i in range(n)
    ]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    train = write_jsonl(tmp_path / "train.jsonl", texts(300))
    return {
        "model": str(model_folder("gpt2")), "train_data": str(train), "context_size": 16,
        "batch_size": 1, "micro_batch_size": 1, "eval_tokens": 64, "layers": [1],
    }  # fmt: skip


def measured(settings: Mapping[str, Any]) -> tuple[float, ...]:
    """λ from the rows that the training itself is evaluated on."""
    training = Training(**{
        k: v for k, v in settings.items() if k not in ("layers", "eval_tokens")
    }, eval_tokens=64)  # fmt: skip
    model = load_model(training.model)
    rows = load_rows(
        model, training.train_data, training.validation_data, n_train=1,
        n_validation=training.eval_rows, context_size=16,
    )  # fmt: skip
    hook = "blocks.1.hook_resid_pre"
    return auto_grid("local", 5, activation_scale(model, rows.validation, [hook])[hook])


@pytest.mark.parametrize("kind", ["few", "folder of validation", "both splits", "one for both"])
def test_lambda_is_measured_on_the_rows_that_are_evaluated(
    tmp_path: Path, own: dict[str, Any], kind: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    name = str(folder)
    if kind == "few":  # of which a twentieth would be less than a row
        name = str(write_jsonl(folder / "few.jsonl", texts(4, 7)))
    elif kind == "one for both":
        name = own["train_data"]
    else:
        write_jsonl(folder / "validation.jsonl", texts(9, 3))
        if kind == "both splits":
            write_jsonl(folder / "train.jsonl", texts(400, 11))
    settings = own | {"validation_data": name}
    profile = load_profile("workshop", settings)
    assert profile.sparsity_coeffs["local"][1] == measured(settings)


def test_lambda_cannot_be_measured_on_activations_that_are_0(tmp_path: Path) -> None:
    folder = copied_folder(tmp_path / "model")
    path = folder / "model.safetensors"
    zeros = {name: tensor * 0 for name, tensor in load_file(path).items()}
    save_file(zeros, path, {"format": "pt"})
    text = [{"text": f"w{1 + i % 29} w{1 + i // 29} w3"} for i in range(800)]
    name = str(write_jsonl(tmp_path / "a.jsonl", text))
    given = {"model": str(folder), "train_data": name, "validation_data": name, "eval_tokens": 24}
    with pytest.raises(ModelError, match="activations of size 0"):
        load_profile("smoke", given)


def test_a_model_is_found_by_its_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.plan.model_size import model_shape

    monkeypatch.setenv("HOME", str(model_folder("gpt2").parent))
    assert model_shape(f"~/{model_folder('gpt2').name}").n_layers == 4
