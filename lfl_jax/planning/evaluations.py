"""How long a run's evaluations take: those before and after training, and those in between.

Texts that are scored cost a forward pass. Answers are generated token by token: each one reads the
weights, which are gathered from all devices at worst. Programs that run, and grading, cost nothing
here.
"""

import dataclasses

from lfl_jax.config import Config
from lfl_jax.planning import compute, memory
from lfl_jax.planning.bands import Band, Number
from lfl_jax.planning.layout import Layout, bytes_of, whole_bytes
from lfl_jax.planning.topology import Topology
from lfl_jax.run_setup import run_length


@dataclasses.dataclass(frozen=True)
class Size:
    """A task's whole set, and the tokens of an item: those read, and whether an answer follows."""

    items: int
    tokens: Number
    generated: bool = False


# Items of the sets, and tokens of an item on average: what is scored of it, shared contexts once,
# or its prompt. Counted with SmolLM2's tokenizer on 60 items of each, 2026-11-30.
SIZES = {
    "hellaswag": Size(10_042, 159),
    "arc_challenge": Size(1_172, 52),
    "winogrande": Size(1_267, 46),
    "hellaswag_gauntlet": Size(10_042, 159),
    "arc_challenge_gauntlet": Size(1_172, 172),
    "winogrande_gauntlet": Size(1_267, 281),
    "source_nll": Size(2_938, 127),
    "gsm8k": Size(1_319, 497, generated=True),
    "gsm8k_trained": Size(1_319, 100, generated=True),
    "humaneval": Size(164, 138, generated=True),
    "humaneval_trained": Size(164, 138, generated=True),
    "mbpp": Size(500, 743, generated=True),
    "math": Size(5_000, 66, generated=True),
}
# Tasks on held-out examples of the training source: at most a row each.
OF_SOURCE = {
    "target_nll": False,
    "source_test": True,
    "source_test_plain": True,
    "source_test_shots": True,
}
SHORTEST = 0.25  # an answer's length on average, of config.eval.max_new_tokens, at least


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
    known = SIZES.get(name)
    if known is not None:
        return dataclasses.replace(known, items=min(items, known.items) if items else known.items)
    if name in OF_SOURCE and items:
        return Size(items, config.data.seq_len / 2, OF_SOURCE[name])
    return None


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
    gathered = sum(map(whole_bytes, stored)) / layout.mesh.tensor
    rate = topology.rate(layout.mesh.fsdp, layout.mesh.fsdp * layout.mesh.tensor)
    moved = gathered / rate / reached.links.slow if layout.mesh.fsdp > 1 else 0.0
    flops = layout.config.eval.generate_rows * compute.forward_flops(layout)
    # a single row's products reach their peak nowhere
    products = flops / chip.peak(layout.cfg.compute_dtype) / reached.products.slow
    slow = (gathered + cache) / chip.hbm_rate / reached.memory.slow + moved + products
    return Band(own / reached.memory.fast, slow)
