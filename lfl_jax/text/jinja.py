"""Conversations in the Jinja template that a tokenizer carries, as transformers renders them (extra
`chat`).

`strftime_now` is not defined, so a template that would write today's date writes the one it falls
back to: prompts of a run do not depend on the day.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lfl_jax.errors import UserError
from lfl_jax.text.tokenizer import Tokenizer

Message = Mapping[str, str]
# Around what stands between {% generation %} and {% endgeneration %}: Unicode's noncharacters,
# which no text holds.
START, END = "\ufdd0", "\ufdd1"


def render(template: str, messages: Sequence[Message], prompt: bool, tokenizer: Tokenizer) -> str:
    """A conversation by a tokenizer's Jinja template, as transformers renders it; `prompt` begins
    the answer.

    Without `prompt` the text ends where the last message does. A template that refuses system
    messages gets none.
    """
    end = "" if prompt else "\N{OBJECT REPLACEMENT CHARACTER}END "
    told = (
        messages
        if prompt
        else [*messages[:-1], dict(messages[-1]) | {"content": messages[-1]["content"] + end}]
    )
    try:
        made = whole(template, told, prompt, tokenizer)
    except UserError:
        if all(message["role"] != "system" for message in messages):
            raise
        return render(
            template,
            [message for message in messages if message["role"] != "system"],
            prompt,
            tokenizer,
        )
    if prompt:
        return made
    before, found, after = made.rpartition(end.strip())
    if not found:
        raise UserError(
            "apply_chat_template: the template leaves out the message that is to be continued"
        )
    return before if after.startswith(" ") else before.rstrip()


def whole(
    template: str,
    messages: Sequence[Message],
    prompt: bool,
    tokenizer: Tokenizer,
    *,
    marked: bool = False,
) -> str:
    """All that the template makes of the messages; marked: START and END around what {% generation
    %} holds.

    Raises UserError, with the template's words, where it refuses the messages or cannot be read.
    """
    from jinja2 import TemplateError

    specials = {"bos_token": tokenizer.bos or "", "eos_token": tokenizer.eos}
    try:
        return _compiled(template, marked).render(
            messages=messages, add_generation_prompt=prompt, **specials
        )
    except TemplateError as error:
        raise UserError(f"the tokenizer's chat template: {' '.join(str(error).split())}") from error


def marks_answers(template: str) -> bool:
    """Whether a template says itself, by {% generation %}, what the assistant says."""
    return "endgeneration" in template


@functools.lru_cache(maxsize=8)
def _compiled(template: str, marked: bool) -> Any:
    """The template in a sandbox: it comes with a model's files, from anybody."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UserError(
            "a tokenizer's chat template needs jinja2: pip install 'lfl_jax[chat]'"
        ) from error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    extensions = ["jinja2.ext.loopcontrols", _generation_blocks(marked)]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    env.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    env.globals["raise_exception"] = refuse
    return env.from_string(template)


def _generation_blocks(marked: bool) -> type:
    """transformers' extension of Jinja: {% generation %} around what the assistant says."""
    import jinja2.ext
    import jinja2.nodes

    class GenerationBlocks(jinja2.ext.Extension):
        tags: ClassVar = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{START}{caller()}{END}" if marked else caller()

    return GenerationBlocks
