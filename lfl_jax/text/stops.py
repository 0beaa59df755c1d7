"""Texts that end a generated answer."""

from collections.abc import Callable, Sequence

from lfl_jax.text.tokenizer import Tokenizer


def contains_stop(tokenizer: Tokenizer, stop: Sequence[str]) -> Callable[[list[int]], bool]:
    """Whether any of the stop texts is in what these ids say."""
    return lambda ids: any(text in tokenizer.decode(ids) for text in stop)


def truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text cut at one stop after the other, as lm-evaluation-harness does it; stops may
    overlap."""
    for end in stop:
        text = text.split(end)[0]
    return text
