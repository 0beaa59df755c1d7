"""Scoring with the shared context computed once: requests to segments of rows, rows to fixed
batches, and back.

A question is one segment: branch 0 holds what its requests have in common, branch b = 1.. the rest
of request b, which begins with a copy of the last common token (the token that predicts the first
differing one). A position attends to earlier positions of its segment in branch 0 and in its own
branch, and counts its place as if the others were not there. Every batch has the same shape, so one
compiled program scores all tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.evals.requests import Request

Rows = dict[str, np.ndarray]
Score = Callable[[Rows], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Segment:
    """Requests `first`, `first + 1`, ... (`count` of them) of one item, one per branch, as 1-D
    arrays of `size`."""

    item: int
    first: int
    count: int
    size: int
    arrays: Rows


@dataclass(frozen=True)
class Scored:
    """The log-probability (nats) of a continuation of `tokens` tokens, and whether greedy decoding
    yields it."""

    ll: float
    tokens: int
    greedy: bool
    truncated: bool


@dataclass(frozen=True)
class Plan:
    """Rows of segments, and the figures that say what packing and sharing save."""

    requests: list[list[Request]]
    rows: list[list[Segment]]
    batch: int
    length: int

    @property
    def figures(self) -> dict[str, int | float]:
        """useful: fraction of computed positions that hold a token; naive_tokens: each request
        computed alone."""
        batches = -(-len(self.rows) // self.batch)
        used = sum(segment.size for row in self.rows for segment in row)
        computed = batches * self.batch * self.length
        return {
            "batches": batches,
            "tokens": used,
            "computed_tokens": computed,
            "naive_tokens": sum(len(r.ids) - 1 for item in self.requests for r in item),
            "useful": used / computed if computed else 1.0,
        }


def plan(requests: list[list[Request]], batch: int, length: int) -> Plan:
    """Pack the requests of each item, none longer than `length` inputs, into rows; `batch` rows are
    scored at once."""
    segments = [s for item, of_item in enumerate(requests) for s in split(item, of_item, length)]
    rows = [[segments[i] for i in row] for row in pack([s.size for s in segments], length)]
    return Plan(requests, rows, batch, length)


def split(item: int, requests: Sequence[Request], length: int) -> list[Segment]:
    """One segment with all requests of an item, or several with the shared part repeated when one
    is too long."""
    trunk = max(_shared(requests) - 1, 0)
    segments, start, used = [], 0, trunk
    for i, request in enumerate(requests):
        size = len(request.ids) - 1 - trunk
        if used + size > length and i > start:
            segments.append(_segment(item, start, requests[start:i], trunk))
            start, used = i, trunk
        used += size
    return [*segments, _segment(item, start, requests[start:], trunk)]


def _shared(requests: Sequence[Request]) -> int:
    """Tokens that all requests begin with, none of them of a continuation."""
    shortest = min(len(request.context) for request in requests)
    ids = [request.ids for request in requests]
    # in the order of sequences: the others lie between, so they share it too
    low, high = min(ids), max(ids)
    return next((i for i in range(shortest) if low[i] != high[i]), shortest)


def _segment(item: int, first: int, requests: Sequence[Request], trunk: int) -> Segment:
    """Lay out the first `trunk` tokens once, then what follows them in each request."""
    ids = [np.asarray(r.ids, np.int32) for r in requests]
    parts = [(ids[0][: trunk + 1], np.zeros(trunk), 0, 0)]
    for branch, (r, x) in enumerate(zip(requests, ids, strict=True), 1):
        parts.append((x[trunk:], np.arange(trunk + 1, len(x)) >= len(r.context), branch, trunk))
    arrays = {
        "tokens": np.concatenate([x[:-1] for x, _, _, _ in parts]),
        "targets": np.concatenate([x[1:] for x, _, _, _ in parts]),
        "weights": np.concatenate([w for _, w, _, _ in parts]).astype(np.float32),
        "positions": np.concatenate(
            [start + np.arange(len(x) - 1) for x, _, _, start in parts]
        ).astype(np.int32),
        "branch_ids": np.concatenate([np.full(len(x) - 1, b) for x, _, b, _ in parts]).astype(
            np.int32
        ),
    }
    return Segment(item, first, len(requests), len(arrays["tokens"]), arrays)


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest row that has room; rows of
    indices."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        room = next((r for r in range(sizes[i], length + 1) if by_room[r]), None)
        if room is None:
            rows.append([])
            room = length
            by_room[room].append(len(rows) - 1)
        row = by_room[room].pop()
        rows[row].append(i)
        by_room[room - sizes[i]].append(row)
    return rows


def arrange(rows: Sequence[Sequence[Segment]], batch: int, length: int) -> Rows:
    """Arrays (batch, length) of at most `batch` rows; padding has segment 0, example -1 and weight
    0."""
    names = (
        "tokens",
        "targets",
        "weights",
        "positions",
        "branch_ids",
        "segment_ids",
        "example_ids",
    )
    arrays = {
        name: np.zeros((batch, length), np.float32 if name == "weights" else np.int32)
        for name in names
    }
    arrays["example_ids"] -= 1
    for r, row in enumerate(rows):
        for number, (start, segment) in enumerate(_placed(row), 1):
            place = (r, slice(start, start + segment.size))
            for name, values in segment.arrays.items():
                arrays[name][place] = values
            arrays["segment_ids"][place] = number
            arrays["example_ids"][place] = segment.item
    return arrays


def score_items(
    plan: Plan, score: Score, done: np.ndarray
) -> Iterator[list[tuple[int, list[Scored]]]]:
    """Score batch by batch; after each, the items it completed with the scores of their requests.

    done: bool per item; a batch of done items only is skipped. Every other batch is computed whole,
    so that what a restart computes is what an uninterrupted run would have.
    """
    waiting = [{} for _ in plan.requests]
    for start in range(0, len(plan.rows), plan.batch):
        rows = plan.rows[start : start + plan.batch]
        items = sorted({segment.item for row in rows for segment in row})
        finished = []
        if not all(done[i] for i in items):
            nll, greedy = score(arrange(rows, plan.batch, plan.length))
            for r, row in enumerate(rows):
                for offset, segment in _placed(row):
                    _collect(segment, nll[r, offset:], greedy[r, offset:], plan.requests, waiting)
            complete = [
                i for i in items if len(waiting[i]) == len(plan.requests[i]) and not done[i]
            ]
            finished = [
                (i, [waiting[i][j] for j in range(len(plan.requests[i]))]) for i in complete
            ]
        yield finished


def _placed(row: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    start = 0
    for segment in row:
        yield start, segment
        start += segment.size


def _collect(
    segment: Segment, nll: np.ndarray, greedy: np.ndarray, requests, waiting: list[dict]
) -> None:
    """Sum over each branch's continuation, in float64 and in the order of the text."""
    scored = np.flatnonzero(segment.arrays["weights"])
    branches = segment.arrays["branch_ids"][scored]
    sums = np.bincount(branches, nll[scored], segment.count + 1)
    misses = np.bincount(branches, ~greedy[scored], segment.count + 1)
    for b in range(segment.count):
        request = requests[segment.item][segment.first + b]
        waiting[segment.item][segment.first + b] = Scored(
            -float(sums[b + 1]), len(request.continuation), not misses[b + 1], request.truncated
        )
