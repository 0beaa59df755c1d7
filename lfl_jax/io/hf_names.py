"""What Hugging Face's Llama implementation calls our weights."""

# path inside a layer of params["layers"] -> module inside "model.layers.N"; its weight is (out,
# in), ours (in, out)
MODULES = {
    "attn/q": "self_attn.q_proj",
    "attn/k": "self_attn.k_proj",
    "attn/v": "self_attn.v_proj",
    "attn/o": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
