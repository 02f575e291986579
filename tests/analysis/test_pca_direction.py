"""Principal directions: planes and identities by hand, correlations against numpy, ablations
against a pass with the activations written out."""

import numpy as np
import pandas as pd
import pytest
import torch

from e2e_lib.analysis import pca_direction as d
from e2e_lib.core.hooks import clean_pass
from e2e_lib.errors import ModelError
from e2e_lib.plots.directions import (
    plot_ablation_by_direction,
    plot_correlation_by_direction,
    plot_cosine_map,
    plot_projection_histogram,
)
from tests.helpers.tiny_models import D_MODEL, identity_sae, random_tokens, tiny_model

HOOK = "blocks.2.hook_resid_pre"


def plane(sign: float = 1.0) -> torch.Tensor:
    """40 rows of 3 positions: wide along (3, 4) / 5, narrow across; position 0 far out."""
    generator = torch.Generator().manual_seed(0)
    long = torch.randn(40, 3, 1, generator=generator)
    long[:, 0] += sign * 20
    short = 0.1 * torch.randn(40, 3, 1, generator=generator)
    return long * torch.tensor([0.6, 0.8]) + short * torch.tensor([0.8, -0.6])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_directions_by_hand(sign):
    found = d.principal_directions(plane(sign), 5)  # a plane has two
    assert found.shape == (2, 2)
    assert found[0].tolist() == pytest.approx([sign * 0.6, sign * 0.8], abs=1e-2)
    assert found[1].tolist() == pytest.approx([0.8, -0.6], abs=1e-2)  # its largest is positive


def test_directions_are_numpys_and_downwards():
    activations = torch.randn(30, 4, 6) * torch.tensor([1.0, 5, 2, 4, 3, 6]) + 10
    found = d.principal_directions(activations, 3)
    _, values, vectors = np.linalg.svd(
        (activations.flatten(0, 1) - activations.flatten(0, 1).mean(0)).numpy()
    )
    assert (np.diff(values) < 0).all()
    overlap = np.abs((found.numpy() * vectors[:3]).sum(axis=1))
    assert overlap == pytest.approx(1, abs=1e-4)


def test_what_each_direction_is():
    table = d.direction_table(plane(), torch.tensor([[0.6, 0.8], [0.8, -0.6]]))
    assert table["variance_share"].sum() == pytest.approx(1)
    assert table["first_cosine"].tolist() == pytest.approx([1, 0], abs=0.02)
    late = plane()[:, 1:].reshape(-1, 2).numpy()
    assert table["spread"][0] == pytest.approx((late @ [0.6, 0.8]).std(), rel=1e-4)
    assert table["spread"][1] < 0.15


def test_projections_by_kind_of_token():
    tokens = torch.tensor([[0, 5, 0], [7, 8, 9]])
    activations = torch.arange(12.0).reshape(2, 3, 2)
    table = d.projection_table(activations, torch.tensor([0.0, 1.0]), tokens, 0)
    assert table["projection"].tolist() == [1, 3, 5, 7, 9, 11]
    first, end, other = d.KINDS
    assert table["kind"].tolist() == [first, other, end, first, other, other]
    none = d.projection_table(activations, torch.tensor([0.0, 1.0]), tokens, None)
    assert end not in set(none["kind"])


def runs_of(*names: str) -> pd.DataFrame:
    """Runs named objective and seed, as local0."""
    columns = ["run", "objective", "seed"]
    rows = [(name, name[:-1], int(name[-1])) for name in names]
    return pd.DataFrame(rows, columns=columns).assign(layer=3)


def test_cosines_of_elements():
    elements = {"local0": torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "e2e0": torch.tensor([[0, -1.0]])}
    runs = runs_of("local0", "e2e0", "e2e_ds0")
    table = d.element_cosines(elements, runs, torch.tensor([0.0, 1.0]))
    assert table["run"].tolist() == ["local0", "local0", "e2e0"]
    assert table["cosine"].to_numpy() == pytest.approx([0, 0.8, -1])
    assert d.element_cosines({}, runs, torch.tensor([0.0, 1.0])).empty


def test_correlations_are_numpys_with_rows_repeated():
    x, noise = torch.randn(6, 5, 3) + 4, torch.randn(6, 5, 3)
    y = x * torch.tensor([1.0, -1.0, 0.1]) + noise
    counts = np.array([[1, 1, 1, 1, 1, 1], [3, 0, 1, 0, 2, 0]])
    found = d.correlations(x, y, counts / 6)
    for row, count in zip(found, counts, strict=True):
        chosen = np.repeat(np.arange(6), count)
        for k in range(3):
            pair = (t[chosen][:, :, k].flatten().numpy() for t in (x, y))
            assert row[k] == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)


