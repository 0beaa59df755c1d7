"""Text to token ids as in lm-evaluation-harness: contexts, continuations, truncation, windows."""

from collections.abc import Sequence
from dataclasses import dataclass

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Request:
    """A continuation to score after a context, as token ids.

    truncated: whether the context lost its beginning.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    truncated: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """Context and continuation; the model reads all but the last."""
        return self.context + self.continuation


def prefix_id(tokenizer: Tokenizer) -> int:
    """The token that replaces an empty context: BOS, or EOS where there is none."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_length: int
) -> list[Request]:
    """(context, continuation) texts as requests of at most `max_length` input tokens.

    White space at the end of a context moves to the continuation. The pair is encoded as one text
    and split at the length of the encoded context, so a token that spans the border counts as
    context. Raises UserError for a continuation longer than `max_length`.
    """
    # The choices of a question mostly share their context, which is then encoded once.
    encoded: dict[str, tuple[int, ...]] = {}
    return [truncate(_encode_pair(*pair, tokenizer, encoded), max_length) for pair in pairs]


def _encode_pair(
    context: str, continuation: str, tokenizer: Tokenizer, encoded: dict[str, tuple[int, ...]]
) -> Request:
    """encoded: the ids of contexts, which this adds to."""
    if context == "":
        ids, prefix = tuple(tokenizer.encode(continuation)), prefix_id(tokenizer)
        # The tokenizer may have begun the text with BOS itself.
        return Request(ids[:1], ids[1:]) if ids[:1] == (prefix,) else Request((prefix,), ids)

    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if stripped not in encoded:
        encoded[stripped] = tuple(prompt_ids(stripped, tokenizer))
    context_ids = encoded[stripped]
    ids = tuple(prompt_ids(stripped + continuation, tokenizer))
    return Request(context_ids, ids[len(context_ids) :])


def truncate(request: Request, max_length: int) -> Request:
    """The request with at most `max_length` input tokens, cut at the context's beginning.

    Raises UserError where the continuation has more tokens than that.
    """
    # The last token is predicted, not read.
    excess = len(request.ids) - 1 - max_length
    if excess <= 0:
        return request
    if len(request.continuation) > max_length:
        raise UserError(
            f"a continuation of {len(request.continuation)} tokens does not fit in scoring rows of"
            f" {max_length}; raise config.eval.seq_len"
        )
    return Request(request.context[excess:], request.continuation, truncated=True)


def rolling(ids: Sequence[int], prefix: int, max_length: int) -> list[Request]:
    """Windows of at most `max_length` input tokens that score every token of a text once.

    The harness's rolling windows with context_len 1. The first window is predicted from `prefix`;
    each later one scores the tokens after those of the window before.
    """
    first = tuple(ids[:max_length])
    requests = [Request((prefix,), first)] if first else []
    for start in range(max_length, len(ids), max_length):
        end = min(start + max_length, len(ids))
        # The context fills the window: one token, and for a short last window many.
        context = tuple(ids[end - max_length - 1 : start])
        requests.append(Request(context, tuple(ids[start:end])))
    return requests
