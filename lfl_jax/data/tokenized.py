"""The token arrays of a source's examples, each tokenised once for estimating and for training."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Source
from lfl_jax.data.formatting import find_template, token_ids
from lfl_jax.errors import UserError
from lfl_jax.text.chat import Template
from lfl_jax.text.tokenizer import Tokenizer

# {"tokens", "targets", "weights", "example_ids"}: arrays of one length
Encoded = dict[str, np.ndarray]

# Tokens that a source keeps in memory, at 5 bytes each: 80 MiB, which is 8,192 examples of 2,048
# tokens. Examples beyond that are tokenised again whenever they are read.
MAX_CACHED_TOKENS = 1 << 24


@dataclass(frozen=True)
class TokenizedExample:
    """Ids of [BOS] prompt response EOS, and which carry loss; `name` is the example's id."""

    name: str
    ids: Int[np.ndarray, " N"]
    loss: Bool[np.ndarray, " N"]


@dataclass(frozen=True)
class RowFormat:
    """How an example becomes a segment of a row.

    seq_len: tokens of a row; None where rows are cut from concatenated examples, so that an example
    may be of any length. too_long: config.data.too_long. eos_as_input: EOS is also an input token,
    without a target, for the next example of its row to attend to.
    """

    seq_len: int | None
    too_long: str
    eos_as_input: bool

    @classmethod
    def of(cls, data: DataConfig) -> "RowFormat":
        """The format that config.data describes."""
        concat = data.packing == "concat"
        return cls(
            seq_len=None if concat else data.seq_len,
            too_long=data.too_long,
            eos_as_input=concat or data.cross_document == "attend",
        )

    def input_tokens(self, example: TokenizedExample) -> int:
        """Input tokens of the example before anything is cut: its last id is a target only."""
        return len(example.ids) - 1 + self.eos_as_input


def encode(example: TokenizedExample, index: int, row_format: RowFormat) -> Encoded | None:
    """Tokens, the same shifted by one as targets, and weights: 1 where the target carries loss.

    An example of more than seq_len tokens raises UserError ("error"), gives None ("skip"), or
    loses its end ("truncate"). None, too, where no token with loss remains, as in llm-foundry.
    """
    # A row of seq_len inputs spans seq_len + 1 ids, as targets are one ahead of their inputs.
    ids, loss, seq_len = example.ids, example.loss, row_format.seq_len
    room = len(ids) if seq_len is None else seq_len + 1 - row_format.eos_as_input
    if len(ids) > room:
        if row_format.too_long == "error":
            raise _too_long_error(example, row_format)
        if row_format.too_long == "skip" or not loss[1:room].any():
            return None

    ids = ids[:room]
    tokens, targets = ids[:-1], ids[1:]
    weights = loss[1 : len(ids)].astype(np.float32)
    if row_format.eos_as_input:
        # EOS has no next token in its document: its target is itself, with weight 0.
        tokens, targets = ids, np.append(targets, ids[-1:])
        weights = np.append(weights, np.float32(0))

    example_ids = np.full(len(weights), index, np.int32)
    return {"tokens": tokens, "targets": targets, "weights": weights, "example_ids": example_ids}


class TokenizedSource:
    """A source with its tokenizer and config.data: examples as arrays, in random access.

    Tokens are cached up to MAX_CACHED_TOKENS, so that the estimate of rows, the first batch and all
    epochs tokenise an example once. Reader threads may share it.
    """

    def __init__(self, source: Source, tokenizer: Tokenizer, data: DataConfig):
        self.source, self.tokenizer, self.data = source, tokenizer, data
        self.row_format = RowFormat.of(data)
        self._cache: dict[int, TokenizedExample] = {}
        self._free = MAX_CACHED_TOKENS

    def __len__(self) -> int:
        return len(self.source.examples)

    @functools.cached_property
    def template(self) -> Template:
        """The template that config.data names; UserError for an unknown one."""
        return find_template(self.data.template, self.tokenizer, self.data.code)

    def tokens(self, index: int) -> TokenizedExample:
        """The tokens of example `index`, from the cache where it has them."""
        if index in self._cache:
            return self._cache[index]
        example = self.source.examples[index]
        ids, loss = token_ids(example, self.template, self.tokenizer, self.data.loss_turns)
        tokens = TokenizedExample(example.id, np.asarray(ids, np.int32), np.asarray(loss, bool))

        # Without a lock: two threads may tokenise one example, or overshoot by a few examples.
        # Either gives the same tokens.
        if len(ids) <= self._free:
            self._free -= len(ids)
            self._cache[index] = tokens
        return tokens

    def encode(self, index: int) -> Encoded | None:
        """Arrays of example `index`, or None where it is left out."""
        return encode(self.tokens(index), index, self.row_format)

    def empty_loss_mask_error(self, examples: int) -> UserError:
        """The error for `examples` examples of which nothing would be trained on."""
        return UserError(
            f"the loss mask is all zero: none of {examples} examples has a response token within"
            f" seq_len={self.data.seq_len} (too_long={self.data.too_long}); raise"
            " config.data.seq_len"
        )


def _too_long_error(example: TokenizedExample, row_format: RowFormat) -> UserError:
    prompt = len(example.ids) - int(example.loss.sum())
    return UserError(
        f"example {example.name} has {row_format.input_tokens(example)} tokens ({prompt} of them"
        f" the prompt), more than config.data.seq_len={row_format.seq_len}; raise it, set"
        " config.data.too_long to skip or truncate, or config.data.packing to concat"
    )
