"""Logical axes to mesh axes.

The mesh travels inside one hashable `Rules` argument, never in a global or a context.
"""

import dataclasses
import itertools
import math

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from lfl_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")

# The first free mesh axis that divides the dimension is taken, so B (rank, heads) is sharded over
# fsdp by its rank while A (embed, rank), whose embed dimension took fsdp already, is not sharded
# twice.
DEFAULT_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("batch", ("data", "fsdp")),
    ("embed", ("fsdp",)),
    ("heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("mlp", ("tensor",)),
    ("vocab", ("tensor",)),
    ("rank", ("fsdp",)),
    ("layers", ()),
    ("time", ()),
    ("activation", ()),
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """A mesh and an ordered table from logical axis to the mesh axes that may shard it.

    An AbstractMesh, of devices that are not here, is enough for shapes and shardings.
    """

    mesh: Mesh | AbstractMesh
    table: tuple[tuple[str, tuple[str, ...]], ...] = DEFAULT_TABLE

    def partition(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """PartitionSpec for logical axes.

        A mesh axis of several devices is used once, and only where it divides the dimension.
        """
        table, used, entries = dict(self.table), set(), []
        for name, size in zip(axes, shape, strict=True):
            mesh_axes = [a for a in table[name] if a not in used and self.mesh.shape[a] > 1]
            # as many as divide: a batch of 4 on (data 4, fsdp 2) is sharded over data alone
            while size % math.prod(self.mesh.shape[a] for a in mesh_axes):
                mesh_axes.pop()
            used.update(mesh_axes)
            entries.append(tuple(mesh_axes) or None)
        return PartitionSpec(*entries)

    def storage(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """`partition`, for what is stored: parameters, adapters' factors and their moments.

        A mesh axis that its own dimension cannot take shards another one: of B (rank 16, heads) on
        fsdp 256, the heads. Otherwise B would be stored whole on every device.
        """
        first, table = self.partition(axes, shape), dict(self.table)
        # in the order in which the array's axes name them
        named = dict.fromkeys(itertools.chain(*map(table.__getitem__, axes)))
        named = tuple(mesh_axis for mesh_axis in named if self.mesh.shape[mesh_axis] > 1)
        if set(named) == set(itertools.chain(*map(mesh_axes, first))):
            return first

        # Two mesh axes and three dimensions at most: every way to place them is tried. Index None
        # is of a mesh axis that shards nothing.
        indices = [i for i, name in enumerate(axes) if table[name]]
        ways = itertools.product((*indices, None), repeat=len(named))
        best = max(ways, key=lambda way: self._shards(named, way, shape, first))
        return _placed(named, best, len(axes))

    def _shards(
        self,
        named: tuple[str, ...],
        way: tuple[int | None, ...],
        shape: tuple[int, ...],
        first: PartitionSpec,
    ) -> tuple[int, int]:
        """Into how many parts mesh axes split an array, each the dimension of its index in `way`.

        And how many of them do so in `first`. (0, 0) where a dimension is divided unevenly.
        """
        parts, as_in_first = [1] * len(shape), 0
        for mesh_axis, i in zip(named, way, strict=True):
            if i is not None:
                parts[i] *= self.mesh.shape[mesh_axis]
                as_in_first += mesh_axis in mesh_axes(first[i])
        if any(size % n for size, n in zip(shape, parts, strict=True)):
            return 0, 0
        return math.prod(parts), as_in_first

    def sharding(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        """NamedSharding for logical axes of an array of this shape."""
        return NamedSharding(self.mesh, self.partition(axes, shape))

    def storage_sharding(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        """NamedSharding for logical axes of a stored array of this shape."""
        return NamedSharding(self.mesh, self.storage(axes, shape))


def _placed(named: tuple[str, ...], way: tuple[int | None, ...], dimensions: int) -> PartitionSpec:
    """The PartitionSpec in which each mesh axis shards the dimension of its index in `way`."""
    entries: list[tuple[str, ...]] = [()] * dimensions
    for mesh_axis, i in zip(named, way, strict=True):
        if i is not None:
            entries[i] = (*entries[i], mesh_axis)
    return PartitionSpec(*(entry or None for entry in entries))


def mesh_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """An entry of a PartitionSpec, which holds a single name as a string, as a tuple of names."""
    return (entry,) if isinstance(entry, str) else entry or ()


def constrain(
    x: Shaped[Array, "..."], axes: tuple[str, ...], rules: Rules | None
) -> Shaped[Array, "..."]:
    """x, sharded by its logical axes; unchanged without rules, or on one device."""
    if rules is None or rules.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape))


def mesh_sizes(asked: tuple[int, int, int], devices: int) -> tuple[int, int, int] | None:
    """The sizes of a mesh of so many devices, one of which may be -1: all that remain.

    None where they do not multiply to the number of devices.
    """
    sizes = list(asked)
    known = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) == 1 and devices % known == 0:
        sizes[sizes.index(-1)] = devices // known
    return tuple(sizes) if math.prod(sizes) == devices and min(sizes) > 0 else None


def make_rules(
    data: int = 1, fsdp: int = -1, tensor: int = 1, devices: list | None = None
) -> Rules:
    """Rules over a mesh (data, fsdp, tensor); one of the sizes may be -1: all remaining devices.

    Raises UserError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes((data, fsdp, tensor), len(devices))
    if sizes is None:
        raise UserError(
            f"mesh (data={data}, fsdp={fsdp}, tensor={tensor}) does not multiply to the"
            f" {len(devices)} devices here;"
            " set config.mesh so that it does (one of them may be -1: all that remain)"
        )
    # Auto: XLA propagates the shardings that `constrain` and the inputs state
    types = (AxisType.Auto,) * len(MESH_AXES)
    return Rules(jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=types, devices=devices))


def platform(rules: Rules | None) -> str:
    """Where a program that is being traced will run: "cpu", "gpu" or "tpu".

    That is on the mesh, which may be of devices of another machine, or else on the default device.
    """
    if rules is not None:
        return rules.mesh.devices.flat[0].platform
    device = jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)
