"""What benchmarks/gpu.py measures: one table of sizes for both sides, `tiny` to try the script on a
CPU."""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]
Shape = dict[str, int]


class Size(NamedTuple):
    """model, full_model: names of presets. shape: the model's fields for transformers, likewise
    full_shape.

    rows, shapes, ranks: the table of projections, the most telling first. cache: bytes no device
    keeps close by.
    grouped: rows, inputs and outputs of a batch that many adapters share. attention: rows, tokens,
    heads, width. batch rows of `tokens` tokens a step; `steps` are timed. product, copy: side and
    elements of the two ceilings.
    """

    model: str
    full_model: str
    shape: Shape
    full_shape: Shape
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


def llama(
    vocab: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int, tied: bool = False
) -> Shape:
    """Fields of transformers' LlamaConfig."""
    return {
        "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": width // heads, "intermediate_size": mlp,
        "tie_word_embeddings": tied,
    }  # fmt: skip


# Products of a token with every weight, 2 FLOPs a parameter each: forward, dx, and dW where the
# weights train.
PRODUCTS = {"lora": 2, "none": 2, "qlora": 2, "dora": 2, "full": 3}


def flops(shape: Shape, what: str, remat: str) -> Row:
    """n: parameters that a token is multiplied with, the head among them and the embedding, a
    look-up, not."""
    # of q and o, of k and v
    heads = 2 * shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]
    layer = shape["hidden_size"] * (heads * shape["head_dim"] + 3 * shape["intermediate_size"])
    n = shape["num_hidden_layers"] * layer + shape["vocab_size"] * shape["hidden_size"]
    again = 2 * n if remat == "full" else 0
    return {"n": n, "flops_per_token": 2 * PRODUCTS[what] * n, "recomputed_per_token": again}


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
        shape=llama(320, 64, 2, 4, 2, 128, tied=True),
        full_shape=llama(320, 64, 2, 4, 2, 128, tied=True),
        rows=(256, 1),
        shapes=((64, 64), (64, 128)),
        ranks=(4, 16),
        cache=1 << 12,
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


def decoded(pairs: list[tuple[float, float]], tokens: int, rows: int) -> Row:
    """What decoding costs from seconds of (a longer run, one that makes `tokens` fewer a row)."""
    token = (
        statistics.median(a for a, _ in pairs) - statistics.median(b for _, b in pairs)
    ) / tokens
    if token <= 0:
        return {"error": f"the longer runs were not the slower ones, too much noise: {pairs}"}
    first = 1e3 * statistics.median(b for _, b in pairs)
    return {"ms_per_token": 1e3 * token, "tokens_per_s": rows / token, f"first_{tokens}_ms": first}


def main(stages: dict[str, Callable[[Size], Iterable[Row]]], doc: str | None) -> None:
    """One side's program: run the stage named on the command line, a line of JSON per row. doc: its
    --help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--size", choices=SIZES, default="7b")
    a = parser.parse_args()
    for row in stages[a.stage](SIZES[a.size]):
        print(json.dumps(row), flush=True)
