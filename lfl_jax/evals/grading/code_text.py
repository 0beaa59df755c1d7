"""From a generated text to the code that is run: the rules of the two harnesses.

A model rarely stops at the end of a function, and what follows would often make the program fail.
lm-evaluation-harness and bigcode-evaluation-harness cut it at stop texts, each in its own way.
"""

import re
from collections.abc import Callable, Sequence

from lfl_jax.text.stops import truncate_at_stop

# Texts that end generation, by task and harness.
STOP: dict[str, tuple[str, ...]] = {
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
# A fenced block; letters right after the opening are the name of a language.
FENCED = re.compile(r"```(?:\w+)?\n?(.*?)\n?```", re.DOTALL)


def truncate_at_earliest(text: str, stop: Sequence[str]) -> str:
    """The text before the earliest of the stop texts (bigcode)."""
    starts = [text.find(word) for word in stop]
    return text[: min((start for start in starts if start >= 0), default=len(text))]


# lm-eval cuts at one stop text after the other, which differs where stop texts overlap.
TRUNCATE: dict[str, Callable[[str, Sequence[str]], str]] = {
    "humaneval-bigcode": truncate_at_earliest,
    "humaneval-lm-eval": truncate_at_stop,
    "mbpp-bigcode": truncate_at_earliest,
    "mbpp-lm-eval": truncate_at_stop,
}


def completion(form: str, text: str) -> str:
    """The part of the text after a prompt of this form that counts as code."""
    return TRUNCATE[form](text, STOP[form])
