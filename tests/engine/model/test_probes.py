"""What a model has at its hooks, said before anything is trained."""

import pytest

from e2e_lib.engine.model.probes import check_hook, hook_width
from e2e_lib.errors import ConfigError, ModelError
from tests.helpers.tiny_models import D_MODEL, assert_sentence, tiny_model


@pytest.mark.parametrize(
    "name", ["blocks.1.hook_resid_prex", "blocks.7.hook_resid_pre", "resid_pre", ""]
)
def test_a_hook_that_the_model_lacks(name):
    with pytest.raises(ModelError) as caught:
        check_hook(tiny_model(), name)
    assert_sentence(caught, "hook", repr(name), "blocks 0 to 3", "blocks.")


def test_the_nearest_hook_names_are_offered():
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_resid_pre"):
        check_hook(tiny_model(), "blocks.1.hook_resid_prex")


def test_a_hook_of_another_rank():
    with pytest.raises(ConfigError) as caught:
        hook_width(tiny_model(), "blocks.1.attn.hook_pattern")
    assert_sentence(caught, "hook", "blocks.1.attn.hook_pattern", "(batch, position, width)")


def test_hook_widths():
    model = tiny_model()
    assert hook_width(model, "blocks.1.hook_resid_pre") == D_MODEL
    assert hook_width(model, "blocks.1.mlp.hook_post") == 4 * D_MODEL
