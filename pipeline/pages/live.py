"""The page on which one types a sentence: the embedded model and its SAEs, run by the browser.

The page works from a folder, where a browser fetches nothing: weights lie in a script beside it.
"""

import base64
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from e2e_lib.errors import ResultsError
from e2e_lib.files import write_text
from e2e_lib.names import layer_of
from e2e_lib.runs.provenance import model_digest
from e2e_lib.runs.read import run_config, sae_folder
from e2e_lib.runs.tables import metrics_table
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS
from e2e_lib.storyworld.grammar import generate
from pipeline.pages.render import NAMES, SITE, Extra, render, style, write_scripts
from pipeline.pages.result_files import Json, read_json

TITLE = "Live splice: type a sentence, switch a feature off"
TEXT = "the model and an autoencoder run in the page, and say what comes next with and without it."
STEPS = 2**15 - 1  # on either side of 0 that a weight of the page can take
EXAMPLES, LONGEST = 4, 24  # sentences to begin with, and words of each


def write_live(results: Path) -> Extra:
    """Write live.html and what it loads, or say why there is none."""
    (results / "live.html").unlink(missing_ok=True)
    try:
        data = live_data(results)
    except ResultsError as error:
        return Extra(TITLE, "", str(error))
    write_scripts(results, "page.js", "live.js")
    write_text(results / SITE / "live_data.js", f"const LIVE = {json.dumps(data)};\n")
    keys = [sae["key"] for sae in data["saes"]]
    labels = [k for k in keys if (results / SITE / f"features_{k}.js").is_file()]
    page = render("live.html.j2", title=TITLE, style=style("report.css", "explore.css"),
                  saes=data["saes"], labels=labels, examples=examples(),
                  words=data["model"]["words"], longest=data["model"]["positions"] - 1)  # fmt: skip
    write_text(results / "live.html", page)
    return Extra(TITLE, "live.html", TEXT)


def live_data(results: Path) -> dict[str, Any]:
    """The model and the similar-CE SAEs of the middle layer, as live.js takes them.

    Raises:
        ResultsError: why there is no such page: another model than the embedded ones, another
            place than the residual stream, no matched SAE with weights.
    """
    chosen = matched_runs(results)
    config = run_config(results, chosen["run"].iloc[0])
    name, hook = str(config["model"]), str(chosen["hook"].iloc[0])
    folder = EMBEDDED_MODELS.get(name)
    if folder is None:
        raise ResultsError(
            f"it runs only the models that come with the package; {name!r} is too large to be sent "
            "along with a page."
        )
    if config["processed"] or config.get("random_weights"):
        raise ResultsError("it knows models as they are, neither processed nor of random weights.")
    if not hook.endswith(("hook_resid_pre", "hook_resid_post")):
        raise ResultsError(f"it knows the residual stream, and these SAEs sit at {hook!r}.")
    if config.get("contents", {}).get("model") not in (None, model_digest(name)):
        raise ResultsError(
            f"the weights of {name!r} are no longer those that these SAEs were made for."
        )
    saes = [_sae(results, row) for row in chosen.to_dict("records")]
    return {"model": embedded_model(folder), "saes": saes}


def matched_runs(results: Path) -> pd.DataFrame:
    """The similar-CE SAEs of the first seed at the middle layer whose weights are there."""
    from e2e_lib.analysis.matched import main_runs, middle_layer, similar  # brings matplotlib

    main = main_runs(metrics_table(results))
    triples = similar(main, "ce_increase")
    triples = triples[triples["layer"] == middle_layer(triples)]
    there = [_has_weights(results, row.run, row.hook) for row in triples.itertuples()]
    if not any(there):
        raise ResultsError(
            "it needs SAEs of similar CE increase, one of each objective, with their weights, and "
            "this folder has none."
        )
    return triples[there]


def _has_weights(results: Path, run: str, hook: str) -> bool:
    try:
        return sae_folder(results, run, hook).is_dir()
    except ResultsError:
        return False


def embedded_model(folder: Path) -> Json:
    """An embedded GPT-2: its sizes, its words by id, its weights."""
    config = read_json(folder / "config.json", {})
    words = read_json(folder / "tokenizer.json", {})["model"]["vocab"]
    tensors = load_file(folder / "model.safetensors")
    return {
        "layers": config["n_layer"], "heads": config["n_head"], "d_model": config["n_embd"],
        "epsilon": config["layer_norm_epsilon"], "positions": config["n_positions"],
        "words": sorted(words, key=words.get),
        "weights": {k.removeprefix("transformer."): packed(v) for k, v in tensors.items()},
    }  # fmt: skip


def _sae(results: Path, row: Json) -> Json:
    """An SAE's weights, and where they are put in: before which block."""
    folder = sae_folder(results, row["run"], row["hook"])
    config = read_json(folder / "cfg.json", {})
    weights = load_file(folder / "sae_weights.safetensors")
    if config.get("architecture") == "gated":
        raise ResultsError("it knows no gated SAEs.")
    return {
        "key": f"{row['objective']}-{row['layer']}",
        "address": f"features.html#{row['objective']}-",
        "name": f"{NAMES[row['objective']]}, layer {row['layer']}",
        "l0": row["l0"], "ce_increase": row["ce_increase"],
        "layer": layer_of(row["hook"]) + row["hook"].endswith("resid_post"),
        "k": config.get("k"), "weights": {k: packed(v) for k, v in weights.items()},
    }  # fmt: skip


def packed(tensor: np.ndarray) -> tuple[float, str]:
    """Numbers as text: 16-bit steps of a size that reaches to the largest, and that size."""
    size = float(np.abs(tensor).max(initial=0.0)) / STEPS or 1.0
    steps = np.rint(tensor / size).astype("<i2")
    return size, base64.b64encode(steps.tobytes()).decode()


def examples() -> list[str]:
    """How a few held-out stories begin: whole sentences, of at most `LONGEST` words together."""
    found = []
    for story in islice(generate(0, "validation"), EXAMPLES):
        ends = [i for i, word in enumerate(story.tokens[:LONGEST], 1) if word == "."]
        found.append(" ".join(story.tokens[: ends[-1] if ends else LONGEST]))
    return found
