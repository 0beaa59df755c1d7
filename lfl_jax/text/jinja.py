"""Conversations in the Jinja template of a tokenizer, as transformers renders them (extra `chat`).

`strftime_now` is not defined. A template that would write today's date writes its default instead,
so that the prompts of a run do not depend on the day.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lfl_jax.errors import UserError
from lfl_jax.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jinja2
    import jinja2.nodes
    import jinja2.parser

Message = Mapping[str, str]
# Around the text between {% generation %} and {% endgeneration %}: Unicode's noncharacters, which
# no text contains.
START, END = "\ufdd0", "\ufdd1"
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
    try:
        from jinja2 import TemplateError
    except ImportError as error:
        raise UserError(
            "a tokenizer's chat template needs jinja2: pip install 'lfl_jax[chat]'"
        ) from error

    specials = {"bos_token": tokenizer.bos or "", "eos_token": tokenizer.eos}
    try:
        return _compiled(template, marked).render(
            messages=messages, add_generation_prompt=prompt, **specials
        )
    # A template is a program of anybody's: it may divide by zero, or call itself for ever.
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the tokenizer's chat template: {reason}") from error


def marks_answers(template: str) -> bool:
    """True for a template that marks by {% generation %} what the assistant says."""
    return "endgeneration" in template


@functools.lru_cache(maxsize=8)
def _compiled(template: str, marked: bool) -> "jinja2.Template":
    """The template in a sandbox: it comes with a model's files, from anybody."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    # The environment of transformers' apply_chat_template: templates rely on its trimming,
    # `raise_exception`, and `tojson` without escapes.
    extensions = ["jinja2.ext.loopcontrols", _generation_blocks(marked)]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    return env.from_string(template)


def _generation_blocks(marked: bool) -> type:
    """transformers' extension of Jinja: {% generation %} around what the assistant says."""
    import jinja2.ext
    import jinja2.nodes

    class GenerationBlocks(jinja2.ext.Extension):
        tags: ClassVar = {"generation"}

        def parse(self, parser: "jinja2.parser.Parser") -> "jinja2.nodes.Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Callable[[], str]) -> str:
            return f"{START}{caller()}{END}" if marked else caller()

    return GenerationBlocks
