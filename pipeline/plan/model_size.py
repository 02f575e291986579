"""What a profile takes from the language model: layers, context, learning rate, λ grids, β.

Only running it tells how large its activations are, which the λ of an unknown model grow with.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from e2e_lib.errors import ModelError, is_integer, is_number, list_of, require, reworded
from e2e_lib.files import project_path
from e2e_lib.names import FETCHED_MODELS, OBJECTIVES
from e2e_lib.storyworld.corpus import EMBEDDED_MODELS

AUTO, AUTO_MIDDLE = "auto", "auto middle"
# λ of the densest and of the sparsest SAE worth training, for a model nobody has tuned yet, on
# activations of size 1. Codes grow with the activation's size s, squared errors with s², KL not at
# all: so λ grows with s where errors are squared and shrinks with it where KL stands alone.
AUTO_SPARSITY = {"local": (0.4, 2.0), "e2e": (0.4, 5.0), "e2e_ds": (1.2, 9.0)}
AUTO_DOWNSTREAM = 2.5  # the authors' β, but for their layer 10, where they took 0.05
AUTO_LR_TIMES_WIDTH = 1.28  # 0.02 at width 64; the authors, on 1,000 times the tokens, 5e-4 at 768
MEASURED_ROWS = 16  # of held-out text: thousands of tokens, more than a median needs
LAYER_PARAMETERS = {"layer", "necessity_layer"}  # of notebooks
AUTO_CONTEXT_SIZE = 128  # longer rows cost more time than the small models here gain from them


# Of the models that shipped profiles name, so that a profile is read at once, without a network.
KNOWN_SHAPES = {"gpt2": (12, 768, 1024), "roneneldan/TinyStories-1M": (8, 64, 2048)}
KNOWN_SHAPES |= dict.fromkeys(EMBEDDED_MODELS, (5, 64, 128))
KNOWN_SHAPES |= {FETCHED_MODELS["smollm2"]: (30, 576, 8192)}


class ModelShape(NamedTuple):
    """Blocks, width of the residual stream, and longest row of text of a language model."""

    n_layers: int
    d_model: int
    n_ctx: int


def model_shape(model: str) -> ModelShape:
    """The size of `model`, from its config alone. Raises ModelError, in one sentence."""
    folder = project_path(model)
    if model in EMBEDDED_MODELS or (model in KNOWN_SHAPES and not folder.is_dir()):
        return ModelShape(*KNOWN_SHAPES[model])
    if folder.is_dir() and not (folder / "config.json").is_file():
        if not any(folder.glob("*.gguf")):
            raise ModelError(f"MODEL {model} is a folder without a config.json or a .gguf file.")
        from e2e_lib.data.models import model_path  # slow to import

        folder = Path(model_path(model))
    # Slow to import, and needed for a model that nobody has written down the size of.
    from transformer_lens.model_bridge.sources import transformers as source
    from transformers import AutoConfig

    what = f"MODEL {model} is neither a folder here nor a model that the Hugging Face hub gives"
    if folder.is_dir():
        what = f"MODEL {model}: its config.json is no JSON that describes a language model"
    with reworded(ModelError, what):
        place = str(folder) if folder.is_dir() else model
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        # As the model will be loaded: an architecture's own names of these numbers, and a length
        # where it has no longest row.
        read = source.map_default_transformer_lens_config(config)
        return ModelShape(int(read.n_layers), int(read.d_model), int(read.n_ctx))


def most_latents(d_model: int, device: str) -> int:
    """Latents of the widest SAE that fits: two matrices, their gradients, Adam's moments."""
    return most_memory(device == "cpu") // (2 * 4 * 4 * d_model)


