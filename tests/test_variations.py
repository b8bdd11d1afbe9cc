"""Variations within families that people have: each with an adapter, from the proof of its base to the merged model.

The oracle is transformers' own model with peft's adapter, one row at a time; see test_adapter_kinds.check_right.
"""

import pytest
import torch
from family_check import oracle_model
from test_adapter_kinds import check_right, start_adapter
from tiny_models import _COMMON, VOCABULARY
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GlmConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    StableLmConfig,
)

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]

HEADS = _COMMON  # with a width of their own
PLAIN = {name: value for name, value in _COMMON.items() if name != "head_dim"}
NEOX = {name: value for name, value in PLAIN.items() if name != "num_key_value_heads"}
GPT = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "bos_token_id": 1,
    "eos_token_id": 2, "attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0,
}  # fmt: skip
FALCON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 16}
LLAMA_3 = {**ROPE, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALES = {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2}
EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
RANKS = {"layers_to_transform": [0, 2], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}
SOME = {"target_modules": ["q_proj", "v_proj"]}

# The base, and the options of its adapter; the first ones are the quick half.
VARIATIONS = {
    "one head of keys, its files in shards": (LlamaConfig(**{**HEADS, "num_key_value_heads": 1}), {}),
    "windows in some layers, shorter than a row": (
        Qwen2Config(**PLAIN, use_sliding_window=True, sliding_window=5, max_window_layers=1), {},
    ),
    "scales everywhere": (GraniteConfig(**PLAIN, **SCALES), {}),
    "experts' own weights": (MixtralConfig(**HEADS, num_local_experts=4, num_experts_per_tok=2), EXPERTS),
    "ALiBi on fused projections": (FalconConfig(**FALCON, alibi=True, multi_query=False), {}),
    "Conv1D with DoRA": (GPT2Config(**GPT), {"fan_in_fan_out": True, "use_dora": True}),
    "more tokens than the tokenizer has": (LlamaConfig(**{**HEADS, "vocab_size": 128}), {}),
    "part of a head is rotated": (GlmConfig(**HEADS, partial_rotary_factor=0.5), {}),
    "a head with a bias": (PhiConfig(**PLAIN, partial_rotary_factor=0.5), {}),
    "biases and norms of queries and keys": (
        StableLmConfig(**PLAIN, partial_rotary_factor=0.25, use_qkv_bias=True, qk_layernorm=True), {},
    ),
    "a scaled head": (CohereConfig(**PLAIN, logit_scale=0.3, use_qk_norm=True), {}),
    "heads wider than their share": (LlamaConfig(**{**HEADS, "head_dim": 24}), {}),
    "biases everywhere": (LlamaConfig(**HEADS, attention_bias=True, mlp_bias=True), {}),
    "rotary of Llama 3": (LlamaConfig(**HEADS, rope_parameters=LLAMA_3), {}),
    "rotary of YaRN": (LlamaConfig(**HEADS, rope_parameters={**ROPE, "rope_type": "yarn", "factor": 16.0}), {}),
    "one expert a token, in a window": (
        MixtralConfig(**HEADS, num_local_experts=4, num_experts_per_tok=1, sliding_window=5), {},
    ),
    "no soft caps": (
        Gemma2Config(**HEADS, sliding_window=5, attn_logit_softcapping=None, final_logit_softcapping=None), {},
    ),
    "a soft cap on the head alone": (Gemma3TextConfig(**HEADS, sliding_window=5, final_logit_softcapping=4.0), {}),
    "fused projections": (Phi3Config(**PLAIN, sliding_window=5), {}),
    "fused projections, parallel layers": (GPTNeoXConfig(**NEOX, rotary_pct=0.5, use_parallel_residual=True), {}),
    "one head of keys, fused": (FalconConfig(**FALCON, multi_query=True, bias=True), {}),
    "Conv1D, scaled by layer": (
        GPT2Config(**GPT, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True), {"fan_in_fan_out": True},
    ),
    "one head of keys on Conv1D's heirs": (GPTBigCodeConfig(**GPT, multi_query=True), {}),
    "some layers, other ranks": (LlamaConfig(**HEADS), {**RANKS, **SOME}),
    "norms behind the layers": (Olmo2Config(**PLAIN), {}),
    "embeddings narrower than the layers": (
        OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, dropout=0,
            max_position_embeddings=256, word_embed_proj_dim=16, do_layer_norm_before=False, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        ), {},
    ),
}  # fmt: skip
QUICK = 7
# transformers' eager attention adds Falcon's ALiBi twice: to the scores, and in the mask. Its SDPA is right.
SDPA = ("ALiBi on fused projections",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if i >= QUICK else ()) for i, n in enumerate(VARIATIONS)]
)
def test_a_variation_is_trained_as_peft_itself_would(tmp_path, name):
    config, options = VARIATIONS[name]
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for own, parameter in base.named_parameters():
            if parameter.ndim > 1 or own.endswith("bias"):
                parameter.normal_(0, 0.15)
    shards = name.endswith("shards")
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB" if shards else "5GB")
    assert (len(list((tmp_path / "base").glob("*.safetensors"))) > 1) == shards
    attention = "sdpa" if name in SDPA else "eager"
    start_adapter(tmp_path / "start", oracle_model(tmp_path / "base", attention), options)
    check_right(tmp_path, attention=attention)
