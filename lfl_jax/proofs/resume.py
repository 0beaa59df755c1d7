"""A run that lost everything after a checkpoint, resumed, against the run that lost nothing."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from lfl_jax import train
from lfl_jax.core import tree
from lfl_jax.io.metrics import METRICS_FILE
from lfl_jax.proofs.finding import Finding, judged
from lfl_jax.proofs.reduced import ReducedRun

# What a checkpoint holds as arrays.
SAVED = ("adapter", "params", "optimizer", "step", "rng")
TRAINS = ("adapter", "params")
Arrays = dict[str, np.ndarray]  # by path


def check(run: ReducedRun) -> Finding:
    """The resumed run ends with the undisturbed one's arrays, optimizer and losses, bit for bit."""
    straight, resumed = run.folder / "straight", run.folder / "resumed"
    steps, half = run.config.train.steps, run.config.checkpoint.every
    train.run(_request(run, straight))

    # As a process that was killed after the first checkpoint leaves it.
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / str(steps))
    train.run(_request(run, resumed))

    wanted = saved(straight, steps)
    differing = _differing(saved(resumed, steps), wanted)
    if losses(straight) != losses(resumed):
        differing.append("the losses of metrics.jsonl")
    reason = f"steps {half + 1} to {steps} taken again"
    # What stands still would be the same without any checkpoint.
    trains = [p for p in _differing(saved(straight, half), wanted) if p.startswith(TRAINS)]
    if not trains:
        reason += ", in which nothing trained"
    if differing:
        reason += f"; different: {', '.join(differing[:3])}"
    measured = f"{len(differing)} of {len(wanted)} arrays differ"
    return judged(bool(trains) and not differing, measured, "no bit", reason)


def _request(run: ReducedRun, folder: Path) -> train.Run:
    return train.Run(run.config, folder, quiet=True, shared=run.shared)


def _differing(arrays: Arrays, wanted: Arrays) -> list[str]:
    """Paths of arrays that are not the same to the last bit, or in one of the two only."""
    both = wanted.keys() & arrays.keys()
    unequal = [path for path in both if not np.array_equal(arrays[path], wanted[path])]
    return sorted([*unequal, *(wanted.keys() ^ arrays.keys())])


def saved(folder: Path, step: int) -> Arrays:
    """{path: array} of everything in a checkpoint of a run directory, read by orbax alone."""
    from orbax.checkpoint import v1 as ocp

    checkpoint = folder / "checkpoints" / str(step)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    metadata = ocp.checkpointables_metadata(checkpoint).metadata
    like = {
        name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), arrays)
        for name, arrays in metadata.items()
        if name in SAVED
    }
    loaded = ocp.load_checkpointables(checkpoint, like)
    return {path: np.asarray(x) for path, x in tree.items(loaded)}


def losses(folder: Path) -> dict[int, float]:
    """{step: loss} of a run directory; of a step that was taken again, the last one."""
    lines = (folder / METRICS_FILE).read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record["loss"] for record in records if "loss" in record}
