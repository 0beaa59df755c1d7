"""Conversations in the Jinja template that a tokenizer carries, as transformers renders them (extra `eval`)."""

import json

from lfl_jax.errors import UserError
from lfl_jax.text.base import Tokenizer


def render(template: str, messages: list[dict[str, str]], prompt: bool, tokenizer: Tokenizer) -> str:
    """A conversation by a tokenizer's Jinja template, as transformers renders it; `prompt` begins the answer.

    Without `prompt` the text ends where the last message does. A template that refuses system messages gets none.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    env.globals["raise_exception"] = refuse
    compiled = env.from_string(template)

    def text(messages: list[dict[str, str]]) -> str:
        end = "" if prompt else "\N{OBJECT REPLACEMENT CHARACTER}END "
        told = messages if prompt else [*messages[:-1], messages[-1] | {"content": messages[-1]["content"] + end}]
        specials = {"bos_token": tokenizer.bos or "", "eos_token": tokenizer.eos}
        made = compiled.render(messages=told, add_generation_prompt=prompt, **specials)
        if prompt:
            return made
        before, found, after = made.rpartition(end.strip())
        if not found:
            raise UserError("apply_chat_template: the template leaves out the message that is to be continued")
        return before if after.startswith(" ") else before.rstrip()

    try:
        return text(messages)
    except TemplateError:
        return text([message for message in messages if message["role"] != "system"])
