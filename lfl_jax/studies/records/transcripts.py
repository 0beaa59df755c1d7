"""What a model was asked and what it answered, as far as records have it, to be read by people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One of the texts that a model chose from; its log-probability is the sum over its tokens."""

    logprob: float
    text: str = ""


@dataclass(frozen=True)
class Transcript:
    """An item and its answer. What a record does not have is empty.

    output: a generated answer; reference: the right one. choices: of a question with choices, whose
    right one is number `gold`.
    """

    question: str = ""
    reference: str = ""
    output: str = ""
    choices: tuple[Choice, ...] = ()
    gold: int | None = None


# A task's name -> {item: what happened}, read when somebody asks.
Transcripts = Callable[[str], Mapping[str, Transcript]]


def none(task: str) -> dict[str, Transcript]:
    """Of records that hold numbers alone."""
    return {}


def of_choices(
    pairs: Sequence[tuple[str, str]], logprobs: Sequence[float], gold: int | None
) -> Transcript:
    """Of a question whose choices were scored as continuations: (context, continuation) pairs."""
    contexts = {context for context, _ in pairs}
    # Where the choice stands in the context, as in WinoGrande, each choice is a whole sentence.
    whole = len(contexts) > 1
    texts = [context + choice if whole else choice for context, choice in pairs]
    choices = tuple(map(Choice, logprobs, texts))
    return Transcript("" if whole else pairs[0][0], choices=choices, gold=gold)
