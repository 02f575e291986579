"""Damaged and hostile folders: SAEs, releases and results, read or refused in one sentence."""

import json
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from e2e_lib.analysis.claims.checklist import checklist, compute_table
from e2e_lib.core.sae import SAE
from e2e_lib.data.formats.authors import read_tensors
from e2e_lib.data.formats.saelens import CONFIG, SPARSITY, WEIGHTS, firing_frequency
from e2e_lib.errors import E2EError, ModelError
from e2e_lib.runs import provenance, read, tables
from e2e_lib.runs.released import ReleasedSAE, read_released
from pipeline.run import parse_overrides
from tests.helpers.hostile import (
    SIZES,
    batch,
    changed_bytes,
    changed_value,
    json_text,
    survives,
)
from tests.helpers.pt_files import SOUND_PT, rezipped
from tests.helpers.run_folders import HOOK, small_training, write_run
from tests.helpers.tiny_models import small_sae

pytestmark = pytest.mark.usefixtures("without_type_checks")


# ------------------------------------------------------------------ SAE folders
@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sae")
    small_sae().save(folder, {"hook_name": HOOK}, torch.full((20,), 0.1))
    return folder


def header(tensors: Any, body: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = tensors if isinstance(tensors, bytes) else json_text(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


HEADERS = {
    name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    for name, shape in {"W_enc": [12, 20], "b_enc": [20], "sparsity": [20]}.items()
}


@batch(700)
@given(st.data())
def test_safetensors_files(sae_folder: Path, data: st.DataObject) -> None:
    """Damaged weights, sound weights under another header, headers that lie about sizes."""
    name, read = data.draw(st.sampled_from([(WEIGHTS, SAE.load), (SPARSITY, firing_frequency)]))
    sound = (sae_folder / name).read_bytes()
    length = struct.unpack("<Q", sound[:8])[0]
    own = json.loads(sound[8 : 8 + length])
    lies = st.builds(
        header,
        changed_value(own) | changed_value(HEADERS),
        st.sampled_from([sound[8 + length :], b"", b"\0" * 64]),
        st.none() | st.sampled_from(SIZES),
    )
    damaged = data.draw(changed_bytes(sound) | lies)
    try:
        (sae_folder / name).write_bytes(damaged)
        survives(read, sae_folder)
    finally:
        (sae_folder / name).write_bytes(sound)


@batch(500)
@given(st.data())
def test_sae_configurations(sae_folder: Path, data: st.DataObject) -> None:
    sound = (sae_folder / CONFIG).read_text()
    changed = changed_value(json.loads(sound)).map(lambda value: json_text(value).encode())
    try:
        (sae_folder / CONFIG).write_bytes(data.draw(changed | changed_bytes(sound.encode())))
        found = survives(SAE.load, sae_folder)
        assert found is None or (found.d_in, found.d_sae) == (12, 20)
        survives(small_training(init_from=str(sae_folder)).starts, sae_folder)
        registry = sae_folder / "gpt2-small__res_sll-ajt"  # whose layers are 2, 6 and 10
        registry.mkdir(exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            (registry / name).write_bytes((sae_folder / name).read_bytes())
        survives(read_released, registry)
    finally:
        (sae_folder / CONFIG).write_text(sound)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_claims_of_enormous_sizes_fail_without_allocating(sae_folder: Path, tmp_path: Path) -> None:
    """A terabyte in a header, 10^9 latents in a configuration, an archive that inflates."""
    config = json.loads((sae_folder / CONFIG).read_text())
    weights = (sae_folder / WEIGHTS).read_bytes()
    million = 10**6
    shapes = {"W_enc": [million, million], "b_enc": [million]}
    shapes |= {"W_dec": [million, million], "b_dec": [million]}
    lie, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape, dtype=object))
        lie[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end := end + size]}
    huge = config | {"d_in": million, "d_sae": million}
    cases = [
        (json.dumps(huge).encode(), header(lie)),
        (json.dumps(huge).encode(), header(lie, b"\0" * 1000)),
        (json.dumps(config | {"d_sae": 10**9}).encode(), weights),
        (json.dumps(config | {"d_sae": 10**30}).encode(), weights),
        (json.dumps(config).encode(), header({}, size=2**62)),
    ]
    before = peak_mb()
    for text, data in cases:
        (tmp_path / CONFIG).write_bytes(text)
        (tmp_path / WEIGHTS).write_bytes(data)
        with pytest.raises(ModelError) as caught:
            SAE.load(tmp_path)
        assert "\n" not in str(caught.value)
    bomb = rezipped(SOUND_PT, "data/0", b"\0" * 300_000_000, zipfile.ZIP_DEFLATED)
    before = max(before, peak_mb())  # making it took memory
    (tmp_path / "a.pt").write_bytes(bomb)
    with pytest.raises(ModelError):
        read_tensors(tmp_path / "a.pt")
    assert peak_mb() - before < 50


