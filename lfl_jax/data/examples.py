"""The unit every data source yields: one prompt with the response to learn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One item; `id` is unique in its source, items that share a `cluster` are not independent."""

    prompt: str
    response: str
    id: str
    cluster: str
