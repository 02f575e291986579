"""Copy a finished results folder to results/reference, and its claims into the README.

    python -m pipeline.reference results/storyworld
    python -m pipeline.reference results/sparsifiers results/reference_sparsifiers
    python -m pipeline.reference --again    # its own analyses, by today's code

The copy has the size that git can carry: every run's record, metrics and curve, and every figure,
table and claim. Weights are kept of what the analyses look into: similar-CE and similar-L0 triples
of every seed, and the longest warm starts with their starts; not the dial's, which are large.
Executed notebooks are kept as pages. Of a study that stands beside it, as the second line's, no run
is kept: its figures, tables and pages, metrics.csv with all that was measured, and of one that was
trained on others' text a local and an e2e SAE, small; nothing that shows their text is copied.
Where it has a place in the ledger (`claims.studies`), README and the reference's report show it.

With --again nothing is trained: the analyses run as `pipeline.verify` runs them, on the records and
shipped weights, and what they give takes the place of what was there. Figures and tables that take
more weights, and the pages of their notebooks, stay.
"""

import os
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from e2e_lib.analysis.claims.studies import readme_block
from e2e_lib.analysis.claims.tokens import LONGER, LONGER_RUNS
from e2e_lib.analysis.matched import main_runs, warm_start_runs
from e2e_lib.data.formats import saelens
from e2e_lib.errors import ResultsError, command, require
from e2e_lib.files import project_path, write_json
from e2e_lib.runs.read import REFERENCE, has_weights, sae_folder
from e2e_lib.runs.tables import metrics_table
from pipeline import verify
from pipeline.compare.differences import matches
from pipeline.execution.executor import environment
from pipeline.pages.features import INDEX
from pipeline.pages.render import SITE
from pipeline.pages.result_files import read_json
from pipeline.plan.profile import ROOT
from pipeline.report import write_report

FOLDERS = ("figures", "tables", "skipped", SITE, LONGER_RUNS)
FILES = ("metrics.csv", "claims.json", "profile.json", "index.html")
NOTEBOOK_LINK = re.compile(r" \(<a href='notebooks/[^']*\.ipynb'>\.ipynb</a>\)")  # not copied
WEIGHTS = ("sae_weights.safetensors", "cfg.json", "sparsity.safetensors")
# Of text that is not the project's own: what shows it, and what stands in its place.
SHOWS_TEXT = (SITE, "features.html", "28_interpretability.html")
REASON = "the contexts of its features are others' text, which is not copied."
# Of a study that stands beside the reference: a folder of SAEs of these objectives, in bfloat16 and
# without the latents that did not fire.
SMALL, PAIRED = "weights", ("local", "e2e")
LATENTS = {"W_enc": 1, "b_enc": 0, "W_dec": 0, "threshold": 0}  # which axis of a tensor they are


def runs_with_weights(table: pd.DataFrame) -> set[str]:
    """Names of the runs whose weights are shipped."""
    main = main_runs(table)
    warm = warm_start_runs(table)
    longest = warm["train_tokens"] == warm.groupby("role")["train_tokens"].transform("max")
    kept = (verify.matched(main), warm[longest])
    return {run for runs in kept for run in runs["run"]}


def copy_reference(source: Path, target: Path, runs: bool = True) -> None:
    """Replace `target` by what of `source` is shipped, its runs' records and weights if wanted.

    Raises:
        ResultsError: `source` is not a finished results folder.
    """
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise ResultsError(
            f"results folder {source.name!r} lacks {', '.join(missing)}: it must be finished."
        )
    kept = runs_with_weights(metrics_table(source)) if runs else set()
    own = read_json(source / "profile.json", {}).get("validation_data") == "storyworld"
    left = () if own else SHOWS_TEXT
    small = {} if own else sparsest(source)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(source / name, target / name)
    if (source / LONGER).is_file():
        shutil.copy(source / LONGER, target)
    for name in FOLDERS:
        if (source / name).is_dir() and name not in left:
            shutil.copytree(source / name, target / name)
    for run in sorted((source / "saes").iterdir()) if runs else ():
        without = () if run.name in kept else WEIGHTS
        shutil.copytree(run, target / "saes" / run.name, ignore=lambda _, names, w=without: w)
    for page in source.glob("*.html"):
        if page.name not in left:
            copy_page(page, target)
    (target / "notebooks").mkdir()
    for page in (source / "notebooks").iterdir():
        if page.suffix in (".html", ".css") and page.name not in left:
            shutil.copy(page, target / "notebooks" / page.name)
    if not own:
        write_json(target / SITE / INDEX, {"dictionaries": [], "reason": REASON})
        for name, folder in small.items():
            copy_small(folder, target / SMALL / name)


def sparsest(source: Path) -> dict[str, Path]:
    """Folders by run of the local and the e2e SAE with the lowest L0 at each layer: the smallest,
    for the sparser an SAE is, the fewer of its latents ever fire. Only where weights are kept."""
    main = main_runs(metrics_table(source))
    own = main[main["objective"].isin(PAIRED) & main["run"].map(partial(has_weights, source))]
    chosen = own.loc[own.groupby(["layer", "objective"])["l0"].idxmin()]
    return {row.run: sae_folder(source, row.run, row.hook) for row in chosen.itertuples()}


