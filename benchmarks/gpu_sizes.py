"""What benchmarks/gpu.py measures: one table of sizes for both sides, `tiny` to try the script on a CPU."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Size(NamedTuple):
    """model, full_model: names of presets. shape: the model's fields for transformers, likewise for full_model.

    rows, shapes, ranks: the table of projections, the most telling first. cache: bytes no device keeps close by.
    grouped: rows, inputs and outputs of a batch that many adapters share. attention: rows, tokens, heads, width.
    batch rows of `tokens` tokens a step; `steps` are timed. product, copy: side and elements of the two ceilings.
    """

    model: str
    full_model: str
    shape: dict[str, int]
    full_shape: dict[str, int]
    rows: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]
    cache: int
    grouped: tuple[int, int, int]
    attention: tuple[int, int, int, int]
    batch: int
    tokens: int
    steps: int
    decode_rows: tuple[int, ...]
    prompt: int
    product: int
    copy: int


def llama(vocab: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int) -> dict[str, int]:
    """Fields of transformers' LlamaConfig."""
    return {
        "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": width // heads, "intermediate_size": mlp,
    }  # fmt: skip


SIZES = {
    "7b": Size(
        model="llama2-7b",
        full_model="tinyllama-1b",
        shape=llama(32000, 4096, 32, 32, 32, 11008),
        full_shape=llama(32000, 2048, 22, 32, 4, 5632),
        rows=(8192, 1, 512, 16),
        shapes=((4096, 4096), (4096, 11008), (11008, 4096)),
        ranks=(16, 64, 256),
        cache=256 << 20,
        grouped=(2048, 4096, 4096),
        attention=(4, 2048, 32, 128),
        batch=4,
        tokens=2048,
        steps=6,
        decode_rows=(1, 16, 64),
        prompt=64,
        product=8192,
        copy=1 << 29,
    ),
    "tiny": Size(
        model="tiny",
        full_model="tiny",
        shape=llama(320, 64, 2, 4, 2, 128),
        full_shape=llama(320, 64, 2, 4, 2, 128),
        rows=(256, 1),
        shapes=((64, 64), (64, 128)),
        ranks=(4, 16),
        cache=1 << 14,
        grouped=(512, 512, 512),
        attention=(2, 256, 4, 16),
        batch=2,
        tokens=64,
        steps=2,
        decode_rows=(1, 4),
        prompt=8,
        product=256,
        copy=1 << 16,
    ),
}


def main(stages: dict[str, Callable[[Size], Iterable[dict[str, Any]]]], doc: str | None) -> None:
    """One side's program: run the stage named on the command line, a line of JSON per row. doc: its --help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--size", choices=SIZES, default="7b")
    a = parser.parse_args()
    for row in stages[a.stage](SIZES[a.size]):
        print(json.dumps(row), flush=True)
