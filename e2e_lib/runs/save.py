"""Writing a run's folder: run.json goes last and makes it count."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from e2e_lib.core.evaluate import Evaluation
from e2e_lib.core.sae_run import TrainedRun
from e2e_lib.files import write_json, write_text, writing
from e2e_lib.runs.provenance import hub_commits, peak_memory, provenance
from e2e_lib.runs.read import CURVE, run_name


def save_run(
    results: Path,
    config: Mapping[str, Any],
    trained: TrainedRun,
    held_out: Evaluation,
    paper: Evaluation | None = None,
    *,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Write everything about one finished run; run.json goes last and makes it count.

    Args:
        results: the results folder.
        config: every value that decides the result; names the run.
        trained, held_out: what `train` and `evaluate` returned; of an SAE that was not trained
            here, `released.as_trained`.
        paper: evaluation on the authors' kind of evaluation set, for the `_paper` columns.
        source: SAELens metadata: model_name, dataset_path, context_size, prepend_bos.

    Raises:
        ResultsError: the folder cannot be written to, or the disk is full; the run does not count.
    """
    folder = results / "saes" / run_name(config)
    with writing(folder / "run.json"):  # an older run stops counting before it changes
        (folder / "run.json").unlink(missing_ok=True)
    blocks = held_out.blocks.to_dict("records")
    metrics: dict[str, Any] = {"saes": {}, "blocks": blocks}
    for hook, sae in trained.saes.items():
        place = folder if len(trained.saes) == 1 else folder / hook
        sae.save(place, dict(source or {}) | {"hook_name": hook}, held_out.frequency[hook])
        metrics["saes"][hook] = (
            {"d_sae": sae.d_sae, "d_in": sae.d_in}
            | held_out.model
            | held_out.saes[hook]
            | _paper_metrics(trained, paper, hook)
            | {"grad_norm": trained.grad_norm, "train_seconds": trained.train_seconds}
            | {"train_tokens": trained.train_tokens}
        )
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "rows.csv", held_out.rows.to_csv(index=False, float_format="%.6g"))
    curve = pd.DataFrame(trained.curve or None, columns=None if trained.curve else [*CURVE])
    write_text(folder / "curve.csv", curve.to_csv(index=False, float_format="%.6g"))
    record = {
        "status": "ok",
        "config": config,
        "provenance": provenance()
        | {"hub_commits": hub_commits(config), "products": trained.products},
        "cost": {"train_seconds": trained.train_seconds} | peak_memory(),
    }
    write_json(folder / "run.json", record)
    return folder


def _paper_metrics(trained: TrainedRun, paper: Evaluation | None, hook: str) -> dict[str, Any]:
    values: dict[str, Any] = {"alive_paper": trained.alive_paper.get(hook)}
    values["alive_window_tokens"] = trained.alive_window_tokens
    if paper is not None:
        values |= {f"{k}_paper": paper.model[k] for k in ("ce_increase", "kl")}
        values["l0_paper"] = paper.saes[hook]["l0"]
    return values