def copy_small(folder: Path, target: Path) -> None:
    """Copy an SAE in bfloat16 without the latents that never fired on the held-out text, which
    gives there what the whole one gives, but for the rounding.

    Raises:
        ModelError: a file of `folder` is damaged.
    """
    stored, frequency = saelens.read(folder), saelens.firing_frequency(folder)
    fired = (frequency > 0).nonzero()[:, 0]
    tensors = {
        name: tensor.index_select(LATENTS[name], fired) if name in LATENTS else tensor
        for name, tensor in stored.weights.items()
    }
    saelens.write(target, replace(stored, weights=tensors, dtype="bfloat16"), frequency[fired])


def copy_page(page: Path, target: Path) -> None:
    """Copy a page to a folder without executed notebooks, which it links no more."""
    text = page.read_text(encoding="utf-8")
    (target / page.name).write_text(NOTEBOOK_LINK.sub("", text), encoding="utf-8")


def add_columns(table: Path, made: Path) -> None:
    """Give a table that stays the columns that only the one made again has, empty where it lacks
    the run of a row; as they are where their rows are no runs'."""
    old, new = (pd.read_csv(path, dtype=str) for path in (table, made))
    if "run" in old and "run" in new and (more := [c for c in new if c not in old]):
        own = new.drop_duplicates("run")[["run", *more]]
        merged = old.merge(own, on="run", how="left")
        merged[[*new, *(c for c in old if c not in new)]].to_csv(table, index=False)


def again(reference: Path, scratch: Path) -> None:
    """Replace what the analyses of `reference` gave by what they give now, and write its report.

    Raises:
        ResultsError: it is no reference, or a notebook does not run.
    """
    verify.prepare(reference, scratch)
    lacking = verify.lacking_weights(scratch)
    todo = verify.analyses(scratch)
    failed = verify.run_stages([stage for stage in todo if stage.name != verify.CLAIMS], scratch)
    verify.write_metrics_table(scratch)
    verify.carry_over(reference, scratch, lacking)
    failed += verify.run_stages([stage for stage in todo if stage.name == verify.CLAIMS], scratch)
    if failed:
        raise ResultsError(f"{', '.join(failed)} failed: {reference.name!r} stays as it is.")
    partial, trained = (*lacking.rows, *lacking.averages, *lacking.whole), verify.TRAINING
    stays = {f"{number[:2]}_" for number in trained}  # notebooks whose page is not made again
    for kind in ("figures", "tables", "skipped"):
        for old in sorted((reference / kind).glob("*")):
            names = [f"{kind}/{old.stem}{end}" for end in (".csv", ".json")]
            if any(matches(name, partial) for name in names):
                stays.add(old.name[:3])
                if old.suffix == ".csv" and (scratch / kind / old.name).is_file():
                    add_columns(old, scratch / kind / old.name)
                (scratch / kind / old.name).unlink(missing_ok=True)
                (scratch / "skipped" / f"{old.stem}.json").unlink(missing_ok=True)
            elif old.name[:3] not in {f"{name[:2]}_" for name in trained}:
                old.unlink()
        shutil.copytree(scratch / kind, reference / kind, dirs_exist_ok=True)
    for name in ("metrics.csv", "claims.json"):
        shutil.copy(scratch / name, reference)
    executed = [p for p in (scratch / "notebooks").glob("*.ipynb") if p.name[:3] not in stays]
    for notebook in executed:
        shutil.copy(notebook, reference / "notebooks")
    write_pages(reference)
    for notebook in executed:
        (reference / "notebooks" / notebook.name).unlink()


def write_pages(reference: Path) -> None:
    """Write the report of a copy, which has no executed notebooks to link."""
    write_report(reference)
    for page in reference.glob("*.html"):
        copy_page(page, reference)


@command
def main(arguments: list[str]) -> None:
    """The command line."""
    if arguments == ["--again"]:
        os.environ |= environment()
        again(project_path(REFERENCE), project_path(verify.SCRATCH))
        readme_block(project_path(REFERENCE), ROOT / "README.md")
        return
    allowed = "one finished results folder, and where its copy goes if not to results/reference"
    require(len(arguments) in (1, 2), "the command line", arguments, allowed)
    source, target = (project_path(name) for name in [*arguments, REFERENCE][:2])
    beside = target.parent == source.parent and target.name.startswith("reference_")
    own = target == project_path(REFERENCE)
    require(own or beside, "the copy", target.name, "reference, or reference_… beside the results")
    copy_reference(source, target, runs=own)
    for copied in {target, project_path(REFERENCE)}:  # whose ledger shows those beside it
        write_pages(copied)
    readme_block(project_path(REFERENCE), ROOT / "README.md")


if __name__ == "__main__":
    sys.exit(main())
