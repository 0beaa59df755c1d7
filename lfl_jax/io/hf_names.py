"""What Hugging Face's Llama implementation calls our weights."""

from lfl_jax.io.loading import parameter_names

# path inside a layer -> module inside "model.layers.N."; its weight is (out, in), ours (in, out)
MODULES = {
    "attn/q": "self_attn.q_proj",
    "attn/k": "self_attn.k_proj",
    "attn/v": "self_attn.v_proj",
    "attn/o": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
NAMES = parameter_names(
    MODULES,
    {
        "embed": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
        "layers/attn_norm": "input_layernorm.weight",
        "layers/mlp_norm": "post_attention_layernorm.weight",
        "layers/qk_norm/q": "self_attn.q_norm.weight",
        "layers/qk_norm/k": "self_attn.k_norm.weight",
    },
)
