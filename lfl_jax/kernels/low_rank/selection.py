"""Which implementation computes a projection: XLA, unless a kernel was measured to be faster.

selected.json is the table of measurements, a list that benchmarks/tune_low_rank.py writes. An entry
stands for one device kind, weight format, direction (forward or backward) and shape class, and
carries both times. While it is empty, XLA is used everywhere.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax

from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import formats
from lfl_jax.kernels.low_rank.reference import XLA, Implementation, Implementations
from lfl_jax.kernels.low_rank.tiles import Tiles


def _pallas_tpu(**options: object) -> Implementation:
    from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU

    return PallasTPU(**options)


def _pallas_gpu(**options: object) -> Implementation:
    from lfl_jax.kernels.low_rank.pallas_gpu import PallasGPU

    return PallasGPU(**options)


# Pallas takes 0.4 s to import: only a command that uses a kernel pays for it.
IMPLEMENTATIONS: dict[str, Callable[..., Implementation]] = {
    "xla": XLA,
    "pallas_tpu": _pallas_tpu,
    "pallas_gpu": _pallas_gpu,
}
TABLE = Path(__file__).with_name("selected.json")
FASTER = 0.97  # of XLA's time: a kernel within the noise of XLA is not worth its compile time


@dataclasses.dataclass(frozen=True)
class Shape:
    """A class of shapes measured once: exact I and O, rows and ranks up to a power of two."""

    rows: int
    inputs: int
    outputs: int
    rank: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """A measurement: seconds of the kernel and of XLA for one direction, and its evidence.

    direction: "forward" or "backward". evidence: the file of results it comes from.
    """

    device: str
    format: str
    direction: str
    shape: Shape
    implementation: str
    tiles: Tiles
    seconds: float
    xla_seconds: float
    evidence: str

    @property
    def is_faster(self) -> bool:
        """Whether the kernel is used."""
        return self.seconds <= FASTER * self.xla_seconds

    @property
    def key(self) -> tuple[str, str, str, Shape]:
        """What it is looked up by."""
        return self.device, self.format, self.direction, self.shape


def shape_class(rows: int, inputs: int, outputs: int, rank: int) -> Shape:
    """The class of a shape."""
    # exact I and O, because tiles have to divide them
    return Shape(1 << (rows - 1).bit_length(), inputs, outputs, 1 << (rank - 1).bit_length())


def read(text: str) -> tuple[Entry, ...]:
    """The entries of a table.

    UserError for an entry that names no kernel, whose kernel was slower than XLA, or that was
    measured on a CPU, where kernels are only interpreted.
    """
    entries = tuple(
        Entry(**row | {"shape": Shape(**row["shape"]), "tiles": Tiles(**row["tiles"])})
        for row in json.loads(text)
    )
    # A table edited by hand, or by a rehearsal, must not slow anybody down silently.
    for entry in entries:
        if entry.implementation not in IMPLEMENTATIONS:
            known = ", ".join(IMPLEMENTATIONS)
            raise UserError(
                f"the selection table names {entry.implementation!r}; there are: {known}"
            )
        if entry.device == "cpu":
            raise UserError(
                f"the selection table has {entry.key}, which rehearses a kernel on a CPU; remove"
                " the entry, or measure on the accelerator (benchmarks/tune_low_rank.py without"
                " --rehearse)"
            )
        if not entry.is_faster:
            raise UserError(
                f"the selection table has {entry.implementation} for {entry.key}, which took"
                f" {entry.seconds} s where XLA took {entry.xla_seconds} s; remove the entry, or"
                " measure again (benchmarks/tune_low_rank.py)"
            )
    return entries


def write(entries: tuple[Entry, ...]) -> str:
    """A table's text, with one entry a line."""
    # sorted, one a line: a new measurement is a small diff
    rows = sorted(json.dumps(dataclasses.asdict(entry)) for entry in entries if entry.is_faster)
    return "[" + ",".join("\n " + row for row in rows) + ("\n]\n" if rows else "]\n")


@functools.cache
def committed() -> tuple[Entry, ...]:
    """The table that comes with the package."""
    return read(TABLE.read_text())


def choose(
    w: Weight,
    rows: int,
    rank: int,
    *,
    shards: tuple[int, int, int] = (1, 1, 1),
    device: str | None = None,
    table: tuple[Entry, ...] | None = None,
) -> Implementations:
    """The implementations of the forward and the backward pass for this weight.

    shards: into how many parts a mesh splits rows, I and O; a kernel sees one. device: a device
    kind, by default that of the first device. table: by default the committed one.
    """
    table = committed() if table is None else table
    if not table:
        return Implementations(XLA(), XLA())
    entries = {entry.key: entry for entry in table}
    # a kernel sees the shard of a device: the table is keyed by its sizes
    device = jax.devices()[0].device_kind if device is None else device
    sizes = (size // parts for size, parts in zip((rows, *w.shape), shards, strict=True))
    shape = shape_class(*sizes, rank)

    def implementation(direction: str) -> Implementation:
        entry = entries.get((device, formats.format_of(w), direction, shape))
        if entry is None:
            return XLA()
        return IMPLEMENTATIONS[entry.implementation](device=device, tiles=entry.tiles)

    return Implementations(implementation("forward"), implementation("backward"))
