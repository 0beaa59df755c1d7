"""How fast a run trains, without the time that evaluations and the first step's compilation take."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any


class Meter:
    """Tokens per second by step. `tick` is called once per finished step; the first after a start is not timed."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._rates: list[float] = []
        self.tokens = 0

    def tick(self, tokens: int) -> float | None:
        """Count a step of this many tokens (padding not counted); tokens/s since the step before, None at first."""
        now, self.tokens = time.monotonic(), self.tokens + tokens
        rate = None if self._last is None else tokens / (now - self._last)
        self._last = now
        if rate is not None:
            self._rates.append(rate)
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside: the next step is not timed."""
        yield
        self._last = None

    def facts(self) -> dict[str, Any]:
        """Median tokens/s over timed steps (None without any) and the tokens trained on in this process's time."""
        return {
            "tokens_per_s": statistics.median(self._rates) if self._rates else None,
            "tokens": self.tokens,
        }
