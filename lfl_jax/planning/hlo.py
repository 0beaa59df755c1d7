"""The collectives of a compiled program, read from its text.

XLA prints an HLO module as computations of one instruction a line. A computation runs as often as
its callers do, and the body of a loop that often times the loop's trip count. So a collective in
the body of a layer is counted for every layer and every microbatch.

On TPUs an all-gather before a matrix product may be a loop of collective-permutes, each beside the
product with the shard that came before it (Wang et al., "Overlap
communication with dependent computation via decomposition", ASPLOS 2023); it is counted as those.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What a device sends of a collective's array in a ring of n, as a share of the array.
SENT = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0}  # others: the number in the name

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?)"
    r" (?P<opcode>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
# The three ways in which XLA writes groups of devices: listed, as a reshaped iota, by mesh axes.
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_AXES = re.compile(r"replica_groups=mesh\[(?P<mesh>[^\]]*)\](?:[^{]*)\{(?P<axes>[^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, dtype and number of devices.

    times: a step. bytes: a step, of the whole arrays (what an all-gather yields, what a
    reduce-scatter takes), per device. at_least: whether one of them is in a loop whose trip count
    XLA does not know, and was counted as if it ran once.
    """

    kind: str
    dtype: str
    devices: int
    times: int
    bytes: int
    at_least: bool

    @property
    def sent(self) -> int:
        """Bytes that a device sends for them in a ring, per step."""
        return round(self.bytes * SENT[self.kind](self.devices))


def collectives(text: str, unknown_trips: int = 1) -> tuple[Collective, ...]:
    """Of a module's text, the ones with the most bytes first.

    unknown_trips: rounds of a loop whose trip count XLA does not know; with 1 the counts in it are
    marked as lower bounds.
    """
    program = _Program(text, unknown_trips)
    totals: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for instruction, runs in program.run():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        dtype, size = _payload(instruction, kind, program.devices)
        total = totals[kind, dtype, _group(instruction.rest, kind) or program.devices]
        total[0] += runs.times
        total[1] += runs.times * size
        total[2] |= runs.at_least
    summed = (Collective(*key, *sums[:2], bool(sums[2])) for key, sums in totals.items())
    return tuple(sorted(summed, key=lambda c: -c.bytes))


