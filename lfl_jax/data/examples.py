"""Examples to learn from, and sources: examples with their origin."""

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

    prompt: the text of the last question. It is empty in a document, which has no turns either.
    turns: the conversation, response included, where there is more than prompt and response (a
    system prompt, earlier turns, an input of its own); empty otherwise. group: what scores are also
    reported by, such as a level of difficulty; "" for none.
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
        """True for text without a prompt."""
        return not self.prompt and not self.turns

    @property
    def text(self) -> str:
        """All turns, one a line."""
        return "\n".join(text for _, text in self.conversation)


def interleaved(lists: Iterable[Sequence[T]]) -> list[T]:
    """The first item of each list, the second of each, and so on: any first n are of all lists."""
    rounds = itertools.zip_longest(*lists)
    return [item for one_round in rounds for item in one_round if item is not None]


@dataclass(frozen=True)
class Drawn(Sequence[Example]):
    """The first `size` examples of a split, each drawn when it is read; nothing is stored."""

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
    """Your own held-out file of a split."""

    split: str
    path: str
    sha256: str


PROVENANCE_FIELDS = (
    "name",
    "split",
    "licence",
    "sha256",
    "seed",
    "synthetic",
    "description",
    "stand_in_for",
)


@dataclass(frozen=True)
class Source:
    """Examples of one split, in random access, and where they come from.

    A mix has `parts`, whose examples are concatenated in `examples`, and `rates`: the draws of each
    part in one round of sum(rates) draws.
    """

    name: str
    split: str
    examples: Sequence[Example]
    licence: str
    sha256: str  # of the file, or of the first generated examples
    seed: int | None  # of the generator; None where nothing is generated
    synthetic: bool
    description: str
    stand_in_for: str | None = None  # the corpus that an embedded source replaces
    parts: tuple["Source", ...] = ()
    rates: tuple[int, ...] = ()
    columns: str = ""  # of a table: the columns in use, their roles, and the ones left out
    shuffled: bool = False  # whether prompts have other examples' responses: a sham control
    held_out: tuple[HeldOut, ...] = ()  # your own files for other splits; of the training split

    @property
    def epoch(self) -> int:
        """Draws in one pass over the examples; of a mix, in one pass over its first source."""
        if not self.parts:
            return len(self.examples)
        return round(len(self.parts[0].examples) * sum(self.rates) / self.rates[0])

    @property
    def flag(self) -> str:
        """A warning to print beside the source's name; empty for real data."""
        synthetic = ["SYNTHETIC"] if self.synthetic else []
        stand_in = [f"STAND-IN FOR {self.stand_in_for}"] if self.stand_in_for else []
        return ", ".join(synthetic + stand_in)

    def provenance(self) -> dict[str, Any]:
        """The record of the data in every result; of a mix, with each part and its share."""
        record = {name: getattr(self, name) for name in PROVENANCE_FIELDS}
        record["examples"] = len(self.examples)
        # Absent rather than empty: earlier records do not have these fields.
        if self.columns:
            record["columns"] = self.columns
        if self.shuffled:
            record["responses_shuffled"] = True
        if self.held_out:
            record["held_out"] = [dataclasses.asdict(file) for file in self.held_out]
        if self.parts:
            record["parts"] = [
                {"share": rate / sum(self.rates)} | part.provenance()
                for rate, part in zip(self.rates, self.parts, strict=True)
            ]
        return record
