"""The unit every data source yields: one prompt with the response to learn, or a conversation that ends with it."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsIndex

from lfl_jax.text.chat import Turn


@dataclass(frozen=True)
class Example:
    """One item; `id` is unique in its source, items that share a `cluster` are not independent.

    group: the kind of item that scores are also given for, such as a level of difficulty; "" = none.
    prompt: all that the last question says. An empty one, of an example without turns, is that of a document.
    turns: where there is more than a prompt and its response (a system prompt, earlier turns, an input of its own),
    the whole conversation, the response included; empty otherwise.
    """

    prompt: str
    response: str
    id: str
    cluster: str
    group: str = ""
    turns: tuple[Turn, ...] = field(default=(), repr=False)

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns that a template writes."""
        return self.turns or (("user", self.prompt), ("assistant", self.response))

    @property
    def is_document(self) -> bool:
        """Whether it is text without a prompt."""
        return not self.prompt and not self.turns

    @property
    def text(self) -> str:
        """Everything that it says, a turn a line."""
        return "\n".join(text for _, text in self.conversation)


@dataclass(frozen=True)
class Drawn(Sequence[Example]):
    """The first `size` examples of a split; nothing is stored, one is drawn when it is asked for."""

    seed: int
    split: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self.draw(range(self.size)[operator.index(index)])

    def draw(self, i: int) -> Example:
        """Example i >= 0, a pure function of the fields."""
        raise NotImplementedError
