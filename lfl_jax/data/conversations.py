"""Conversations as published: OpenAI's messages, ShareGPT's conversations, and pairs of earlier
turns."""

from collections.abc import Mapping, Sequence
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.text.chat import Turn, check_order

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
NO_LOSS = {"weight": 0, "train": False}  # how messages say that they are not to be learned


def turns(messages: Any, place: str) -> list[Turn]:
    """The turns of a conversation up to its last answer; what nobody answered teaches nothing.

    Raises UserError for what is no conversation, has no answer, or holds what no turn can.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UserError(f"{place}: expected a list of messages, found {messages!r:.40}")
    found = [_turn(message, f"{place}, message {i}") for i, message in enumerate(messages, 1)]
    answers = [i for i, (role, _) in enumerate(found) if role == "assistant"]
    if not answers:
        raise UserError(f"{place}: a conversation without anything that the assistant says")
    found = found[: answers[-1] + 1]
    if wrong := check_order(found):
        raise UserError(f"{place}: {wrong}")
    return found


def pairs(history: Any, place: str) -> list[Turn]:
    """Earlier turns from [[question, answer], ...]."""
    found: list[Turn] = []
    for pair in history or ():
        if (
            not isinstance(pair, Sequence)
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise UserError(
                f"{place}: expected a history of [question, answer] pairs, found {pair!r:.40}"
            )
        found += [("user", pair[0]), ("assistant", pair[1])]
    return found


def extra_keys(messages: Any) -> list[str]:
    """What messages hold beside role and text, as "messages[].name"."""
    if not isinstance(messages, Sequence):
        return []
    keys = dict.fromkeys(
        key for m in messages if isinstance(m, Mapping) for key, x in m.items() if x is not None
    )
    return [name for name in (f"messages[].{key}" for key in keys) if name not in MESSAGE_KEYS]


def _turn(message: Any, place: str) -> Turn:
    names = next(
        (form for form in FORMS if isinstance(message, Mapping) and form[0] in message), None
    )
    if names is None:
        raise UserError(
            f"{place}: expected role and content, or from and value, found {message!r:.60}"
        )
    role, text = message[names[0]], _text(message.get(names[1]), place)
    if role not in ROLES:
        raise UserError(f"{place}: unknown role {role!r}; there are: {', '.join(ROLES)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise UserError(
            f"{place}: calls of tools have no one form in text; write them into {names[1]!r} as"
            " text"
        )
    if any(name in message and message[name] == value for name, value in NO_LOSS.items()):
        raise UserError(
            f"{place}: messages that are not to be learned are not told apart; take weight and"
            " train out, and see"
            " config.data.loss_turns"
        )
    return ROLES[role], text


def _text(content: Any, place: str) -> str:
    """A message's text, of parts where it has parts."""
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts) or not texts:
        raise UserError(f"{place}: expected text, found {content!r:.60}")
    return "".join(texts)
