"""A profile of some steps: config.log.profile="10:15" traces steps 10 to 15.

It is written to the run directory's profile/, for TensorBoard or Perfetto.
"""

from pathlib import Path
from types import TracebackType

import jax

from lfl_jax.core.types import PyTree


class Profiler:
    """Traces steps first to last of "first:last"; "" traces none."""

    def __init__(self, steps: str, folder: Path) -> None:
        first, _, last = steps.partition(":")
        # "" is step 0, which no step is: they count from 1.
        self._first, self._last = int(first or 0), int(last or 0)
        self._folder, self._is_on = folder / "profile", False
        if steps:
            # Else the names in the trace may be those of older code: the compilation cache finds
            # a program by what it computes.
            jax.config.update("jax_compilation_cache_include_metadata_in_key", True)

    def before(self, step: int) -> None:
        """Call it before a step, with its number from 1 on."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def after(self, step: int, outputs: PyTree) -> None:
        """Call it with what the step returned.

        The outputs of the last step are waited for, so that its device work is in the trace.
        """
        if self._is_on and step >= self._last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """End a trace that is on."""
        if self._is_on:
            # Before stop_trace, which may raise: `__exit__` then does not end the trace twice.
            self._is_on = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
