"""Named machines: what a chip computes, holds and sends, and how many of them there are.

v5e:4x4 is a slice of 16 chips, h100:8 a node of 8 GPUs, h100:8x4 four such nodes, and cpu:1 this
machine.
"""

import dataclasses
import functools
import importlib.resources
import math
import os
import tomllib

from lfl_jax.errors import UserError
from lfl_jax.planning.bands import ACCELERATOR, MEASURED, Number, Reached

# jax's own variables for the share of a GPU's memory that it takes, the newer name first
MEMORY_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
EXAMPLES = {2: "4x4", 3: "4x4x4", 0: "8"}
CPU = "cpu"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's figures: FLOP/s, bytes and bytes/s; `third_party/chips.toml` says what each is.

    narrow: FLOP/s of products with a side of an adapter's rank; 0 = as those of any size, with the
    side filled up to 128 at worst.
    """

    name: str
    bf16: Number
    float32: Number
    hbm_bytes: Number
    usable: Number
    hbm_rate: Number
    link_rate: Number
    network_rate: Number
    per_host: int
    torus: int
    largest: int
    narrow: Number = 0.0

    def peak(self, dtype: str) -> Number:
        """FLOP/s of matrix products of operands in this dtype."""
        return self.bf16 if dtype == "bfloat16" else self.float32

    @property
    def memory(self) -> Number:
        """Bytes that a program gets."""
        return self.hbm_bytes * self.usable


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind: `groups` slices or nodes of `group` chips each.

    Inside of a group chips send over its own links, between groups over the network.
    """

    name: str
    chip: Chip
    group: int
    groups: int = 1

    @property
    def chips(self) -> int:
        """All of them."""
        return self.group * self.groups

    @property
    def reached(self) -> Reached:
        """What programs reach of the chip's figures, which are published, or a CPU's, measured."""
        return MEASURED if self.chip.name == CPU else ACCELERATOR

    def rate(self, members: int, span: int) -> Number:
        """Bytes/s that a chip receives in a collective of `members` chips among `span` neighbours.

        A collective that leaves its group is bounded by the network cards of the members inside.
        """
        if span <= self.group:
            return self.chip.link_rate
        inside = max(1, self.group * members // span)
        return min(self.chip.link_rate, inside * self.chip.network_rate)


@functools.cache
def chips() -> dict[str, Chip]:
    """{name: chip} of third_party/chips.toml, with the share of a GPU that jax is told to take."""
    file = importlib.resources.files("lfl_jax.third_party") / "chips.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    fields = [field.name for field in dataclasses.fields(Chip)]
    known = {}
    for name, table in tables.items():
        values = {field: table[field] for field in fields if field in table}
        known[name] = Chip(name, **values)
    share = next((os.environ[name] for name in MEMORY_SHARES if name in os.environ), None)
    return {name: _with_share(chip, share) for name, chip in known.items()}


def _with_share(chip: Chip, share: str | None) -> Chip:
    """The chip, a GPU with this share of its memory."""
    if share is None or chip.torus:
        return chip
    try:
        return dataclasses.replace(chip, usable=float(share))
    except ValueError:
        raise UserError(f"{MEMORY_SHARES[0]}={share!r} must be a number such as 0.9") from None


def parse(text: str, cpu: Chip | None = None) -> Topology:
    """The topology of a name such as v5e:4x4.

    cpu: this machine's figures, for cpu:1. UserError with what there is for an unknown chip, a
    slice of another form, and more chips than are built.
    """
    name, _, form = text.partition(":")
    chip = {**chips(), CPU: cpu}.get(name, "unknown")
    if chip == "unknown":
        raise UserError(f"no topology {text!r}; there are: {listed()}")
    if chip is None:
        raise UserError(f"{text}: this machine has not been measured")
    sizes = form.split("x") if form else ["1"]
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise _form_error(text, chip)

    counts = [int(size) for size in sizes]
    # a node, or a slice with all its dimensions, and then how many of them
    dimensions = chip.torus or 1
    if not dimensions <= len(counts) <= dimensions + 1:
        raise _form_error(text, chip)
    group, groups = math.prod(counts[:dimensions]), math.prod(counts[dimensions:])
    if group > chip.largest:
        what = "slice" if chip.torus else "node"
        raise UserError(
            f"{text}: the largest {what} of {name} has {chip.largest} chips; several are"
            f" {name}:{EXAMPLES[chip.torus]}x2"
        )
    return Topology(text, chip, group, groups)


def _form_error(text: str, chip: Chip) -> UserError:
    if chip.name == CPU:
        return UserError(f"{text}: this machine is cpu:1")
    form = EXAMPLES[chip.torus]
    several = "slices over the data-centre network" if chip.torus else "nodes"
    return UserError(
        f"{text}: {chip.name} is written as {chip.name}:{form}, two {several} as"
        f" {chip.name}:{form}x2"
    )


def listed() -> str:
    """An example of every kind, for messages."""
    names = [f"{name}:{EXAMPLES[chip.torus]}" for name, chip in chips().items()]
    return ", ".join([*names, "cpu:1"])
