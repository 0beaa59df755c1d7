"""The roles of a table's columns, by the names of published datasets or by config.data.columns.

A column that an answer depends on is used or refused, never dropped in silence; metadata is left
out, and listed.
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
MAIN_ROLES = ("prompt", "response", "messages")  # every row has them
IN_PROMPT = ("context", "system", "history")
# Columns that an answer depends on and that no format has a section for.
UNPLACED = ("tools", "functions", "choices", "options", "image", "images", "audio")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of each role; optional roles have every name they may go by.

    messages, or prompt and response, are set. left_out: columns that are left out on purpose.
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
        """The role of a column; "" for one that has none."""
        for role in ROLES:
            names = getattr(self, role)
            if column == names or (isinstance(names, tuple) and column in names):
                return role
        return ""


def parse(text: str) -> Columns:
    """config.data.columns, "ROLE=COLUMN,-COLUMN"; UserError for another form."""
    roles: dict[str, str | tuple[str, ...]] = {}
    left_out = set()
    for part in filter(None, map(str.strip, text.split(","))):
        role, sign, column = part.partition("=")
        if part.startswith("-") and not sign:
            left_out.add(part[1:])
        elif column and role in ROLES and role not in roles:
            roles[role] = column if role in MAIN_ROLES else (column,)
        else:
            raise UserError(
                f"config.data.columns={text!r}: {part!r} is not ROLE=COLUMN with a role of its own"
                f" of {', '.join(ROLES)}, nor -COLUMN"
            )
    return Columns(**roles, left_out=frozenset(left_out))


def find(requested: Columns, keys: Sequence[str], where: str) -> Columns:
    """The columns of a table whose first row has these keys; by published names unless requested.

    Raises UserError, with the table's columns and the accepted ones, where prompt and response
    cannot be told.
    """
    keys = [key for key in keys if key not in requested.left_out]
    _check_requested(requested, keys, where)
    main = _main(requested, keys, where)

    # A later row may have optional columns that the first one lacks: all their names stay.
    used = {main.prompt, main.response, main.messages, *requested.left_out}
    optional = {}
    for role in (*IN_PROMPT, "cluster"):
        unused = tuple(name for name in NAMES[role] if name not in used)
        optional[role] = getattr(requested, role) or unused
    return replace(main, **optional)


def _check_requested(requested: Columns, keys: Sequence[str], where: str) -> None:
    for role in MAIN_ROLES:
        name = getattr(requested, role)
        if name and name not in keys:
            raise UserError(
                f"{where}: no column {name!r}, which config.data.columns names; found"
                f" {', '.join(keys)}"
            )


def _main(requested: Columns, keys: Sequence[str], where: str) -> Columns:
    """The requested columns with messages, or prompt and response, set."""
    if requested.messages or (requested.prompt and requested.response):
        return requested
    messages = next((name for name in NAMES["messages"] if name in keys), "")
    if messages and not requested.prompt and not requested.response:
        return replace(requested, messages=messages)

    # One of the two may be requested: the other is then looked for beside it.
    for known_prompt, known_response in PAIRS:
        prompt = requested.prompt or known_prompt
        response = requested.response or known_response
        if {prompt, response} <= set(keys) and prompt != response:
            return replace(requested, prompt=prompt, response=response)
    known = ", ".join(f"{prompt}/{response}" for prompt, response in PAIRS)
    raise UserError(
        f"{where}: found the fields {', '.join(sorted(keys))}; expected"
        f" {' or '.join(NAMES['messages'][:2])}, or a pair of {known}; name yours with"
        " config.data.columns='prompt=...,response=...'"
    )


def refuse_unplaced(columns: Columns, row: Mapping, where: str) -> None:
    """UserError for a column that an answer depends on, neither used nor left out on purpose."""
    for name in UNPLACED:
        if row.get(name) and name not in columns.left_out and not columns.role(name):
            raise UserError(
                f"{where}: the answer may depend on column {name!r}, which would not be in the"
                f" prompt; write it into the prompt, or leave it out with"
                f" config.data.columns=-{name}"
            )


def describe(columns: Columns, keys: Iterable[str]) -> str:
    """The columns in use with their roles, in the order of ROLES, and the ones left out."""
    roles = {key: columns.role(key) for key in keys}
    used = sorted((key for key in roles if roles[key]), key=lambda key: ROLES.index(roles[key]))
    unused = [key for key, role in roles.items() if not role and key not in MESSAGE_KEYS]
    text = ", ".join(f"{roles[key]}={key}" for key in used)
    return text + (f"; left out: {', '.join(unused)}" if unused else "")
