"""SAEs written here and run by the libraries whose formats they are, and the other way round.

    python -m tests.compatibility.formats sae_lens=PYTHON sparsify=PYTHON \\
        dictionary_learning=PYTHON e2e_sae=PYTHON

PYTHON is the interpreter of an environment that has that library (with no need of this project):
sae-lens==6.54.12, eai-sparsify==1.3.3, dictionary-learning==0.1.0 with transformers==4.46.3, and
e2e-sae==2.1.1, the authors' own, without what it requires but torch and safetensors: its module of
SAEs needs no more. Makes the libraries' part of `files/` anew: the files of both sides, what the
libraries compute of them, and `table.csv`, which `docs/formats.md` shows; of libraries that are not
given all stays. The test beside this compares today's code with them and needs no library.
"""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from e2e_lib.data.formats.sae_files import read_sae, write_sae
from e2e_lib.data.formats.stored import StoredSAE
from e2e_lib.files import replace_block
from tests.helpers.sae_stand_ins import D_OUT, D_SAE, STAND_INS, draw, inputs, run, without

FOLDER = Path(__file__).resolve().parent / "files"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
LIBRARIES = ("sae_lens", "dictionary_learning", "sparsify", "e2e_sae")
HOOK = "blocks.4.hook_resid_post"
PAIR = "blocks.4.mlp.hook_in>blocks.4.hook_mlp_out"
SUITES = ("gemma_scope", "gemma_scope_2", "llama_scope")


class Row(NamedTuple):
    """One SAE in one format, run by one library and here."""

    direction: str
    format: str
    architecture: str
    library: str
    version: str
    codes: float  # largest difference of a code
    output: float
    failed: str  # why the library cannot load it


def ours() -> dict[str, StoredSAE]:
    """An SAE for every architecture of every format that is written, by the folder's name."""
    w = draw(20, unit=True)
    plain = without(w, "threshold")
    one = plain | {"threshold": torch.full((D_SAE,), 0.4)}
    t = draw(21, unit=True, d_out=D_OUT) | {"W_skip": draw(22)["W_enc"][:, :D_OUT]}
    trainer = {"layer": 4, "lm_name": "a/b", "submodule_name": "resid_post_layer_4", "k": 3}
    own = {"trainer": trainer, "buffer": {"ctx_len": 128}, "group_sizes": [4, 6]}

    def made(format: str, architecture: str, kind: str) -> StoredSAE:
        one_threshold = "BatchTopK" in architecture
        weights, hook = one if one_threshold else w if kind == "jumprelu" else plain, HOOK
        if "transcoder" in architecture:
            words = {"threshold": "jumprelu", "W_skip": "skip"}
            left = [name for name, word in words.items() if word not in architecture]
            weights, hook = without(t, *left), PAIR
        if format == "authors":
            hook = "blocks.5.hook_resid_pre"
        return StoredSAE(
            weights, kind, 3 if kind == "topk" else None, format, architecture, hook,
            metadata={"model_name": "tiny"}, config=own if format == "dictionary_learning" else {},
        )  # fmt: skip

    kinds = {
        "saelens": {
            "standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "jumprelu",
            "transcoder": "relu", "skip_transcoder": "relu",
            "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
        },
        "dictionary_learning": {
            "AutoEncoder": "relu", "AutoEncoderNew": "relu", "AutoEncoderTopK": "topk",
            "JumpReluAutoEncoder": "jumprelu", "BatchTopKSAE": "jumprelu",
            "MatryoshkaBatchTopKSAE": "jumprelu", "GatedAutoEncoder": "jumprelu",
        },
        "sparsify": {"topk": "topk", "all": "relu"},
        "authors": {"released": "relu", "checkpoint": "relu"},
    }  # fmt: skip
    return {
        f"{format}.{architecture}": made(format, architecture, kind)
        for format, architectures in kinds.items()
        for architecture, kind in architectures.items()
    }


