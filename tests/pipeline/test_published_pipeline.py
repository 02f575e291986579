"""Every notebook of the profile `published` on a stand-in of what it reads, and the report on them.

The cells run in this process, stage by stage as the pipeline orders them: a kernel for each would
take minutes. The introductions are left out, for they read nothing of a profile.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from e2e_lib.analysis import umap_regions
from e2e_lib.analysis.agreement.prompts import TASKS
from e2e_lib.analysis.interpret.endpoint import MODEL, URL
from e2e_lib.errors import ConfigError
from pipeline.execution.fresh import plan_digest
from pipeline.plan.profile import Profile, load_profile
from pipeline.plan.stages import INTRODUCTIONS, stages
from pipeline.report import write_report
from tests.helpers.chat_server import chat_server
from tests.helpers.notebook_cells import run_cells
from tests.helpers.published_stand_in import word_answer, write_stand_in
from tests.helpers.weekly import weekly

PROMPTS, FEATURES = 12, 3
SMALL: dict[str, Any] = {
    "25_activations": {"n_rows": 60},
    "26_pca_direction": {"n_rows": 60},
    "28_interpretability": {"n_features": FEATURES, "n_rows": 60},
    "29_faithfulness": {"examples": PROMPTS, "ranking_examples": PROMPTS, "kept_singly": 4},
}
# What no release can have: sweeps, further seeds, and what only training records.
NO_SWEEP = {
    *("20_summary_ratio", "23_cross_seed_similarity", "24_counted_again", "27_alive"),
    *("27_alive_trends", "27_dict_ratio", "27_gap_to_e2e", "27_lr", "27_ratios", "27_seed_spread"),
    *(
        "27_seeds",
        "27_train_tokens",
        "27_convergence",
        "27_downstream_coeff",
        "27_terms",
        "30_agreement_gain",
        "30_cost_quality",
        "30_cost_ratio",
    ),
    *("30_moved_features", "30_seed_agreement", "30_training_cost", "90_by_tokens"),
}
# What this one lacks: regions of the map, for its features are random; StoryWorld's labels, pairs.
HERE = {
    *("24_region_counts", "24_regions", "28_latents"),
    *("40_by_layer", "40_use", "40_use_and_presence", "41_control", "41_differences"),
    *("41_kinds", "41_measures", "41_summary", "41_true_l0"),
    *("42_dial", "42_loudness", "42_runs"),
    *("43_fine_tuning", "43_matrix", "43_sanity", "43_which_matters"),
}


class Finished(NamedTuple):
    """A run of everything."""

    results: Path
    stand_in: Path
    questions: list[Any]


def small_profile(given: dict[str, str], agreement: Path) -> Profile:
    """`published` on the stand-in."""
    own = SMALL | {"29_faithfulness": SMALL["29_faithfulness"] | {"agreement_data": str(agreement)}}
    brief = {"context_size": 32, "eval_tokens": 60 * 32, "device": "cpu", "threads": 1}
    return load_profile("published", given | brief | {"notebook_parameters": own})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("published")
    results = folder / "results"
    with pytest.MonkeyPatch.context() as patch, chat_server(word_answer) as server:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
        patch.setenv("no_proxy", "127.0.0.1")
        # UMAP compiles for half a minute; its own test and the smoke profile run it.
        patch.setattr(umap_regions, "umap_coordinates", lambda x, *_: x[:, :2].double().numpy())
        patch.setenv(URL, f"http://127.0.0.1:{server.server_port}/v1")
        patch.setenv(MODEL, "tiny")
        given = write_stand_in(folder, n_prompts=PROMPTS)
        profile = small_profile(given, folder / "agreement")
        for stage in stages(profile, str(results)):
            if stage.notebook not in INTRODUCTIONS:
                run_cells(stage.notebook, stage.parameters)
                plt.close("all")
        (results / "profile.json").write_text(profile.to_json("results"))
        write_report(results)
        yield Finished(results, folder, server.seen)


@weekly
def test_all_is_made_or_skipped_in_one_sentence(finished: Finished) -> None:
    skipped = {
        p.stem: json.loads(p.read_text())["reason"] for p in finished.results.glob("skipped/*")
    }
    assert set(skipped) == NO_SWEEP | HERE
    for name, reason in skipped.items():
        assert "\n" not in reason and not re.search(r"[.!?] [A-Z]", reason), name
    page = (finished.results / "index.html").read_text()
    assert "Not finished" not in page
    made = {path.stem for path in finished.results.glob("figures/*.png")}
    assert {"20_pareto", "22_mse", "23_within_similarity", "24_umap", "25_norms"} <= made
    assert {"26_ablation", "28_scores", "29_faithfulness", "29_features_kept", "90_claims"} <= made
    for name in made:
        assert name in page, "the report shows it"


@weekly
def test_the_endpoint_explains_the_features(finished: Finished) -> None:
    """One explanation and twenty simulations a feature; all features of a layer fire often."""
    scores = pd.read_csv(finished.results / "figures" / "28_scores.csv")
    assert set(scores["objective"]) == {"local", "e2e", "e2e_ds"}
    assert set(scores["layer"]) == {2, 6, 10} and set(scores["match"]) == {"ce_increase", "l0"}
    assert scores["explanation"].str.startswith("the words ").all()
    counts = scores.groupby(["match", "layer", "objective"]).size()
    assert set(counts) == {FEATURES}
    assert len(finished.questions) == 21 * scores["key"].nunique()
    assert (finished.results / "features.html").is_file()
    differences = pd.read_csv(finished.results / "tables" / "28_differences.csv")
    assert set(differences["explainer"]) == {"endpoint:tiny"}


def clean_preference(stand_in: Path, task: str) -> float:
    """m of the untouched model, by the Hugging Face model itself."""
    model = AutoModelForCausalLM.from_pretrained(stand_in / "gpt2").eval()
    tokenizer = AutoTokenizer.from_pretrained(stand_in / "gpt2")
    differences = []
    for line in (stand_in / "agreement" / f"{task}_train.json").read_text().splitlines():
        row = json.loads(line)
        tokens = tokenizer("<|endoftext|> " + row["clean_prefix"], return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(tokens).logits[0, -1]
        verbs = [row[f"{kind}_answer"].strip() for kind in ("clean", "patch")]
        right, wrong = tokenizer.convert_tokens_to_ids(verbs)
        differences.append(float(logits[right] - logits[wrong]))
    return sum(differences) / len(differences)


@weekly
def test_faithfulness_is_measured_on_the_data_set(finished: Finished) -> None:
    """Table 7 and Figure 24; the curves end where nothing is ablated, so at Table 7's values."""
    table = pd.read_csv(finished.results / "tables" / "29_table7.csv")
    assert set(table["task"]) == set(TASKS) and set(table["layer"]) == {2, 6, 10}
    assert len(table) == 2 * 3 * 3 * len(TASKS)
    for task, own in table.groupby("task"):
        expected = clean_preference(finished.stand_in, str(task))
        assert own["m_clean"].to_numpy() == pytest.approx(expected, rel=1e-4)
    curve = pd.read_csv(finished.results / "figures" / "29_features_kept.csv")
    assert set(curve["layer"]) == {6} and set(curve["kept"]) >= {0, 1, 2, 3, 4, 9, 14}
    keys = ["objective", "task"]
    ends = curve[curve["kept"] == curve["active"]].set_index(keys)["faithfulness_paper"]
    whole = table[(table["match"] == "l0") & (table["layer"] == 6)].set_index(keys)
    assert len(ends) == 3 * len(TASKS)
    pairs = pd.concat([ends.rename("end"), whole["faithfulness_paper"].rename("whole")], axis=1)
    assert pairs["end"].to_numpy() == pytest.approx(pairs["whole"].to_numpy(), abs=1e-4)


