"""Settings of the process: freed memory is reused by the next step, programs by the next run."""

import ctypes
import os
import sys
from pathlib import Path

import jax

# For $XLA_FLAGS, before jax starts its first device: compilation on a CPU takes half as long
# without LLVM's optimizations, and matrix products are no slower.
FAST_COMPILATION = "--xla_backend_optimization_level=0"
# Numbers of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Tell glibc's malloc to reuse freed blocks of any size; without glibc this does nothing.

    Call it when the model is loaded, so that memory of loading has gone back to the system. XLA
    allocates the temporaries of every step again (0.5 GB for a 135M model), and glibc returns
    blocks of that size to the system at once: 130,000 page faults a step, a tenth of its CPU time.
    It costs up to 0.2 GB of peak memory.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # one heap for all threads, so that each can use what others freed
        mallopt(M_MMAP_THRESHOLD, 1 << 30)  # from the heap, and not from mmap, up to 1 GB
        mallopt(M_TRIM_THRESHOLD, 2_000_000_000)  # the heap's free end is returned beyond 2 GB


def return_freed_memory() -> None:
    """Return what is free within glibc's heap to the system; without glibc this does nothing.

    Runs that follow one another in a process leave small blocks between the large ones that they
    free, and `keep_freed_memory` keeps all of those: the heap grows though no more of it is in use.
    """
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _libc() -> ctypes.CDLL | None:
    """The C library of the process; None where it cannot be glibc."""
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def keep_compiled_programs(folder: Path | None) -> None:
    """Store compiled programs in this folder, unless JAX_COMPILATION_CACHE_DIR names another.

    A second start then takes half the time. A program's key is what it computes, the versions and
    the machine.
    """
    if folder is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # A start compiles thirty programs of less than the second from which on jax keeps one: 2 s in
    # all, of which reading them takes a tenth.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
