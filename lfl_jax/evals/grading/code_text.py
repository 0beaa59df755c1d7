"""From what a model wrote to the code that is run: the rules of lm-evaluation-harness and bigcode's
harness.

Every rule takes the text after the prompt and returns the part of it that counts as code.
"""

import re
from collections.abc import Callable, Sequence

from lfl_jax.text.stops import truncate_at_stop

STOP = {
    "humaneval-bigcode": (
        "\nclass",
        "\ndef",
        "\n#",
        "\n@",
        "\nprint",
        "\nif",
        "\n```",
        "<file_sep>",
    ),
    "humaneval-lm-eval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    "mbpp-bigcode": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
    "mbpp-lm-eval": ("[DONE]",),
}
FENCED = re.compile(r"```(?:\w+)?\n?(.*?)\n?```", re.DOTALL)


def earliest(text: str, stop: Sequence[str]) -> str:
    """The text before the first place where any stop begins (bigcode)."""
    return text[: min([at for at in map(text.find, stop) if at >= 0], default=len(text))]


def before_fence(text: str) -> str:
    """The text before the first ``` (lm-eval's humaneval_instruct, whose prompt opens the
    block)."""
    return text.split("```")[0]


def first_block(text: str) -> str:
    """The first fenced block, or nothing (lm-eval's mbpp_instruct, whose prompt opens the first
    one).

    Letters right after the opening count as the name of a language and are dropped, as there.
    """
    found = FENCED.findall("```" + text) or FENCED.findall(text.replace("```python", "```"))
    return found[0] if found else ""


RULES: dict[str, Callable[[str], str]] = {
    "humaneval-bigcode": lambda text: earliest(text, STOP["humaneval-bigcode"]),
    "humaneval-lm-eval": lambda text: truncate_at_stop(text, STOP["humaneval-lm-eval"]),
    "humaneval-lm-eval-instruct": before_fence,
    "mbpp-bigcode": lambda text: earliest(text, STOP["mbpp-bigcode"]),
    "mbpp-lm-eval": lambda text: truncate_at_stop(text, STOP["mbpp-lm-eval"]),
    "mbpp-lm-eval-instruct": first_block,
}