# ------------------------------------------------------------------ set in single notebooks
def test_published_names_the_papers_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL, MODEL):
        monkeypatch.delenv(name, raising=False)
    for name in ("gpt2", "published"):
        own = load_profile(name).notebook_parameters
        assert own["29_faithfulness"] == {
            "agreement_data": "https://raw.githubusercontent.com/saprmarks/feature-circuits/main/data",
            "examples": 1000, "ranking_examples": 1000, "kept_singly": 100,
        }  # fmt: skip
        assert own["28_interpretability"] == {
            "backend": "storyworld", "n_features": 200, "shown_are_scored": True,
            "every_seed": False,
        }  # fmt: skip


def test_an_endpoint_that_is_named_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    """And naming one later has the notebook run again; naming half of one is an error at once."""
    for name in (URL, MODEL):
        monkeypatch.delenv(name, raising=False)

    def plans() -> dict[str, str]:
        todo = stages(load_profile("published"), "results/x")
        return {stage.name: plan_digest(stage) for stage in todo}

    before = plans()
    monkeypatch.setenv(URL, "http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match=f"{MODEL} is not set"):
        load_profile("published")
    monkeypatch.setenv(MODEL, "tiny")
    assert load_profile("published").notebook_parameters["28_interpretability"]["backend"] == (
        "endpoint"
    )
    after = plans()
    assert {name for name in before if before[name] != after[name]} == {"28_interpretability"}
