"""Where the lines of a text are, found by NumPy, as files have millions of them."""

import mmap
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lfl_jax.assets.compressed import without_bom

PART = 1 << 22  # bytes in which ends of lines are looked for together
SPACES = np.frombuffer(b" \t\r\n\v\f", np.uint8)
Lines = tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"], Int[np.ndarray, " N"]]


def of_text(data: bytes | mmap.mmap, path: Path) -> Lines:
    """(numbers from 1, starts, ends) of the lines that are not blank; UserError for UTF-16.

    A byte-order mark is no part of the first line.
    """
    lines = _not_empty(data)
    _, starts, ends = lines
    if len(starts) and starts[0] == 0:
        starts[0] = len(data[:3]) - len(without_bom(data[:3], path))
    # Only lines that begin with a space can be blank, and one that was a byte-order mark.
    begins = np.frombuffer(data, np.uint8)[np.minimum(starts, len(data) - 1)]
    doubtful = np.flatnonzero(np.isin(begins, SPACES) | (ends <= starts))
    blank = [i for i in doubtful if not data[starts[i] : ends[i]].strip()]
    return tuple(np.delete(lines, blank, axis=1))


def _not_empty(data: bytes | mmap.mmap) -> Int[np.ndarray, "3 N"]:
    values, found, number, last_end = np.frombuffer(data, np.uint8), [], 0, -1
    # A part at a time: a mask of the whole file may not fit into memory, nor may its empty lines.
    for begin in range(0, len(data), PART):
        ends = np.flatnonzero(values[begin : begin + PART] == ord("\n")) + begin
        starts = np.concatenate([[last_end], ends])[:-1] + 1
        chosen = np.flatnonzero(ends > starts)
        found.append(np.stack([number + 1 + chosen, starts[chosen], ends[chosen]]))
        number, last_end = number + len(ends), ends[-1] if len(ends) else last_end
    # What follows the last end of a line is a line, too.
    if last_end + 1 < len(data):
        found.append(np.array([[number + 1], [last_end + 1], [len(data)]]))
    return np.concatenate(found or [np.zeros((3, 0), int)], axis=1)
