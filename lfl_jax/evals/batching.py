"""Scoring with the shared context computed once.

A question is one segment of a row. Its branch 0 holds the tokens that all its requests begin with;
branch b = 1, 2, ... holds the rest of request b, and begins with a copy of the last shared token,
which predicts the first token that differs. A position attends to earlier positions of its segment
in branch 0 and in its own branch, and its position id counts only those.

Segments are packed into rows and rows into batches of one shape, so that one compiled program
scores all tasks.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from lfl_jax.evals.requests import Request

Rows = dict[str, np.ndarray]  # (rows, length) each: tokens, targets, weights, ...
# Two values (rows, length) of every position.
Score = Callable[[Rows], tuple[np.ndarray, np.ndarray]]
Summary = TypeVar("Summary")  # what is recorded of a request


@dataclass(frozen=True)
class Segment:
    """Requests `first`, `first + 1`, ... (`count` of them) of an item, a branch each.

    arrays: 1-D, of `size` tokens.
    """

    item: int
    first: int
    count: int
    size: int
    arrays: Rows

    def by_request(self, values: Float[np.ndarray, " T"]) -> list[Float[np.ndarray, " _"]]:
        """Those of its values (size,) that are scored, apart for each request."""
        scored = self.arrays["weights"] > 0
        # Branch 0 is what the requests share, of which nothing is scored.
        branches = range(1, self.count + 1)
        return [values[scored & (self.arrays["branch_ids"] == branch)] for branch in branches]

    def requests(self, of_items: Sequence[Sequence[Request]]) -> Sequence[Request]:
        """Its requests, of those of every item."""
        return of_items[self.item][self.first : self.first + self.count]


@dataclass(frozen=True)
class Scored:
    """The log-probability `ll` (nats) of a continuation of `tokens` tokens.

    greedy: whether greedy decoding yields it. truncated: whether its context lost its beginning.
    """

    ll: float
    tokens: int
    greedy: bool
    truncated: bool


@dataclass(frozen=True)
class Diverged:
    """KL(base || model) and KL(model || base), in nats, summed over a continuation's `tokens`."""

    forward: float
    reverse: float
    tokens: int


@dataclass(frozen=True)
class Plan:
    """The requests of each item, packed as segments into rows; `batch` rows are scored at once."""

    requests: list[list[Request]]
    rows: list[list[Segment]]
    batch: int
    length: int

    @property
    def batches(self) -> list[list[list[Segment]]]:
        """The rows of each batch; the last may have fewer."""
        starts = range(0, len(self.rows), self.batch)
        return [self.rows[start : start + self.batch] for start in starts]

    @cached_property
    def figures(self) -> dict[str, int | float]:
        """How much packing and sharing save.

        tokens: positions that hold a token. computed_tokens: with padding. useful: their ratio.
        naive_tokens: with every request computed by itself.
        """
        batches = len(self.batches)
        tokens = sum(segment.size for segment in itertools.chain(*self.rows))
        computed = batches * self.batch * self.length
        naive = sum(len(request.ids) - 1 for request in itertools.chain(*self.requests))
        return {
            "batches": batches,
            "tokens": tokens,
            "computed_tokens": computed,
            "naive_tokens": naive,
            "useful": tokens / computed if computed else 1.0,
        }


def plan(requests: list[list[Request]], batch: int, length: int) -> Plan:
    """Pack the requests of each item, of at most `length` input tokens each, into rows."""
    segments: list[Segment] = []
    for item, of_item in enumerate(requests):
        segments += split(item, of_item, length)

    rows: list[list[Segment]] = []
    for row in pack([segment.size for segment in segments], length):
        rows.append([segments[i] for i in row])
    return Plan(requests, rows, batch, length)


def split(item: int, requests: Sequence[Request], length: int) -> list[Segment]:
    """The item's requests in one segment, or in several that each repeat the shared tokens."""
    # A branch begins with the last shared token, so branch 0 ends before it.
    trunk = max(_shared_tokens(requests) - 1, 0)
    segments: list[Segment] = []
    start = 0
    used = trunk
    for i, request in enumerate(requests):
        size = len(request.ids) - 1 - trunk
        if used + size > length and i > start:
            segments.append(_segment(item, start, requests[start:i], trunk))
            start, used = i, trunk
        used += size
    return [*segments, _segment(item, start, requests[start:], trunk)]


