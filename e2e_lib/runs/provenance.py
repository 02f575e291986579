"""Which code, versions, data and hardware stand behind a result."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from e2e_lib.errors import DataError, reworded
from e2e_lib.files import project_path
from e2e_lib.names import FETCHED_MODELS, split_names
from e2e_lib.source_code import library_digest
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS

PACKAGES = (
    *("torch", "transformers", "transformer-lens", "datasets", "tokenizers", "safetensors"),
    *("numpy", "pandas", "scipy"),
)
# What is read of a model's folder: configuration, weights, tokenizer.
WEIGHTS = ("*.saf*", "*.bin", "*.gguf")
TEXTS = ("*.jsonl", "*.parquet", "*.arrow", "train*.txt", "val*.txt", "data/*")
MODEL_FILES = ("*.json", "*.saf*", "*.bin", "*.gguf", "*.model", "merges.txt", "vocab.txt")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Two processors that differ in these round sums differently: the last digits of a result, and
# whatever grows out of them, are theirs.
CPU_FLAGS = re.compile(
    r"(sse4_2|avx|avx2|fma|f16c|avx512\w*|avx_\w+|amx_\w+|asimd|sve2?|bf16|i8mm)"
)


def content_digest(name: str) -> str | None:
    """Digest of what lies behind a data or model parameter on this disk; None if it is not local.

    Of a file, of what a folder holds, of the folder in `FOLDER:SPLIT`, of each of several with
    commas between them. Text from `storyworld` is made by the package, whose version and commit
    are recorded, and what the hub serves is told by its revision: None too.

    Raises:
        DataError: a file may not be read.
    """
    if name in EMBEDDED_MODELS:
        return None
    path, (base, _, split) = project_path(name), name.rpartition(":")
    with reworded(DataError, f"what lies at {name!r} cannot be read"):
        if path.exists():
            return _digest(path)
    if base and split.isidentifier():
        return content_digest(base)
    found = filter(None, map(content_digest, split_names(name) if "," in name else ()))
    return ",".join(found) or None


def model_digest(name: str) -> str | None:
    """`content_digest` of a language model; of an embedded one, that of the shipped weights.

    A word for a fetched model is its folder, as in `models.model_path`.
    """
    if name in EMBEDDED_MODELS:
        return _digest(EMBEDDED_MODELS[name])
    return content_digest(name) or content_digest(FETCHED_MODELS.get(name, name))


def _digest(path: Path) -> str | None:
    """Of a file or a model: its files' bytes. Of a folder with texts, or any other: names too."""
    if path.is_file():
        named = [("", path)]
    elif (path / "config.json").is_file() and _any(path, WEIGHTS) and not _any(path, TEXTS):
        named = [("", f) for p in MODEL_FILES for f in sorted(path.glob(p)) if f.is_file()]
    else:
        named = sorted((str(file.relative_to(path)), file) for file in _files(path))
    stamps = [(n, f, f.stat().st_size, f.stat().st_mtime_ns) for n, f in named]
    return _content(tuple(stamps)) if stamps else None