# ------------------------------------------------------------------ descriptions of releases
FACTS = {
    "seed": 0, "n_samples": 1000, "lr": "5e-4", "effective_batch_size": 16, "batch_size": 8,
    "lr_schedule": "cosine", "min_lr_factor": 0.1, "warmup_samples": 20, "max_grad_norm": 10.0,
    "train_data": {"n_ctx": 1024},
    "loss": {
        "sparsity": {"coeff": 1.5, "p_norm": 1.0}, "logits_kl": {"coeff": 0.5},
        "out_to_in": None,
        "in_to_orig": {"total_coeff": 2.5, "hook_positions": ["blocks.7.hook_resid_pre"]},
    },
}  # fmt: skip


@batch(400)
@given(
    changed_value(FACTS).map(lambda value: json_text(value).encode())
    | changed_bytes(yaml.safe_dump(FACTS).encode())
)
def test_descriptions_of_released_saes(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "e2e_similar_ce_layer_6.pt"
    path.write_bytes(SOUND_PT)
    path.with_suffix(".yaml").write_bytes(text)
    for found in survives(read_released, path) or ():
        assert isinstance(found, ReleasedSAE) and found.train_tokens >= 0


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [exit]", "a: !!python/name:os"])
def test_yaml_makes_no_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e2e_similar_ce_layer_6.pt"
    path.write_bytes(SOUND_PT)
    path.with_suffix(".yaml").write_text(text)
    with pytest.raises(ModelError, match="ConstructorError"):
        read_released(path)
    with pytest.raises(E2EError):
        parse_overrides([f"seeds={text}"])


# ------------------------------------------------------------------ results folders
@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two finished runs with every file that tables are made of."""
    folder = tmp_path_factory.mktemp("results")
    for seed, name in enumerate(("a", "b")):
        write_run(folder, name, seed=seed)
        rows = pd.DataFrame(
            {"row": [0, 1], "ce_clean": 1.0, "ce_increase": 0.1, "kl": 0.1, "l0": 5}
        )
        rows.to_csv(folder / "saes" / name / "rows.csv", index=False)
        curve = pd.DataFrame({name: [0, 1] for name in read.CURVE})
        curve.to_csv(folder / "saes" / name / "curve.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "this_code", lambda: "")  # asks git, which takes its time
        yield folder


TABLES = (
    *(tables.metrics_table, tables.block_table, tables.row_table, tables.curve_table),
    *(tables.write_metrics_table, read.run_config, provenance.print_provenance),
    *(checklist, compute_table),
)


@batch(350)
@given(st.data())
def test_damaged_run_folders(results: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["run.json", "metrics.json", "rows.csv", "curve.csv"]))
    path = results / "saes" / "a" / name
    sound = path.read_bytes()
    damaged = changed_bytes(sound)
    if name.endswith(".json"):
        changed = changed_value(json.loads(sound)).map(lambda value: json_text(value).encode())
        damaged = changed | changed | damaged
    try:
        path.write_bytes(data.draw(damaged))
        for table in TABLES:
            survives(table, results)
    finally:
        path.write_bytes(sound)