def _shared_tokens(requests: Sequence[Request]) -> int:
    """How many tokens all contexts begin with."""
    # Continuations often begin alike, too, but are scored: those tokens belong to a branch.
    shortest = min(len(request.context) for request in requests)
    ids = [request.ids for request in requests]
    # The others lie between these two in lexicographic order, so they share the prefix.
    low, high = min(ids), max(ids)
    return next((i for i in range(shortest) if low[i] != high[i]), shortest)


def _segment(item: int, first: int, requests: Sequence[Request], trunk: int) -> Segment:
    """Branch 0 with the first `trunk` tokens, then a branch for the rest of each request."""
    shared_ids = np.asarray(requests[0].ids[: trunk + 1], np.int32)
    # Nothing of it is scored; its last id is the target of its last token.
    branches = [_branch(0, shared_ids, start=0, is_scored=np.zeros(trunk, bool))]
    for number, request in enumerate(requests, 1):
        ids = np.asarray(request.ids, np.int32)
        is_scored = np.arange(trunk + 1, len(ids)) >= len(request.context)
        branches.append(_branch(number, ids[trunk:], start=trunk, is_scored=is_scored))

    arrays = {}
    for name in branches[0]:
        arrays[name] = np.concatenate([branch[name] for branch in branches])
    return Segment(item, first, len(requests), len(arrays["tokens"]), arrays)


