"""Steps on meshes of several devices against steps on one: gradients, weights and saved files.

A process with one device has eight CPU devices in a process beside it. The error of a tensor is its
largest difference over its largest value.
"""

import dataclasses
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import numpy as np
from jax.typing import ArrayLike
from safetensors.numpy import load_file

from lfl_jax import state as states
from lfl_jax.config import Config
from lfl_jax.core import hosts, spec, tree
from lfl_jax.core.process import FAST_COMPILATION
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.core.types import Batch, PyTree
from lfl_jax.data.streams import on_mesh
from lfl_jax.errors import UserError
from lfl_jax.io import hf
from lfl_jax.io.checkpoint import Checkpoints, abstract
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs.finding import Finding, at_most
from lfl_jax.proofs.gradients import recording
from lfl_jax.proofs.reduced import ReducedRun
from lfl_jax.proofs.rounding import ROUNDINGS, by_size, last_bits_moved, of_leaf
from lfl_jax.run_setup import adapter_formats, model_specs
from lfl_jax.train_step import train_step

DEVICES = 8
DRAWS = 2  # of inputs whose last bits are moved
# {what was computed: {name of a tensor: its values}}
Results = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Step:
    """What is compared: a model of this config and shape, and a batch of (B, T) arrays.

    leaves: the model's, in flattening order. Specs and classes of adapters are made again in the
    process that needs them: they cannot all be sent there.
    """

    config: Config
    cfg: ModelConfig
    leaves: list[np.ndarray]
    batch: Batch

    @classmethod
    def of(cls, config: Config, cfg: ModelConfig, model: Model, batch: Batch) -> "Step":
        """Of a model in memory."""
        return cls(config, cfg, [np.asarray(x) for x in jax.tree.leaves(model)], batch)

    def model(self, rules: Rules) -> Model:
        """The model on a mesh, in arrays of its own: a step donates them."""
        specs = tree.combine(*model_specs.halves(self.config, self.cfg))
        shardings, structure = jax.tree.flatten(spec.shardings(specs, rules))
        # A CPU's array may be the memory of numpy's, which the donation would overwrite.
        pairs = zip(self.leaves, shardings, strict=True)
        return jax.tree.unflatten(structure, [jax.device_put(x.copy(), s) for x, s in pairs])


def results(step: Step, rules: Rules, folder: Path) -> tuple[Results, int]:
    """Of two steps on a mesh, and the number of tensors that train and are split over devices.

    Losses, gradients of both steps (the second is away from the start), what trains, and the files
    that are saved from the mesh: the checkpoint, restored onto one device, and the exported one.
    """
    tx, batch = recording(), on_mesh(step.batch, 1, rules)
    current, frozen = states.create(step.model(rules), step.config.trainable, tx, rules)

    losses, computed = [], {}
    for number in (1, 2):
        options = {"cfg": step.cfg, "tx": tx, "rules": rules}
        current, metrics = train_step(current, frozen, batch, None, **options)
        computed[f"gradients of step {number}"] = named(current.opt_state[0])
        losses += [metrics["loss"], metrics["grad_norm"], metrics["update_norm"]]
    computed["losses"] = {"all": np.array(losses)}
    computed["weights"] = named(current.trainable)
    computed["checkpoint"] = _restored(states.checkpointables(current, frozen, None), folder)
    computed |= _exported(states.model(current, frozen), step.cfg, folder)
    leaves = jax.tree.leaves(current.trainable)
    return computed, sum(not x.sharding.is_fully_replicated for x in leaves)


def named(values: PyTree) -> dict[str, np.ndarray]:
    """Arrays by path, in host memory."""
    return {path: hosts.to_numpy(x) for path, x in tree.items(values)}


def _restored(content: dict[str, PyTree], folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint that is written from the mesh and restored onto one device."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), abstract(content)
    )
    about = {"iterator_state": 0, "metrics": {}, "metadata": {}}
    with Checkpoints(folder / "checkpoints", asynchronous=False) as checkpoints:
        checkpoints.save(2, content, **about)
        return named(checkpoints.restore(2, like).state)


def _exported(model: Model, cfg: ModelConfig, folder: Path) -> Results:
    """The tensors of the files that other tools read; without a kind that they lack."""
    if not model.adapter:
        hf.save(folder / "model", model.params, cfg, dtype="float32")
        return {"exported file": load_file(folder / "model" / "model.safetensors")}
    options = {"base": None, "base_name": "", "dtype": "float32", "replaced": {}}
    file, peft = folder / "own.safetensors", folder / "peft"
    adapter_formats.save(file, model, **options)
    tensors = {"exported file": load_file(file)}
    try:
        adapter_formats.save(peft, model, **options)
    except UserError:
        # PEFT has no such kind.
        return tensors
    return tensors | {"PEFT folder": load_file(peft / "adapter_model.safetensors")}


def errors(computed: Results, wanted: Results) -> dict[str, float]:
    """The largest error of each kind of result; infinite where tensors are missing or all zero."""
    return {what: _error(computed.get(what, {}), x) for what, x in wanted.items()}


