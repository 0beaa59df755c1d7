"""Rows of a table as examples: prompt and response, with what the answer depends on, or a
conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax.assets import tables
from lfl_jax.assets.tables import Table
from lfl_jax.data import columns as layouts
from lfl_jax.data import conversations
from lfl_jax.data.columns import Columns
from lfl_jax.data.examples import Example
from lfl_jax.data.splits import SPLITS, check, digest, split_index
from lfl_jax.errors import UserError
from lfl_jax.text.chat import Turn

HELD_OUT = SPLITS[1:]


@dataclass(frozen=True)
class TableExamples(Sequence):
    """Rows `selected` of a table as examples, read when asked for.

    clusters: hashes of the problems that these rows are made from. keys: every column that any row
    of the table has.
    """

    table: Table
    columns: Columns
    selected: np.ndarray
    clusters: np.ndarray
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.selected)

    def __getitem__(self, i: int) -> Example:
        row = int(self.selected[i])
        return to_example(self.table[row], self.table.place(row), self.columns)

    @property
    def used(self) -> str:
        """Which columns are used, as what, and which are not."""
        return layouts.describe(self.columns, self.keys)


def read_split(
    path: Path, split: str, columns: str = "", elsewhere: Sequence[str] = ()
) -> TableExamples:
    """A split of a file or folder: its own where it has splits, else 2 % each of the clusters of
    its training rows.

    elsewhere: held-out splits that other files hold. Raises UserError for what cannot be read.
    """
    check(split, path.name)
    own = tables.open_splits(path)
    if split != "train" and split in own:
        return split_examples(own[split], split, (), columns)
    missing = tuple(name for name in HELD_OUT if name not in own and name not in elsewhere)
    return split_examples(own["train"], split, missing, columns)


def read_whole(path: Path, split: str, columns: str = "") -> TableExamples:
    """All rows of a file that is held out as a whole; of a folder with splits, the one asked
    for."""
    own = tables.open_splits(path)
    if split not in own and len(own) > 1:
        raise UserError(
            f"{path}: has the splits {', '.join(own)}, but no {split}; name the files of one"
        )
    return split_examples(own.get(split) or next(iter(own.values())), split, (), columns)


def split_examples(
    table: Table, split: str, held_out: tuple[str, ...] = HELD_OUT, columns: str = ""
) -> TableExamples:
    """Check every row and take one split; UserError names the file and line of the first bad
    row."""
    check(split, table.name)
    found = layouts.find(layouts.parse(columns), list(table[0]), table.place(0))
    clusters, keys = [], {}
    for i, row in enumerate(table):
        place = table.place(i)
        layouts.refuse_unplaced(found, row, place)
        clusters.append(int(to_example(row, place, found).cluster, 16))
        keys |= dict.fromkeys([*row, *conversations.extra_keys(row.get(found.messages))])
    index = split_index(clusters, split, held_out)
    if not len(index):
        raise UserError(
            f"{table.name}: no example is left for split {split!r}; there are only {len(table)} in"
            " all, of"
            f" {len(set(clusters))} different prompts. Give held-out data of your own in"
            f" config.data.{split}_path, or evaluate nothing on it: config.eval.tasks=() and"
            " config.eval.every_tasks=()"
        )
    return TableExamples(table, found, index, np.asarray(clusters, np.uint64)[index], tuple(keys))


def to_example(row: Mapping, place: str, columns: Columns) -> Example:
    """A row as an example; its id is `place`, its cluster the hash of the problem it was made
    from."""
    turns = (
        _conversation(row, place, columns)
        if columns.messages
        else _prompt_and_response(row, place, columns)
    )
    spoken = turns[1:] if turns[0][0] == "system" else turns
    first = [spoken[0][1], *(text for role, text in spoken[1:2] if role == "input")]
    asked = [text for role, text in spoken if role != "assistant"]
    prompt = "\n".join(first) if len(asked) == len(first) else asked[-1]

    named = next((name for name in columns.cluster if name in row), None)
    problem = "\n".join(first) if named is None else _text(row, place, named)
    is_plain = [role for role, _ in turns] == ["user", "assistant"]
    return Example(
        prompt,
        turns[-1][1],
        place,
        f"{digest(problem):016x}",
        turns=() if is_plain else tuple(turns),
    )


def _conversation(row: Mapping, place: str, columns: Columns) -> list[Turn]:
    turns = conversations.turns(row.get(columns.messages), place)
    system = _system(row, place, columns)
    return turns if turns[0][0] == "system" else [*system, *turns]


def _prompt_and_response(row: Mapping, place: str, columns: Columns) -> list[Turn]:
    """System prompt, earlier turns, prompt with its context, and response."""
    prompt, response = row.get(columns.prompt), row.get(columns.response)
    if (
        isinstance(prompt, Sequence)
        and isinstance(response, Sequence)
        and not isinstance(prompt, str | bytes)
    ):
        # as TRL's prompt and completion of messages
        return conversations.turns([*prompt, *response], place)
    history = [
        turn for name in columns.history for turn in conversations.pairs(row.get(name), place)
    ]
    context = [text for name in columns.context if (text := _optional(row, place, name))]
    return [
        *_system(row, place, columns),
        *history,
        ("user", _text(row, place, columns.prompt)),
        *([("input", "\n".join(context))] if context else []),
        ("assistant", _text(row, place, columns.response)),
    ]


def _system(row: Mapping, place: str, columns: Columns) -> list[Turn]:
    return [("system", text) for name in columns.system if (text := _optional(row, place, name))][
        :1
    ]


def _optional(row: Mapping, place: str, name: str) -> str:
    """Text of a column that a row may lack or leave blank."""
    value = row.get(name)
    blank = value is None or (isinstance(value, str | bytes) and not value.strip())
    return "" if blank else _text(row, place, name)


def _text(row: Mapping, place: str, name: str) -> str:
    if name not in row:
        raise UserError(
            f"{place}: no field {name!r}, which the first row has; found {', '.join(row)}"
        )
    value = _first_answer(row[name])
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{place}: field {name!r} is {value!r:.40}, expected text that is not empty"
        )
    return value


def _first_answer(value: Any) -> Any:
    """The first of SQuAD's answers, which are {"text": [...], "answer_start": [...]}; anything else
    as it is."""
    answers = value.get("text") if isinstance(value, Mapping) else None
    return answers[0] if isinstance(answers, list) and answers else value
