"""The paper's own profiles: its numbers, and each run in a few steps up to the download.

The models are random, of exactly the published architectures; the text is `input_ids` of exactly
the published form, in the hub's layout on this disk.
"""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from e2e_lib.core.config import TrainConfig
from e2e_lib.core.evaluate import evaluate
from e2e_lib.core.losses import named_objective
from e2e_lib.core.train import train
from e2e_lib.errors import ConfigError
from e2e_lib.paper import rows
from e2e_lib.runs.load import load_saes, load_subject
from e2e_lib.runs.read import run_config
from e2e_lib.runs.tables import metrics_table
from pipeline.execution.fresh import set_aside
from pipeline.plan.grid import jobs
from pipeline.plan.model_size import KNOWN_SHAPES, model_shape
from pipeline.plan.preflight import shrunk
from pipeline.plan.profile import load_profile
from pipeline.plan.stages import stages
from pipeline.run import main, parse_overrides
from tests.helpers.notebook_cells import run_cells
from tests.helpers.released_files import write_release
from tests.helpers.tiny_models import write_jsonl
from tests.helpers.weekly import FULL

D_VOCAB = 50257
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(),  # its defaults are GPT-2 small: 12 blocks of width 768
    "TinyStories-1M": GPTNeoConfig(
        num_layers=8, attention_types=[[["global", "local"], 4]], num_heads=16, hidden_size=64,
        max_position_embeddings=2048, vocab_size=D_VOCAB,
    ),
}  # fmt: skip


def write_model(folder: Path, config: PretrainedConfig) -> Path:
    """A random model and a tokenizer of one word an id."""
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(config.vocab_size - 1)}
    words["<|endoftext|>"] = config.vocab_size - 1
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|endoftext|>")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends).save_pretrained(folder)
    return folder


def write_tokens(folder: Path, width: int, n_rows: int, split: str, d_vocab: int = D_VOCAB) -> Path:
    """`input_ids` of exactly `width`, as the authors' tokenised data sets hold them."""
    ids = np.random.default_rng(len(split)).integers(0, d_vocab, (n_rows, width), dtype=np.int32)
    table = datasets.Dataset.from_dict({"input_ids": ids})
    table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # After a parquet stream `datasets` waits five seconds for threads that read from a network.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


# ------------------------------------------------------------------ the numbers
def test_gpt2_is_the_papers_grid() -> None:
    profile = load_profile("gpt2")
    training = profile.training
    for layer, objective, coeff, *_ in [*rows(2), *rows(3)]:
        grid = profile.sparsity_coeffs[objective][layer]
        assert coeff in grid, "every published λ"
        assert grid == tuple(sorted(grid)) and grid[0] < coeff < grid[-1], "with one on each side"
    assert profile.layers == (2, 6, 10) and profile.middle_layer == 6
    assert profile.downstream_coeff == {2: 2.5, 6: 2.5, 10: 0.05}
    assert (training.e2e_kl_coeff, training.ds_kl_coeff, training.dict_ratio) == (1.0, 0.5, 60)
    assert set(profile.train_tokens.values()) == {400_000 * 1024}
    assert set(profile.lr.values()) == {5e-4} and profile.seeds == (0, 1)
    assert (training.batch_size, training.micro_batch_size, training.context_size) == (16, 8, 1024)
    schedule = (training.schedule, training.warmup_fraction, training.min_lr_factor)
    assert schedule == ("cosine", 20_000 / 400_000, 0.1)
    assert (training.grad_clip, training.eval_tokens) == (10, 500 * 1024)
    assert training.processed and not training.prepend_bos
    assert not training.downstream_last_block


def test_tinystories_is_the_papers() -> None:
    profile = load_profile("tinystories")
    assert profile.layers == (4,) and profile.hook_point == "hook_resid_pre"
    assert profile.lr == {"local": 1e-2, "e2e": 1e-3, "e2e_ds": 1e-3}
    rows = {objective: tokens / 512 for objective, tokens in profile.train_tokens.items()}
    assert rows == {"local": 400_000, "e2e": 450_000, "e2e_ds": 250_000}
    training = profile.training
    assert (training.dict_ratio, training.batch_size, training.grad_clip) == (50, 20, 1)
    assert profile.downstream_coeff == {4: 1000.0} and training.downstream_last_block
    assert training.processed and training.context_size == 512
    assert training.validation_data == f"{training.train_data}:validation"


def test_objectives_of_other_rates_or_lengths_are_trained_apart() -> None:
    todo = jobs(load_profile("tinystories"))
    found = {job.label: (job.training.lr, job.training.train_tokens) for job in todo}
    assert found["layer4-local-seed0-local-l0.01"] == (1e-2, 204_800_000)
    assert found["layer4-e2e-seed1-e2e-l3"] == (1e-3, 230_400_000)
    assert found["layer4-e2e_ds-seed0-e2e_ds-l100"] == (1e-3, 128_000_000)


