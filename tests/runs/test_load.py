"""Reading back what saved SAEs were trained on."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from e2e_lib.data.rows import load_rows
from e2e_lib.errors import ModelError, ResultsError
from e2e_lib.names import resid_pre
from e2e_lib.runs.load import clean_activations, load_saes, load_subject
from e2e_lib.runs.provenance import content_digest, model_digest
from e2e_lib.runs.read import run_config
from e2e_lib.runs.tables import metrics_table
from tests.helpers.synthetic_results import write_results
from tests.helpers.tiny_models import assert_sentence


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Runs that say they were trained on StoryWorld's shipped model, with rows of 16 tokens."""
    folder = write_results(tmp_path, layers=(1,), seeds=(0,), coeffs=(0.1, 1.0))
    for path in folder.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        record["config"] |= {
            "context_size": 16,
            "processed": False,
            "contents": {"model": model_digest("storyworld")},
        }
        path.write_text(json.dumps(record))
    return folder


def test_subject_is_the_model_and_the_rows_of_the_evaluation(results: Path) -> None:
    subject = load_subject(results, "storyworld", "storyworld", 3)
    sizes = {"n_train": 1, "n_validation": 3, "context_size": 16}
    rows = load_rows(subject.model, "storyworld", "storyworld", **sizes)
    assert subject.rows.equal(rows.validation.long())
    hook = resid_pre(1)
    _, cache = subject.model.run_with_cache(subject.rows)
    torch.testing.assert_close(clean_activations(subject, hook, batch_size=2), cache[hook])


def test_another_model_is_refused(results: Path) -> None:
    for path in results.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["contents"]["model"] = "another"
        path.write_text(json.dumps(record))
    with pytest.raises(ResultsError, match="'storyworld' with other weights"):
        load_subject(results, "storyworld", "storyworld", 1)


def test_another_name_is_refused(results: Path) -> None:
    with pytest.raises(ResultsError, match=r"model is 'gpt2', but the runs .* on 'storyworld'"):
        load_subject(results, "gpt2", "storyworld", 1)


def test_saes_by_run_leaving_out_those_without_weights(results: Path) -> None:
    table = metrics_table(results)
    first = table["run"].iloc[0]
    (results / "saes" / first / "sae_weights.safetensors").unlink()
    saved = load_saes(results, table)
    assert set(saved) == set(table["run"]) - {first}
    by_name = load_saes(results, list(table["run"]))
    assert set(by_name) == set(saved)
    for run, one in saved.items():
        assert one.hook == resid_pre(1) == by_name[run].hook
        assert int((one.frequency > 0).sum()) == table.set_index("run").alive[run]
        assert not any(p.requires_grad for p in one.sae.parameters())


@pytest.mark.parametrize("key", ["context_size", "processed"])
def test_a_run_that_does_not_say_what_it_read(results: Path, key: str) -> None:
    for path in results.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        del record["config"][key]
        path.write_text(json.dumps(record))
    with pytest.raises(ResultsError, match=f"do not say their {key}"):
        load_subject(results, "storyworld", "storyworld", 1)


@pytest.mark.parametrize(
    ("sparsity", "error"), [([0.0, -1.0], ResultsError), ([2.0] * 3, ModelError)]
)
def test_frequencies_of_another_sae(results: Path, sparsity: list[float], error: type) -> None:
    name = metrics_table(results)["run"].iloc[0]
    path = results / "saes" / name / "sparsity.safetensors"
    save_file({"sparsity": torch.tensor(sparsity)}, path)
    with pytest.raises(error) as caught:
        load_saes(results, [name])
    assert_sentence(caught)


def test_a_run_that_is_not_there(results: Path) -> None:
    with pytest.raises(ResultsError, match="no finished run 'x'"):
        run_config(results, "x")
    with pytest.raises(ResultsError, match="no finished run"):
        run_config(results / "empty")


def test_a_text_that_was_another_when_the_runs_were_evaluated(
    results: Path, tmp_path: Path
) -> None:
    text = tmp_path / "held.jsonl"
    text.write_text('{"text": "w1 w2"}\n')
    for path in results.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        record["config"] |= {"validation_data": "held.jsonl"}
        record["config"]["contents"] |= {"validation": content_digest(str(text))}
        path.write_text(json.dumps(record))
    text.write_text('{"text": "w2 w1"}\n')
    with pytest.raises(ResultsError) as caught:
        load_subject(results, "storyworld", str(text), 1)
    assert_sentence(caught, "validation_data", "'held.jsonl'", "other text of that name")


def change(results: Path, contents: dict[str, str | None], **values: str) -> None:
    """Other words in what the runs say of their model and text."""
    for path in results.glob("saes/*/run.json"):
        record = json.loads(path.read_text())
        record["config"] |= values
        record["config"]["contents"] |= contents
        path.write_text(json.dumps(record))


@pytest.mark.parametrize("model", ["others/story", "story", "someone/story-2"])
def test_a_hub_model_has_both_parts_of_its_name(results: Path, model: str) -> None:
    change(results, {"model": None}, model="someone/story")
    with pytest.raises(ResultsError, match=f"model is '{model}', but .* on 'someone/story'"):
        load_subject(results, model, "storyworld", 1)


@pytest.mark.parametrize("local", [True, False])
def test_the_text_that_was_trained_on_is_not_held_out(
    results: Path, tmp_path: Path, local: bool
) -> None:
    name = "someone/stories"
    if local:
        (tmp_path / "a.jsonl").write_text('{"text": "w1 w2"}\n')
        name = str(tmp_path / "a.jsonl")
    contents = {"train": content_digest(name), "validation": "other" if local else None}
    shown = "a.jsonl" if local else name
    change(results, contents, train_data=shown, validation_data="someone/held")
    with pytest.raises(ResultsError) as caught:
        load_subject(results, "storyworld", name, 1)
    assert_sentence(caught, "on which the runs", "were trained", "'someone/held'")
