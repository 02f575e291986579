"""`read_sae` and `write_sae`: SAEs in any of the field's formats, found by what a folder holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from e2e_lib.data.formats import authors, dictionary_learning, saelens, scopes, sparsify
from e2e_lib.data.formats.stored import StoredSAE
from e2e_lib.errors import ModelError, reworded
from e2e_lib.files import expanded


class Format(NamedTuple):
    """A format: the files that a folder of it holds, and what reads and writes one."""

    files: tuple[str, ...]  # none for one of single files
    read: Callable[[Path], StoredSAE]
    write: Callable[[Path, StoredSAE], None] | None


FORMATS = {
    "saelens": Format((saelens.WEIGHTS, saelens.CONFIG), saelens.read, saelens.write),
    "dictionary_learning": Format(
        (dictionary_learning.WEIGHTS, dictionary_learning.CONFIG),
        dictionary_learning.read,
        dictionary_learning.write,
    ),
    "sparsify": Format((sparsify.WEIGHTS, sparsify.CONFIG), sparsify.read, sparsify.write),
    "authors": Format((), authors.read, authors.write),
    "gemma_scope": Format((scopes.PARAMS,), scopes.read_gemma, None),
    "gemma_scope_2": Format((scopes.PARAMS_2, scopes.CONFIG_2), scopes.read_gemma_2, None),
    "llama_scope": Format((scopes.HYPERPARAMS, scopes.FINAL), scopes.read_llama, None),
}
WRITTEN = [name for name, one in FORMATS.items() if one.write is not None]


def format_of(path: Path) -> str:
    """The format of a folder, or of a `.pt` file, which is the authors'.

    Raises:
        ModelError: it is of none, or a folder of several.
    """
    own = path.name != dictionary_learning.WEIGHTS  # an AutoEncoderNew's keys are the authors'
    if path.is_file() and path.suffix == ".pt" and own:
        return "authors"
    found = [name for name, one in FORMATS.items() if one.files and _holds(path, one.files)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"SAE folder {str(path)!r} holds files of {' and of '.join(found)}.")
    listed = "; ".join(f"{n}: {', '.join(one.files)}" for n, one in FORMATS.items() if one.files)
    raise ModelError(
        f"{str(path)!r} is no SAE: neither one of the authors' .pt files nor a folder with all "
        f"files of one format ({listed})."
    )


def _holds(folder: Path, files: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in files)


def read_sae(path: str | Path) -> StoredSAE:
    """An SAE of any format: what it computes, folded into one form (`stored`).

    Raises:
        ModelError: the format is none of `FORMATS`, a file is damaged, tensors are not what the
            configuration says, or it says what cannot be folded or is not known.
    """
    path = expanded(path)
    with reworded(ModelError, f"{str(path)[:80]!r} is no place for an SAE"):  # too long, say
        name = format_of(path)
    return FORMATS[name].read(path)


def as_writable(stored: StoredSAE) -> StoredSAE:
    """`stored`, to be written as SAELens does if the format it was read from is only read."""
    known = stored.format in WRITTEN
    return stored if known else replace(stored, format="saelens", config={})


def write_sae(
    path: str | Path,
    stored: StoredSAE,
    format: str | None = None,
    frequency: Float[Tensor, " d_sae"] | None = None,
) -> None:
    """Write an SAE: the same latents in the same order, of `stored.dtype`.

    Args:
        path: a folder; a `.pt` file for the authors' format.
        stored: the SAE, such as `read_sae` gave it with other weights.
        format: one of `WRITTEN`; None is the one it was read from.
        frequency: the share of tokens on which each latent fired; SAELens' folders alone have it.

    Raises:
        ModelError: the format is none of `WRITTEN`, or cannot say what the SAE is.
        ResultsError: it cannot be written to.
    """
    path, name = expanded(path), format or stored.format
    write = FORMATS[name].write if name in FORMATS else None
    if write is None:
        raise ModelError(
            f"format is {name!r}, but SAEs are written as one of {', '.join(WRITTEN)}."
        )
    if stored.transcoder and name != "saelens":
        raise ModelError(f"format is {name!r}, but a transcoder is written as saelens alone.")
    if path.is_file() if FORMATS[name].files else path.is_dir():
        raise ModelError(f"{path.name!r} is there, but is no place for an SAE of {name}.")
    others = [
        n for n, one in FORMATS.items() if n != name and one.files and _holds(path, one.files[:1])
    ]
    if others:
        raise ModelError(
            f"folder {path.name!r} holds an SAE of {others[0]}, so none of {name} can be."
        )
    if name == "saelens":
        saelens.write(path, stored, frequency)
    else:
        write(path, stored)
