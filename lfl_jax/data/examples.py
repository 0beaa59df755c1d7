"""The unit every data source yields: one prompt with the response to learn, or a conversation that
ends with it; and
a source: such examples, and where they come from.
"""

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, TypeVar

from lfl_jax.text.chat import Turn

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """One item; `id` is unique in its source, items that share a `cluster` are not independent.

    group: the kind of item that scores are also given for, such as a level of difficulty; "" =
    none.
    prompt: all that the last question says. An empty one, of an example without turns, is that of a
    document.
    turns: where there is more than a prompt and its response (a system prompt, earlier turns, an
    input of its own), the whole conversation, the response included; empty otherwise.
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


def interleaved(lists: Iterable[Sequence[T]]) -> list[T]:
    """The first of each, the second of each, and so on, so that the first n hold some of each."""
    rounds = itertools.zip_longest(*lists)
    return [item for each in rounds for item in each if item is not None]


@dataclass(frozen=True)
class Drawn(Sequence[Example]):
    """The first `size` examples of a split; nothing is stored, one is drawn when it is asked
    for."""

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


@dataclass(frozen=True)
class HeldOut:
    """A file that somebody holds out for a split."""

    split: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Examples of one split, in random access, and where they come from.

    parts: of a mix, its sources in the order of their names, whose examples stand behind each other
    in `examples`, and `rates` how often each is drawn in one round of sum(rates) draws.
    """

    name: str
    split: str
    examples: Sequence[Example]
    licence: str
    sha256: str  # of the file, or of the first generated examples
    seed: int | None  # of the generator; None where nothing is generated
    synthetic: bool
    description: str
    stand_in_for: str | None = None  # the corpus that an embedded source takes the place of
    parts: tuple["Source", ...] = ()
    rates: tuple[int, ...] = ()
    columns: str = ""  # of a file: which are used, as what, and which are not
    held_out: tuple["HeldOut", ...] = ()  # files of the reader's own, of the training split

    @property
    def epoch(self) -> int:
        """Draws in one pass over the examples; of a mix, in one pass over its first source."""
        return (
            round(len(self.parts[0].examples) * sum(self.rates) / self.rates[0])
            if self.parts
            else len(self.examples)
        )

    @property
    def flag(self) -> str:
        """What must be said wherever the source is named; empty for real data."""
        stands = f"STAND-IN FOR {self.stand_in_for}" if self.stand_in_for else ""
        return ", ".join(filter(None, ("SYNTHETIC" if self.synthetic else "", stands)))

    def provenance(self) -> dict[str, Any]:
        """What every result records about its data; of a mix, also of each part, with the share of
        its draws."""
        kept = (
            "name",
            "split",
            "licence",
            "sha256",
            "seed",
            "synthetic",
            "description",
            "stand_in_for",
        )
        found = {name: getattr(self, name) for name in kept} | {"examples": len(self.examples)}
        found |= {"columns": self.columns} if self.columns else {}
        found |= (
            {"held_out": [dataclasses.asdict(file) for file in self.held_out]}
            if self.held_out
            else {}
        )
        shares = [rate / sum(self.rates) for rate in self.rates]
        parts = [
            {"share": share} | part.provenance()
            for share, part in zip(shares, self.parts, strict=True)
        ]
        return found | ({"parts": parts} if parts else {})
