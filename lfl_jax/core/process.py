"""Settings of the process: memory that XLA frees is kept for the next step, compiled programs for
the next run."""

import ctypes
import os
import sys
from pathlib import Path

import jax

# Numbers of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse freed blocks of any size. Call it when the model is loaded: what
    loading took goes back to the system first. Without glibc it does nothing.

    XLA allocates the temporaries of every step anew (0.5 GB for a 135M model), and glibc returns
    blocks of that size
    to the system at once: 130,000 page faults a step, a tenth of its CPU time. Costs up to 0.2 GB
    of peak memory.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 2_000_000_000)


def keep_compiled_programs(folder: Path | None) -> None:
    """Keep compiled programs in this folder, if any, unless JAX_COMPILATION_CACHE_DIR names one; a
    second start then takes half the time. A program is keyed by what it computes, the versions and
    the machine.
    """
    if folder is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder))
