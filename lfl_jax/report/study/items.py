"""The browser of items that flipped: what stands in the page, bounded in number and in size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lfl_jax.errors import printable
from lfl_jax.studies import flipped
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.flipped import FlippedItem, FlippedItems
from lfl_jax.studies.records.transcripts import Transcript

# Of each task and method, each way.
MOST_ITEMS = 8
# Characters of a question or an answer.
MOST_TEXT = 1200
# Characters of all of them together.
MOST_TEXT_OF_ALL = 1_500_000


@dataclass(frozen=True)
class ChoiceRow:
    """A choice with its log-probability before and after training."""

    text: str
    is_right: bool
    before: str
    after: str


@dataclass(frozen=True)
class ItemView:
    """An item as the page has it: choices, or two outputs and what is right."""

    title: str
    question: str
    choices: tuple[ChoiceRow, ...]
    reference: str
    before: str
    after: str

    @property
    def size(self) -> int:
        """Its characters."""
        texts = (self.question, self.reference, self.before, self.after)
        return sum(map(len, texts)) + sum(len(choice.text) for choice in self.choices)

    @property
    def is_empty(self) -> bool:
        """Whether the records hold nothing but the item's name."""
        return not (self.size or self.choices)


@dataclass(frozen=True)
class GroupView:
    """The items of one task and method that were lost, or gained."""

    title: str
    views: tuple[ItemView, ...]
    left_out: int


def view(findings: Findings) -> list[GroupView]:
    """All that the page has; the items of later groups give way where the whole is too large."""
    room, views = MOST_TEXT_OF_ALL, []
    for group in flipped.groups(findings, MOST_ITEMS):
        for kind, items, count in _ways(group):
            fitting, room = _fitting(map(_item, items, [group.seeds] * len(items)), room)
            title = f"{_name(group)}: {count} of {group.of_items} items {kind}"
            views.append(GroupView(title, fitting, count - len(fitting)))
    return views


def _ways(group: FlippedItems) -> Iterator[tuple[str, Sequence[FlippedItem], int]]:
    yield "lost, right before training and wrong after it", group.lost, group.lost_count
    yield "gained, wrong before training and right after it", group.gained, group.gained_count


def _name(group: FlippedItems) -> str:
    return f"{group.change.measure}, {group.change.method} at {group.change.cell}"


def _fitting(items: Iterator[ItemView], room: int) -> tuple[tuple[ItemView, ...], int]:
    fitting = []
    for item in items:
        if item.size > room:
            break
        room -= item.size
        fitting.append(item)
    return tuple(fitting), room


def _item(item: FlippedItem, seeds: int) -> ItemView:
    before, after = item.before, item.after
    which = f"{len(item.seeds)} of {seeds} seeds; the answer of seed {item.seeds[0]}"
    return ItemView(
        printable(f"{item.item}: {which}"),
        # A question stands at the end of its prompt, after examples.
        _end(before.question or after.question),
        tuple(_choices(before, after)),
        _start(after.reference or before.reference),
        _start(before.output),
        _start(after.output),
    )


def _choices(before: Transcript, after: Transcript) -> Iterator[ChoiceRow]:
    for index, (first, last) in enumerate(zip(before.choices, after.choices, strict=False)):
        is_right = index == before.gold or len(before.choices) == 1
        text = _start(first.text or last.text)
        yield ChoiceRow(text, is_right, f"{first.logprob:.2f}", f"{last.logprob:.2f}")


def _start(text: str) -> str:
    # What a model wrote may hold characters that turn the direction of what follows.
    return printable(text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} […]")


def _end(text: str) -> str:
    return printable(text if len(text) <= MOST_TEXT else f"[…] {text[-MOST_TEXT:]}")
