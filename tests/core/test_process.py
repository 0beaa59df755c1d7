"""Memory that was freed goes back to the system where a run begins."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from lfl_jax.core.process import return_freed_memory


def resident() -> int:
    """Bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_is_free_between_blocks_in_use_is_returned() -> None:
    # 64 KiB each: from the heap, whose end the last one keeps where it is.
    blocks = [np.ones(8192) for _ in range(2000)]
    last = blocks.pop()
    blocks.clear()
    before = resident()
    return_freed_memory()
    assert before - resident() > 100 << 20
    assert last.all()
