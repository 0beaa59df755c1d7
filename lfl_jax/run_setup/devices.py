"""The mesh of a run, and what of a config does not fit it.

Several processes compare their configs first: with different ones they would wait for each other
for ever.
"""

import math

import jax

from lfl_jax import notices
from lfl_jax.config import Config, MeshConfig, locations
from lfl_jax.core import hosts
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.errors import mistakes
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import auto_mesh

# Fields that one process may have otherwise: process 0 alone writes logs, and one host may be
# profiled.
OWN_SECTIONS = ("log",)


def rules(config: Config, shape: ModelConfig, *, trains: bool = True, show: bool = True) -> Rules:
    """Rules over the mesh that config.mesh describes, or that is chosen for it. Collective.

    UserError where the processes have different configs, or the mesh does not divide the devices or
    the heads; with sizes that all are given, also where it does not divide the batch. A warning for
    rows and weights that devices have several times. trains: whether there is a training batch.
    show: whether a chosen mesh is printed, with the reason.
    """
    require_same_config(config)
    m = _chosen(config, shape, show) if config.mesh.auto else config.mesh
    mesh_rules = make_rules(m.data, m.fsdp, m.tensor)
    problems = head_problems(shape, mesh_rules)
    if trains:
        row_problems = training_row_problems(config, mesh_rules)
        if is_open(config.mesh):
            _warn(row_problems)
        else:
            problems += row_problems
    if problems:
        raise mistakes(problems)
    _warn([*evaluation_row_problems(config, mesh_rules), *weight_problems(shape, mesh_rules)])
    return mesh_rules


def is_open(mesh: MeshConfig) -> bool:
    """Whether a size is left to the devices: then rows that they do not divide are no mistake."""
    return mesh.auto or -1 in (mesh.data, mesh.fsdp, mesh.tensor)


def _chosen(config: Config, shape: ModelConfig, show: bool) -> auto_mesh.Sizes:
    """The mesh of config.mesh.auto. Collective: that of process 0, whose memory decides."""
    memory = hosts.agree(auto_mesh.device_memory())
    sizes = auto_mesh.choose(config, shape, jax.device_count(), memory)
    if show and hosts.is_first():
        mesh = f"mesh: data {sizes.data} x fsdp {sizes.fsdp} x tensor {sizes.tensor}"
        print(f"{mesh}, chosen for {sizes.why}")  # noqa: T201
    return sizes


def require_same_config(config: Config) -> None:
    """UserError that names the fields in which this process's config is not process 0's."""
    # Folders may differ between hosts; what is in the files is compared by content, later.
    anywhere = config.with_places(
        lambda path: path if not path or path.startswith(locations.SHARED) else "a path of the host"
    )
    fields = {}
    for section, values in anywhere.values().items():
        if section not in OWN_SECTIONS:
            named = values.items() if isinstance(values, dict) else [(None, values)]
            fields |= {f"config.{section}.{name}" if name else f"config.{section}": value
                       for name, value in named}  # fmt: skip
    hosts.require_same(fields)


def head_problems(shape: ModelConfig, mesh_rules: Rules) -> list[str]:
    """Heads that the tensor axis would cut in two."""
    tensor = mesh_rules.mesh.shape["tensor"]
    heads = {"query": shape.n_heads, "key and value": shape.n_kv_heads}
    cut = [f"{count} {name} heads" for name, count in heads.items() if count % tensor]
    if not cut:
        return []
    fitting = map(str, auto_mesh.divisors(math.gcd(shape.n_heads, shape.n_kv_heads)))
    return [
        f"config.mesh.tensor={tensor} does not divide this model's {' and '.join(cut)};"
        f" it may be {', '.join(fitting)}"
    ]


def training_row_problems(config: Config, mesh_rules: Rules) -> list[str]:
    """Rows of a forward pass that cannot be split over the devices."""
    name = "microbatch" if config.train.microbatch else "batch"
    return _row_problems(f"config.train.{name}", getattr(config.train, name), mesh_rules)


def evaluation_row_problems(config: Config, mesh_rules: Rules) -> list[str]:
    """The same for scoring."""
    return _row_problems("config.eval.rows", config.eval.rows, mesh_rules)


def _row_problems(field: str, rows: int, mesh_rules: Rules) -> list[str]:
    shape = mesh_rules.mesh.shape
    devices = shape["data"] * shape["fsdp"]
    (rows_of_device,) = mesh_rules.sharding(("batch",), (rows,)).shard_shape((rows,))
    times = devices * rows_of_device // rows
    if times == 1:
        return []
    return [
        f"{field}={rows} rows cannot be split evenly over data x fsdp = {shape['data']} x"
        f" {shape['fsdp']} devices: every row would be computed {times} times; set a multiple of"
        f" {devices}, such as {math.ceil(rows / devices) * devices}"
    ]


def weight_problems(shape: ModelConfig, mesh_rules: Rules) -> list[str]:
    """Dimensions that a mesh axis does not divide, so that its devices do not share them."""
    shared = {
        "fsdp": {"d_model": shape.d_model},
        "tensor": {"d_ff": shape.d_ff, "vocab_size": shape.vocab_size},
    }
    problems = []
    for axis, dimensions in shared.items():
        size = mesh_rules.mesh.shape[axis]
        problems += [
            f"config.mesh.{axis}={size} does not divide this model's {name}={count}: its devices"
            " do not share the weights of that dimension, each has them whole"
            for name, count in dimensions.items()
            if count % size
        ]
    return problems


def _warn(problems: list[str]) -> None:
    for problem in problems:
        notices.warn(problem)