@dataclasses.dataclass(frozen=True)
class _Instruction:
    opcode: str
    type: str
    rest: str  # operands and attributes

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    def attribute(self, name: str) -> str:
        """A word or number that is given as name=..., "" where there is none."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class _Runs:
    """How often a computation runs, and whether that is a lower bound."""

    times: int
    at_least: bool


Computation: TypeAlias = dict[str, _Instruction]  # by name, in the order of the text


class _Program:
    """A module's computations, and which of their instructions run how often."""

    def __init__(self, text: str, unknown_trips: int) -> None:
        self.unknown_trips = unknown_trips
        partitions = re.search(r"num_partitions=(\d+)", text)
        self.devices = int(partitions[1]) if partitions else 1
        self.computations: dict[str, Computation] = {}
        self.roots: dict[str, _Instruction] = {}
        self.entry, current = "", ""
        for line in text.splitlines():
            if match := _INSTRUCTION.match(line):
                instruction = _Instruction(match["opcode"], match["type"], match["rest"])
                self.computations[current][match["name"]] = instruction
                if match["root"]:
                    self.roots[current] = instruction
            elif match := _COMPUTATION.match(line):
                current = match["name"]
                self.computations[current] = {}
                self.entry = current if match["entry"] else self.entry

    def run(self) -> Iterator[tuple[_Instruction, _Runs]]:
        """Every instruction that is run, with how often; of a conditional, those of all branches.

        A collective that runs beside several fusions is written in each of them, with one channel:
        it is one.
        """
        channels = set()
        for instruction, runs in self._run(self.entry, _Runs(1, False)):
            channel = instruction.attribute("channel_id")
            if channel not in channels:
                yield instruction, runs
            channels |= {channel} - {""}

    def _run(self, name: str, runs: _Runs) -> Iterator[tuple[_Instruction, _Runs]]:
        computation = self.computations.get(name, {})
        for instruction in computation.values():
            yield instruction, runs
            # the done half of an asynchronous pair names the computation that its start has begun
            if instruction.opcode.endswith(("-done", "-update")):
                continue
            inside = runs
            if instruction.opcode == "while":
                trips = self._trips(instruction, computation)
                is_bound = trips is None and self.unknown_trips == 1
                inside = _Runs(
                    runs.times * (self.unknown_trips if trips is None else trips),
                    runs.at_least or is_bound,
                )
            for called in _called(instruction.rest):
                yield from self._run(called, inside)

    def _trips(self, loop: _Instruction, around: Computation) -> int | None:
        """A loop's trip count, None where it is not a constant.

        XLA notes it for CPUs and GPUs. For TPUs it is read off the condition "index < limit", of
        an index that starts at 0, and off what the body adds to the index.
        """
        if noted := _TRIPS.search(loop.rest):
            return int(noted[1])
        condition = self.computations[loop.attribute("condition")]
        compared = self.roots[loop.attribute("condition")]
        if compared.opcode != "compare" or compared.attribute("direction") != "LT":
            return None
        index, limit = (condition.get(name) for name in compared.operands)
        if index is None or limit is None:
            return None
        if limit.opcode == "get-tuple-element":  # a constant that the loop carries along
            limit = _carried(loop, limit.attribute("index"), around)
        if limit is None or limit.opcode != "constant":
            return None
        return -(-_value(limit) // self._step(loop.attribute("body"), index.attribute("index")))

    def _step(self, body: str, index: str) -> int:
        """What a body adds to an element of the tuple that it carries; 1 where that is not seen."""
        added = _element(self.roots[body], index, self.computations[body])
        if added is None or added.opcode != "add":
            return 1
        operands = [self.computations[body].get(name) for name in added.operands]
        constants = [x for x in operands if x is not None and x.opcode == "constant"]
        return _value(constants[0]) if constants else 1


def _carried(loop: _Instruction, index: str, around: Computation) -> _Instruction | None:
    """An element of the tuple that a loop starts from, behind the copies of it."""
    start = around.get(loop.operands[0])
    element = start and _element(start, index, around)
    while element is not None and element.opcode in ("copy", "bitcast"):
        element = around.get(element.operands[0])
    return element


def _element(tuple_: _Instruction, index: str, computation: Computation) -> _Instruction | None:
    if tuple_.opcode != "tuple" or not index.isdigit():
        return None
    return computation.get(tuple_.operands[int(index)])


def _value(constant: _Instruction) -> int:
    return int(constant.rest.partition(")")[0])


def _called(rest: str) -> list[str]:
    names = (one or several for one, several in _CALLED.findall(rest))
    return [name.strip().lstrip("%") for group in names for name in group.split(",")]


def _payload(instruction: _Instruction, kind: str, devices: int) -> tuple[str, int]:
    """(dtype, bytes) of the whole array that is communicated, the largest one's dtype."""
    result = instruction.type
    # (operands, results, and flags of a permutation); a started all-reduce has its results alone
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        result = _elements(result)[1]
    arrays = [(dtype, _size(dtype, shape)) for dtype, shape in _ARRAY.findall(result)]
    size = sum(bytes_ for _, bytes_ in arrays)
    if kind == "reduce-scatter":
        size *= _group(instruction.rest, kind) or devices
    return max(arrays, key=lambda array: array[1], default=("", 0))[0], size


def _elements(tuple_type: str) -> list[str]:
    """Types of a tuple's elements, which may be tuples."""
    elements, depth = [""], 0
    for character in tuple_type.strip()[1:-1]:
        # the commas of shapes and layouts are inside brackets, too
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def _size(dtype: str, shape: str) -> int:
    """Bytes of an array."""
    bits = BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8


def _group(rest: str, kind: str) -> int:
    """How many devices take part; of a permutation, 2; 0 = all, which XLA writes as {}."""
    if kind == "collective-permute":
        return 2
    if match := _IOTA.search(rest):
        return int(match[1])
    if match := _AXES.search(rest):
        sizes = dict(axis.split("=") for axis in match["mesh"].split(","))
        return math.prod(int(sizes[axis.strip()]) for axis in match["axes"].split(","))
    match = _LISTED.search(rest)
    return len(match[1].split(",")) if match and match[1] else 0
