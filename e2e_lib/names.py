"""Words that parameters take, what the names of hook points say, types of models. No torch here."""

import math
import re
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from e2e_lib.errors import Rule, is_number, is_text, require

# For annotations: to import these takes seconds, and most of what reads SAEs runs no model.
if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge as TransformerBridge
    from transformers import PreTrainedModel as PreTrainedModel
    from transformers.utils import ModelOutput as ModelOutput
else:
    TransformerBridge = PreTrainedModel = ModelOutput = Any

OBJECTIVES = ("local", "e2e", "e2e_ds")  # the paper's, in this order everywhere
FINE_TUNED = ("finetune", "finetune_ds")  # for SAEs that exist
EVERY_OBJECTIVE = (*OBJECTIVES, *FINE_TUNED, "gradmse")  # that can be trained


class SparsifierName(NamedTuple):
    """What a plan knows of it without torch."""

    place: str  # of its class
    holds_k: bool = False  # whether it holds a number k of latents a token
    whole_k: bool = False  # whether that must be a whole number
    calibrated: bool = False  # whether its threshold is set after training, on held-out text

    @property
    def kind(self) -> Any:
        """Its class, which is imported now."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)


# Rules by which latents fire (`core.sparsifiers`).
SPARSIFIERS = {
    "relu": SparsifierName("e2e_lib.core.sparsifiers:Sparsifier"),
    "topk": SparsifierName("e2e_lib.core.sparsifiers:TopK", holds_k=True, whole_k=True),
    "batchtopk": SparsifierName(
        "e2e_lib.core.sparsifiers:BatchTopK", holds_k=True, calibrated=True
    ),
    "jumprelu": SparsifierName("e2e_lib.core.sparsifiers:JumpReLU"),
    "matryoshka": SparsifierName(
        "e2e_lib.core.sparsifiers:Matryoshka", holds_k=True, calibrated=True
    ),
}
PRECISIONS = ("fp32", "tf32", "bf16")  # what each means: `engine.device`
# Models that `make model` fetches, by the word for them: folders of the project.
FETCHED_MODELS = {"smollm2": "build/models/smollm2"}

# What a claim's verdict may be, and its sign (`analysis.claims.verdicts` says when it is which).
VERDICTS = {"holds": "✓", "refuted": "✗", "undecided": "?", "not testable here": "–"}

NULL = re.compile(r"(.+)\.null_([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)$")
PAIR = ">"  # between the hook that a transcoder reads and the one whose activation it makes
LAYER = re.compile(r"blocks\.([0-9]{1,6})\.")

# Parameters that say where something is: what each may be.
NAME = Rule(  # parts of a path have at most 255 characters anywhere
    lambda v: is_text(v) and "\0" not in v and max(map(len, v.split("/"))) < 256, "a name or a path"
)
Place = Annotated[str, NAME]
Model = Annotated[str, NAME._replace(allowed="storyworld, a hub name or a folder")]
Data = Annotated[str, NAME._replace(allowed="storyworld, a text file, a folder or a hub data set")]
Revision = Annotated[str, NAME._replace(allowed="a commit, tag or branch of the hub")]
DEVICE = re.compile("cpu|mps|cuda(:[0-9]{1,3})?")
Device = Annotated[
    str, Rule(lambda v: is_text(v) and bool(DEVICE.fullmatch(v)), "cpu, cuda, cuda:0 or mps")
]


def require_k(name: str, k: int | float | None, d_sae: int | None = None) -> None:
    """Raise ConfigError unless a sparsifier has this name and may hold `k` of `d_sae` latents.

    >>> require_k("topk", 2.5)
    Traceback (most recent call last):
    e2e_lib.errors.ConfigError: k is 2.5, but it must be a whole number with sparsifier topk.
    """
    require(name in SPARSIFIERS, "sparsifier", name, f"one of {', '.join(SPARSIFIERS)}")
    if not SPARSIFIERS[name].holds_k:
        require(k is None, "k", k, f"None: {name} has no k")
        return
    most = f" and at most d_sae ({d_sae})" if d_sae else ""
    good = k is not None and 0 < k <= (d_sae or math.inf)
    require(good, "k", k, f"a number above 0{most} with sparsifier {name}")
    whole = not SPARSIFIERS[name].whole_k or float(k or 0).is_integer()
    require(whole, "k", k, f"a whole number with sparsifier {name}")


def number_word(value: float) -> str:
    """A number in as few digits as tell it: it is read back as it was.

    >>> number_word(8.0), number_word(1e-05), number_word(0.12345671)
    ('8', '1e-05', '0.12345671')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def split_names(text: str) -> list[str]:
    """The names in a text that joins them by commas."""
    return [name.strip() for name in text.split(",")]


