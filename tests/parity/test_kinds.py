"""VeRA, (IA)^3, PiSSA and OLoRA against what peft computed (make_kinds.py writes the fixture)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.test_tiny_llama import CFG, PARAMS, batch, logits

from lfl_jax import adapters, losses
from lfl_jax.adapters import IA3, OLoRA, PiSSA, VeRA
from lfl_jax.core import tree
from lfl_jax.models import llama

FIXTURE = dict(np.load(Path(__file__).with_name("kinds.npz")))
SCALE, ONES = np.full((2, 3), 5.0 / 3, np.float32), np.ones((2, 1), np.float32)
START = {"pissa": PiSSA, "olora": OLoRA}


def at(kind, path, suffix=""):
    """{leaf: array} of one weight."""
    prefix = f"{kind}/{path}/"
    found = {name.removeprefix(prefix): x for name, x in FIXTURE.items() if name.startswith(prefix)}
    return {
        n.removesuffix(suffix): jnp.asarray(x)
        for n, x in found.items()
        if n.endswith(suffix) and suffix
    } or {n: jnp.asarray(x) for n, x in found.items() if not n.endswith("_grad")}


def layer(kind, path, suffix=""):
    leaves = at(kind, path, suffix)
    if not leaves:
        return None
    if kind == "vera":
        part, name = path.split("/")
        return VeRA(**leaves, gain=jnp.asarray(ONES), fan_in=PARAMS["layers"][part][name].shape[1])
    if kind == "ia3":
        side = ("inputs", "outputs") if path.endswith("down") else ("outputs", "inputs")
        return IA3(**{side[0]: leaves["vector"], side[1]: None}, gain=jnp.asarray(ONES))
    start = at(kind, path)
    return START[kind](
        a=leaves["a"], b=leaves["b"], scale=jnp.asarray(SCALE), a0=start["a0"], b0=start["b0"]
    )


def adapter_of(kind, suffix=""):
    tree = {part: {name: layer(kind, f"{part}/{name}", suffix) for name in PARAMS["layers"][part]}
            for part in ("attn", "mlp")}  # fmt: skip
    shared = {
        "a": jnp.asarray(FIXTURE["vera/shared/a"]),
        "b": jnp.asarray(FIXTURE["vera/shared/b"]),
    }
    return {"layers": tree} | ({"shared": {"vera": shared}} if kind == "vera" else {})


@pytest.mark.parametrize("kind", ["vera", "ia3", "pissa", "olora"])
def test_logits_and_gradients_are_pefts(kind):
    adapter, wanted = adapter_of(kind), FIXTURE[f"{kind}/logits"]
    np.testing.assert_allclose(logits(PARAMS, adapter), wanted, rtol=0, atol=2e-4)
    assert np.abs(logits(PARAMS, None) - wanted).max() > 0.1
    np.testing.assert_allclose(
        llama.logits(PARAMS, llama.forward(adapters.merge(adapter, PARAMS), None, batch()["tokens"], CFG)[0]),
        wanted, rtol=0, atol=2e-4,
    )  # fmt: skip
    value, grads = jax.value_and_grad(lambda a: losses.nll_sum(PARAMS, a, batch(), CFG))(adapter)
    np.testing.assert_allclose(value, FIXTURE[f"{kind}/loss"], rtol=1e-4)
    theirs = adapter_of(kind, "_grad")["layers"]
    constants = ("gain", "scale", "a0", "b0")
    for (name, x), y in zip(tree.items(grads["layers"]), jax.tree.leaves(theirs), strict=True):
        if name.split("/")[-1] not in constants:
            np.testing.assert_allclose(
                x, y, rtol=2e-3, atol=2e-4 * float(jnp.abs(y).max()), err_msg=name
            )


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_they_start_where_peft_starts(kind):
    fresh = jax.tree.map(
        lambda x: x.replace(a=0 * x.a, b=0 * x.b), adapter_of(kind)["layers"],
        is_leaf=lambda x: isinstance(x, PiSSA | OLoRA),
    )  # fmt: skip
    bound = adapters.bind({"layers": fresh}, PARAMS)["layers"]
    for part, name in (("attn", "q"), ("attn", "k"), ("mlp", "down"), ("mlp", "up")):
        found, theirs = bound[part][name], at(kind, f"{part}/{name}")
        np.testing.assert_allclose(
            found.a @ found.b, theirs["a0"] @ theirs["b0"], rtol=0, atol=2e-5
        )
        assert jnp.array_equal(found.a, found.a0) and jnp.array_equal(found.b, found.b0)
