"""What GGUF files call our weights (gguf's constants.py, MODEL_TENSOR)."""

from lfl_jax.io.loading import parameter_names

# path inside a layer -> module inside "blk.N."; its weight is (out, in), ours (in, out)
MODULES = {
    "attn/q": "attn_q",
    "attn/k": "attn_k",
    "attn/v": "attn_v",
    "attn/o": "attn_output",
    "mlp/gate": "ffn_gate",
    "mlp/up": "ffn_up",
    "mlp/down": "ffn_down",
}
NAMES = parameter_names(
    MODULES,
    {
        "embed": "token_embd.weight",
        "final_norm": "output_norm.weight",
        "head": "output.weight",
        "layers/attn_norm": "attn_norm.weight",
        "layers/mlp_norm": "ffn_norm.weight",
        "layers/qk_norm/q": "attn_q_norm.weight",
        "layers/qk_norm/k": "attn_k_norm.weight",
    },
)