def parse_sparsity_coeffs(text: str) -> dict[str, list[float]]:
    """λ values by objective from `local:0.3,1;e2e:0.1`: a list that fits one notebook parameter.

    >>> parse_sparsity_coeffs("local:0.3,1;e2e:0.1")
    {'local': [0.3, 1.0], 'e2e': [0.1]}

    Raises:
        ConfigError: text of another form, or an unknown objective.
    """
    form = "like 'local:0.3,1;e2e:0.1,0.3': different numbers of at least 0, each objective once"
    try:
        pairs = [part.split(":") for part in text.split(";") if part.strip()]
        found = {name.strip(): [float(v) for v in values.split(",")] for name, values in pairs}
    except (ValueError, AttributeError):
        pairs, found = [], {}
    grids = found.values()
    good = all(is_number(v) and v >= 0 for grid in grids for v in grid)
    alone = len(found) == len(pairs) and all(len(set(grid)) == len(grid) for grid in grids)
    require(bool(found) and good and alone, "sparsity_coeffs", text, form)
    allowed = f"for some of {', '.join(EVERY_OBJECTIVE)}"
    require(set(found) <= set(EVERY_OBJECTIVE), "sparsity_coeffs", text, allowed)
    return found


def ends(hook_name: str) -> tuple[str, ...]:
    """The model's hooks behind a name: one, or of a transcoder's pair what it reads and makes.

    >>> ends("blocks.2.mlp.hook_in>blocks.2.hook_mlp_out")
    ('blocks.2.mlp.hook_in', 'blocks.2.hook_mlp_out')
    """
    return tuple(hook_name.split(PAIR))


def layer_of(hook_name: str) -> int:
    """The block a hook belongs to, of a pair the first one; 0 for hooks outside the blocks.

    >>> layer_of("blocks.12.hook_resid_pre"), layer_of("hook_embed")
    (12, 0)
    """
    found = LAYER.match(hook_name)
    return int(found[1]) if found else 0


def block_of(hook_name: str) -> int:
    """Where in the residual stream a hook's activation is, or of a pair what it makes.

    Before block k that is k, after the last block the number of blocks.

    >>> block_of("blocks.2.hook_mlp_out"), block_of("blocks.2.hook_resid_post.null_8")
    (2, 3)
    """
    made = null_channel(ends(hook_name)[-1])[0]
    return layer_of(made) + made.endswith("hook_resid_post")


def resid_pre(layer: int) -> str:
    """Hook name of the residual stream before block `layer`."""
    return f"blocks.{layer}.hook_resid_pre"


def with_null_channel(hook_name: str, scale: float) -> str:
    """Name of the hook with a null channel of this scale beside its activation (`engine.model`).

    >>> with_null_channel("blocks.2.hook_resid_pre", 8.0)
    'blocks.2.hook_resid_pre.null_8'
    """
    return f"{hook_name}.null_{number_word(scale)}"


def null_channel(hook_name: str) -> tuple[str, float]:
    """The model's own hook behind a name, and the scale of the null channel; 0 without one.

    >>> null_channel("blocks.2.hook_resid_pre.null_8"), null_channel("hook_embed")
    (('blocks.2.hook_resid_pre', 8.0), ('hook_embed', 0.0))
    """
    found = NULL.match(hook_name)
    scale = float(found[2]) if found else 0.0
    return (found[1], scale) if found and 0 < scale < math.inf else (hook_name, 0.0)
