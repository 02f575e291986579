"""Hostile input: property tests over configurations and damaged files of the project's own.

Every input ends in success or in one of the project's own errors. pipeline/test_hostile_text.py has
what reaches HTML, the network and the logs.
"""

import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from e2e_lib.analysis.claims.checklist import checklist, compute_table
from e2e_lib.core.config import TrainConfig, learning_rate_factor
from e2e_lib.core.losses import Objective
from e2e_lib.core.sae import SAE
from e2e_lib.data.formats import CONFIG, SPARSITY, WEIGHTS, firing_frequency, read_tensors
from e2e_lib.data.text import TextSource, read_documents
from e2e_lib.errors import E2EError, ModelError
from e2e_lib.runs import provenance, read, tables
from e2e_lib.runs.experiment import Experiment, parse_sparsity_coeffs
from e2e_lib.runs.released import ReleasedSAE, read_released
from pipeline.plan.profile import PROFILES, make_profile
from pipeline.report import write_report
from pipeline.run import parse_overrides
from tests.helpers.hostile import (
    SIZES,
    VALUES,
    batch,
    changed_bytes,
    changed_value,
    json_text,
    survives,
)
from tests.helpers.pages import put
from tests.helpers.run_folders import write_run
from tests.helpers.tiny_models import small_sae

HOOK = "blocks.1.hook_resid_pre"
KINDS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
SMOKE = yaml.safe_load((PROFILES / "smoke.yaml").read_text())


