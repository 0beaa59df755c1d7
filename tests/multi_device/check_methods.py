"""Run in its own process with 8 CPU devices: LoRA, DoRA, QLoRA and full finetuning on meshes against
one device.

    python tests/multi_device/check_methods.py MESH [MESH ...] [--cases=lora,full]

MESH is DATAxFSDPxTENSOR, with "p" after it for a permuted order of the devices. Of each case:
losses of two steps, gradients before the first and before the second of them (which is away from
the base), what trains after both, and the files that are saved from the mesh: the checkpoint,
restored onto one device, and the exported adapter or weights. The error of a tensor is its largest
difference over its largest value.
"""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import dataclasses  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import packed, quantised  # noqa: E402

from lfl_jax import adapters, api, optim, schedules, state  # noqa: E402
from lfl_jax.config import AdapterConfig, OptimConfig  # noqa: E402
from lfl_jax.core import spec, tree  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.data.streams import MODEL_INPUTS  # noqa: E402
from lfl_jax.io import hf  # noqa: E402
from lfl_jax.io.checkpoint import Checkpoints, abstract  # noqa: E402
from lfl_jax.model import Model  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402
from lfl_jax.train_step import train_step  # noqa: E402

BOUND = 1e-5
# four key heads, so that a tensor axis of 4 splits them
CFG = ModelConfig(
    vocab_size=128,
    d_model=64,
    n_layers=2,
    n_heads=8,
    n_kv_heads=4,
    head_dim=8,
    d_ff=128,
)
# Plain: what divides by a gradient's size would magnify the rounding of small ones.
OPTIM = OptimConfig(
    name="sgd", lr=0.1, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip
LENGTHS = [[7, 12, 9], [20, 6], [3, 28], [16, 10], [32], [30, 2], [5, 5, 5], [11, 20]]
PERMUTED = (5, 2, 7, 0, 3, 6, 1, 4)


@dataclasses.dataclass(frozen=True)
class Case:
    kind: str
    start: str = "b_zero"
    base: str = ""

    @property
    def trains(self):
        return ("params/.*",) if self.kind == "none" else ("adapter/.*",)


CASES = {
    "lora": Case("lora"),
    "lora, A = 0": Case("lora", "a_zero"),
    "dora": Case("dora"),
    "dora, A = 0": Case("dora", "a_zero"),
    "qlora": Case("lora", "b_zero", "nf4"),
    "qlora, A = 0": Case("lora", "a_zero", "nf4"),
    "full": Case("none"),
}


def start_of(case, rules):
    """The model of a case on this mesh."""
    specs = llama.specs(CFG)
    params = jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, spec.init(specs, jax.random.key(0)))
    params = jax.device_put(params, spec.shardings(specs, rules))
    if case.base:
        params = quantised(CFG, params, case.base, rules)
    if case.kind == "none":
        return Model(params=params, adapter={})
    config = AdapterConfig(kind=case.kind, rank=8, init=case.start)
    adapter_specs = adapters.specs(specs, config)
    adapter = jax.jit(lambda params: adapters.init(adapter_specs, params, jax.random.key(1)))(
        params
    )
    adapter = jax.device_put(adapter, spec.shardings(adapter_specs, rules))
    return Model(params=params, adapter=adapter)


def _recorded(plain, grads, own, params):
    """A step of the plain optimizer, and its state with these gradients before it."""
    updates, later = plain.update(grads, own[1:], params)
    return updates, (grads, *later)


