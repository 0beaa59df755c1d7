"""From an example to token arrays: loss on the response only, its first token and its EOS included.

An example with an empty prompt is a document: no template, and loss on all of it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.text.chat import TEMPLATES, Template
from lfl_jax.text.tokenizer_files import with_eos
from lfl_jax.text.tokenizer_template import from_tokenizer
from lfl_jax.text.tokenizers import Tokenizer

Encoded = dict[str, np.ndarray]  # tokens, targets, weights, example_ids, all of one length


def find_template(
    name: str, tokenizer: Tokenizer | None = None, code: Code = own_code.NOTHING
) -> Template:
    """The template of that name, "tokenizer" for the one it carries, or one's own; UserError lists
    the names there are.

    code: what may run of one's own.
    """
    if own_code.is_place(name):
        found = own_code.find(
            code, "data.template", name, lambda x: isinstance(x, Template) or callable(x)
        )
        return found if isinstance(found, Template) else Template(own_code.split(name)[1], found)
    if name == "tokenizer":
        return from_tokenizer(tokenizer)
    if name not in TEMPLATES:
        there = ", ".join([*TEMPLATES, "tokenizer"])
        raise UserError(
            f"config.data.template={name!r} is unknown; there are: {there}, and your own as"
            " FILE.py:NAME"
        )
    return TEMPLATES[name]


def with_end_token(tokenizer: Tokenizer, end_token: str) -> Tokenizer:
    """The tokenizer with this token as its EOS, which training appends and generation stops at; ""
    = its own.

    Raises UserError for what is not one token of the tokenizer.
    """
    if not end_token:
        return tokenizer
    ids = tokenizer.encode_continuation(end_token)
    if len(ids) != 1:
        raise UserError(
            f"config.data.end_token={end_token!r} is {len(ids)} tokens of this tokenizer, not one;"
            f" its own end token is {tokenizer.eos!r}"
        )

    # Its files say so, too: an exported model stops where this one was trained to.
    def files() -> dict[str, bytes]:
        return with_eos(tokenizer.files(), end_token)

    return dataclasses.replace(tokenizer, eos=end_token, eos_id=ids[0], files=files)


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Ids a model is prompted with: BOS first where the tokenizer adds one and the text has none.

    These are transformers' ids, but for a text that begins with BOS itself, to which transformers
    adds a second; lm-evaluation-harness and this do not.
    """
    ids = tokenizer.encode(prompt)
    return [tokenizer.bos_id, *ids] if tokenizer.add_bos and ids[:1] != [tokenizer.bos_id] else ids


def document_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of [BOS] text EOS."""
    return [*prompt_ids(text, tokenizer), tokenizer.eos_id]


def token_ids(
    example: Example, template: Template, tokenizer: Tokenizer, loss_turns: str = "all"
) -> tuple[list[int], list[bool]]:
    """Ids of [BOS] prompt response EOS, and of each whether it carries loss: the response's do, and
    EOS.

    Of a conversation, everything the assistant says does ("all"), or its last answer alone
    ("last"). A document carries loss on all but BOS. UserError names the example for turns that the
    template cannot hold.
    """
    if example.is_document:
        ids = document_ids(example.response, tokenizer)
        return ids, [True] * len(ids) if ids[0] != tokenizer.bos_id else [
            False,
            *[True] * (len(ids) - 1),
        ]
    try:
        pieces = template.render_turns(example.conversation)
    except UserError as error:
        raise UserError(f"example {example.id}: {error}") from error
    ids, loss = [], []
    for i, (text, carries) in enumerate(pieces):
        added = prompt_ids(text, tokenizer) if i == 0 else tokenizer.encode_continuation(text)
        ids += added
        loss += [carries and (loss_turns == "all" or i == len(pieces) - 1)] * len(added)
    return [*ids, tokenizer.eos_id], [*loss, True]


def encode(
    example: Example,
    index: int,
    *,
    template: Template,
    tokenizer: Tokenizer,
    seq_len: int | None,
    too_long: str,
    joined: bool = False,
    loss_turns: str = "all",
) -> Encoded | None:
    """Arrays of one example, as `arrays` makes them of its token ids."""
    ids, loss = token_ids(example, template, tokenizer, loss_turns)
    return arrays(
        ids, loss, index, name=example.id, seq_len=seq_len, too_long=too_long, joined=joined
    )


def arrays(
    ids: Sequence[int],
    loss: Sequence[bool],
    index: int,
    *,
    name: str,
    seq_len: int | None,
    too_long: str,
    joined: bool = False,
) -> Encoded | None:
    """Tokens, the same shifted by one as targets, and weights: 1 where the target carries loss.

    joined: EOS is also a token, of weight 0, for the example that follows to see.
    An example of more than seq_len tokens (None: there is no limit): "error" raises UserError,
    "skip" gives None, "truncate" cuts its end, and gives None when no token with loss is left (as
    llm-foundry does).
    """
    room = len(ids) if seq_len is None else seq_len + 1 - joined
    if len(ids) > room and too_long == "error":
        raise UserError(
            f"example {name} has {len(ids) - 1 + joined} tokens ({len(ids) - sum(loss)} of them the"
            " prompt), more than"
            f" config.data.seq_len={seq_len}; raise it, set config.data.too_long to skip or"
            " truncate,"
            " or config.data.packing to concat"
        )
    if len(ids) > room and (too_long == "skip" or not any(loss[1:room])):
        return None
    kept = np.asarray(ids[:room], np.int32)
    weights = np.asarray(loss[1 : len(kept)], np.float32)
    tokens, targets = kept[:-1], kept[1:]
    if joined:
        tokens, targets, weights = (
            kept,
            np.append(targets, kept[-1:]),
            np.append(weights, np.float32(0)),
        )
    example_ids = np.full(len(weights), index, np.int32)
    return {"tokens": tokens, "targets": targets, "weights": weights, "example_ids": example_ids}


def encode_all(
    examples: Sequence[Example],
    *,
    template: Template,
    tokenizer: Tokenizer,
    seq_len: int,
    too_long: str,
) -> list[Encoded]:
    """Arrays of every example that fits, for evaluation; UserError when none does."""
    options = {
        "template": template,
        "tokenizer": tokenizer,
        "seq_len": seq_len,
        "too_long": too_long,
    }
    encoded = [encode(example, i, **options) for i, example in enumerate(examples)]
    kept = [e for e in encoded if e is not None]
    if not kept:
        raise no_target(len(examples), seq_len, too_long)
    return kept


def no_target(n: int, seq_len: int, too_long: str) -> UserError:
    """The error for a source of which nothing would be trained on."""
    return UserError(
        f"the loss mask is all zero: none of {n} examples has a response token within"
        f" seq_len={seq_len}"
        f" (too_long={too_long}); raise config.data.seq_len"
    )
