"""How much memory this process took at its highest moment."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import jax


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the highest moment: of this process, and of the fullest of its devices.

    device is None where devices do not count. On a CPU arrays are the process's own memory.
    """

    host: int
    device: int | None


def peak_memory_bytes() -> PeakMemory:
    """Peak memory so far."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [
        of_device["peak_bytes_in_use"] for of_device in stats if "peak_bytes_in_use" in of_device
    ]
    return PeakMemory(_peak_host_bytes(), max(peaks, default=None))


def _peak_host_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        # ru_maxrss also counts what the parent held when it forked this process; VmHWM does not.
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(kib)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
