"""Other ways to run a config on a topology: the nearest that fits, and all of them by their time.

A candidate is a mesh, rows of a microbatch and a remat policy. Nothing that it changes changes what
is trained: microbatches are summed, and meshes and remat round differently at most.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.planning import layout as layouts
from lfl_jax.planning import memory, timing
from lfl_jax.planning.bands import Number
from lfl_jax.planning.layout import Layout, MeshShape
from lfl_jax.planning.memory import Memory
from lfl_jax.planning.timing import StepTime
from lfl_jax.planning.topology import Topology
from lfl_jax.run_setup.auto_mesh import divisors

REMAT = ("none", "selective", "full")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run the config, and what it takes."""

    layout: Layout
    memory: Memory
    time: StepTime

    @property
    def rows(self) -> int:
        """Rows of a microbatch, over all devices."""
        return self.layout.config.train.rows

    @property
    def flags(self) -> list[str]:
        """What to add to the command."""
        config = self.layout.config
        return [
            f"--config.train.microbatch={self.rows}",
            f"--config.model.remat={config.model.remat}",
            f"--config.eval.generate_rows={config.eval.generate_rows}",
            *self.layout.mesh.flags(),
            # sizes beside auto would contradict it
            *(["--config.mesh.auto=False"] if config.mesh.auto else []),
        ]


def ranked(config: Config, topology: Topology) -> list[Candidate]:
    """All candidates that fit, the fastest first: by the middle of the band of a step's time."""
    fitting = candidates(config, topology, meshes(topology))
    return sorted(
        fitting, key=lambda candidate: candidate.time.total.fast * candidate.time.total.slow
    )


def nearest(config: Config, topology: Topology, mesh: MeshShape) -> Candidate | None:
    """The candidate that fits and changes least of the config, the fastest of several.

    Another microbatch changes less than another remat, and that less than another mesh.
    """

    def changes(candidate: Candidate) -> tuple[int, Number]:
        other_remat = candidate.layout.config.model.remat != config.model.remat
        other_rows = candidate.rows != config.train.rows
        return 2 * other_remat + other_rows, candidate.time.total.slow

    others = (other for other in meshes(topology) if other != mesh)
    for group in ((mesh,), others):
        best = min(candidates(config, topology, group), key=changes, default=None)
        if best is not None:
            return best
    return None


def candidates(
    config: Config, topology: Topology, among: Iterable[MeshShape]
) -> Iterator[Candidate]:
    """What fits on these meshes: rows that they divide, every remat policy, evaluations in
    batches as large as the memory allows."""
    for mesh in among:
        for rows, remat in itertools.product(_rows(config, mesh), REMAT):
            try:
                layout = layouts.of(_changed(config, rows, remat), mesh)
            except UserError:
                break  # heads that this mesh does not divide
            # what is too large without any temporaries need not be traced
            if sum(memory.arguments(layout).values()) > topology.chip.memory:
                break
            layout = _with_smaller_evaluations(layout, topology)
            taken = memory.of(layout, topology)
            if taken.fits:
                yield Candidate(layout, taken, timing.step(layout, topology))


def _with_smaller_evaluations(layout: Layout, topology: Topology) -> Layout:
    """The layout with half of the answers generated together, again and again, until they fit."""
    config = layout.config
    while config.eval.generate_rows > 1:
        taken = memory.of(dataclasses.replace(layout, config=config), topology)
        if taken.evaluating <= taken.available:
            break
        halved = dataclasses.replace(config.eval, generate_rows=config.eval.generate_rows // 2)
        config = dataclasses.replace(config, eval=halved)
    return dataclasses.replace(layout, config=config)


def meshes(topology: Topology) -> Iterator[MeshShape]:
    """Meshes of all chips; the tensor axis, whose sums wait for each other, stays in a group."""
    chips = topology.chips
    for tensor in divisors(chips):
        if tensor > min(16, topology.group):
            continue
        for fsdp in divisors(chips // tensor):
            yield MeshShape(chips // tensor // fsdp, fsdp, tensor)


def _rows(config: Config, mesh: MeshShape) -> list[int]:
    """Rows of a microbatch that divide the batch, and that the mesh divides; few where many are."""
    batch, shards = config.train.batch, mesh.data * mesh.fsdp
    given = config.train.rows
    rows = [n for n in divisors(batch) if n % shards == 0]
    # powers of two of rows a device are enough to choose among
    return [n for n in rows if n == given or (n // shards) & (n // shards - 1) == 0]


def _changed(config: Config, rows: int, remat: str) -> Config:
    microbatch = 0 if rows == config.train.batch else rows
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, microbatch=microbatch),
        model=dataclasses.replace(config.model, remat=remat),
    )