def most_memory(here: bool) -> int:
    """Bytes of this machine's memory; of another no more is known than that it has not 1 TiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if here else 1 << 40


def by_model(
    values: Mapping[str, Any], objectives: tuple[str, ...], shape: ModelShape
) -> dict[str, Any]:
    """The keys whose allowed values or defaults depend on the size of the model."""
    context = values["context_size"]
    context = min(AUTO_CONTEXT_SIZE, shape.n_ctx) if context == AUTO else context
    allowed = f"an integer from 2 to the model's context of {shape.n_ctx}"
    require(is_integer(context) and 2 <= context <= shape.n_ctx, "context_size", context, allowed)

    layers = values["layers"]
    if layers in (AUTO, AUTO_MIDDLE):
        usual = default_layers(shape.n_layers)
        layers = usual if layers == AUTO else (usual[len(usual) // 2],)
    allowed = f"a list of different layers of the model, each from 0 to {shape.n_layers - 1}"
    fits = list_of(is_integer)(layers) and all(0 <= layer < shape.n_layers for layer in layers)
    require(fits, "layers", layers, allowed)
    middle = values["middle_layer"]
    middle = sorted(layers)[len(layers) // 2] if middle == AUTO else middle
    require(middle in layers, "middle_layer", middle, f"one of layers = {list(layers)}")

    downstream, given = values["downstream_coeff"], values["sparsity_coeffs"]
    found = {
        "context_size": context,
        "layers": tuple(layers),
        "middle_layer": middle,
        "downstream_coeff": _downstream(
            AUTO_DOWNSTREAM if downstream == AUTO else downstream, layers
        ),
        "sparsity_coeffs": _sparsity(
            given, objectives, layers, middle, lambda: activation_scales(values, layers, context)
        ),
    }
    _check_places("downstream_coeff", downstream, shape.n_layers)
    for objective, own in given.items() if isinstance(given, dict) else ():
        _check_places(f"sparsity_coeffs of {objective}", own, shape.n_layers)
    return found


def _check_places(key: str, value: Any, n_layers: int) -> None:
    """Raise ConfigError if a mapping from layers names one that the model does not have.

    Layers without SAEs may be in it: who trains fewer need not write it anew.
    """
    for layer in value if isinstance(value, dict) else ():
        allowed = f"a layer of the model, from 0 to {n_layers - 1}"
        require(is_integer(layer) and 0 <= layer < n_layers, f"a key of {key}", layer, allowed)


def check_layers(
    parameters: Mapping[str, Mapping[str, Any]], layers: Sequence[int], n_layers: int
) -> None:
    """Raise ConfigError if a parameter of a notebook names a layer that it will not find there.

    Args:
        parameters: of notebooks, by their names.
        layers: those with SAEs, of the model's `n_layers`.
    """
    known: dict[str, Sequence[int]] = {
        "02_one_sae_by_hand": range(KNOWN_SHAPES["storyworld"][0]),  # its only model
        "26_pca_direction": (-1, *layers),
        "40_what_the_network_uses": range(-1, n_layers),
        "41_functional_importance": (-1, *layers),
    }
    for notebook, own in parameters.items():
        for name in LAYER_PARAMETERS & own.keys():
            among = known[notebook]
            allowed = f"one of {list(among)}"
            if isinstance(among, range):
                allowed = f"{'-1 or ' * (-1 in among)}a layer from 0 to {among[-1]}"
            require(own[name] in among, f"{name} of {notebook}", own[name], allowed)


def activation_scales(
    values: Mapping[str, Any], layers: Sequence[int], context_size: int
) -> dict[int, float]:
    """Typical size of an activation's element at the profile's hook point, by layer.

    Raises ModelError or DataError, in one sentence, if model or text cannot be read: before
    anything is trained.
    """
    # Slow to import, and needed for a model that nobody has tuned λ for.
    from e2e_lib.data.models import load_model
    from e2e_lib.data.rows import held_out_rows
    from e2e_lib.engine.model.probes import activation_scale

    model = load_model(
        values["model"],
        processed=values["processed"],
        revision=values["model_revision"],
    )
    evaluated = -(-values["eval_tokens"] // context_size)
    rows = held_out_rows(  # of those that every SAE is evaluated on: no more text is asked for
        model,
        values["train_data"],
        values["validation_data"],
        min(MEASURED_ROWS, evaluated),
        context_size=context_size,
        prepend_bos=values["prepend_bos"],
        revision=values["data_revision"],
    )
    hooks = {layer: f"blocks.{layer}.{values['hook_point']}" for layer in layers}
    scales = activation_scale(model, rows, list(hooks.values()))
    still = [hook for hook, scale in scales.items() if not 0 < scale < math.inf]
    if still:
        raise ModelError(
            f"sparsity_coeffs is auto, but {still[0]} has activations of size "
            f"{scales[still[0]]:g}: it must be a list for each objective, or MODEL another one."
        )
    return {layer: scales[hook] for layer, hook in hooks.items()}


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Early, middle and late block, as the paper's 2, 6, 10 of 12; the last block is left out.

    >>> default_layers(12), default_layers(5)
    ((2, 6, 10), (1, 2, 3))
    """
    last = max(n_layers - 2, 0)
    wanted = (round(n_layers / 6), round(n_layers / 2), round(5 * n_layers / 6))
    return tuple(sorted({min(layer, last) for layer in wanted}))


