import jax
import jax.numpy as jnp
import pytest
from jax.nn import initializers
from jax.sharding import PartitionSpec

from lfl_jax.adapters.lora import KAIMING_UNIFORM
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
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