def test_a_constant_has_no_correlation():
    x, y = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    x[..., 1] = 1234.567
    found = d.correlations(x, y, np.full((1, 4), 1 / 4))
    assert np.isnan(found).tolist() == [[False, True]]


def flipping_sae():
    """An SAE that returns its input with component 0 of the opposite sign."""
    sae = identity_sae(4)
    with torch.no_grad():
        sae.W_dec[:, 0] *= -1
    return sae


SAES = {"local0": identity_sae(4), "e2e_ds0": flipping_sae(), "local1": identity_sae(4)}


def test_correlation_of_input_and_output():
    activations = torch.randn(9, 5, 4)
    samples = d.correlation_samples(
        activations, SAES, runs_of("local0", "local1", "e2e_ds0", "e2e0"), torch.eye(4),
        resamples=20,
    )  # fmt: skip
    assert list(samples) == ["local", "e2e_ds"]  # in the fixed order; e2e has no weights
    assert samples["local"] == pytest.approx(np.ones((21, 1, 4)))
    assert samples["e2e_ds"] == pytest.approx(np.tile([-1, 1, 1, 1], (21, 1, 1)))
    table = d.correlation_table(samples, samples)
    assert len(table) == 8
    assert table.loc[4, ["objective", "direction", "value"]].tolist() == ["e2e_ds", 0, -1]


def test_rows_that_begin_alike_have_no_correlation_at_position_0():
    activations = torch.randn(9, 5, 4)
    activations[:, 0] = torch.tensor([1.0, 2, 3, 4])
    runs = runs_of("local0")
    first = d.correlation_samples(activations, SAES, runs, torch.eye(4), first=True, resamples=5)
    late = d.correlation_samples(activations, SAES, runs, torch.eye(4), resamples=5)
    table = d.correlation_table(late, first)
    assert table["at_first"].isna().all()
    assert table["value"].to_numpy() == pytest.approx(1)


def test_no_weights_no_correlations():
    samples = d.correlation_samples(torch.randn(3, 4, 4), {}, runs_of("local0"), torch.eye(4))
    assert samples == {}
    assert d.correlation_table(samples, samples).empty


def test_permuting_keeps_position_0_and_all_values():
    components = torch.arange(60.0).reshape(5, 6, 2)
    permuted = d.permuted_after_first(components, seed=3)
    assert torch.equal(permuted[:, 0], components[:, 0])
    for k in range(2):
        values = permuted[:, 1:, k].flatten()
        assert not torch.equal(values, components[:, 1:, k].flatten())
        assert torch.equal(values.sort().values, components[:, 1:, k].flatten().sort().values)
    # Each direction is permuted in its own way.
    assert not torch.equal(permuted[..., 0] + 1, permuted[..., 1])
    assert torch.equal(permuted, d.permuted_after_first(components, seed=3))


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_ablation_is_a_pass_with_the_component_exchanged(architecture):
    model, rows = tiny_model(architecture), random_tokens(5, 8)
    directions = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL)).Q[:2]
    found = d.resample_ablation(model, rows, HOOK, directions, seed=1, batch_size=2)
    clean = clean_pass(model, rows, [HOOK])
    assert clean.logits is not None
    activation = clean.activations[HOOK]
    drawn = d.permuted_after_first(activation @ directions.T, 1)
    for i, u in enumerate(directions):
        exchanged = activation - (activation @ u)[..., None] * u + drawn[..., i, None] * u
        with torch.no_grad(), model.hooks(fwd_hooks=[(HOOK, lambda a, hook, e=exchanged: e)]):
            logits = model(rows, return_type="logits")
        p, q = clean.logits.softmax(-1), logits.softmax(-1)
        own = found[found["direction"] == i]
        assert own["row"].tolist() == [0, 1, 2, 3, 4]
        kl = (p * (p / q).log()).sum(-1).mean(-1)
        kl_paper = (q * (q / p).log()).sum(-1).mean(-1)
        assert own["kl"].to_numpy() == pytest.approx(kl.numpy(), rel=1e-3, abs=1e-6)
        assert own["kl_paper"].to_numpy() == pytest.approx(kl_paper.numpy(), rel=1e-3, abs=1e-6)
        assert kl.min() > 1e-4
        assert not np.allclose(kl, kl_paper, rtol=1e-2)


def test_one_late_token_can_only_be_exchanged_for_itself():
    found = d.resample_ablation(tiny_model(), random_tokens(1, 2), HOOK, torch.eye(D_MODEL)[:1])
    assert found["kl"].to_numpy() == pytest.approx(0, abs=1e-6)


