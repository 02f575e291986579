"""What a step must at least take: its multiplications."""

from benchmarks.shapes import Shape
from benchmarks.step import KL, Case


def block_parameters(shape: Shape) -> int:
    """Weights of one transformer block that every token is multiplied with."""
    d, config = shape.width, shape.config
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d
    heads = config.num_attention_heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or d // heads
    gated = config.model_type in ("llama", "gemma2")
    return 2 * d * width * (heads + pairs) + (3 if gated else 2) * d * inner


def step_flops(shape: Shape, case: Case) -> float:
    """Multiplications and additions that the objective cannot do without, attention left out.

    The frozen blocks before the SAE once, without gradient; those after it once clean (shared by
    all SAEs) and twice spliced (forward, and backward to their input); the unembedding once clean
    and twice spliced; of the SAE the encoder as a whole, and of the other four products the share
    of latents that fire. AuxK takes the same of the dead latents, of which d/2 fire.
    """
    tokens = shape.rows * shape.context
    d_sae = int(shape.dict_ratio * shape.width)
    block = 2 * tokens * block_parameters(shape)
    head = 2 * tokens * shape.width * shape.vocabulary
    product = 2 * tokens * shape.width * d_sae
    if case.objective == KL:
        return float(head * (1 + 2 * case.saes))
    later = shape.blocks - shape.layer
    shared, own = shape.layer * block, product * (1 + 4 * case.active)
    own += product * (case.dead + 4 * min(case.dead, shape.width // 2 / d_sae))
    if case.objective != "local":
        shared += later * block + head
        own += 2 * later * block + 2 * head
    return float(shared + case.saes * own)
