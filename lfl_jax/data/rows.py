"""Rows of a table as examples: prompt and response with their context, or a conversation."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt64

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
    """Rows `selected` of a table as examples, parsed when they are read.

    clusters: a hash of each row's problem. keys: every column that any row of the table has.
    """

    table: Table
    columns: Columns
    selected: Int[np.ndarray, " N"]
    clusters: UInt64[np.ndarray, " N"]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.selected)

    def __getitem__(self, i: int) -> Example:
        row = int(self.selected[i])
        return to_example(self.table[row], self.table.place(row), self.columns)

    @property
    def used(self) -> str:
        """The columns in use with their roles, and the ones left out."""
        return layouts.describe(self.columns, self.keys)


def read_split(
    path: Path, split: str, columns: str = "", elsewhere: Sequence[str] = ()
) -> TableExamples:
    """A split of a file or folder: its own, or 2 % of the clusters of its training rows.

    elsewhere: held-out splits that other files have. Raises UserError for what cannot be read.
    """
    check(split, path.name)
    split_tables = tables.open_splits(path)
    if split != "train" and split in split_tables:
        return split_examples(split_tables[split], split, (), columns)
    carved = tuple(s for s in HELD_OUT if s not in split_tables and s not in elsewhere)
    return split_examples(split_tables["train"], split, carved, columns)


def read_whole(path: Path, split: str, columns: str = "") -> TableExamples:
    """All rows of a held-out file; of a folder with splits, those of `split`."""
    split_tables = tables.open_splits(path)
    if split not in split_tables and len(split_tables) > 1:
        raise UserError(
            f"{path}: has the splits {', '.join(split_tables)}, but no {split}; name the files of"
            " one"
        )
    table = split_tables.get(split) or next(iter(split_tables.values()))
    return split_examples(table, split, (), columns)


def split_examples(
    table: Table, split: str, held_out: tuple[str, ...] = HELD_OUT, columns: str = ""
) -> TableExamples:
    """Check every row and select one split; UserError names the file and line of the first bad row.

    All rows are parsed once at this point: a split is decided by the hash of a row's problem, and
    a bad row should be reported before training.
    """
    check(split, table.name)
    roles = layouts.find(layouts.parse(columns), list(table[0]), table.place(0))

    clusters, keys = [], {}
    for i, row in enumerate(table):
        where = table.place(i)
        layouts.refuse_unplaced(roles, row, where)
        clusters.append(int(to_example(row, where, roles).cluster, 16))
        message_keys = conversations.extra_keys(row.get(roles.messages))
        # A dict and not a set: columns stay in the order in which they appear.
        keys |= dict.fromkeys([*row, *message_keys])

    selected = split_index(clusters, split, held_out)
    if not len(selected):
        raise UserError(
            f"{table.name}: no example is left for split {split!r}; there are only {len(table)} in"
            f" all, of {len(set(clusters))} different prompts. Give held-out data of your own in"
            f" config.data.{split}_path, or evaluate nothing on it: config.eval.tasks=() and"
            " config.eval.every_tasks=()"
        )
    selected_clusters = np.asarray(clusters, np.uint64)[selected]
    return TableExamples(table, roles, selected, selected_clusters, tuple(keys))


def to_example(row: Mapping, where: str, columns: Columns) -> Example:
    """A row as an example; its id is `where`, its cluster the hash of the problem it comes from."""
    if columns.messages:
        turns = _conversation(row, where, columns)
    else:
        turns = _prompt_and_response(row, where, columns)

    # The cluster is the problem: conversations that begin with one question are not independent,
    # and neither are rewrites of one question, where a column says so.
    first_question, last_question = _questions(turns)
    cluster_columns = [name for name in columns.cluster if name in row]
    problem = _text(row, where, cluster_columns[0]) if cluster_columns else first_question
    is_plain = [role for role, _ in turns] == ["user", "assistant"]
    return Example(
        last_question,
        turns[-1][1],
        id=where,
        cluster=f"{digest(problem):016x}",
        turns=() if is_plain else tuple(turns),
    )


def _questions(turns: list[Turn]) -> tuple[str, str]:
    """The first question, with its input, and the last one."""
    # A system prompt is often the same in all rows, so it does not identify the problem.
    spoken = turns[1:] if turns[0][0] == "system" else turns
    first = [spoken[0][1], *(text for role, text in spoken[1:2] if role == "input")]
    questions = [text for role, text in spoken if role != "assistant"]
    text = "\n".join(first)
    return text, text if len(questions) == len(first) else questions[-1]


def _conversation(row: Mapping, where: str, columns: Columns) -> list[Turn]:
    turns = conversations.turns(row.get(columns.messages), where)
    system = _system(row, where, columns)
    return turns if turns[0][0] == "system" else [*system, *turns]


def _prompt_and_response(row: Mapping, where: str, columns: Columns) -> list[Turn]:
    """System prompt, earlier turns, prompt with its context, and response."""
    prompt, response = row.get(columns.prompt), row.get(columns.response)
    if _is_list(prompt) and isinstance(response, Sequence):
        # TRL's prompt and completion are lists of messages.
        return conversations.turns([*prompt, *response], where)

    history: list[Turn] = []
    for name in columns.history:
        history += conversations.pairs(row.get(name), where)
    context = _optional_texts(row, where, columns.context)
    return [
        *_system(row, where, columns),
        *history,
        ("user", _text(row, where, columns.prompt)),
        *([("input", "\n".join(context))] if context else []),
        ("assistant", _text(row, where, columns.response)),
    ]


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _system(row: Mapping, where: str, columns: Columns) -> list[Turn]:
    """At most one system turn."""
    return [("system", text) for text in _optional_texts(row, where, columns.system)[:1]]


def _optional_texts(row: Mapping, where: str, names: Sequence[str]) -> list[str]:
    """Texts of the columns that a row has and does not leave blank."""
    texts = []
    for name in names:
        value = row.get(name)
        is_blank = isinstance(value, str | bytes) and not value.strip()
        if value is not None and not is_blank:
            texts.append(_text(row, where, name))
    return texts


def _text(row: Mapping, where: str, name: str) -> str:
    if name not in row:
        raise UserError(
            f"{where}: no field {name!r}, which the first row has; found {', '.join(row)}"
        )
    value = _first_answer(row[name])
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):  # then it is no text
            value = value.decode()
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{where}: field {name!r} is {value!r:.40}, expected text that is not empty"
        )
    return value


def _first_answer(value: object) -> object:
    """The first of SQuAD's answers, {"text": [...], "answer_start": [...]}; else the value."""
    answers = value.get("text") if isinstance(value, Mapping) else None
    return answers[0] if isinstance(answers, list) and answers else value
