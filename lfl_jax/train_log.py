"""What the training loop writes to metrics.jsonl: losses of steps and scores of evaluations."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from lfl_jax.config import Config
from lfl_jax.core import files, hosts
from lfl_jax.core.types import Batch
from lfl_jax.errors import NonFiniteLoss
from lfl_jax.evals import suite
from lfl_jax.evals.run import Result
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.io.metrics import METRICS_FILE, MetricsWriter
from lfl_jax.io.throughput import Meter
from lfl_jax.schedules import Schedule

# How far above that of uniform guesses a step's loss is where a run is flagged, and stopped.
FLAGGED, STOPPED = 3, 100


class Losses:
    """The highest loss of a run beside that of uniform guesses, log V, in nats per target token.

    vocab_size: V. A checkpoint carries `highest`, (the loss, its step), for a run that resumes.
    """

    def __init__(self, vocab_size: int, highest: tuple[float, int] = (0.0, 0)) -> None:
        self.uniform = math.log(vocab_size)
        self._highest, self._at = highest

    @property
    def highest(self) -> tuple[float, int]:
        """The highest loss so far, and its step."""
        return self._highest, self._at

    def add(self, step: int, loss: float) -> None:
        """The loss of a step."""
        # What follows a jump may look harmless: a dead model guesses uniformly.
        if loss > self._highest:
            self._highest, self._at = loss, step

    @property
    def has_diverged(self) -> bool:
        """Whether nothing can come of it."""
        return self._highest > STOPPED * self.uniform

    def provenance(self) -> dict[str, str]:
        """What results say of a run whose loss was above FLAGGED times log V."""
        if self._highest <= FLAGGED * self.uniform:
            return {}
        highest = f"its loss was {self._highest:.3g} nats/token at step {self._at}"
        return {"diverged": f"training diverged: {highest}, of uniform guesses {self.uniform:.3g}"}


def is_due(interval: int, step: int) -> bool:
    """Whether something done every `interval` steps is done at this step; 0 = never."""
    return bool(interval) and step % interval == 0


def named_scores(when: str, results: Mapping[str, Result]) -> dict[str, float]:
    """{"before/gsm8k": a task's main metric, "before/gsm8k/exact_match_strict": every metric}."""
    return {f"{when}/{name}": value for name, value in suite.flat(results).items()}


@dataclasses.dataclass(frozen=True)
class StepLog:
    """Checks, writes and shows the metrics of a step, for which it waits for the device.

    advance: of the progress bar, `io.metrics.progress`.
    """

    config: Config
    schedule: Schedule
    writer: MetricsWriter
    advance: Callable[..., None]
    meter: Meter
    checkpoints: Checkpoints
    losses: Losses

    def write(self, step: int, metrics: Mapping[str, Array], batch: Batch) -> None:
        """Raises NonFiniteLoss, after the step is written, where training has diverged.

        That is where a metric is not finite, or by `Losses.has_diverged`.
        """
        # float waits for the device; the loop has dispatched the next step already.
        values = {name: float(x) for name, x in metrics.items()}
        rate = self.meter.tick(int(values["tokens"]))
        # The schedule counts from 0, the log from 1.
        lr = self.config.optim.lr * float(self.schedule(step - 1))
        speed = {} if rate is None else {"tokens_per_s": rate}
        values |= {"lr": lr} | speed

        self.losses.add(step, values["loss"])
        is_finite = all(map(math.isfinite, values.values()))
        diverged = not is_finite or self.losses.has_diverged
        # The step that fails is written, due or not.
        if is_due(self.config.log.every, step) or diverged:
            self.writer.write(step, values)
        if diverged:
            raise self._diverged(step, values, batch)
        self.advance(1, loss=values["loss"], **speed)

    def state(self) -> dict[str, Any]:
        """What a checkpoint says of the steps before it, as JSON."""
        return {
            "figures": self.meter.state(),
            "highest_loss": self.losses.highest,
            "records": self.writer.counts(),
        }

    def _diverged(self, step: int, values: Mapping[str, float], batch: Batch) -> NonFiniteLoss:
        above = f", more than {STOPPED} times that of uniform guesses"
        rule = above if self.losses.has_diverged else ""
        example_ids = np.unique(batch["example_ids"][batch["segment_ids"] > 0]).tolist()
        last = self.checkpoints.latest_step()
        return NonFiniteLoss(
            f"loss {values['loss']:g}{rule}, gradient norm {values['grad_norm']:g}, update norm"
            f" {values['update_norm']:g} at step {step} (examples"
            f" {', '.join(map(str, example_ids[:8]))}...); last good checkpoint:"
            f" {'none' if last is None else f'step {last}'}. Lower config.optim.lr, or look at"
            " these examples with inspect_data"
        )


def write_once(folder: Path, step: int, scores: Mapping[str, float], tensorboard: bool) -> None:
    """Write scores of a step, unless an earlier start of the finished run has written them."""
    if not hosts.is_first():
        return
    # Read first: a writer makes a file for TensorBoard.
    recorded = [r for r in files.read_jsonl(folder / METRICS_FILE) if r["step"] == step]
    if all(any(name in record for record in recorded) for name in scores):
        return
    with MetricsWriter(folder, resume_step=step, tensorboard=tensorboard) as writer:
        writer.write(step, scores)
