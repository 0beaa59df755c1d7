"""A config on a mesh: the arrays of its step, and a device's share of rows and of the model."""

import dataclasses
import functools
import math

import jax
from jax.sharding import AbstractMesh, AxisType

from lfl_jax.config import Config
from lfl_jax.core.sharding import MESH_AXES, Rules
from lfl_jax.core.types import PyTree
from lfl_jax.errors import UserError, mistakes
from lfl_jax.models.config import ModelConfig
from lfl_jax.planning import abstract_run, block
from lfl_jax.planning.abstract_run import AbstractRun
from lfl_jax.planning.block import Block
from lfl_jax.run_setup import base_model, devices


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each mesh axis."""

    data: int
    fsdp: int
    tensor: int

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.fsdp * self.tensor

    def rules(self) -> Rules:
        """Rules on a mesh of devices that need not be here."""
        types, sizes = (AxisType.Auto,) * len(MESH_AXES), (self.data, self.fsdp, self.tensor)
        return Rules(AbstractMesh(sizes, MESH_AXES, axis_types=types))

    def __str__(self) -> str:
        return f"data {self.data} x fsdp {self.fsdp} x tensor {self.tensor}"

    def flags(self) -> list[str]:
        """The flags of a run on this mesh."""
        sizes = dataclasses.asdict(self)
        return [f"--config.mesh.{name}={size}" for name, size in sizes.items()]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The step of a config on a mesh. rows: of a microbatch, of one device."""

    config: Config
    mesh: MeshShape
    run: AbstractRun
    rows: int

    @property
    def cfg(self) -> ModelConfig:
        """The model, whole."""
        return self.run.cfg

    @property
    def row(self) -> int:
        """Tokens of a row."""
        return self.config.data.seq_len

    @property
    def tokens(self) -> int:
        """Tokens of a microbatch, of one device."""
        return self.rows * self.row

    @property
    def microbatches(self) -> int:
        """Forward passes of a step."""
        return self.config.train.microbatches

    @property
    def width(self) -> int:
        """Bytes of a value in the compute dtype."""
        return 2 if self.cfg.compute_dtype == "bfloat16" else 4

    @functools.cached_property
    def block(self) -> Block:
        """A device's share of one layer, traced."""
        return _block(self, self.cfg.remat)


def of(config: Config, mesh: MeshShape) -> Layout:
    """The layout; UserError for heads that the mesh cuts, and for an unknown model."""
    problems = devices.head_problems(base_model.shape(config), mesh.rules())
    if problems:
        raise mistakes(problems)
    run = abstract_run.describe(config, mesh.rules())
    tokens = run.batch["tokens"]
    rows = tokens.sharding.shard_shape(tokens.shape)[1]
    return Layout(config, mesh, run, rows)


def local(cfg: ModelConfig, tensor: int) -> ModelConfig:
    """The model of a device that holds one of `tensor` shares of the heads and of the mlp."""
    heads, kv_heads = cfg.n_heads // tensor, cfg.n_kv_heads // tensor
    d_ff = cfg.d_ff // tensor if cfg.d_ff % tensor == 0 else cfg.d_ff
    return dataclasses.replace(cfg, n_heads=heads, n_kv_heads=kv_heads, d_ff=d_ff)


def plain_block(layout: Layout) -> Block:
    """The traced layer without recomputation."""
    return _block(layout, "none")


def _block(layout: Layout, remat: str) -> Block:
    config, whole = layout.config, layout.cfg
    # One batch, mesh and remat for all, on which a traced layer does not depend: a search then
    # traces every layer once.
    train = dataclasses.replace(config.train, batch=1, microbatch=0)
    model = dataclasses.replace(config.model, remat="none")
    same = dataclasses.replace(
        config, train=train, model=model, eval=dataclasses.replace(config.eval, generate_rows=1)
    )
    try:
        return block.trace(same, _without_remat(local(whole, layout.mesh.tensor)), remat)
    except UserError:
        # A share of a weight may have fewer outputs than an adapter has ranks: the whole layer's
        # sizes are an upper bound.
        return block.trace(same, _without_remat(whole), remat)


def _without_remat(cfg: ModelConfig) -> ModelConfig:
    return dataclasses.replace(cfg, remat="none")


def bytes_of(tree: PyTree) -> int:
    """Bytes of a device's shards of all arrays."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