def _any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _files(folder: Path) -> Iterator[Path]:
    """Every file in a folder but hidden ones; links that lead somewhere are followed, once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        known = os.path.realpath(place) in seen
        seen.add(os.path.realpath(place))
        folders[:] = [] if known else [name for name in folders if name[0] != "."]
        found = (Path(place, name) for name in names if name[0] != "." and not known)
        yield from (file for file in found if file.is_file())


@cache
def _content(files: tuple[tuple[str, Path, int, int], ...]) -> str:
    """Digest of names and bytes; size and time of change say whether they must be read again."""
    digest = hashlib.blake2b(digest_size=8)
    for name, file, size, _ in files:
        if name:
            digest.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """Commit, code, versions and hardware behind a result; names no host and no folder.

    `code` is a digest of the library's own files: it tells code apart where there is no commit,
    or where the tree was not clean.
    """
    packages = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # scipy comes with the analyses alone
            packages[name] = metadata.version(name)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "clean_tree": _git("status", "--porcelain", "--untracked-files=no") == "",
        "code": library_digest(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
    } | hardware()


def hardware() -> dict[str, Any]:
    """What decides speed and last digits: processor, cores, memory, GPU, and torch's use of them.

    cpu: the model's name; cpu_flags: its instruction sets that touch rounding; cpus_usable: cores
    that this process may use; memory_mb: of the machine. instruction_set and blas: what torch
    computes with; gpu: None where torch sees none, else name, memory in MB and CUDA's version.
    """
    import torch  # the tables of runs do without

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    gpu = None
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        gpu = {"name": card.name, "count": torch.cuda.device_count()}
        gpu |= {"memory_mb": card.total_memory >> 20, "cuda": torch.version.cuda}
    return {
        **_processor(),
        "cpus_usable": usable,
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "blas": blas[1] if blas else None,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def peak_memory() -> dict[str, int | None]:
    """MB that this process held at most until now, in memory and (None: unused) on the GPU.

    SAEs that train side by side share a process: the peak is of all of them together.
    """
    import resource

    import torch

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB; bytes on macOS
    with suppress(OSError):  # Linux's count above starts at what the starting process held
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        resident = int(status.partition("VmHWM:")[2].split()[0])
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "peak_memory_mb": resident >> (20 if sys.platform == "darwin" else 10),
        "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() >> 20 if used else None,
    }


def hub_commits(config: Mapping[str, Any]) -> dict[str, str | None]:
    """The commits behind a run's hub model and data sets, as the hub's cache on this disk has them.

    None for what is no hub name (its digest is in `config`) or where the cache does not say.
    """
    found = {}
    for key, kind, revision in (
        ("model", "models", "model_revision"),
        ("train_data", "datasets", "data_revision"),
        ("validation_data", "datasets", "data_revision"),
    ):
        name = str(config.get(key)).split(":")[0]
        found[key] = cached_commit(kind, name, str(config.get(revision, "main")))
    return found


def cached_commit(kind: str, name: str, revision: str) -> str | None:
    """The commit of a hub model or data set (`models`, `datasets`) in the hub's cache here."""
    if name in EMBEDDED_MODELS or project_path(name).exists() or ".." in f"{name}/{revision}":
        return None
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub.constants import HF_HUB_CACHE

    reference = Path(HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}" / "refs" / revision
    try:
        found = reference.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return found if COMMIT.fullmatch(found) else None


def this_code() -> str:
    """The code and the processor at work, in words for the last line of a notebook."""
    facts = provenance()
    commit = str(facts["commit"])[:10] + ("" if facts["clean_tree"] else " with changes")
    return (
        f"commit {commit}, code {facts['code']}, Python {facts['python']}, "
        f"torch {facts['packages']['torch'].split('+')[0]} with {facts['instruction_set']}"
    )


def print_provenance(results: Path | None = None, names: Collection[str] = ()) -> None:
    """One line, the last of a notebook: which runs it read, by which code, and the code at work.

    Args:
        results: folder of the runs; None where a notebook reads none.
        names: of the runs that count; empty for all finished ones.
    """
    read = ""
    if results is not None:
        from e2e_lib.runs.read import finished_runs, read_record  # with pandas

        folders = [f for f in finished_runs(results) if not names or f.name in names]
        records = [read_record(f) for f in folders]
        found = [r["provenance"] for r in records]
        seeds = ", ".join(map(str, sorted({r["config"]["seed"] for r in records})))
        torches = _listed(
            str(p.get("packages", {}).get("torch") or "").split("+")[0] for p in found
        )
        commits = _listed(str(p.get("commit") or "")[:10] for p in found)
        read = f"{len(records)} runs, seeds {seeds}, torch {torches}, commit {commits}; "
    print(f"{read}this notebook: {this_code()}")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value})) or "unknown"


@cache
def _processor() -> dict[str, Any]:
    """Name and instruction sets of the processor, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = f"{facts.get('flags', '')} {facts.get('Features', '')}".split()
    return {
        "cpu": facts.get("model name") or platform.processor() or None,
        "cpu_flags": sorted({flag for flag in flags if CPU_FLAGS.fullmatch(flag)}),
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(project_path(".")), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
