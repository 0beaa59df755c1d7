"""Conversations as published: OpenAI's messages, ShareGPT's conversations, pairs of earlier turns.

Their content is whatever a file's JSON has: every function checks it.
"""

from collections.abc import Mapping, Sequence

from lfl_jax.errors import UserError
from lfl_jax.text.chat import Turn, check_order

# Roles by the names that datasets give them.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
FORMS = (("role", "content"), ("from", "value"))  # OpenAI's, ShareGPT's
MESSAGE_KEYS = tuple(f"messages[].{name}" for form in FORMS for name in form)
NO_LOSS = {"weight": 0, "train": False}  # fields of messages that are not to be learned


def turns(messages: object, where: str) -> list[Turn]:
    """The turns of a conversation up to its last answer: an unanswered question teaches nothing.

    Raises UserError for content that is no conversation, has no answer, or fits no turn.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError(f"{where}: expected a list of messages, found {messages!r:.40}")
    all_turns = [_turn(message, f"{where}, message {i}") for i, message in enumerate(messages, 1)]
    answers = [i for i, (role, _) in enumerate(all_turns) if role == "assistant"]
    if not answers:
        raise UserError(f"{where}: a conversation without anything that the assistant says")

    answered = all_turns[: answers[-1] + 1]
    problem = check_order(answered)
    if problem:
        raise UserError(f"{where}: {problem}")
    return answered


def pairs(history: object, where: str) -> list[Turn]:
    """Earlier turns from [[question, answer], ...]."""
    earlier: list[Turn] = []
    for pair in history or ():
        is_pair = isinstance(pair, Sequence) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise UserError(
                f"{where}: expected a history of [question, answer] pairs, found {pair!r:.40}"
            )
        earlier += [("user", pair[0]), ("assistant", pair[1])]
    return earlier


def extra_keys(messages: object) -> list[str]:
    """Fields of messages beside role and text, as "messages[].name"."""
    if not isinstance(messages, Sequence):
        return []
    keys: dict[str, None] = {}  # in the order of their first message
    for message in messages:
        if isinstance(message, Mapping):
            keys |= {f"messages[].{key}": None for key, x in message.items() if x is not None}
    return [key for key in keys if key not in MESSAGE_KEYS]


def _turn(message: object, where: str) -> Turn:
    forms = [form for form in FORMS if isinstance(message, Mapping) and form[0] in message]
    if not forms:
        raise UserError(
            f"{where}: expected role and content, or from and value, found {message!r:.60}"
        )
    role_key, text_key = forms[0]
    role, text = message[role_key], _text(message.get(text_key), where)
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}: unknown role {role!r:.60}; there are: {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise UserError(
            f"{where}: calls of tools have no one form in text; write them into {text_key!r} as"
            " text"
        )
    # To train on a turn that a file excludes would be worse than to refuse the file.
    if any(name in message and message[name] == value for name, value in NO_LOSS.items()):
        raise UserError(
            f"{where}: messages that are not to be learned are not told apart; take weight and"
            " train out, and see config.data.loss_turns"
        )
    return ROLES[role], text


def _text(content: object, where: str) -> str:
    """A message's text, which may be in parts."""
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts) or not texts:
        raise UserError(f"{where}: expected text, found {content!r:.60}")
    return "".join(texts)
