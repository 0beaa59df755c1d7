"""Conversations in the Jinja template of a tokenizer, as transformers renders them (extra `chat`).

A template is a program of whoever made the model: it runs in a process of its own, within bounds of
time and memory.

`strftime_now` is not defined. A template that would write today's date writes its default instead,
so that the prompts of a run do not depend on the day.
"""

import importlib.util
from collections.abc import Mapping, Sequence

from lfl_jax.errors import UserError
from lfl_jax.text import jinja_process
from lfl_jax.text.jinja_child import END, START
from lfl_jax.text.tokenizer import Tokenizer

__all__ = ["END", "START", "complete_text", "marks_answers", "render"]

Message = Mapping[str, str]
# Written after the last message to find where it ends in the text of the template.
END_OF_MESSAGE = "\N{OBJECT REPLACEMENT CHARACTER}END "


def render(template: str, messages: Sequence[Message], prompt: bool, tokenizer: Tokenizer) -> str:
    """A conversation by a tokenizer's Jinja template, as transformers renders it.

    prompt: with the beginning of an answer; else the text ends where the last message does. A
    template that refuses system messages gets none.
    """
    try:
        rendered = messages if prompt else _with_end_mark(messages)
        text = complete_text(template, rendered, prompt, tokenizer)
    except UserError:
        without_system = [message for message in messages if message["role"] != "system"]
        if len(without_system) == len(messages):
            raise
        return render(template, without_system, prompt, tokenizer)
    return text if prompt else _up_to_end_mark(text)


def _with_end_mark(messages: Sequence[Message]) -> list[Message]:
    *earlier, last = messages
    return [*earlier, dict(last) | {"content": last["content"] + END_OF_MESSAGE}]


def _up_to_end_mark(text: str) -> str:
    before, mark, after = text.rpartition(END_OF_MESSAGE.strip())
    if not mark:
        raise UserError(
            "apply_chat_template: the template leaves out the message that is to be continued"
        )
    # Where the mark's space is missing the template strips messages, and would have stripped this.
    return before if after.startswith(" ") else before.rstrip()


def complete_text(
    template: str,
    messages: Sequence[Message],
    prompt: bool,
    tokenizer: Tokenizer,
    *,
    marked: bool = False,
) -> str:
    """The template's text of all messages; marked: START and END around {% generation %} blocks.

    Raises UserError, with the template's words, where it refuses the messages or cannot be read.
    """
    if not _has_jinja():
        raise UserError("a tokenizer's chat template needs jinja2: pip install 'lfl_jax[chat]'")
    return jinja_process.rendered(
        {
            "template": template,
            "marked": marked,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": prompt,
            "bos_token": tokenizer.bos or "",
            "eos_token": tokenizer.eos,
        }
    )


def _has_jinja() -> bool:
    try:
        return importlib.util.find_spec("jinja2") is not None
    except ValueError:  # something stands in its place
        return False


def marks_answers(template: str) -> bool:
    """True for a template that marks by {% generation %} what the assistant says."""
    return "endgeneration" in template
