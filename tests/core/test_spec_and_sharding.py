import jax
import jax.numpy as jnp
import pytest
from jax.nn import initializers
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from lfl_jax.adapters.lora import KAIMING_UNIFORM
from lfl_jax.core import spec
from lfl_jax.core.sharding import MESH_AXES, Rules, make_rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError

WEIGHT = ArraySpec((2, 8, 4), ("layers", "embed", "heads"), initializers.normal(0.5))


def test_everything_is_derived_from_the_spec():
    specs = {"w": WEIGHT, "n": ArraySpec((4,), ("embed",), initializers.ones)}
    arrays, shapes = spec.init(specs, jax.random.key(0)), spec.abstract(specs, make_rules())
    assert spec.count(specs) == 68
    assert jax.tree.map(lambda x: (x.shape, x.dtype), arrays) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    assert 0.3 < float(arrays["w"].std()) < 0.7 and (arrays["n"] == 1).all()


def test_a_leaf_keeps_its_values_when_others_come_and_go():
    alone = spec.init({"w": WEIGHT}, jax.random.key(0))["w"]
    beside = spec.init({"a": WEIGHT, "w": WEIGHT}, jax.random.key(0))
    assert (alone == beside["w"]).all() and not (beside["a"] == beside["w"]).any()


@pytest.mark.parametrize(("initializer", "shape"), [
    (KAIMING_UNIFORM, (3, 400, 50)),  # a = sqrt(5): 1 / sqrt(400)
    (initializers.he_uniform(), (2400, 50)),  # sqrt(6 / 2400)
])  # fmt: skip
def test_starts_of_lora_and_vera_have_pefts_bounds(initializer, shape):
    x = initializer(jax.random.key(0), shape, jnp.float32)
    assert 0.049 < float(jnp.abs(x).max()) <= 0.05


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(UserError, match="does not multiply"):
        make_rules(data=3, fsdp=1, tensor=1, devices=jax.devices()[:1])


def test_one_device_partitions_nothing():
    rules = make_rules(devices=jax.devices()[:1])
    assert rules.partition(("embed", "rank"), (8, 4)) == PartitionSpec(None, None)
    assert rules.sharding(("embed", "rank"), (8, 4)).is_fully_replicated


def pod(data=1, fsdp=1, tensor=1):
    """Rules on a mesh of devices that are not here."""
    types = (AxisType.Auto,) * 3
    return Rules(AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=types))


@pytest.mark.parametrize(
    ("rules", "axes", "shape", "stored"),
    [
        # as the partition, wherever that uses every mesh axis
        (pod(fsdp=8), ("layers", "rank", "heads"), (2, 16, 64), (None, "fsdp", None)),
        (pod(fsdp=8), ("layers", "embed", "rank"), (2, 64, 16), (None, "fsdp", None)),
        (pod(data=8), ("layers", "rank", "heads"), (2, 16, 64), (None, None, None)),
        # a rank of 16 on 256 devices: the outputs are sharded in its place
        (pod(fsdp=256), ("layers", "rank", "heads"), (2, 16, 4096), (None, None, "fsdp")),
        (pod(fsdp=256), ("layers", "mlp", "rank"), (2, 11008, 16), (None, "fsdp", None)),
        # 11008 is 256 x 43: the rank takes the tensor axis, so that the outputs can take fsdp
        (
            pod(fsdp=256, tensor=16),
            ("layers", "rank", "mlp"),
            (2, 16, 11008),
            (None, "tensor", "fsdp"),
        ),
        (
            pod(fsdp=512, tensor=8),
            ("layers", "rank", "mlp"),
            (2, 16, 11008),
            (None, None, "tensor"),
        ),
        (
            pod(fsdp=32, tensor=8),
            ("layers", "rank", "heads"),
            (2, 16, 4096),
            (None, None, ("fsdp", "tensor")),
        ),
        # nothing divides
        (pod(fsdp=256), ("layers", "rank", "heads"), (2, 16, 100), (None, None, None)),
        # a tied table of 49153 words on tensor 8: the width takes both
        (pod(fsdp=2, tensor=8), ("vocab", "embed"), (49153, 64), (None, ("tensor", "fsdp"))),
    ],
)
def test_what_is_stored_is_sharded_over_every_mesh_axis_that_divides_it(rules, axes, shape, stored):
    assert rules.storage(axes, shape) == PartitionSpec(*stored)
    assert spec.shardings(ArraySpec(shape, axes, initializers.zeros), rules).spec == PartitionSpec(
        *stored
    )


def test_activations_are_constrained_as_before():
    """A batch that the devices do not divide stays whole: no other dimension takes its place."""
    assert pod(fsdp=8).partition(("batch", "time", "heads"), (2, 8, 64)) == PartitionSpec(
        None, None, None
    )
