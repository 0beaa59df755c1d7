"""Logical axes to mesh axes.

The mesh travels inside one hashable `Rules` argument, never in a global or a context.
"""

import dataclasses
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

    def sharding(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        """NamedSharding for logical axes of an array of this shape."""
        return NamedSharding(self.mesh, self.partition(axes, shape))


def constrain(
    x: Shaped[Array, "..."], axes: tuple[str, ...], rules: Rules | None
) -> Shaped[Array, "..."]:
    """x, sharded by its logical axes; unchanged without rules, or on one device."""
    if rules is None or rules.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, rules.sharding(axes, x.shape))


def make_rules(
    data: int = 1, fsdp: int = -1, tensor: int = 1, devices: list | None = None
) -> Rules:
    """Rules over a mesh (data, fsdp, tensor); one of the sizes may be -1: all remaining devices.

    Raises UserError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
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