def run(case, rules, folder):
    """{what: {name: array}} of a case on a mesh, and the number of sharded tensors that train."""
    plain = optim.make(OPTIM, schedules.make(OPTIM, 4))
    tx = optax.GradientTransformation(
        lambda params: (jax.tree.map(jnp.zeros_like, params), *plain.init(params)),
        lambda grads, own, params: _recorded(plain, grads, own, params),
    )
    current, frozen = state.create(start_of(case, rules), case.trains, tx, rules)
    rows = packed(LENGTHS, 32, CFG.vocab_size)
    sharding = rules.sharding(("layers", "batch", "time"), (1, 8, 32))
    batch = {k: jax.device_put(jnp.asarray(rows[k])[None], sharding) for k in MODEL_INPUTS}

    losses, results = [], {}
    for number in (1, 2):
        current, metrics = train_step(current, frozen, batch, None, cfg=CFG, tx=tx, rules=rules)
        results[f"gradients of step {number}"] = named(current.opt_state[0])
        losses += [metrics["loss"], metrics["grad_norm"], metrics["update_norm"]]
    results["losses"] = {"all": np.array(losses)}
    results["weights"] = named(current.trainable)
    results["checkpoint"] = checkpoint(state.checkpointables(current, frozen, None), folder)
    results["exported file"] = exported(case, state.model(current, frozen), folder)
    sharded = [x for x in jax.tree.leaves(current.trainable) if not x.sharding.is_fully_replicated]
    return results, len(sharded)


def named(values):
    return dict(tree.items(jax.device_get(values)))


def checkpoint(content, folder):
    """The arrays of a checkpoint that is written from the mesh and restored onto one device."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), abstract(content)
    )
    about = {"iterator_state": 0, "metrics": {}, "metadata": {}}
    with Checkpoints(folder / "checkpoints", asynchronous=False) as checkpoints:
        checkpoints.save(2, content, **about)
        return named(checkpoints.restore(2, like).state)


def exported(case, model, folder):
    """The tensors of the file that other tools read."""
    if case.kind == "none":
        hf.save(folder / "model", model.params, CFG, dtype="float32")
        return load_file(folder / "model" / "model.safetensors")
    api.save_adapter(folder / "adapter", model.adapter, model.params)
    file = folder / "own.safetensors"
    api.save_adapter(file, model.adapter, model.params)
    return load_file(folder / "adapter" / "adapter_model.safetensors") | load_file(file)


def check(name, found, wanted):
    """The largest error of each kind of result."""
    errors = {}
    for what, tensors in wanted.items():
        assert found[what].keys() == tensors.keys(), (name, what)
        errors[what] = max(error(found[what][path], x) for path, x in tensors.items())
        nonzero = [path for path, x in tensors.items() if np.any(x)]
        assert nonzero, (name, what)
    return errors


def error(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape and np.isfinite(found).all()
    # a tensor of zeros has to be zeros
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1e-30))


def rules_of(mesh):
    sizes, permuted = [int(size) for size in mesh.rstrip("p").split("x")], mesh.endswith("p")
    order = PERMUTED if permuted else range(int(np.prod(sizes)))
    rules = make_rules(*sizes, devices=[jax.devices()[i] for i in order])
    assert [device.id for device in rules.mesh.devices.flat] == list(order)
    return rules


def main(words):
    names = [word.removeprefix("--cases=") for word in words if word.startswith("--cases=")]
    meshes = [word for word in words if not word.startswith("--")]
    unequal = []
    for name in names[0].split(";") if names else CASES:
        wanted = None
        for mesh in ("1x1x1", *meshes):
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found, sharded = run(CASES[name], rules_of(mesh), Path(folder))
            if wanted is None:
                wanted = found
                check_start(name, wanted)
                continue
            errors = check(name, found, wanted)
            listed = ", ".join(f"{what} {value:.1e}" for what, value in errors.items())
            took = time.monotonic() - start
            print(f"{name} on {mesh}: {listed}; {sharded} sharded; {took:.1f} s", flush=True)
            is_equal = max(errors.values()) < BOUND and (sharded > 0 or mesh.startswith("8x"))
            unequal += [] if is_equal else [f"{name} on {mesh}"]
    assert not unequal, unequal


def check_start(name, results):
    """That the case is what it says: one factor's gradient is zero at the start, and not later."""
    if name == "full":
        return
    zero = "b" if "A = 0" in name else "a"
    for number, is_zero in (("1", True), ("2", False)):
        grads = results[f"gradients of step {number}"]
        of_factor = [x for path, x in grads.items() if path.endswith(f"/{zero}")]
        assert of_factor and all(np.any(x) != is_zero for x in of_factor), (name, number)


main(sys.argv[1:])
