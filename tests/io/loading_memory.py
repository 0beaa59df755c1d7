"""Loads a sharded checkpoint of zeros in this process and prints what it took; run by
test_hf_memory.py.

    python tests/io/loading_memory.py PRESET FOLDER [SHARD_GB]

The files are sparse: they take no room on the disk. On a CPU the parameters lie in host memory too,
so what loading itself needs is the peak without them.
"""

import json
import re
import struct
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.io import hf, hf_config
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS


def write(folder: Path, name: str, shard_bytes: int) -> None:
    """A bfloat16 checkpoint of zeros: headers, and holes."""
    cfg = PRESETS[name]
    shapes = {}
    specs = llama.specs(cfg)
    for path, leaf in tree.items(specs, spec.is_spec):
        for tensor in hf.tensor_names(path, cfg.n_layers):
            shape = leaf.shape[1:] if path.startswith("layers/") else leaf.shape
            shapes[tensor] = shape[::-1] if path.startswith("layers/") else shape
    shards: list[dict] = [{}]
    used = 0
    for tensor, shape in shapes.items():
        size = 2 * int(jnp.prod(jnp.array(shape)))
        if used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][tensor] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [used, used + size],
        }
        used += size
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for i, header in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + max(x["data_offsets"][1] for x in header.values()))
        places |= dict.fromkeys(header, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(hf_config.config_fields(cfg)))


def peak() -> int:
    """Bytes of the process's largest resident set so far (getrusage would count what its parent
    had)."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    name, folder, shard = sys.argv[1], Path(sys.argv[2]), float((sys.argv[3:] or ["10"])[0])
    write(folder, name, int(shard * 1e9))
    cfg, before, begun = hf.read_config(folder), peak(), time.monotonic()
    params = jax.block_until_ready(hf.load(folder, cfg, make_rules(), "bfloat16"))
    held = tree.nbytes(params)
    found = {
        "preset": name,
        "parameters_bytes": held,
        "largest_shard_bytes": max(file.stat().st_size for file in folder.glob("*.safetensors")),
        "peak_without_parameters_bytes": peak() - held,
        "before_loading_bytes": before,
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(found))
