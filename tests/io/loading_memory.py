"""Loads a checkpoint of zeros in this process and prints what it took; run by test_loading_memory.py.

    python tests/io/loading_memory.py {hf,gguf} PRESET FOLDER [SHARD_GB]

The files are sparse: they take no room on the disk. On a CPU the parameters lie in host memory too,
so what loading itself needs is the peak without them.
"""

import json
import math
import re
import struct
import sys
import time
from pathlib import Path

import jax
from gguf import GGMLQuantizationType, GGUFWriter

from lfl_jax.core import tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import gguf, hf, hf_config, pretrained
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS


def write_hf(folder: Path, cfg: ModelConfig, shard_bytes: int) -> Path:
    """A bfloat16 checkpoint of zeros in shards: headers, and holes."""
    shards: list[dict] = [{}]
    used = 0
    for tensor, shape in hf.LAYOUT.tensor_shapes(llama.specs(cfg)).items():
        size = 2 * math.prod(shape)
        if used + size > shard_bytes:
            shards.append({})
            used = 0
        offsets = [used, used + size]
        shards[-1][tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": offsets}
        used += size
    weight_map = {}
    for i, header in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + max(x["data_offsets"][1] for x in header.values()))
        weight_map |= dict.fromkeys(header, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(hf_config.config_fields(cfg)))
    return folder


def write_gguf(folder: Path, cfg: ModelConfig, shard_bytes: int) -> Path:
    """A Q4_1 file of zeros, norms in float32: a header, and a hole."""
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(cfg.max_seq_len)
    writer.add_embedding_length(cfg.d_model)
    writer.add_block_count(cfg.n_layers)
    writer.add_feed_forward_length(cfg.d_ff)
    writer.add_head_count(cfg.n_heads)
    writer.add_head_count_kv(cfg.n_kv_heads)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    end = 0
    for tensor, shape in gguf.LAYOUT.tensor_shapes(llama.specs(cfg)).items():
        kind = GGMLQuantizationType.F32 if len(shape) == 1 else GGMLQuantizationType.Q4_1
        n_bytes = math.prod(shape) * 4 if len(shape) == 1 else math.prod(shape) // 32 * 20
        writer.add_tensor_info(tensor, shape, "float32", n_bytes, kind)
        end += math.ceil(n_bytes / writer.data_alignment) * writer.data_alignment
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    file = folder / "model.gguf"
    with file.open("r+b") as out:
        out.truncate(file.stat().st_size + writer.data_alignment + end)
    return file


def peak() -> int:
    """Bytes of the process's largest resident set so far (getrusage would count its parent's)."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


WRITERS = {"hf": write_hf, "gguf": write_gguf}


if __name__ == "__main__":
    kind, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    shard_bytes = int(float((sys.argv[4:] or ["10"])[0]) * 1e9)
    folder.mkdir(parents=True, exist_ok=True)
    model = pretrained.open_model(WRITERS[kind](folder, PRESETS[name], shard_bytes))
    before, start = peak(), time.monotonic()
    params = jax.block_until_ready(model.load(model.cfg, make_rules(), "bfloat16"))
    print(
        json.dumps(
            {
                "preset": name,
                "parameters_bytes": tree.nbytes(params),
                "largest_tensor": max(x.size for x in (params["embed"], params["head"])),
                "largest_file_bytes": max(x.stat().st_size for x in folder.iterdir()),
                "peak_without_parameters_bytes": peak() - tree.nbytes(params),
                "before_loading_bytes": before,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
    )
