"""Every family of causal language models that the installed transformers knows, as tiny as it gets.

A family's own default config is taken and every number that says how large it is made small, by its name: so families
keep what makes them special (windows, experts, states, scales), and one that comes with a next transformers is there
by itself. `OVERRIDES` is for what no rule of names can know.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 97

# What numbers of such names become.
SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size n_tokens vocab_size_per_layer_input decoder_vocab_size shape_vocab_size",
    256: "max_position_embeddings n_positions n_ctx max_seq_len context_length",
    64: "attention_hidden_size",
    48: "intermediate_size ffn_dim n_inner d_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dim_ff dff d_inner "
    "feed_forward_size dense_intermediate_size",
    32: "hidden_size n_embd d_model dim emb_dim embedding_size word_embed_proj_dim hidden_size_global lru_width "
    "embedding_dim expert_ffn_hidden_size shared_intermediate_size moe_shared_expert_intermediate_size "
    "encoder_hidden_size shared_experts_intermediate_size cross_attention_hidden_size encoder_hash_byte_group_vocab",
    16: "index_n_heads index_topk moe_intermediate_size shared_expert_intermediate_size attention_head_dim "
    "pronunciation_embed_dim shape_embed_dim hc_lowrank ple_embed_dim",
    8: "head_dim kv_channels global_head_dim swa_head_dim v_head_dim swa_v_head_dim qk_nope_head_dim qk_rope_head_dim "
    "kv_lora_rank q_lora_rank qk_head_dim o_lora_rank d_head d_kv attention_head_size index_head_dim linear_head_dim "
    "linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads "
    "state_size mamba_d_state ssm_state_size time_step_rank mamba_dt_rank hidden_size_per_layer_input laurel_rank "
    "sliding_window window_size attention_window_size attention_chunk_size local_attention_window_len mamba_chunk_size "
    "chunk_size adapter_rank pronunciation_vocab_size",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads rotary_dim "
    "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_heads "
    "linear_num_key_heads linear_num_value_heads num_experts n_routed_experts num_local_experts moe_num_experts",
    2: "num_key_value_heads num_kv_heads n_head_kv swa_num_key_value_heads kv_n_heads num_hidden_layers n_layer "
    "n_layers num_layers encoder_layers decoder_layers num_encoder_layers num_decoder_layers depth num_blocks n_groups "
    "num_experts_per_tok num_experts_per_token moe_top_k moe_topk moe_k top_k_experts o_groups "
    "zero_expert_num num_layers_per_stack num_expert_group",
    1: "n_group topk_group first_k_dense_replace num_nextn_predict_layers n_shared_experts",
    0: "num_kv_shared_layers",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types")

_HEAD = {"head_dim": 8}
_DOTS_3 = {"head_dim": 16, "per_layer_config": {"1": {"kv_lora_rank": 16}}}
_GEMMA_4 = {"per_layer_config": {"1": {"head_dim": 16}}}
_LINEAR = ["linear_attention"]
_QWEN_4 = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}  # fmt: skip
_GEMMA_3N = {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.5, 0.0]}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), _HEAD),
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": None, "topk_group": None},
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "gemma3n_text": _GEMMA_3N,
    "gemma3n": {"text_config": _GEMMA_3N},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": {"num_attention_heads_per_layer": [4, 4]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": ...},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True, "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
        "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16],
    },
    "dots3_note_text": _DOTS_3,
    "dots3_note": {
        "text_config": _DOTS_3,
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32, "mlp_layer_types": ["dense"] * 2},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
    },
    "gemma4": {"text_config": _GEMMA_4},
    "gemma4_text": _GEMMA_4,
    "gemma4_unified": {"text_config": _GEMMA_4},
    "gemma4_unified_text": _GEMMA_4,
    "rwkv": {"attention_hidden_size": 32},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 5, "layers_block_type": ["linear_attention"] * 2 + ["hybrid"] * 2 + _LINEAR},
    "zamba2": {
        "num_hidden_layers": 5, "layers_block_type": ["linear_attention"] * 2 + ["hybrid"] * 2 + _LINEAR,
        "hybrid_layer_ids": [2, 3], "num_query_groups": 4,
    },
    "llama4": {"text_config": {"no_rope_layers": [1, 0]}},
    "llama4_text": {"no_rope_layers": [1, 0]},
    "longcat_flash": {"qk_head_dim": 16},
    "qwen4_exp_text": _QWEN_4,
    "qwen4_exp": {"text_config": _QWEN_4},
    "xlstm": {"qk_dim_factor": 1.0, "hidden_size": 64, "embedding_dim": 64},  # in steps of 64
    "hrm_text": {"num_hidden_layers": 12, "num_layers_per_stack": 1},
}  # fmt: skip


# What can't be had so, and why.
NOT_BUILT = {
    "gemma3n": "its vision tower needs timm; its text side is gemma3n_text",
    "gemma4_assistant": "no model by itself: it drafts for another, from whose states it reads",
    "gemma4_unified_assistant": "no model by itself: it drafts for another, from whose states it reads",
    "musicgen": "makes sound: what it reads and writes are codes of four books at once, not text",
    "musicgen_melody": "makes sound: what it reads and writes are codes of four books at once, not text",
}


def shrink(given: dict[str, Any], counter: list[int] | None = None) -> dict[str, Any]:
    """A config, as the dictionary of its fields, with every size made small."""
    counter = counter or [VOCABULARY]
    deep = next((given[name] for name in ("num_hidden_layers", "num_layers") if isinstance(given.get(name), int)), None)
    small: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, dict) and "model_type" in value:
            value = shrink(value, counter)
        elif name in SMALL and isinstance(value, int) and not isinstance(value, bool):
            value = 4 if name == "num_key_value_heads" and "kv_lora_rank" in given else min(value, SMALL[name])
        elif name == "per_layer_config":
            value = {}
        elif isinstance(value, list) and len(value) == deep and name not in LAYER_LISTS:
            value = value[:2]
        elif name in SPECIAL:
            value = SPECIAL[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int):
            counter[0] -= 1
            value = min(value, counter[0])
        small[name] = value
    kinds = small.get("layer_types") or small.get("layers_block_type")
    if isinstance(kinds, list):
        once = list(dict.fromkeys(kinds))
        layers = max(2, len(once))
        for name in LAYER_LISTS:
            if isinstance(small.get(name), list):
                own = list(dict.fromkeys(small[name]))
                small[name] = (own * layers)[:layers]
        small["num_hidden_layers"] = layers
    return small


def families() -> list[str]:
    """Names of all families, in transformers' order."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str):
    """A family's config with small numbers."""
    kind = CONFIG_MAPPING[family]
    given = shrink(kind().to_dict())
    given = merge(given, OVERRIDES.get(family, {}))
    for name in ("transformers_version", "architectures", "_name_or_path", "dtype"):
        given.pop(name, None)
    return kind(**given)


def merge(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A dictionary with some entries changed, also inside of dictionaries; an entry of ... is left out."""
    merged = dict(given)
    for name, value in changes.items():
        if value is ...:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        else:
            merged[name] = value
    return merged


def tiny_family(family: str, seed: int = 0):
    """A family's model with random weights that are far from nothing, in float32."""
    config = tiny_config(family)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif name.endswith(("sinks", "bias")):
                parameter.normal_(0, 0.5)
    return model
