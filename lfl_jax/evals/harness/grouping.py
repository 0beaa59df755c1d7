"""Requests that begin alike, such as the choices of a question, in one row of the plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from lfl_jax.evals.requests import Request


@dataclass(frozen=True)
class _Group:
    """Requests that are scored in one row, the beginning they share once.

    shared: tokens that their contexts have in common. inputs: input tokens of all, each alone.
    """

    requests: tuple[Request, ...]
    shared: int
    inputs: int

    @classmethod
    def of(cls, request: Request) -> "_Group":
        """The group of one request."""
        return cls((request,), len(request.context), len(request.ids) - 1)

    @property
    def tokens(self) -> int:
        """Tokens of the row."""
        # The last shared token is computed for every request: it predicts what differs.
        return self.inputs - (len(self.requests) - 1) * max(self.shared - 1, 0)

    def joined(self, request: Request) -> "_Group":
        """With one request more."""
        shared = _common(self.requests[0].context[: self.shared], request.context)
        inputs = self.inputs + len(request.ids) - 1
        return _Group((*self.requests, request), shared, inputs)


def group_by_context(requests: Sequence[Request], length: int) -> list[list[Request]]:
    """Neighbours that begin alike, so that the plan computes their beginning once, in order.

    A request joins those before it where that saves tokens and they fit in one row of `length`.
    """
    groups: list[_Group] = []
    for request in requests:
        alone = _Group.of(request)
        if groups:
            joined = groups[-1].joined(request)
            if joined.tokens <= length and joined.tokens < groups[-1].tokens + alone.tokens:
                groups[-1] = joined
                continue
        groups.append(alone)
    return [list(group.requests) for group in groups]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    if a == b[: len(a)]:
        return len(a)
    return next(i for i, x in enumerate(a) if i == len(b) or x != b[i])
