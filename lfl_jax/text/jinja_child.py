"""Renders Jinja templates for another process, a line of JSON each, within bounds of memory.

`jinja_process` starts this file by its path, so that it imports nothing of the package; it also
bounds the time. A template comes with a model's files, from anybody: it is a program, of which the
sandbox of Jinja bounds what it reaches, and not how long it runs or how much it writes.

    {"template", "marked", "messages", "add_generation_prompt", "bos_token", "eos_token"}
    -> {"text"}, or {"error": in a line}
"""

import functools
import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import jinja2
    import jinja2.nodes
    import jinja2.parser

# Around the text between {% generation %} and {% endgeneration %}: Unicode's noncharacters, which
# no text contains.
START, END = "\ufdd0", "\ufdd1"
MEMORY = 1 << 29  # bytes of address space, of which Python and Jinja take 40 MB
LONGEST = 1 << 24  # characters of a text
LONGEST_ERROR = 500


@functools.lru_cache(maxsize=8)
def _compiled(template: str, marked: bool) -> "jinja2.Template":
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


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The text of a request, or why there is none."""
    try:
        template = _compiled(request.pop("template"), request.pop("marked"))
        text = template.render(**request)
    except MemoryError:
        return {"error": f"it needs more than {MEMORY >> 20} MiB"}
    # A template may raise anything: it divides by zero, or calls itself for ever.
    except Exception as error:
        return {"error": " ".join(str(error).split())[:LONGEST_ERROR] or type(error).__name__}
    if len(text) > LONGEST:
        return {"error": f"it writes a text of {len(text)} characters"}
    return {"text": text}


def main() -> None:
    """Answer until there are no requests; the first line says that it can begin."""
    # Ctrl-C is for the process that asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As the asking process finds its packages.
    sys.path[:] = json.loads(sys.argv[1])
    import jinja2.sandbox  # noqa: F401

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(flush=True)  # noqa: T201
    for line in sys.stdin.buffer:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
