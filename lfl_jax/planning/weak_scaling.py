"""Weak scaling on paper: the same rows on each chip, on 16 to 4096 of them.

    python -m lfl_jax.planning.weak_scaling

prints the table of docs/performance.md. Nothing is run; `ASSUMPTIONS` is what it takes for granted.
"""

import dataclasses
import sys

from lfl_jax.config import Config, command_line
from lfl_jax.planning import compute, memory, timing, topology
from lfl_jax.planning import layout as layouts
from lfl_jax.planning.layout import MeshShape

SLICES = ("v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8", "v5p:8x8x16", "v5p:16x16x16")
# the same share of the weights on each chip from 256 on: rows beyond are data's
LARGEST_FSDP = 256
ROWS = 8  # of a chip, in one microbatch
CONFIGS = ("paper", "paper,full")
ASSUMPTIONS = (
    "Rows: 8 of 1,024 tokens on each chip, in one microbatch, remat full; Llama-2-7B, AdamW.",
    "Mesh: fsdp up to 256 chips, then data; no tensor axis. A slice is one torus.",
    "Collectives run at the published rate of all links of a chip, half of the bidirectional"
    " figure, whatever their size: no latency, no other jobs, no stragglers.",
    "Products run at the published peak. `overlapped` is products / max(products, links), what a"
    " program reaches that hides one behind the other; `apart` is products / (products + links).",
    "Evaluations, checkpoints, input and compilation are not in it.",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A slice. Bytes of a device; seconds of a step at the peaks; shares of the products' rate."""

    words: str
    chips: int
    mesh: MeshShape
    stored: float
    adapter: float
    peak: float
    received: float
    overlapped: float
    apart: float


def table() -> list[Row]:
    """Every config on every slice."""
    return [row(words, name) for words in CONFIGS for name in SLICES]


def row(words: str, name: str) -> Row:
    """A config on a slice, with as many rows as its chips take."""
    slice_ = topology.parse(name)
    fsdp = min(slice_.chips, LARGEST_FSDP)
    mesh = MeshShape(slice_.chips // fsdp, fsdp, 1)
    layout = layouts.of(_config(words, ROWS * slice_.chips), mesh)
    terms, time = memory.of(layout, slice_), timing.step(layout, slice_)
    trained = layouts.bytes_of(layout.run.state.trainable) + terms.arguments["optimizer"]
    return Row(
        words,
        slice_.chips,
        mesh,
        float(sum(terms.arguments.values())),
        float(trained),
        float(terms.training),
        float(sum(part.bytes for part in compute.collectives(layout))),
        time.products / max(time.products, time.collectives),
        time.products / (time.products + time.collectives),
    )


def _config(words: str, batch: int) -> Config:
    flags = [f"--config.train.batch={batch}", "--config.optim.name=adamw"]
    argv = ["weak_scaling", f"--config=configs/math_ift.py:{words}", *flags]
    return command_line.parse(argv, "", {})[0]


def markdown() -> str:
    """The table and its assumptions."""
    names = "config | chips | data x fsdp | GiB given | MiB trained and moments | GiB at most"
    lines = [f"| {names} | GiB received a step | overlapped | apart |", "|" + "---|" * 9]
    for entry in table():
        cells = [
            {"paper": "LoRA, rank 16"}.get(entry.words, "full"),
            f"{entry.chips:,}",
            f"{entry.mesh.data} x {entry.mesh.fsdp}",
            f"{entry.stored / 2**30:.3f}",
            f"{entry.adapter / 2**20:,.1f}",
            f"{entry.peak / 2**30:.2f}",
            f"{entry.received / 2**30:.1f}",
            f"{entry.overlapped:.0%}",
            f"{entry.apart:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {text}" for text in ASSUMPTIONS)])


if __name__ == "__main__":
    sys.stdout.write(markdown() + "\n")