def test_long_trainings_are_one_sae_a_job() -> None:
    profile = load_profile("gpt2", {"sweeps": {}})
    todo = [stage for stage in stages(profile, "results/x") if stage.notebook == "10_train"]
    grids = profile.sparsity_coeffs.values()
    assert len(todo) == 2 * sum(len(grid) for by_layer in grids for grid in by_layer.values())
    assert {stage.saes for stage in todo} == {1}
    assert len({stage.name for stage in todo}) == len(todo) == 102


def test_shapes_that_need_no_network_are_the_architectures() -> None:
    for name, config in ARCHITECTURES.items():
        known = next(shape for key, shape in KNOWN_SHAPES.items() if key.endswith(name))
        heights = (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings)
        assert known == heights


def test_the_last_blocks_output_joins_the_downstream_term() -> None:
    from tests.helpers.tiny_models import random_tokens, tiny_model

    for last, hooks in ((False, ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre"]),
                        (True, ["blocks.2.hook_resid_pre", "blocks.3.hook_resid_pre",
                                "blocks.3.hook_resid_post"])):  # fmt: skip
        config = TrainConfig(
            named_objective("e2e_ds", 1.0), ("blocks.1.hook_resid_pre",), dict_ratio=2.0,
            batch_size=2, micro_batch_size=2, downstream_last_block=last,
        )  # fmt: skip
        [run] = train(tiny_model("gpt2"), [config], random_tokens(2), progress=False)
        assert list(run.config.objective.downstream_hooks) == hooks


# ------------------------------------------------------------------ a few steps of anything
def test_shrunk_keeps_the_structure() -> None:
    profile = load_profile("gpt2")
    small = shrunk(profile)
    assert small.name == "gpt2-shrunk"
    assert (small.layers, small.objectives) == (profile.layers, profile.objectives)
    training = small.training
    assert (training.context_size, training.schedule) == (1024, "cosine")
    assert training.batch_size == 2 and training.micro_batch_size == 1, "it still accumulates"
    assert all(len(grid) == 1 for by in small.sparsity_coeffs.values() for grid in by.values())
    todo = stages(small, "results/x")
    assert sum(stage.saes for stage in todo) == 9
    assert max(small.train_tokens.values()) < 10_000
    assert shrunk(load_profile("tinystories")).training.micro_batch_size == 2, "it does not"


def test_shrink_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def stop(profile: Any, results: Path, cores: int, cluster: Path | None) -> int:
        seen.update(profile=profile, results=results, cores=cores)
        return 0

    monkeypatch.setattr("pipeline.run.run", stop)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert main(["--profile", "gpt2", "--shrink"]) == 0
    assert (seen["profile"].training.dict_ratio, seen["results"].name) == (2.0, "gpt2-shrunk")
    assert seen["cores"] == 1, "a GPU holds one training"
    assert main(["--profile", "gpt2", "--cores", "3", "device=cpu"]) == 0
    assert (seen["profile"].training.dict_ratio, seen["results"].name) == (60, "gpt2")
    assert seen["cores"] == 3


def test_a_copy_of_the_hubs_model_is_one_if_it_is_said_to_be(tmp_path: Path) -> None:
    """For machines without a network; a folder of the same name may hold any other model."""
    ARCHITECTURES["gpt2"].save_pretrained(tmp_path / "gpt2")
    assert model_shape(str(tmp_path / "gpt2")) == KNOWN_SHAPES["gpt2"]
    own = parse_overrides([f"MODEL={tmp_path / 'gpt2'}", "TRAIN=x", "model_is_copy=true"])
    profile = load_profile("gpt2", own)
    assert profile.sparsity_coeffs == load_profile("gpt2").sparsity_coeffs
    assert profile.sweeps and profile.training.train_data == "x"
    with pytest.raises(ConfigError, match="VALIDATION is not given"):
        load_profile("gpt2", own | {"model_is_copy": False})


def run_stage(
    tmp_path: Path, name: str, overrides: dict[str, Any], changes: dict[str, Any], layer: int
) -> Path:
    """The shrunk profile's training at `layer`, with `changes` to its parameters; the results."""
    profile = shrunk(load_profile(name, {"device": "cpu", "threads": 1} | overrides))
    results = tmp_path / "results"
    todo = [s for s in stages(profile, str(results)) if f"-layer{layer}-" in s.name]
    for stage in todo:
        run_cells(stage.notebook, stage.parameters | changes)
    return results


@pytest.mark.slow
def test_tinystories_runs_shrunk(tmp_path: Path) -> None:
    model = write_model(tmp_path / "TinyStories-1M", ARCHITECTURES["TinyStories-1M"])
    text = write_tokens(tmp_path / "text", 512, 30, "train")
    write_tokens(text, 512, 8, "validation")
    chosen: dict[str, Any] = {"model": str(model), "train_data": str(text)}
    chosen |= {"validation_data": f"{text}:validation"}
    chosen |= {"model_is_copy": True}
    brief = {"train_tokens": 2 * 512, "eval_tokens": 512}
    results = run_stage(tmp_path, "tinystories", chosen, brief, layer=4)
    table = metrics_table(results)
    assert set(table["objective"]) == {"local", "e2e", "e2e_ds"}
    assert set(table["hook"]) == {"blocks.4.hook_resid_pre"} and set(table["d_sae"]) == {128}
    assert dict(zip(table["objective"], table["lr"], strict=True))["local"] == 1e-2
    assert table[["ce_increase", "l0", "kl", "grad_norm"]].notna().all(axis=None)
    config = run_config(results, table["run"][0])
    assert config["processed"] and config["context_size"] == 512
    assert config["data_revision"] == load_profile("tinystories").training.data_revision
    subject = load_subject(results, str(model), f"{text}:validation", 8)
    whole = {tuple(row) for row in datasets.load_dataset(str(text))["validation"]["input_ids"]}
    assert {tuple(row) for row in subject.rows.tolist()} == whole, "none is lost to a digest"


@pytest.mark.slow
def test_gpt2_runs_shrunk(tmp_path: Path) -> None:
    """GPT-2 small at layer 10, one data set for both splits, one batch.

    E2E_SLOW=full has all of its 124 M parameters, otherwise its heads are an eighth as wide. e2e is
    left out, for its two terms are among those of e2e_ds; rows are of 256 tokens, not 1024.
    """
    width = 768 if FULL else 96
    model = write_model(tmp_path / "gpt2", GPT2Config(n_embd=width))
    text = write_tokens(tmp_path / "text", 256, 60, "train")
    chosen: dict[str, Any] = {"model": str(model), "train_data": str(text)}
    chosen |= {"validation_data": str(text)}
    chosen |= {"context_size": 256, "model_is_copy": True}
    brief = {"train_tokens": 2 * 256, "eval_tokens": 256, "dict_ratio": 76.8 / width}
    brief |= {"objectives": "local,e2e_ds"}
    results = run_stage(tmp_path, "gpt2", chosen, brief, layer=10)
    table = metrics_table(results)
    assert dict(zip(table["objective"], table["sparsity_coeff"], strict=True)) == {
        "local": 10.0,
        "e2e_ds": 1.75,
    }
    assert set(table["d_sae"]) == {76} and set(table["train_tokens"]) == {512}
    assert table[["ce_increase", "l0", "kl", "grad_norm"]].notna().all(axis=None)
    assert abs(table["ce_clean"].iloc[0] - np.log(D_VOCAB)) < 0.5, "random weights know nothing"


# ------------------------------------------------------------------ nothing is trained
def test_published_trains_nothing() -> None:
    profile = load_profile("published")
    todo = stages(profile, "results/x")
    assert not [stage for stage in todo if stage.notebook == "10_train"]
    [first] = [stage for stage in todo if stage.notebook == "11_published"]
    assert first.saes == 15 and first.parameters["released"] == "apollo-research/e2e-saes-gpt2"
    analysis = next(stage for stage in todo if stage.notebook == "21_similar_ce")
    assert analysis.after == ("11_published",)
    found = {(o, k, c) for o, by in profile.sparsity_coeffs.items() for k in by for c in by[k]}
    assert found == {(o, k, c) for k, o, c, *_ in [*rows(2), *rows(3)]}


@pytest.mark.slow
def test_published_from_a_folder(tmp_path: Path) -> None:
    """The notebook on a release of exactly the published files, and a twelve-block tiny model."""
    shape = GPT2Config(n_layer=12, n_embd=12, n_head=2, n_positions=32, vocab_size=30)
    torch.manual_seed(0)
    model = write_model(tmp_path / "stand-in", shape)
    release = write_release(tmp_path / "release", d_in=12, d_sae=40)
    text = write_jsonl(
        tmp_path / "text.jsonl",
        [{"text": " ".join(f"w{(i * j) % 29}" for j in range(1, 40))} for i in range(200)],
    )
    chosen = {"model": str(model), "released": str(release), "validation_data": str(text)}
    chosen |= {"context_size": 16, "eval_tokens": 64, "device": "cpu", "threads": 1}
    profile = load_profile("published", chosen)
    results = tmp_path / "results"
    stage = stages(profile, str(results))[0]
    run_cells("11_published", stage.parameters)
    table = metrics_table(results)
    assert len(table) == 15 and set(table["layer"]) == {2, 6, 10}
    assert table["grad_norm"].isna().all() and table["ce_increase"].notna().all()
    config = run_config(results, table["run"][0])
    assert (config["released"], config["model"]) == ("release", "stand-in")
    assert config["processed"] and config["seed"] == 0
    assert set_aside(results, profile) == [], "what was released stays"
    subject = load_subject(results, str(model), str(text), 4)
    own = {"run": table["run"][:1], "hook": table["hook"][:1]}
    [(sae, hook, frequency)] = load_saes(results, pd.DataFrame(own)).values()
    [again] = evaluate(subject.model, [{hook: sae}], subject.rows)
    assert np.isclose(again.model["ce_increase"], table["ce_increase"][0], atol=1e-6)
    assert int((frequency > 0).sum()) == table["alive"][0]
    before = {f: f.stat().st_mtime_ns for f in results.glob("saes/*/run.json")}
    run_cells("11_published", stage.parameters)
    assert before == {f: f.stat().st_mtime_ns for f in results.glob("saes/*/run.json")}