def default_lr(d_model: int) -> float:
    """Adam's learning rate for a model nobody has tuned: the wider, the smaller.

    >>> default_lr(64), default_lr(768)
    (0.02, 0.0017)
    """
    return float(f"{AUTO_LR_TIMES_WIDTH / d_model:.2g}")


def _downstream(value: Any, layers: Any) -> dict[int, float]:
    """β by layer, out of one number or a mapping."""
    given = value if isinstance(value, dict) else dict.fromkeys(layers, value)
    allowed = "a number of at least 0, or such a number for each of the layers"
    good = all(is_number(beta) and beta >= 0 for beta in given.values())
    require(good and set(layers) <= set(given), "downstream_coeff", value, allowed)
    return {layer: float(given[layer]) for layer in layers}


def _sparsity(
    value: Any,
    objectives: tuple[str, ...],
    layers: Any,
    middle: int,
    measured: Callable[[], dict[int, float]],
) -> dict[str, dict[int, tuple[float, ...]]]:
    """λ by objective and layer, out of `auto`, or a list or a mapping for each objective."""
    if isinstance(value, str) and value.split()[:1] == [AUTO]:
        words = value.split()[1:] or ["5", "3"]
        allowed = "auto, or auto and how many λ the middle and the other layers get, as auto 5 3"
        good = len(words) == 2 and all(re.fullmatch("[1-9][0-9]?", word) for word in words)
        require(good, "sparsity_coeffs", value, allowed)
        counts = [int(word) for word in words]
        size = measured()
        return {
            o: {k: auto_grid(o, counts[k != middle], size[k]) for k in layers} for o in objectives
        }
    allowed = "a list of numbers of at least 0 for each of the objectives (and layers)"
    require(isinstance(value, dict), "sparsity_coeffs", value, allowed)
    for key in value:
        require(key in OBJECTIVES, "sparsity_coeffs key", key, f"one of {', '.join(OBJECTIVES)}")
    return {o: {k: coeffs(value.get(o), o, k) for k in layers} for o in objectives}


def coeffs(
    given: Any, objective: str, layer: int, sweep: str = "", main: tuple[float, ...] = ()
) -> tuple[float, ...]:
    """λ of one objective and layer: a list for the layer or for all; a sweep's also how many."""
    given = given.get(layer) if isinstance(given, dict) else given
    if main and is_integer(given) and given >= 1:
        return evenly(main, given)
    allowed = "a list of different numbers of at least 0" + (
        ", or how many of the main grid's" if main else ""
    )
    good = list_of(lambda v: is_number(v) and v >= 0)(given)
    place = f"{sweep}sparsity_coeffs of {objective} at layer {layer}"
    require(good, place, given, allowed)
    return tuple(map(float, given))


def evenly(grid: tuple[float, ...], count: int) -> tuple[float, ...]:
    """`count` members of `grid`, evenly spread with both ends; one alone is the middle one.

    >>> evenly((1.0, 2.0, 3.0, 4.0, 5.0), 3), evenly((1.0, 2.0, 3.0), 1), evenly((1.0,), 2)
    ((1.0, 3.0, 5.0), (2.0,), (1.0,))
    """
    if count == 1:
        return (grid[len(grid) // 2],)
    places = {round(i * (len(grid) - 1) / (count - 1)) for i in range(count)}
    return tuple(grid[i] for i in sorted(places))


def auto_grid(objective: str, count: int, scale: float) -> tuple[float, ...]:
    """`count` λ of two digits, evenly spaced on a log scale, for activations of size `scale`.

    >>> auto_grid("local", 3, 1.0), auto_grid("e2e", 2, 2.0)
    ((0.4, 0.89, 2.0), (0.2, 2.5))
    """
    factor = 1 / scale if objective == "e2e" else scale
    low, high = (factor * bound for bound in AUTO_SPARSITY[objective])
    steps = max(count - 1, 1)
    return tuple(float(f"{low * (high / low) ** (i / steps):.2g}") for i in range(count))
