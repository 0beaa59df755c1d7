"""How fast a run trains and how long it took, over all of its starts, without evaluations and
compilation."""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

# Rates kept for the median; beyond it every second one is dropped, again and again: a checkpoint
# carries them.
KEPT_RATES = 1024


class Meter:
    """Tokens, seconds and tokens per second of a run. `tick` is called once per finished step.

    The first step after a start is not timed. started: `time.monotonic()` when this process began
    with the run. A checkpoint carries `state()`, and a run that resumes from it gives that to
    `resume`: what a process did after its last checkpoint does not count, as those steps are
    trained again.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._last: float | None = None
        self._rates: list[float] = []
        self._every = 1
        self._timed_steps = 0
        self._wall_before = 0.0
        self.tokens, self.training_seconds, self.starts = 0, 0.0, 1

    def resume(self, state: Mapping[str, Any]) -> None:
        """Add to what earlier processes did up to a checkpoint."""
        self.tokens, self.training_seconds = state["tokens"], state["training_seconds"]
        self._rates, self._every, self._timed_steps = (
            list(state["rates"]),
            state["every"],
            state["timed_steps"],
        )
        self._wall_before, self.starts = state["wall_seconds"], state["starts"] + 1

    def state(self) -> dict[str, Any]:
        """What `resume` takes, as JSON."""
        return {
            "tokens": self.tokens,
            "training_seconds": self.training_seconds,
            "wall_seconds": self.wall_seconds(),
            "starts": self.starts,
            "timed_steps": self._timed_steps,
            "every": self._every,
            "rates": self._rates.copy(),
        }

    def tick(self, tokens: int) -> float | None:
        """Count a step of this many tokens, without padding.

        Returns tokens/s since the step before, None at first.
        """
        now, self.tokens = time.monotonic(), self.tokens + tokens
        last, self._last = self._last, now
        if last is None:
            return None
        self.training_seconds += now - last
        self._keep(tokens / (now - last))
        return tokens / (now - last)

    def _keep(self, rate: float) -> None:
        # Every step has the same share in the median, however long the run is.
        if self._timed_steps % self._every == 0:
            self._rates.append(rate)
        self._timed_steps += 1
        if len(self._rates) > KEPT_RATES:
            self._rates, self._every = self._rates[::2], 2 * self._every

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside: the next step is not timed."""
        try:
            yield
        finally:
            # The next `tick` then only starts the clock.
            self._last = None

    def wall_seconds(self) -> float:
        """Seconds of this process and of earlier ones up to a checkpoint, with evaluations."""
        return self._wall_before + time.monotonic() - self._started

    def facts(self) -> dict[str, Any]:
        """The facts for results: median tokens/s (None without timed steps), tokens, seconds."""
        return {
            "tokens_per_s": statistics.median(self._rates) if self._rates else None,
            "tokens": self.tokens,
            "training_seconds": self.training_seconds,
            "wall_seconds": self.wall_seconds(),
            "starts": self.starts,
        }