def write_ours(folder: Path) -> None:
    """Write every one of `ours`, and stand-ins of the suites that are read only."""
    for name, stored in ours().items():
        inner = {"sparsify": "layers.4", "authors.released": "e2e_similar_ce_layer_5.pt"}
        inner |= {"authors.checkpoint": "samples_400.pt"}
        place = folder / "ours" / name
        place.mkdir(parents=True, exist_ok=True)
        write_sae(place / inner.get(name, inner.get(stored.format, "")), stored)
    for name in SUITES:
        STAND_INS[name].write(folder / "stand_ins" / name)


def sae_path(folder: Path, name: str) -> Path:
    """The files behind a name such as ours/sparsify.topk."""
    path = folder / name
    while len(inside := list(path.iterdir())) == 1 and inside[0].is_dir():
        path = inside[0]
    files = list(path.glob("*.pt"))
    return files[0] if files and not (path / "config.json").exists() else path


def rows(folder: Path = FOLDER) -> Iterator[Row]:
    """How far the libraries' codes and outputs are from what is read here.

    Rows of a decoder that are not of unit length are folded when they are read: codes are then the
    library's times one number for each latent, which is taken out here.
    """
    x = load_file(folder / "inputs.safetensors")["x"]
    for library in LIBRARIES:
        found = load_file(folder / f"{library}.safetensors")
        facts = json.loads((folder / f"{library}.json").read_text())
        version, failed = facts["version"], facts["failed"]
        names = [key.removesuffix(" codes") for key in found if key.endswith(" codes")]
        for name in sorted([*names, *failed]):
            direction, rest = name.split("/", 1)
            stored = read_sae(sae_path(folder, name))
            architecture = rest.split("/")[-1].split(".")[-1]
            why = failed.get(name, "")
            row = Row(direction, stored.format, architecture, library, version, 0.0, 0.0, why)
            if not row.failed:
                codes, output = run(stored, x)
                theirs = found[f"{name} codes"].double()
                scale = codes.sum(0) / theirs.sum(0).clamp_min(1e-9) if direction != "ours" else 1
                row = row._replace(
                    codes=float((codes - theirs * scale).abs().max()),
                    output=float((output - found[f"{name} output"]).abs().max()),
                )
            yield row


def markdown(table: list[Row]) -> str:
    """The table of the page."""
    said = {
        "ours": "written here, run there", "theirs": "written there, run here",
        "stand_ins": "a stand-in, run by both",
    }  # fmt: skip
    lines = ["| | format | architecture | library | codes differ by | output differs by |"]
    lines.append("|---|---|---|---|---|---|")
    for row in sorted(table, key=lambda r: (list(said).index(r.direction), r.library, r.format)):
        ends = [f"{row.codes:.0e}", f"{row.output:.0e}"]
        ends = [f"not loaded: {row.failed.split(':')[0]}", ""] if row.failed else ends
        where = [said[row.direction], row.format, row.architecture]
        lines.append("| " + " | ".join([*where, f"{row.library} {row.version}", *ends]) + " |")
    return "\n".join(lines)


def read_table(path: Path = FOLDER / "table.csv") -> list[Row]:
    """The committed rows."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [Row(**line) for line in csv.DictReader(file)]
    return [row._replace(codes=float(row.codes), output=float(row.output)) for row in found]


def write_table(table: list[Row], path: Path = FOLDER / "table.csv") -> None:
    """Write rows, differences to one digit."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in table:
            writer.writerow(row._replace(codes=f"{row.codes:.0e}", output=f"{row.output:.0e}"))


def main(arguments: list[str]) -> None:
    pythons = dict(argument.split("=", 1) for argument in arguments)
    if not pythons or not set(pythons) <= set(LIBRARIES):
        sys.exit(__doc__)
    for own in ("ours", "stand_ins", *(f"theirs/{library}" for library in pythons)):
        shutil.rmtree(FOLDER / own, ignore_errors=True)
    write_ours(FOLDER)
    save_file({"x": inputs()}, FOLDER / "inputs.safetensors")
    peer = Path(__file__).with_name("peer.py")
    for library, python in pythons.items():
        subprocess.run([python, peer, library, FOLDER], check=True)
    write_table(list(rows()))
    print(table := markdown(read_table()))
    replace_block(PAGE, "compatibility", table)


if __name__ == "__main__":
    main(sys.argv[1:])