def test_an_unknown_hook_is_an_error():
    with pytest.raises(ModelError, match="no such hook"):
        d.resample_ablation(tiny_model(), random_tokens(2, 3), "blocks.9.x", torch.eye(D_MODEL))


def test_ablation_means_with_intervals():
    per_row = pd.DataFrame(
        [(i, row, i + 0.1 * row, 2 * i) for i in (0, 1) for row in range(3)],
        columns=["direction", "row", "kl", "kl_paper"],
    )
    table = d.ablation_table(per_row)
    assert table["kl"].tolist() == pytest.approx([0.1, 1.1])
    assert table["kl_paper"].tolist() == [0, 2]
    assert (table["kl_low"] < table["kl"]).all()
    assert table["kl_high"].max() <= 1.2 + 1e-9


def test_direction_0_against_the_rest():
    samples = {
        "local": np.array([[0.9, 0.99, 0.98], [0.5, 0.9, 0.9], [0.7, 0.9, 0.9]])[:, None],
        "e2e_ds": np.array([[0.3, 0.7, 0.8], [0.3, 0.6, 0.7], [0.3, 0.8, 0.7]])[:, None],
    }
    rows = [(i, row, kl) for i, kl in enumerate((0.01, 0.2, 0.1)) for row in range(4)]
    per_row = pd.DataFrame(rows, columns=["direction", "row", "kl"])
    table = d.first_direction(samples, per_row).set_index("quantity")
    # 0.3 less the smaller of 0.9 and 0.7; in the samples the smaller of 0.5, 0.6 and of 0.7, 0.7.
    assert table.loc["correlation", "value"] == pytest.approx(-0.4)
    assert table.loc["correlation", "low"] == pytest.approx(-0.4, abs=0.01)
    assert table.loc["correlation", "high"] == pytest.approx(-0.2, abs=0.01)
    assert table.loc["ablation"].tolist() == pytest.approx([0.1, 0.1, 0.1, 0])
    two = {name: np.concatenate([r, r - 0.1], axis=1) for name, r in samples.items()}
    two["e2e_ds"][..., 1, 0] = 0.5  # along direction 0: 0.1 less than the smallest other
    row = d.first_direction(two, per_row).set_index("quantity").loc["correlation"]
    assert (row["value"], row["n_seeds"]) == (pytest.approx((-0.4 - 0.1) / 2), 2)
    assert row["high"] > row["value"] + 0.3 > row["value"] - 0.3 > row["low"]
    alone = d.first_direction({"local": samples["local"]}, per_row)
    assert alone["quantity"].tolist() == ["ablation"]


def test_the_axis_breaks_only_where_position_0_is_far_away():
    values = np.linspace(-5, 5, 60)
    kinds = ["other"] * 50 + ["end of text, later"] * 10
    near = pd.DataFrame({"kind": [*kinds, "position 0"], "projection": [*values, 12.0]})
    far = near.assign(projection=[*values, 3000.0])
    assert len(plot_projection_histogram(near).axes) == 1
    broken = plot_projection_histogram(far)
    assert len(broken.axes) == 2
    low, high = (axes.get_xlim() for axes in broken.axes)
    assert low[0] < -5
    assert low[1] < high[0] < 3000 < high[1]
    shown = [text.get_text() for text in broken.legends[0].get_texts()]
    assert shown == ["other", "end of text, later", "position 0"]


def test_figures_by_direction_are_labelled():
    table = pd.DataFrame(
        [(o, i, 0.5, 0.4, 0.6) for o in ("local", "e2e_ds") for i in range(3)],
        columns=["objective", "direction", "value", "low", "high"],
    )
    axes = plot_correlation_by_direction(table).axes[0]
    assert axes.get_xlabel() == "PCA direction"
    assert [line.get_label() for line in axes.get_lines()][-2:] == ["local", "e2e+ds"]
    harm = pd.DataFrame(
        [(0, 0.1, 0.05, 0.2, 0.1, 1.0), (1, 0.2, 0.1, 0.3, 0.3, 2.0)],
        columns=["direction", "kl", "kl_low", "kl_high", "kl_paper", "spread"],
    )
    figure = plot_ablation_by_direction(harm)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "KL(clean ‖ ablated)", "KL(ablated ‖ clean)", "direction 0",
    ]  # fmt: skip
    points = pd.DataFrame({"objective": ["local", "e2e"], "x": [0, 1], "y": [1, 0]})
    shown = plot_cosine_map(points.assign(cosine=[0.2, -0.9]))
    assert [axes.get_title() for axes in shown.axes[:2]] == ["local", "e2e"]
