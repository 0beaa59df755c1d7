"""Text to token ids as lm-evaluation-harness does it: contexts and continuations, truncation,
windows."""

from collections.abc import Sequence
from dataclasses import dataclass

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Request:
    """A continuation to score after a context, as token ids; `truncated` when the context lost its
    start."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    truncated: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        """Context and continuation; the model reads all but the last."""
        return self.context + self.continuation


def prefix_id(tokenizer: Tokenizer) -> int:
    """The token that stands in for an empty context: BOS, or EOS where there is none."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, max_length: int
) -> list[Request]:
    """(context, continuation) texts as requests of at most `max_length` input tokens.

    White space at the end of a context moves to the continuation. The pair is encoded as one text
    and split at the length of the encoded context, so a token that spans the border counts as
    context. Raises UserError for a continuation longer than `max_length`.
    """
    contexts: dict[str, tuple[int, ...]] = {}  # the choices of a question mostly share theirs
    return [truncate(_encode_pair(*pair, tokenizer, contexts), max_length) for pair in pairs]


def _encode_pair(
    context: str, continuation: str, tokenizer: Tokenizer, seen: dict[str, tuple[int, ...]]
) -> Request:
    if context == "":
        ids, prefix = tuple(tokenizer.encode(continuation)), prefix_id(tokenizer)
        return Request(ids[:1], ids[1:]) if ids[:1] == (prefix,) else Request((prefix,), ids)
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if stripped not in seen:
        seen[stripped] = tuple(prompt_ids(stripped, tokenizer))
    ids = tuple(prompt_ids(stripped + continuation, tokenizer))
    return Request(seen[stripped], ids[len(seen[stripped]) :])


def truncate(request: Request, max_length: int) -> Request:
    """The request with at most `max_length` input tokens (one less than its ids), cut at the
    context's start.

    Raises UserError when the continuation alone is longer.
    """
    over = len(request.ids) - 1 - max_length
    if over <= 0:
        return request
    if len(request.continuation) > max_length:
        raise UserError(
            f"a continuation of {len(request.continuation)} tokens does not fit in scoring rows of"
            f" {max_length};"
            " raise config.eval.seq_len"
        )
    return Request(request.context[over:], request.continuation, truncated=True)


def rolling(ids: Sequence[int], prefix: int, max_length: int) -> list[Request]:
    """Windows of at most `max_length` inputs that score every token of a text once.

    The harness's rolling windows with context_len 1: the first is predicted from `prefix`, the
    following ones continue where the one before ended; the last reaches back to fill its context.
    """
    first = tuple(ids[:max_length])
    requests = [Request((prefix,), first)] if first else []
    for start in range(max_length, len(ids), max_length):
        end = min(start + max_length, len(ids))
        requests.append(Request(tuple(ids[end - max_length - 1 : start]), tuple(ids[start:end])))
    return requests
