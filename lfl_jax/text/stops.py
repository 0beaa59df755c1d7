"""Texts that end a generated answer."""

from collections.abc import Callable, Sequence

from lfl_jax.text.tokenizer import Tokenizer


def contains_stop(tokenizer: Tokenizer, stop: Sequence[str]) -> Callable[[list[int]], bool]:
    """A function of token ids that is true once their text contains any of the stop texts."""
    return lambda ids: any(text in tokenizer.decode(ids) for text in stop)


def truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of its stop texts.

    It is cut at one stop after the other, as in lm-evaluation-harness: stops may overlap.
    """
    for end in stop:
        text = text.split(end)[0]
    return text
