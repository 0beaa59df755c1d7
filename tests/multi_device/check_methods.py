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

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import packed, quantised  # noqa: E402

import lfl_jax  # noqa: E402
from lfl_jax import adapters  # noqa: E402
from lfl_jax.core import spec  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.model import Model  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402
from lfl_jax.proofs.meshes import Step, errors, results  # noqa: E402
from lfl_jax.proofs.perturbed import enlarged  # noqa: E402

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


def step_of(case):
    """The step of a case."""
    fields = {"adapter.kind": case.kind, "adapter.rank": 8, "adapter.init": case.start}
    fields = {"trainable": case.trains, "model.base_dtype": case.base or "float32"} | fields
    if case.kind == "none":
        fields |= {"adapter.rank": None, "model.base_dtype": "float32"}
    config = lfl_jax.get_config("math_ift:smoke", **fields)
    specs = llama.specs(CFG)
    params = enlarged(spec.init(specs, jax.random.key(0)), 2)
    if case.base:
        params = quantised(CFG, params, case.base)
    adapter = {}
    if config.adapter.kinds:
        adapter = adapters.init(adapters.specs(specs, config.adapter), params, jax.random.key(1))
    rows = packed(LENGTHS, 32, CFG.vocab_size)
    return Step.of(config, CFG, Model(params=params, adapter=adapter), rows)


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
                found, sharded = results(step_of(CASES[name]), rules_of(mesh), Path(folder))
            if wanted is None:
                wanted = found
                check_start(name, wanted)
                continue
            far = errors(found, wanted)
            listed = ", ".join(f"{what} {value:.1e}" for what, value in far.items())
            took = time.monotonic() - start
            print(f"{name} on {mesh}: {listed}; {sharded} sharded; {took:.1f} s", flush=True)
            is_equal = max(far.values()) < BOUND and (sharded > 0 or mesh.startswith("8x"))
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
