"""Which columns of a table are what, by the names that published datasets give them or by
config.data.columns.

What an answer depends on is used or refused, never dropped in silence; metadata is left out, and
listed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lfl_jax.data.conversations import MESSAGE_KEYS
from lfl_jax.errors import UserError

# Pairs of prompt and response; the first pair whose two names a file has is used.
PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),  # OpenAI, TRL
    ("question", "answer"),  # GSM8K, sql-create-context
    ("query", "response"),  # MetaMathQA
    ("instruction", "output"),  # Alpaca
    ("instruction", "response"),  # Dolly, Magicoder-Evol-Instruct
    ("problem", "solution"),  # MATH, Magicoder-OSS-Instruct
    ("question", "response"),  # OpenOrca
    ("question", "answers"),  # SQuAD
    ("question", "solution"),
    ("sql_prompt", "sql"),  # synthetic_text_to_sql
    ("inputs", "targets"),  # FLAN
    ("input", "output"),
)
# Roles with one column, under any of these names.
NAMES = {
    "messages": ("messages", "conversations", "conversation"),  # OpenAI's, ShareGPT's
    # Alpaca, Dolly, SQL, reading comprehension
    "context": ("input", "context", "sql_context", "schema", "passage"),
    "system": ("system", "system_prompt"),
    "history": ("history",),  # LLaMA-Factory
    # MetaMathQA rewrites each question many times: the rewrites belong to one cluster, or held-out
    # items leak.
    "cluster": ("cluster", "original_question"),
    "text": ("text", "content"),  # OpenWebMath and C4; StarCoder
}
ROLES = ("prompt", "response", *NAMES)
IN_PROMPT = ("context", "system", "history")
# Columns that an answer depends on and that no format here has a place for.
UNPLACED = ("tools", "functions", "choices", "options", "image", "images", "audio")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of each role; roles that a row may lack have all names they may go by.

    messages, or prompt and response, are set. left_out: columns that somebody leaves out on
    purpose.
    """

    prompt: str = ""
    response: str = ""
    messages: str = ""
    context: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    cluster: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    left_out: frozenset[str] = field(default_factory=frozenset)

    def role(self, column: str) -> str:
        """What a column is used as; "" for one that is not."""
        named = {name: getattr(self, name) for name in ROLES}
        return next(
            (role for role, names in named.items() if column == names or column in _many(names)), ""
        )


def _many(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else ()


def parse(text: str) -> Columns:
    """config.data.columns as `Columns` with what it names; UserError for another form."""
    found: dict[str, str] = {}
    left_out = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, sign, column = part.partition("=")
        if part.startswith("-") and not sign:
            left_out.add(part[1:])
        elif column and role in ROLES and role not in found:
            found[role] = column
        else:
            raise UserError(
                f"config.data.columns={text!r}: {part!r} is not ROLE=COLUMN with a role of its own"
                " of"
                f" {', '.join(ROLES)}, nor -COLUMN"
            )
    several = {
        role: (column,)
        for role, column in found.items()
        if role not in ("prompt", "response", "messages")
    }
    return Columns(**(found | several), left_out=frozenset(left_out))


def find(given: Columns, keys: Sequence[str], place: str) -> Columns:
    """The columns of a table whose first row has these keys; what is not given goes by its
    published names.

    Raises UserError, with what the table has and what is accepted, where prompt and response cannot
    be told.
    """
    keys = [key for key in keys if key not in given.left_out]
    _check_given(given, keys, place)
    main = _main(given, keys, place)
    used = {main.prompt, main.response, main.messages, *given.left_out}
    optional = {
        role: getattr(given, role) or tuple(name for name in NAMES[role] if name not in used)
        for role in (*IN_PROMPT, "cluster")
    }
    return replace(main, **optional)


def _check_given(given: Columns, keys: Sequence[str], place: str) -> None:
    for role in ("prompt", "response", "messages"):
        name = getattr(given, role)
        if name and name not in keys:
            raise UserError(
                f"{place}: no column {name!r}, which config.data.columns names; found"
                f" {', '.join(keys)}"
            )


def _main(given: Columns, keys: Sequence[str], place: str) -> Columns:
    """Given with its messages, or its prompt and response, set."""
    if given.messages or (given.prompt and given.response):
        return given
    messages = next((name for name in NAMES["messages"] if name in keys), "")
    if messages and not given.prompt and not given.response:
        return replace(given, messages=messages)
    for prompt, response in PAIRS:
        prompt, response = given.prompt or prompt, given.response or response
        if {prompt, response} <= set(keys) and prompt != response:
            return replace(given, prompt=prompt, response=response)
    known = ", ".join(f"{prompt}/{response}" for prompt, response in PAIRS)
    raise UserError(
        f"{place}: found the fields {', '.join(sorted(keys))}; expected"
        f" {' or '.join(NAMES['messages'][:2])}, or a pair"
        f" of {known}; name yours with config.data.columns='prompt=...,response=...'"
    )


def refuse_unplaced(columns: Columns, row: Mapping, place: str) -> None:
    """Raise UserError for a column that the answer depends on and that is neither used nor left out
    on purpose."""
    for name in UNPLACED:
        if row.get(name) and name not in columns.left_out and not columns.role(name):
            raise UserError(
                f"{place}: the answer may depend on column {name!r}, which would not be in the"
                " prompt; write it into"
                f" the prompt, or leave it out with config.data.columns=-{name}"
            )


def describe(columns: Columns, keys: Iterable[str]) -> str:
    """Which columns of a file are used, as what, and which are not."""
    keys = list(keys)
    used = [f"{columns.role(key)}={key}" for key in keys if columns.role(key)]
    used.sort(key=lambda pair: ROLES.index(pair.partition("=")[0]))
    rest = [key for key in keys if not columns.role(key) and key not in MESSAGE_KEYS]
    return ", ".join(used) + (f"; left out: {', '.join(rest)}" if rest else "")