@pytest.fixture(scope="module", autouse=True)
def without_type_checks() -> Any:
    """As users run it: the signatures that other tests check would stop a wrong type early."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ------------------------------------------------------------------ configurations
WORDS = st.lists(
    st.sampled_from(["local", "e2e", ":", ",", ";", "0.3", "1", "nan", "inf", "-1", " ", "1e400"])
)


@batch(600)
@given(st.one_of(st.text(), WORDS.map("".join), VALUES))
def test_sparsity_coeffs(text: Any) -> None:
    found = survives(parse_sparsity_coeffs, text)
    for grid in (found or {}).values():
        assert all(0 <= coeff < float("inf") for coeff in grid)


TRAIN = {
    "hook_names": (HOOK,), "dict_ratio": 2.0, "seed": 0, "batch_size": 4, "micro_batch_size": 2,
    "lr": 0.01, "warmup_fraction": 0.1, "schedule": "cosine", "min_lr_factor": 0.1,
    "grad_clip": 1.0, "init_from": {}, "frozen": (), "downstream_last_block": False,
}  # fmt: skip
SHARED = {
    "model": "storyworld", "train_data": "storyworld", "validation_data": "storyworld",
    "hook_names": (HOOK,), "seed": 0, "dict_ratio": 2.0, "train_tokens": 80, "eval_tokens": 40,
    "context_size": 10, "batch_size": 4, "micro_batch_size": 4, "device": "cpu", "threads": 1,
}  # fmt: skip


@batch(800)
@given(st.dictionaries(st.sampled_from(sorted(TRAIN)), VALUES, min_size=1, max_size=3))
def test_training_parameters(changes: dict[str, Any]) -> None:
    config = survives(TrainConfig, Objective(1.0, kl_coeff=1.0), **(TRAIN | changes))
    if config is not None:
        assert 0 <= learning_rate_factor(3, 10, config) <= 1


@batch(500)
@given(st.dictionaries(st.sampled_from(sorted(SHARED)), VALUES, min_size=1, max_size=3))
def test_experiments(changes: dict[str, Any]) -> None:
    experiment = survives(Experiment, **(SHARED | changes))
    if experiment is not None:
        assert experiment.train_rows >= 1 and experiment.eval_rows >= 1
        for config in survives(experiment.configs, {"e2e": [0.1]}, lr=0.01) or ():
            assert "/" not in experiment.name(config)


@batch(600)
@given(changed_value(SMOKE))
def test_profiles(values: Any) -> None:
    if isinstance(values, dict) and values.get("model") == "storyworld":
        survives(make_profile, "smoke", values)


@batch(300)
@given(st.sampled_from(sorted(SMOKE)), VALUES)
def test_profile_keys(key: str, value: Any) -> None:
    if key != "model":  # any text may be the name of a model on the hub
        survives(make_profile, "smoke", SMOKE | {key: value})


@batch(300)
@given(
    st.lists(
        st.one_of(
            st.text(),
            st.builds("{}={}".format, st.sampled_from(sorted(SMOKE)), st.text(max_size=20)),
            st.builds("{}={}".format, st.sampled_from(sorted(SMOKE)), VALUES.map(json_text)),
        ),
        max_size=3,
    )
)
def test_command_lines(pairs: list[str]) -> None:
    overrides = survives(parse_overrides, pairs)
    if overrides is not None and "model" not in overrides:
        survives(make_profile, "smoke", {**SMOKE, **overrides})


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
        survives(Experiment(**SHARED).starts, sae_folder, str(sae_folder))
        registry = sae_folder / "gpt2-small__res_sll-ajt"  # whose layers are 2, 6 and 10
        registry.mkdir(exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            (registry / name).write_bytes((sae_folder / name).read_bytes())
        survives(read_released, registry)
    finally:
        (sae_folder / CONFIG).write_text(sound)


# ------------------------------------------------------------------ PyTorch's files
TENSORS = {
    "encoder.weight": torch.zeros(8, 4), "encoder.bias": torch.zeros(8),
    "decoder.weight": torch.zeros(4, 8), "decoder.bias": torch.zeros(4),
}  # fmt: skip


def pt_bytes(tensors: Any = TENSORS) -> bytes:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


def rezipped(sound: bytes, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same archive with another content of the entries that end in `name`."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(sound)) as old,
        zipfile.ZipFile(stream, "w", compression) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, data if entry.endswith(name) else old.read(entry))
    return stream.getvalue()


SOUND_PT = pt_bytes()
with zipfile.ZipFile(io.BytesIO(SOUND_PT)) as _archive:
    PICKLE = next(_archive.read(n) for n in _archive.namelist() if n.endswith("data.pkl"))


@batch(600)
@given(
    changed_bytes(SOUND_PT)
    | st.builds(
        rezipped, st.just(SOUND_PT), st.sampled_from(["data.pkl", "data/0", "byteorder"]),
        changed_bytes(PICKLE), st.sampled_from(KINDS),
    )
)  # fmt: skip
def test_pt_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "local_similar_ce_layer_6.pt"
    path.write_bytes(data)
    groups = survives(read_tensors, path)
    for tensors in (groups or {}).values():
        assert {t.dtype for t in tensors.values()} == {torch.float32}
        assert all(t.numel() * 4 <= len(data) for t in tensors.values())


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    touched, path = tmp_path / "touched", tmp_path / "a.pt"
    for data in (
        pt_bytes({"encoder.weight": Evil(touched)}),
        rezipped(SOUND_PT, "data.pkl", pickle.dumps(Evil(touched))),
        pickle.dumps(Evil(touched)),
    ):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read_tensors(path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Evil(touched)))  # it would have
    assert touched.exists()


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(1).expand(10**6, 10**6),  # 10^12 elements in four bytes
        torch.zeros(8, 4).to_sparse(),
        torch.zeros(8, 4, device="meta"),
        torch.zeros(8, 4, dtype=torch.complex64),
        torch.zeros(8, 4, dtype=torch.int64),
    ],
    ids=["expanded", "sparse", "meta", "complex", "integer"],
)
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, weight: torch.Tensor) -> None:
    path = tmp_path / "a.pt"
    torch.save(TENSORS | {"encoder.weight": weight}, path)
    with pytest.raises(ModelError):
        read_tensors(path)


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
    for name in ("a", "b"):
        write_run(folder, name)
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


TEXTS = {"name": "p", "title": "t", "alt": "a", "caption": "c", "paper": "p"}
REPORTED = {
    "figures/p.json": TEXTS, "tables/t.json": TEXTS, "skipped/s.json": {"name": "s", "reason": "r"},
    "failed/f.json": {"name": "f", "error": "e"}, "profile.json": {"name": "x", "model": "y"},
    "claims.json": [{"id": "C1", "claim": "c", "value": 1.0, "low": 0.5, "high": 2, "holds": True}],
}  # fmt: skip


@batch(300)
@given(st.data())
def test_reports_of_damaged_folders(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "reported"
    for name, facts in REPORTED.items():
        put(folder / name, facts)
    (folder / "tables" / "t.csv").write_text("a,b\n1,2.5\n")
    name = data.draw(st.sampled_from([*REPORTED, "tables/t.csv"]))
    sound = (folder / name).read_bytes()
    damaged = changed_bytes(sound)
    if name in REPORTED:
        changed = changed_value(REPORTED[name]).map(lambda value: json_text(value).encode())
        damaged = changed | damaged
    (folder / name).write_bytes(data.draw(damaged))
    survives(write_report, folder)


# ------------------------------------------------------------------ text
LINES = b'{"text": "one two"}\n{"text": "three"}\n'
IDS = b'{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n'


def parquet() -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"text": ["one two", "three"]}).to_parquet(stream)
    return stream.getvalue()


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`datasets` keeps what it reads; damaged files must not fill the user's cache."""
    import datasets.config

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


@batch(90)
@given(st.data())
def test_damaged_texts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    suffix, sound = data.draw(
        st.sampled_from(
            [(".jsonl", LINES), (".jsonl", IDS), (".txt", b"one\ntwo\n"), (".parquet", parquet())]
        )
    )
    path = tmp_path_factory.getbasetemp() / f"text{suffix}"
    path.write_bytes(data.draw(changed_bytes(sound)))
    read = lambda: list(read_documents(TextSource(str(path)), 0))  # noqa: E731
    for document in survives(read) or ():
        assert isinstance(document, str | list | np.ndarray)
