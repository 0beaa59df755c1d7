"""GGUF files of the checkpoints in hf/: the same logits as transformers computes from their
safetensors.

The files are written as llama.cpp's convert_hf_to_gguf.py does it, with the gguf package's own
table of names.
"""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFWriter
from gguf.constants import MODEL_ARCH
from gguf.tensor_mapping import get_tensor_name_map

import lfl_jax
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import hf, pretrained, tensor_file
from lfl_jax.models import llama
from lfl_jax.models.rope import FactorsRope

FOLDER = Path(__file__).parent / "hf"
RULES = make_rules(devices=jax.devices()[:1])
TOKENIZERS = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}
ARCHITECTURES = {"qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}
CASES = [
    "biases",
    "gqa_tied",
    "linear",
    "llama3_fp16",
    "mistral",
    "qwen2",
    "qwen3",
    "window",
    "yarn",
]


def permuted(rows, heads):
    """llama.cpp's order of the rows of q and k (LlamaModel.permute in its converter)."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def factors(rope, head_dim):
    """rope_freqs.weight of Llama 3, as the converter computes it."""
    old, low, high = (
        rope[x] for x in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    found = []
    for frequency in rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim):
        turns = old * frequency / (2 * math.pi)
        smooth = (turns - low) / (high - low)
        blended = (
            1 / ((1 - smooth) / rope["factor"] + smooth) if low <= turns <= high else rope["factor"]
        )
        found.append(1.0 if turns > high else blended)
    return np.array(found, np.float32)


def write(case, path):
    fields = json.loads((FOLDER / case / "config.json").read_text())
    rope, heads, kv_heads = (
        fields["rope_parameters"],
        fields["num_attention_heads"],
        fields["num_key_value_heads"],
    )
    head_dim = fields.get("head_dim") or fields["hidden_size"] // heads
    family = fields["model_type"] if fields["model_type"] in ARCHITECTURES else "llama"
    writer = GGUFWriter(str(path), family)
    writer.add_context_length(fields["max_position_embeddings"])
    writer.add_embedding_length(fields["hidden_size"])
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_feed_forward_length(fields["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if fields.get("sliding_window") and family == "llama":
        writer.add_sliding_window(fields["sliding_window"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", factors(rope, head_dim))
    elif rope["rope_type"] != "default":
        writer.add_string(f"{family}.rope.scaling.type", rope["rope_type"])
        writer.add_float32(f"{family}.rope.scaling.factor", rope["factor"])
        writer.add_uint32(f"{family}.rope.scaling.original_context_length", 16)
    tensors = tensor_file.open_folder(FOLDER / case)
    names = get_tensor_name_map(
        ARCHITECTURES.get(family, MODEL_ARCH.LLAMA), fields["num_hidden_layers"]
    )
    for name in tensors:
        tensor = tensors[name].astype(np.float32)
        if family == "llama" and "q_proj" in name:
            tensor = permuted(tensor, heads)
        if family == "llama" and "k_proj" in name:
            tensor = permuted(tensor, kv_heads)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(tensor))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(TOKENIZERS[family])
    writer.add_token_list([*"abcdefg", "ab", "<b>", "<e>"])
    writer.add_token_types([1] * 8 + [3] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(8)
    writer.add_eos_token_id(9)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_safetensors_in_transformers(case, tmp_path):
    params, cfg, tokenizer = lfl_jax.load(write(case, tmp_path / "m.gguf"), rules=RULES)
    expected = np.load(FOLDER / f"{case}.npz")
    hidden, _ = llama.forward(params, None, jnp.asarray(expected["tokens"]), cfg)
    assert np.abs(np.asarray(llama.logits(params, hidden)) - expected["logits"]).max() <= 1e-4
    assert tokenizer.encode("abc<e>") == [7, 2, 9]


def test_factors_of_their_own_are_kept_in_a_hugging_face_folder(tmp_path):
    """As longrope with one list, which transformers divides by, too."""
    found = pretrained.open_model(write("llama3_fp16", tmp_path / "m.gguf"))
    assert isinstance(found.cfg.rope_scaling, FactorsRope)
    hf.save(tmp_path / "hf", found.load(found.cfg, RULES, "float32"), found.cfg, dtype="float32")
    assert hf.read_config(tmp_path / "hf") == found.cfg
