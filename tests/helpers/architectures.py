"""Random models of many architectures, as small as they go, in the hub's folder layout."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from tests.helpers.tiny_models import D_VOCAB, build_tokenizer

WIDTH, BLOCKS = 16, 2
_SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_GROUPED = {"num_key_value_heads": 1}
_ROTARY = {"head_dim": 8} | _GROUPED
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_LATENT = {  # DeepSeek's attention
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
    "v_head_dim": 8, "head_dim": 4, "num_key_value_heads": 2,
}  # fmt: skip
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
# What each architecture's configuration needs beside `_SHAPE`, by the name of its class, which a
# word may follow that tells variants apart.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Afmoe": _ROTARY | _EXPERTS | {"num_dense_layers": 1, "sliding_window": 4},
    "Apertus": _GROUPED,
    "Arcee": _GROUPED,
    "Bamba": _GROUPED | _MAMBA2 | {"attn_layer_indices": [1]},
    "BitNet": _GROUPED,
    "Bloom": {},
    "CodeGen": {"rotary_dim": 4, "num_attention_heads": 4},
    "Cohere": _GROUPED,
    "Cohere2": _GROUPED | {"sliding_window": 4},
    "DeepseekV2": _LATENT | {"first_k_dense_replace": 2},
    "DeepseekV3": _LATENT | {"first_k_dense_replace": 2},
    "Ernie4_5": _ROTARY,
    "Ernie4_5_Moe": _GROUPED | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 12},
    "Exaone4": _GROUPED | {"sliding_window": 4},
    "Falcon": {"multi_query": True},
    "Falcon alibi": {"alibi": True, "multi_query": False},
    "Falcon grouped": {"new_decoder_architecture": True, "num_kv_heads": 1},
    "FalconH1": _ROTARY | _MAMBA2 | {"mamba_d_ssm": 32},
    "FalconMamba": {"state_size": 8, "time_step_rank": 4},
    "FlexOlmo": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "Gemma": _ROTARY,
    "Gemma2": _ROTARY | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Gemma3Text": _ROTARY | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Glm": _ROTARY,
    "Glm4": _ROTARY,
    "Glm4Moe": _ROTARY
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    "GPT2": {"n_positions": 32},
    "GPT2 by-layer": {"n_positions": 32, "scale_attn_by_inverse_layer_idx": True},
    "GPTBigCode": {"n_positions": 32},
    "GPTNeo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "GPTNeoX": {},
    "GPTNeoX sequential": {"use_parallel_residual": False},
    "GptOss": _ROTARY | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    "GPTJ": {"rotary_dim": 4, "n_positions": 32},
    "Granite": _GROUPED
    | {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 2.0},
    "GraniteMoe": _GROUPED | {"num_local_experts": 4, "residual_multiplier": 0.5},
    "GraniteMoeHybrid": _GROUPED
    | {"layer_types": ["mamba", "attention"], "num_local_experts": 4, "mamba_n_heads": 4}
    | {"mamba_d_state": 8, "mamba_d_head": 8, "shared_intermediate_size": 12}
    | {"position_embedding_type": "rope"},
    "HunYuanDenseV1": _ROTARY,
    "Jais2": _GROUPED,
    "Jamba": _GROUPED
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_dt_rank": 4},
    "JetMoe": {"num_local_experts": 4, "kv_channels": 8, "num_key_value_heads": 2},
    "Lfm2": _GROUPED | {"layer_types": ["conv", "full_attention"]},
    "Lfm2Moe": _GROUPED
    | _EXPERTS
    | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "Llama": _GROUPED,
    "Llama biased": _GROUPED
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "Mamba": {"state_size": 8, "time_step_rank": 4},
    "Mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "MiniMaxM2": _ROTARY | {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 4},
    "Ministral3": _ROTARY,
    "Mistral": _GROUPED | {"sliding_window": 4},
    "Mixtral": _GROUPED | {"num_local_experts": 4},
    "ModernBertDecoder": {"local_attention": 4},
    "Mpt": {"max_seq_len": 32},
    "NanoChat": _GROUPED,
    "Nemotron": _GROUPED,
    "Olmo": _GROUPED,
    "Olmo2": _GROUPED,
    "Olmo3": _GROUPED | {"sliding_window": 4},
    "Olmoe": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "OpenAIGPT": {"n_positions": 32},
    "OPT": {"ffn_dim": 24, "word_embed_proj_dim": WIDTH},
    "OPT post-norm": {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    "Phi": {"partial_rotary_factor": 0.5},
    "Phi3": _GROUPED,
    "Qwen2": _GROUPED,
    "Qwen2Moe": _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 12},
    "Qwen3": _ROTARY,
    "Qwen3Moe": _ROTARY | _EXPERTS,
    "Qwen3Next": _ROTARY | _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 12},
    "Qwen3_5Text": _ROTARY | _DELTA,
    "RecurrentGemma": {"lru_width": WIDTH, "attention_window_size": 4, "num_key_value_heads": 1}
    | {"block_types": ["recurrent", "attention"]},
    "Rwkv": {"attention_hidden_size": WIDTH, "context_length": 32},
    "SeedOss": _ROTARY,
    "SmolLM3": _GROUPED,
    "StableLm": _GROUPED,
    "StableLm parallel": _GROUPED | {"use_parallel_residual": True, "use_qkv_bias": True},
    "Starcoder2": _GROUPED | {"sliding_window": 4},
    "XGLM": {"ffn_dim": 24},
    "VaultGemma": _ROTARY | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "Zamba2": {"num_mem_blocks": 1, "mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 4}
    | {"layers_block_type": ["mamba", "hybrid"], "num_key_value_heads": 2},
}


def configuration(architecture: str, **changes: Any) -> PretrainedConfig:
    """The configuration of a tiny model: its class's, with `changes`."""
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    own = {"vocab_size": D_VOCAB, **special, "initializer_range": 0.3, **_SHAPE}
    kind = getattr(transformers, f"{architecture.split()[0]}Config")
    made: PretrainedConfig = kind(**own | ARCHITECTURES[architecture] | changes)
    return made


@cache
def architecture_folder(architecture: str, **changes: Any) -> Path:
    """A folder with a random model, weights and biases as of a trained one: nothing is 0 or 1."""
    folder = Path(tempfile.mkdtemp(prefix=f"tiny_{architecture.replace(' ', '_')}_"))
    return save_random(configuration(architecture, **changes), folder)


def save_random(config: PretrainedConfig, folder: Path) -> Path:
    """A random model of `config` in the empty `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
