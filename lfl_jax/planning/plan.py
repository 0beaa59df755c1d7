"""A config on a topology: what it takes, whether that fits, and how long it is."""

import dataclasses
from typing import Any

from lfl_jax.config import Config
from lfl_jax.core.sharding import mesh_sizes
from lfl_jax.errors import UserError, mistakes
from lfl_jax.planning import compute, evaluations, length, memory, search, timing, tokenising
from lfl_jax.planning import layout as layouts
from lfl_jax.planning.bands import Number
from lfl_jax.planning.compute import TokenFlops, Work
from lfl_jax.planning.layout import Layout, MeshShape
from lfl_jax.planning.memory import Memory
from lfl_jax.planning.search import Candidate
from lfl_jax.planning.timing import RunTime, StepTime
from lfl_jax.planning.topology import Topology
from lfl_jax.run_setup import auto_mesh, base_model, devices


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is printed.

    nearest: what fits in place of a config that does not. warnings: those of a run on this mesh,
    and where its hosts may be slower than its chips.
    why: it was chosen, for config.mesh.auto.
    """

    layout: Layout
    topology: Topology
    memory: Memory
    flops: TokenFlops
    work: Work
    time: StepTime
    run: RunTime
    nearest: Candidate | None
    warnings: tuple[str, ...]
    why: str


def of(config: Config, topology: Topology, mesh: MeshShape | None = None) -> Plan:
    """The plan of a config on a mesh of the topology's chips, by default the config's own."""
    mesh, why = (mesh, "") if mesh else mesh_of(config, topology)
    layout = layouts.of(config, mesh)
    taken, time = memory.of(layout, topology), timing.step(layout, topology)
    steps = length.of(config).most
    return Plan(
        layout,
        topology,
        taken,
        compute.per_token(layout),
        compute.of(layout),
        time,
        timing.run(layout, topology, time, evaluations.of(layout, topology, steps)),
        None if taken.fits else search.nearest(config, topology, mesh),
        (*_row_warnings(config, mesh), *tokenising.warnings(config, topology, time)),
        why,
    )


def mesh_of(config: Config, topology: Topology) -> tuple[MeshShape, str]:
    """The config's mesh on all chips, and why it was chosen if it was.

    UserError where its sizes are no factors of the number of chips.
    """
    if config.mesh.auto:
        shape, memory_of_chip = base_model.shape(config), topology.chip.memory
        chosen = auto_mesh.choose(config, shape, topology.chips, memory_of_chip)
        return MeshShape(chosen.data, chosen.fsdp, chosen.tensor), chosen.why
    data, fsdp, tensor = config.mesh.data, config.mesh.fsdp, config.mesh.tensor
    sizes = mesh_sizes((data, fsdp, tensor), topology.chips)
    if sizes is None:
        raise UserError(
            f"mesh (data={data}, fsdp={fsdp}, tensor={tensor}) does not multiply to the"
            f" {topology.chips} chips of {topology.name}; one of the three may be -1: all that"
            " remain"
        )
    return MeshShape(*sizes), ""


def _row_warnings(config: Config, mesh: MeshShape) -> tuple[str, ...]:
    """What a run says of rows that the data axes do not divide; UserError where it refuses them."""
    problems = devices.training_row_problems(config, mesh.rules())
    if problems and not devices.is_open(config.mesh):
        raise mistakes(problems)
    return tuple(problems)


def as_json(plan: Plan, price: Number) -> dict[str, Any]:
    """The plan as plain values: bytes, FLOPs, seconds, hours."""
    run, mesh = plan.run, plan.layout.mesh
    chip_hours = None if run.hours is None else run.hours * plan.topology.chips
    return {
        "topology": plan.topology.name,
        "chips": plan.topology.chips,
        "mesh": dataclasses.asdict(mesh) | {"why": plan.why},
        "fits": plan.memory.fits,
        "bytes": {
            "arguments": plan.memory.arguments,
            "temporaries": plan.memory.temporaries,
            "evaluation": plan.memory.evaluation,
            "training_peak": plan.memory.training,
            "evaluation_peak": plan.memory.evaluating,
            "available": plan.memory.available,
        },
        "tightest": plan.memory.tightest[0],
        "flops_per_token": dataclasses.asdict(plan.flops),
        "collectives": [dataclasses.asdict(collective) for collective in plan.work.collectives],
        "step_seconds": dataclasses.asdict(plan.time.total),
        "step_seconds_at_peak": {
            "products": plan.time.products,
            "memory": plan.time.memory,
            "links": plan.time.collectives,
        },
        "steps": dataclasses.asdict(run.steps),
        "tokens": run.tokens,
        "hours": None if run.hours is None else dataclasses.asdict(run.hours),
        "evaluation_hours": dataclasses.asdict(run.evaluating),
        "evaluations_unknown": run.unknown,
        "chip_hours": None if chip_hours is None else dataclasses.asdict(chip_hours),
        "cost": dataclasses.asdict(chip_hours * price) if chip_hours and price else None,
        "warnings": plan.warnings,
        "nearest": None if plan.nearest is None else plan.nearest.flags,
    }