def _branch(
    branch: int, ids: Int[np.ndarray, " ids"], start: int, is_scored: Bool[np.ndarray, " T"]
) -> Rows:
    """Arrays (T,) of T + 1 ids, each of which predicts the next; position ids begin at `start`."""
    size = len(ids) - 1
    return {
        "tokens": ids[:-1],
        "targets": ids[1:],
        "weights": is_scored.astype(np.float32),
        "positions": np.arange(start, start + size, dtype=np.int32),
        "branch_ids": np.full(size, branch, np.int32),
    }


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Rows of indices by best-fit decreasing: the longest first, into the fullest row with room."""
    rows: list[list[int]] = []
    rows_with_room: list[list[int]] = [[] for _ in range(length + 1)]  # [free tokens]: row numbers
    longest_first = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    for i in longest_first:
        rooms = range(sizes[i], length + 1)
        # The least room that suffices.
        room = next((room for room in rooms if rows_with_room[room]), None)
        if room is None:
            room = length
            rows_with_room[room].append(len(rows))
            rows.append([])
        row = rows_with_room[room].pop()
        rows[row].append(i)
        rows_with_room[room - sizes[i]].append(row)
    return rows


def arrange(rows: Sequence[Sequence[Segment]], batch: int, length: int) -> Rows:
    """The arrays (batch, length) of at most `batch` rows.

    Padding has segment id 0, example id -1 and weight 0.
    """
    integers = ("tokens", "targets", "positions", "branch_ids", "segment_ids", "example_ids")
    arrays = {name: np.zeros((batch, length), np.int32) for name in integers}
    arrays["weights"] = np.zeros((batch, length), np.float32)
    arrays["example_ids"] -= 1  # 0 is an item; segment ids begin at 1, so 0 is padding there
    for r, row in enumerate(rows):
        for segment_id, (start, segment) in enumerate(_with_starts(row), 1):
            span = (r, slice(start, start + segment.size))
            for name, values in segment.arrays.items():
                arrays[name][span] = values
            arrays["segment_ids"][span] = segment_id
            arrays["example_ids"][span] = segment.item
    return arrays


def score_items(
    plan: Plan, score: Score, done: Bool[np.ndarray, " items"]
) -> Iterator[list[tuple[int, list[Scored]]]]:
    """`measure_items` of nll and greedy, as `Scorer.score` returns them."""
    return measure_items(plan, score, _scored, done)


def diverge_items(
    plan: Plan, diverge: Score, done: Bool[np.ndarray, " items"]
) -> Iterator[list[tuple[int, list[Diverged]]]]:
    """`measure_items` of the forward and the reverse divergence."""
    return measure_items(plan, diverge, _diverged, done)


def measure_items(
    plan: Plan,
    score: Score,
    summarise: Callable[[Request, float, float], Summary],
    done: Bool[np.ndarray, " items"],
) -> Iterator[list[tuple[int, list[Summary]]]]:
    """Score batch by batch; yields (item, summaries of its requests) of the items it completes.

    summarise(request, first, second): its summary, from the sums of both values over its scored
    positions. A batch whose items are all done is skipped. Any other is computed whole, so
    that a restart computes what an uninterrupted run would.
    """
    # Of each item, by request.
    scores: list[dict[int, Summary]] = [{} for _ in plan.requests]
    for rows in plan.batches:
        items = _items(rows)
        if done[items].all():
            # An empty batch, so that the progress of a resumed evaluation counts it.
            yield []
            continue

        values = score(arrange(rows, plan.batch, plan.length))
        # The rows that fill up the last batch have values, too.
        for row, *of_row in zip(rows, *values, strict=False):
            for segment, *sums in _sums(row, *of_row):
                summaries = map(summarise, segment.requests(plan.requests), *sums)
                scores[segment.item] |= enumerate(summaries, segment.first)

        # A long item has several segments, perhaps in several batches.
        completed = [i for i in items if len(scores[i]) == len(plan.requests[i]) and not done[i]]
        yield [(i, _in_order(scores[i])) for i in completed]


def token_values(
    plan: Plan, score: Callable[[Rows], Float[np.ndarray, "B T"]]
) -> list[Float[np.ndarray, " _"]]:
    """Of every item a value at each of its scored tokens, in the order of its requests."""
    parts: list[dict[int, Float[np.ndarray, " _"]]] = [{} for _ in plan.requests]
    for rows in plan.batches:
        values = score(arrange(rows, plan.batch, plan.length))
        for row, of_row in zip(rows, values, strict=False):
            for start, segment in _with_starts(row):
                of_segment = of_row[start : start + segment.size]
                parts[segment.item] |= enumerate(segment.by_request(of_segment), segment.first)
    return [np.concatenate([np.zeros(0), *_in_order(of_item)]) for of_item in parts]


def _items(rows: Sequence[Sequence[Segment]]) -> list[int]:
    return sorted({segment.item for row in rows for segment in row})


def _in_order(scores: dict[int, Summary]) -> list[Summary]:
    return [scores[index] for index in sorted(scores)]


def _with_starts(row: Sequence[Segment]) -> Iterator[tuple[int, Segment]]:
    """The segments of a row, each with the position it starts at."""
    start = 0
    for segment in row:
        yield start, segment
        start += segment.size


def _sums(
    row: Sequence[Segment], first: Shaped[np.ndarray, " T"], second: Shaped[np.ndarray, " T"]
) -> Iterator[tuple[Segment, list[float], list[float]]]:
    """(segment, sums of both values over the scored positions of each of its requests)."""
    for start, segment in _with_starts(row):
        scored = np.flatnonzero(segment.arrays["weights"])
        branches = segment.arrays["branch_ids"][scored]
        # Adds in float64 and in the order of the text, whatever else is in the batch.
        add = partial(np.bincount, branches, minlength=segment.count + 1)
        # Of nothing the sums are integers.
        sums = [add(values[start + scored]).astype(float) for values in (first, second)]
        # Nothing is scored in branch 0, the tokens that the requests share.
        yield segment, sums[0][1:].tolist(), sums[1][1:].tolist()


def _scored(request: Request, nll: float, greedy: float) -> Scored:
    # Greedy decoding yields a continuation whose every token is the argmax.
    tokens = len(request.continuation)
    return Scored(-nll, tokens, greedy=greedy == tokens, truncated=request.truncated)


def _diverged(request: Request, forward: float, reverse: float) -> Diverged:
    return Diverged(forward, reverse, len(request.continuation))
