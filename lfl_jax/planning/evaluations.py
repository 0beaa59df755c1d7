"""How long a run's evaluations take: those before and after training, and those in between.

Texts that are scored cost a forward pass. Answers are generated token by token: each one reads the
weights, which are gathered from all devices at worst. Programs that run, and grading, cost nothing
here.
"""

import dataclasses
import functools
import importlib.resources
import tomllib

from lfl_jax.config import Config
from lfl_jax.core import tree
from lfl_jax.planning import compute, memory
from lfl_jax.planning.bands import Band, Number
from lfl_jax.planning.layout import Layout, bytes_of
from lfl_jax.planning.topology import Topology
from lfl_jax.run_setup import run_length


@dataclasses.dataclass(frozen=True)
class Size:
    """A task's whole set, and the tokens of an item: those read, and whether an answer follows."""

    items: int
    tokens: Number
    generated: bool = False


SHORTEST = 0.25  # an answer's length on average, of config.eval.max_new_tokens, at least


@functools.cache
def _published() -> dict[str, Size]:
    """Of the sets that were counted, by task."""
    file = importlib.resources.files("lfl_jax.third_party") / "evaluation_sets.toml"
    return {name: Size(**of_set) for name, of_set in tomllib.loads(file.read_text("utf-8")).items()}


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Seconds of all evaluations whose size is known, and the names of the others."""

    seconds: Band
    unknown: tuple[str, ...]


def of(layout: Layout, topology: Topology, steps: int | None) -> Evaluations:
    """The evaluations of a run of so many steps; those while it trains need their number."""
    e = layout.config.eval
    # before and after training; of the base alone; and while it trains
    rounds = [(e.tasks, 2), (e.base_tasks, 1)]
    if steps is not None:
        rounds.append((e.every_tasks, len(run_length.evaluation_steps(layout.config, steps))))
    total, unknown = Band(0.0, 0.0), []
    for tasks, times in rounds:
        for name, items in e.items(tasks).items():
            size = _size(layout.config, name, items)
            if size is None:
                unknown.append(name)
            else:
                total = total + _seconds(layout, topology, size) * times
    return Evaluations(total, tuple(dict.fromkeys(unknown)))


def _size(config: Config, name: str, items: int) -> Size | None:
    """The items of a task that are evaluated, 0 being all; None where that is not known."""
    known = _published().get(name)
    if known is not None:
        return dataclasses.replace(known, items=min(items, known.items) if items else known.items)
    # Not before it is needed: most plans are of published sets alone.
    from lfl_jax.evals.task import Generate
    from lfl_jax.evals.tasks import TASKS

    task = TASKS.get(name)
    if task is None or not task.reads_source or not items:
        return None
    # Held-out examples of the training source have a row each, at most.
    return Size(items, config.data.seq_len / 2, isinstance(task.method, Generate))


def _seconds(layout: Layout, topology: Topology, size: Size) -> Band:
    chip, reached = topology.chip, topology.reached
    peak = chip.peak(layout.cfg.compute_dtype)
    answers = layout.config.eval.samples if size.generated else 0
    read = size.items * size.tokens
    forward = read * compute.forward_flops(layout) / layout.mesh.devices / peak
    scored = Band(forward / reached.products.fast, forward / reached.products.slow)
    if not answers:
        return scored
    # a batch of prompts takes a step for each token of its longest answer
    batches = size.items * answers / layout.config.eval.generate_rows
    tokens = layout.config.eval.max_new_tokens
    of_token = _token_seconds(layout, topology)
    answer = Band(of_token.fast * SHORTEST * tokens, of_token.slow * tokens)
    decoded = answer * max(batches, 1.0)
    return scored + decoded


def _token_seconds(layout: Layout, topology: Topology) -> Band:
    """A token of every row of a generation batch: its weights and cache are read, or gathered."""
    chip, reached = topology.chip, topology.reached
    stored = layout.run.frozen, layout.run.state.trainable
    cache = memory.of(layout, topology).evaluation["KV cache"]
    own = (sum(map(bytes_of, stored)) + cache / layout.mesh.devices) / chip.hbm_rate
    gathered = sum(map(tree.nbytes, stored)) / layout.mesh.tensor
    rate = topology.rate(layout.mesh.fsdp, layout.mesh.fsdp * layout.mesh.tensor)
    moved = gathered / rate / reached.links.slow if layout.mesh.fsdp > 1 else 0.0
    flops = layout.config.eval.generate_rows * compute.forward_flops(layout)
    # a single row's products reach their peak nowhere
    products = flops / chip.peak(layout.cfg.compute_dtype) / reached.products.slow
    slow = (gathered + cache) / chip.hbm_rate / reached.memory.slow + moved + products
    return Band(own / reached.memory.fast, slow)