def _error(computed: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    # Zeros that equal zeros would prove nothing.
    if computed.keys() != wanted.keys() or not any(np.any(x) for x in wanted.values()):
        return float("inf")
    return max(error(computed[path], x) for path, x in wanted.items())


def error(computed: ArrayLike, wanted: ArrayLike) -> float:
    """The largest difference over the largest value; a tensor of zeros has to be zeros."""
    computed, wanted = (np.asarray(x, np.float64) for x in (computed, wanted))
    if computed.shape != wanted.shape or not np.isfinite(computed).all():
        return float("inf")
    difference = np.abs(computed - wanted).max(initial=0)
    return float(difference / (np.abs(wanted).max(initial=0) or 1e-30))


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A mesh's results against one device's, in units of what rounding explains.

    sharded: tensors that are split over devices.
    """

    name: str
    times: dict[str, float]
    sharded: int


def compare(step: Step, meshes: Mapping[str, Rules]) -> list[OnMesh]:
    """Each mesh against one device; in this process, whose devices are the meshes'."""
    wanted, *moved = _on_one_device(step)
    compared = []
    for name, rules in meshes.items():
        computed, sharded = _in_a_folder(step, rules)
        compared.append(OnMesh(name, times_of_rounding(computed, wanted, moved), sharded))
    return compared


def _on_one_device(step: Step) -> list[Results]:
    """Its results, and those of inputs whose last bits were moved."""
    draws = [last_bits_moved(step.leaves, draw) for draw in range(DRAWS)]
    steps = [dataclasses.replace(step, leaves=leaves) for leaves in (step.leaves, *draws)]
    one = make_rules(devices=jax.devices()[:1])
    return [_in_a_folder(x, one)[0] for x in steps]


def _in_a_folder(step: Step, rules: Rules) -> tuple[Results, int]:
    with tempfile.TemporaryDirectory() as folder:
        return results(step, rules, Path(folder))


def times_of_rounding(
    computed: Results, wanted: Results, moved: Sequence[Results]
) -> dict[str, float]:
    """Of each kind of result, the largest error of a tensor over what rounding explains.

    moved: `wanted` of inputs whose last bits were moved. Infinite where tensors are missing, or all
    of them are zero, which would prove nothing.
    """
    times = {}
    for what, tensors in wanted.items():
        same = computed.get(what, {}).keys() == tensors.keys()
        useful = same and any(np.any(x) for x in tensors.values())
        distances = [] if useful else [float("inf")]
        for path, x in tensors.items() if useful else ():
            others = [draw[what][path] for draw in moved]
            distances.append(of_leaf(path, computed[what][path], x, x, *others).times)
        times[what] = max(distances, key=by_size)
    return times


def permuted(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """These devices in another order, the same in every process."""
    return [devices[i] for i in np.random.default_rng(0).permutation(len(devices))]


def mesh_of(step: Step, devices: Sequence[jax.Device]) -> Rules:
    """Rows and weights over these devices, and heads where they can be."""
    tensor = 2 if len(devices) % 4 == 0 and step.cfg.n_kv_heads % 2 == 0 else 1
    fsdp = 2 if len(devices) % (2 * tensor) == 0 else 1
    return make_rules(-1, fsdp, tensor, devices=list(devices))


def on_devices(step: Step) -> list[OnMesh]:
    """This process's devices, in their order and permuted, against one of them."""
    devices = jax.devices()
    # The order of neither is that of the other.
    orders = {"in order": devices, "permuted": permuted(devices)}
    return compare(step, {name: mesh_of(step, order) for name, order in orders.items()})


class Beside:
    """`on_devices`, begun at once in a process of its own with eight CPU devices."""

    def __init__(self, step: Step) -> None:
        # spawn: a fork would copy locks of jax's threads in the state of that moment.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_eight_cpus)
        self._future: Future = self._pool.submit(on_devices, step)

    def result(self) -> list[OnMesh]:
        """Waits for it."""
        return self._future.result()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        for process in list(self._pool._processes.values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _eight_cpus() -> None:
    os.environ.setdefault("XLA_FLAGS", FAST_COMPILATION)
    # A terminal's Ctrl-C goes to all of its processes; the first one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)


def step_of(run: ReducedRun) -> Step:
    """A step of the reduced run, with as many rows as devices may split."""
    rows = run.batch["tokens"].shape[0]
    times = -(-DEVICES // rows)
    batch = {name: np.tile(x, (times, 1)) for name, x in run.batch.items()}
    return Step.of(run.config, run.exact, run.trained, batch)


FILES = ("checkpoint", "exported file", "PEFT folder")


def check_gradients(run: ReducedRun) -> Finding:
    """A step over several devices has the losses, gradients and weights of one device."""
    mesh = run.meshes()[0]
    return _finding(mesh, {what: x for what, x in mesh.times.items() if what not in FILES})


def check_files(run: ReducedRun) -> Finding:
    """What is saved from several devices is what one device saves."""
    mesh = run.meshes()[0]
    return _finding(mesh, {what: x for what, x in mesh.times.items() if what in FILES})


def check_order(run: ReducedRun) -> Finding:
    """Nothing of this depends on the order of the devices."""
    mesh = run.meshes()[1]
    return _finding(mesh, mesh.times)


def _finding(mesh: OnMesh, times: Mapping[str, float]) -> Finding:
    worst = max(times, key=lambda what: by_size(times[what]))
    split = f"{mesh.sharded} tensors of what trains are split" if mesh.sharded else "none is split"
    unit, reason = "x rounding", f"{mesh.name}, {split}; {worst}"
    return at_most(times[worst], ROUNDINGS, unit, reason)
